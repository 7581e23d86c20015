"""Where the credentials of sessions are wished for, and given by the node's server: see `credentials`.

    POST .../credentials/wanted  {}      {"session_ids": [id]}, as soon as there are any, and none after
                                         CREDENTIALS_POLL_SECONDS. A wish stands until it is given.
    POST .../credentials/give    {"session_id", "credentials": [credential], "repositories": [token]}     {}

A credential is {"workspace_id", "record", "secrets": [{"name", "key_id", "sealed"}]}, its bytes as base64,
in the order of the session's vaults. A token is {"workspace_id", "resource_id", "url", "key_id", "sealed"}.
"""

import asyncio
import json
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from corral.catalog.repositories import SealedToken, TokenPlace
from corral.catalog.vaults import SealedCredential, SealedSecret
from corral.egress.credentials import CredentialsUnavailable, SessionCredentials, opened
from corral.kernel.errors import VaultUnavailable
from corral.kernel.ids import ResourceId, SessionId, WorkspaceId
from corral.kernel.limits import (
    CREDENTIALS_FRESH_SECONDS,
    CREDENTIALS_POLL_SECONDS,
    CREDENTIALS_SESSIONS_MAX,
    CREDENTIALS_STALE_SECONDS,
    CREDENTIALS_WAIT_SECONDS,
)
from corral.vault.ring import KeyRing

__all__ = ["CredentialDesk", "sealed_credential"]


class CredentialDesk:
    """`egress.credentials.Credentials`. Of the event loop."""

    def __init__(self, ring: KeyRing, turn: asyncio.Lock, *, ended: asyncio.Event) -> None:
        """turn: whoever uses the ring holds it. ended: set when this process ends; nobody waits then."""
        self._ring = ring
        self._turn = turn
        self._ended = ended
        self._wanted: OrderedDict[SessionId, asyncio.Event] = OrderedDict()  # set when it was given
        self._wished = asyncio.Event()
        self._known: OrderedDict[SessionId, tuple[float, SessionCredentials]] = OrderedDict()

    # -- for this process -----------------------------------------------------------------------------

    async def of(self, session_id: SessionId) -> SessionCredentials:
        now = asyncio.get_running_loop().time()
        given_at, known = self._known.get(session_id, (None, None))
        if given_at is None or known is None or now - given_at >= CREDENTIALS_FRESH_SECONDS:
            known = await self._wish(session_id)
        return known

    async def again(self, session_id: SessionId) -> SessionCredentials:
        return await self._wish(session_id)

    async def _wish(self, session_id: SessionId) -> SessionCredentials:
        given = self._wanted.setdefault(session_id, asyncio.Event())
        while len(self._wanted) > CREDENTIALS_SESSIONS_MAX:
            self._wanted.popitem(last=False)
        self._wished.set()
        try:
            async with asyncio.timeout(CREDENTIALS_WAIT_SECONDS):
                await given.wait()
        except TimeoutError:
            pass
        given_at, known = self._known.get(session_id, (0.0, None))
        now = asyncio.get_running_loop().time()
        if known is None or now - given_at >= CREDENTIALS_STALE_SECONDS:
            raise CredentialsUnavailable("the session's credentials cannot be looked up now; try again")
        return known

    # -- for the server -------------------------------------------------------------------------------

    async def answer(self, what: str, body: bytes) -> tuple[str, dict[str, object]]:
        """Status line and body of the answer."""
        try:
            asked = json.loads(body or b"{}")
            if what == "wanted":
                return "200 OK", {"session_ids": await self._wishes()}
            if what == "give":
                await self._take(asked)
                return "200 OK", {}
        except VaultUnavailable as error:
            return "409 Conflict", {"error": str(error)}
        except (KeyError, TypeError, ValueError) as error:
            return "400 Bad Request", {"error": f"not a request of ours ({type(error).__name__})"}
        return "404 Not Found", {"error": "no such path"}

    async def _wishes(self) -> list[SessionId]:
        self._forget_old()
        if not self._wanted:
            self._wished.clear()
            waits = [asyncio.ensure_future(each.wait()) for each in (self._wished, self._ended)]
            try:
                await asyncio.wait(
                    waits, timeout=CREDENTIALS_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                for wait in waits:
                    wait.cancel()
        self._forget_old()
        return list(self._wanted)

    async def _take(self, asked: Mapping[str, Any]) -> None:
        session_id = SessionId(str(asked["session_id"]))
        sealed = [sealed_credential(each) for each in asked["credentials"]]
        tokens = [_token(each) for each in asked["repositories"]]
        given_at = asyncio.get_running_loop().time()
        async with self._turn:
            found = await asyncio.to_thread(opened, self._ring, session_id, sealed, tokens)
        self._known[session_id] = (given_at, found)
        self._known.move_to_end(session_id)
        # Also while no server asks for wishes, which is when it is forgotten else.
        asyncio.get_running_loop().call_later(CREDENTIALS_STALE_SECONDS, self._forget_old)
        while len(self._known) > CREDENTIALS_SESSIONS_MAX:
            self._known.popitem(last=False)
        if (given := self._wanted.pop(session_id, None)) is not None:
            given.set()

    def _forget_old(self) -> None:
        """What is too old to be used is not kept in plain."""
        oldest = asyncio.get_running_loop().time() - CREDENTIALS_STALE_SECONDS
        while self._known:
            session_id, (given_at, _) = next(iter(self._known.items()))
            if given_at > oldest:
                return
            del self._known[session_id]


def sealed_credential(given: Mapping[str, Any]) -> SealedCredential:
    """As it travels. Raises KeyError, TypeError, ValueError."""
    return SealedCredential(
        workspace_id=WorkspaceId(given["workspace_id"]),
        record=dict(given["record"]),
        secrets=[
            SealedSecret(
                name=secret["name"],
                key_id=secret["key_id"],
                sealed=b64decode(secret["sealed"], validate=True),
            )
            for secret in given["secrets"]
        ],
    )


def _token(given: Mapping[str, Any]) -> SealedToken:
    place = TokenPlace(
        workspace_id=WorkspaceId(given["workspace_id"]),
        resource_id=ResourceId(given["resource_id"]),
        url=given["url"],
    )
    sealed = b64decode(given["sealed"], validate=True)
    return SealedToken(place=place, key_id=given["key_id"], sealed=sealed)
