"""The token that a request to an MCP server carries: of the first of the session's vaults that has one."""

from dataclasses import dataclass, field

from corral.egress.credentials import Credential, Credentials
from corral.egress.refresh import Refresher
from corral.kernel.ids import CredentialId, SessionId

__all__ = ["Bearer", "Bearers"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bearer:
    credential: Credential
    token: str = field(repr=False)

    @property
    def credential_id(self) -> CredentialId:
        return self.credential.credential_id

    def header(self) -> tuple[bytes, bytes]:
        return b"Authorization", b"Bearer " + self.token.encode()


class Bearers:
    def __init__(self, credentials: Credentials, refresher: Refresher) -> None:
        self._credentials = credentials
        self._refresher = refresher

    async def of(self, session_id: SessionId, server: str) -> Bearer | None:
        """None: no vault of the session has one, so the request goes without.

        Raises CredentialsUnavailable, CredentialUnusable, NotRefreshed: nothing may be sent."""
        credential = (await self._credentials.of(session_id)).of_server(server)
        if credential is not None and credential.kind == "mcp_oauth":
            credential = await self._refresher.current(credential, session_id)
        return None if credential is None else _bearer(credential)

    async def after_refusal(self, session_id: SessionId, server: str, refused: Bearer) -> Bearer | None:
        """The server answered it with 401: another one, or None if there will be none.

        Raises as `of`."""
        credential = (await self._credentials.again(session_id)).of_server(server)
        if credential is not None and credential.kind == "mcp_oauth":
            credential = await self._refresher.after_refusal(credential, session_id, token=refused.token)
        if credential is None:
            return None
        bearer = _bearer(credential)
        return None if bearer.token == refused.token else bearer


def _bearer(credential: Credential) -> Bearer:
    """Raises CredentialUnusable."""
    name = "token" if credential.kind == "static_bearer" else "access_token"
    return Bearer(credential=credential, token=credential.secret(name))
