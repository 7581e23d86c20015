"""Where the credentials of sessions are wished for, and given by the node's server: see `credentials`.

    POST .../credentials/wanted  {}      {"session_ids": [id], "round": n}, as soon as there are any, and
                                         none after CREDENTIALS_POLL_SECONDS. A wish stands until given.
    POST .../credentials/give    {"session_id", "round", "part", "is_last", "credentials": [credential],
                                  "repositories": [token]}                                               {}

round: what is given for it was read after it was asked for, so it answers the wishes of before and no later
one. part: what a session has comes in parts of a bounded size, counted from 0, one after another.

A credential is {"workspace_id", "record", "secrets": [{"name", "key_id", "sealed"}]}, its bytes as base64,
in the order of the session's vaults. A token is {"workspace_id", "resource_id", "url", "key_id", "sealed"}.
"""

import asyncio
import json
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from corral.catalog.repositories import SealedToken, TokenPlace
from corral.catalog.vaults import SealedCredential, SealedSecret
from corral.egress.credentials import CredentialsUnavailable, SessionCredentials, opened
from corral.kernel.errors import VaultUnavailable
from corral.kernel.ids import ResourceId, SessionId, WorkspaceId
from corral.kernel.limits import (
    CREDENTIALS_AGAIN_SECONDS,
    CREDENTIALS_FRESH_SECONDS,
    CREDENTIALS_PLAIN_CHARS_MAX,
    CREDENTIALS_POLL_SECONDS,
    CREDENTIALS_SESSIONS_MAX,
    CREDENTIALS_STALE_SECONDS,
    CREDENTIALS_WAIT_SECONDS,
)
from corral.vault.ring import KeyRing

__all__ = ["CredentialDesk", "sealed_credential"]

_AWAY: Final = "the session's credentials cannot be looked up now; try again"


@dataclass(kw_only=True, slots=True)
class _Wish:
    """round: the last one that had begun when it was made. given: set when it was. waiting: for it, now."""

    round: int
    given: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0


@dataclass(kw_only=True, slots=True)
class _Parts:
    """What has come of one session so far, for one round; sealed."""

    session_id: SessionId
    round: int
    count: int = 0
    credentials: list[SealedCredential] = field(default_factory=list)
    tokens: list[SealedToken] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    given_at: float
    what: SessionCredentials
    plain_chars: int


class CredentialDesk:
    """`egress.credentials.Credentials`. Of the event loop."""

    def __init__(self, ring: KeyRing, turn: asyncio.Lock, *, ended: asyncio.Event) -> None:
        """turn: whoever uses the ring holds it. ended: set when this process ends; nobody waits then."""
        self._ring = ring
        self._turn = turn
        self._ended = ended
        self._wanted: OrderedDict[SessionId, list[_Wish]] = OrderedDict()  # of later rounds last
        self._wished = asyncio.Event()
        self._round = 0
        self._parts: _Parts | None = None  # one server gives at a time
        self._known: OrderedDict[SessionId, _Known] = OrderedDict()

    # -- for this process -----------------------------------------------------------------------------

    async def of(self, session_id: SessionId) -> SessionCredentials:
        now = asyncio.get_running_loop().time()
        known = self._known.get(session_id)
        if known is None or now - known.given_at >= CREDENTIALS_FRESH_SECONDS:
            await self._wish(session_id, joins_any=True, seconds=CREDENTIALS_WAIT_SECONDS)
            known, now = self._known.get(session_id), asyncio.get_running_loop().time()
            if known is None or now - known.given_at >= CREDENTIALS_STALE_SECONDS:
                raise CredentialsUnavailable(_AWAY)
        return known.what

    async def again(self, session_id: SessionId) -> SessionCredentials:
        is_given = await self._wish(session_id, joins_any=False, seconds=CREDENTIALS_AGAIN_SECONDS)
        if not is_given or (known := self._known.get(session_id)) is None:
            raise CredentialsUnavailable(_AWAY)
        return known.what

    async def _wish(self, session_id: SessionId, *, joins_any: bool, seconds: float) -> bool:
        """Whether it was given in time. joins_any: also a wish for which the store may have been read."""
        wishes = self._wanted.setdefault(session_id, [])
        if not wishes or not (joins_any or wishes[-1].round == self._round):
            wishes[:] = [each for each in wishes if each.waiting]
            wishes.append(_Wish(round=self._round))
        wish = wishes[0] if joins_any else wishes[-1]
        wish.waiting += 1
        while len(self._wanted) > CREDENTIALS_SESSIONS_MAX:
            self._wanted.popitem(last=False)
        self._wished.set()
        try:
            async with asyncio.timeout(seconds):
                await wish.given.wait()
        except TimeoutError:
            return False
        finally:
            wish.waiting -= 1
        return True

    # -- for the server -------------------------------------------------------------------------------

    async def answer(self, what: str, body: bytes) -> tuple[str, dict[str, object]]:
        """Status line and body of the answer."""
        try:
            asked = json.loads(body or b"{}")
            if what == "wanted":
                session_ids = await self._wishes()
                self._round += 1
                return "200 OK", {"session_ids": session_ids, "round": self._round}
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
        parts = self._with(asked)
        if asked["is_last"] is not True:
            return
        session_id, self._parts = parts.session_id, None
        given_at = asyncio.get_running_loop().time()
        async with self._turn:
            found = await asyncio.to_thread(opened, self._ring, session_id, parts.credentials, parts.tokens)
        self._known[session_id] = _Known(given_at=given_at, what=found, plain_chars=found.plain_chars)
        self._known.move_to_end(session_id)
        # Also while no server asks for wishes, which is when it is forgotten else.
        asyncio.get_running_loop().call_later(CREDENTIALS_STALE_SECONDS, self._forget_old)
        self._forget_over_bounds()
        wishes = self._wanted.pop(session_id, [])
        for wish in wishes:
            if wish.round < parts.round:
                wish.given.set()
        if later := [wish for wish in wishes if wish.round >= parts.round]:
            self._wanted[session_id] = later

    def _with(self, asked: Mapping[str, Any]) -> _Parts:
        """What has come so far. Raises KeyError, TypeError, ValueError."""
        session_id, part = SessionId(str(asked["session_id"])), int(asked["part"])
        parts, round_ = self._parts, int(asked["round"])
        if part == 0:
            parts = self._parts = _Parts(session_id=session_id, round=round_)
        if parts is None or (parts.session_id, parts.round, parts.count) != (session_id, round_, part):
            raise ValueError("not the part that comes next")
        parts.count += 1
        parts.credentials += [sealed_credential(each) for each in asked["credentials"]]
        parts.tokens += [_token(each) for each in asked["repositories"]]
        return parts

    def _forget_over_bounds(self) -> None:
        """The oldest, but not the last one: it is about to be used."""
        size = sum(known.plain_chars for known in self._known.values())
        while len(self._known) > 1 and (
            len(self._known) > CREDENTIALS_SESSIONS_MAX or size > CREDENTIALS_PLAIN_CHARS_MAX
        ):
            _, known = self._known.popitem(last=False)
            size -= known.plain_chars

    def _forget_old(self) -> None:
        """What is too old to be used is not kept in plain."""
        oldest = asyncio.get_running_loop().time() - CREDENTIALS_STALE_SECONDS
        while self._known:
            session_id, known = next(iter(self._known.items()))
            if known.given_at > oldest:
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
