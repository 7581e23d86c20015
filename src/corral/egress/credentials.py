"""The credentials of sessions that go out through this process: the port by which the rest of it gets at
them, opened.

The database has them sealed, and only the node's server can ask it; only this process can open them. So
this process wishes, and its server gives:

    Credentials.of(session) --wish--> POST .../wanted     a server waits here for wishes
                            <--given-- POST .../give      sealed; opened here, and nowhere else

What was given is used for CREDENTIALS_FRESH_SECONDS, then asked for anew: so a secret that is rotated, and
a credential that is archived, deleted or added, is in force within that time. While the server is away it
is used up to CREDENTIALS_STALE_SECONDS; beyond that nothing is known, so nothing is sent. What is in plain
in this process's memory is of sessions that sent something within about that time.

Kinds, by `Credential.kind`:

    environment_variable   `secret_value`. The sandbox has a placeholder in its environment, which is
                           replaced on the way to the hosts that its `auth.networking` names.
    static_bearer          `token`, for one MCP server.
    mcp_oauth              `access_token`, and with `auth.refresh` also `refresh_token`, and `client_secret`
                           unless its `token_endpoint_auth` is `none`. For one MCP server.

And the tokens of the session's repositories, which are of no vault (`RepositoryToken`).
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias

from corral.catalog.credentials import first_of_each_use, place_of, server_key
from corral.catalog.records import Wire
from corral.catalog.repositories import RepositoryUrl, SealedToken, repository_url
from corral.catalog.vaults import SealedCredential
from corral.egress.target import Target
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import CredentialId, ResourceId, SessionId, VaultId, WorkspaceId
from corral.vault.ring import CannotOpen, KeyRing

__all__ = [
    "Credential",
    "CredentialUnusable",
    "Credentials",
    "CredentialsUnavailable",
    "Kind",
    "RepositoryToken",
    "SessionCredentials",
    "opened",
    "opened_one",
]

_BASIC_USER: Final = "x-access-token"  # what GitHub takes; other hosts look at the token alone

Kind: TypeAlias = Literal["environment_variable", "static_bearer", "mcp_oauth"]


class CredentialsUnavailable(Exception):
    """What a session may use cannot be found out now: nothing may be sent for it. Words for the sandbox."""


class CredentialUnusable(Exception):
    """This one has no secret that opens here. Words for the sandbox and the audit; they name no secret."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Credential:
    """record: as the wire shows it. secrets: by name, in plain; in no representation of this."""

    workspace_id: WorkspaceId
    record: Wire
    secrets: Mapping[str, str] = field(repr=False)

    @property
    def credential_id(self) -> CredentialId:
        return CredentialId(self.record["id"])

    @property
    def vault_id(self) -> VaultId:
        return VaultId(self.record["vault_id"])

    @property
    def auth(self) -> Mapping[str, Any]:
        """As the wire shows it: `type`; `secret_name`, `networking` and `injection_location`, or
        `mcp_server_url`, `expires_at` and `refresh`."""
        auth: Mapping[str, Any] = self.record["auth"]
        return auth

    @property
    def kind(self) -> Kind:
        kind: Kind = self.auth["type"]
        return kind

    @property
    def updated_at(self) -> str:
        """Another one after each change, also of a secret."""
        return str(self.record["updated_at"])

    def secret(self, name: str) -> str:
        """Raises CredentialUnusable."""
        if name not in self.secrets:
            raise CredentialUnusable(f"credential {self.credential_id} has no {name} that can be used here")
        return self.secrets[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class RepositoryToken:
    """Of one repository of the session. token: in plain; None: it does not open here."""

    resource_id: ResourceId
    url: RepositoryUrl
    token: str | None = field(repr=False)

    @property
    def basic(self) -> str:
        """The token as HTTP sends it (RFC 7617). Only of one that opens."""
        return b64encode(f"{_BASIC_USER}:{self.token}".encode()).decode()


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionCredentials:
    """What one session has: active, one for each use, the first vault's first. Source: API docs, vaults.

    derived: what others made of it for hosts, by host; it has secrets in it, and is forgotten together.
    """

    session_id: SessionId
    credentials: tuple[Credential, ...] = ()
    repositories: tuple[RepositoryToken, ...] = ()
    derived: dict[Target, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def plain_chars(self) -> int:
        """Of all its secrets."""
        return sum(len(secret) for each in self.credentials for secret in each.secrets.values())

    def variables(self) -> Sequence[Credential]:
        return [each for each in self.credentials if each.kind == "environment_variable"]

    def of_server(self, url: str) -> Credential | None:
        """For the MCP server that the URL means: None if there is none, and for no URL of a server."""
        try:
            wanted = server_key(url)
        except ValueError:
            return None
        for each in self.credentials:
            if each.kind != "environment_variable" and server_key(each.auth["mcp_server_url"]) == wanted:
                return each
        return None


class Credentials(Protocol):
    """Of this process."""

    async def of(self, session_id: SessionId) -> SessionCredentials:
        """What the session has now: see above how old it may be. None of a session that is gone.

        Cheap: asked for each request. Raises CredentialsUnavailable."""

    async def again(self, session_id: SessionId) -> SessionCredentials:
        """What the session has at this moment, for who was refused with what it had. Raises
        CredentialsUnavailable."""


def opened(
    ring: KeyRing,
    session_id: SessionId,
    sealed: Sequence[SealedCredential],
    tokens: Sequence[SealedToken] = (),
) -> SessionCredentials:
    """sealed: in the order of the vaults. A secret that does not open with our keys is left out of its
    credential, which is none the less the one that is used; so is a token of `tokens`. May wait for a disk
    or a command.

    Raises VaultUnavailable: there are no keys to try.
    """
    of_id = {each.record["id"]: each for each in sealed}
    used = [of_id[record["id"]] for record in first_of_each_use(each.record for each in sealed)]
    return SessionCredentials(
        session_id=session_id,
        credentials=tuple(opened_one(ring, each) for each in used),
        repositories=tuple(found for each in tokens if (found := _opened_token(ring, each)) is not None),
    )


def _opened_token(ring: KeyRing, sealed: SealedToken) -> RepositoryToken | None:
    """None for a repository that an older version took and this one does not."""
    try:
        url = repository_url(sealed.place.url)
    except InvalidRequest:
        return None
    try:
        plain = ring.open(sealed.sealed, key_id=sealed.key_id, place=sealed.place.encode())
    except CannotOpen:
        return RepositoryToken(resource_id=sealed.place.resource_id, url=url, token=None)
    return RepositoryToken(resource_id=sealed.place.resource_id, url=url, token=plain.decode())


def opened_one(ring: KeyRing, sealed: SealedCredential) -> Credential:
    """As `opened`, without the question whether it is used."""
    secrets: dict[str, str] = {}
    for secret in sealed.secrets:
        place = place_of(sealed.record, secret.name, workspace_id=sealed.workspace_id)
        try:
            plain = ring.open(secret.sealed, key_id=secret.key_id, place=place.encode())
        except (CannotOpen, KeyError, TypeError):  # of no place that we know
            continue
        secrets[secret.name] = plain.decode()
    return Credential(workspace_id=sealed.workspace_id, record=sealed.record, secrets=secrets)
