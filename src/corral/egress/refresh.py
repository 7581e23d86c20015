"""Access tokens of `mcp_oauth` credentials: the newest one, refreshed before it expires.

    flight   of one credential at a time in this process: whoever comes meanwhile waits for it
    claim    of one node at a time in the cluster, by a row of the store; see `catalog.tokens`

    claim --> exchange at the token endpoint --> sealed, on the disk --> kept in the store --> used

The new tokens are in this process's memory for as long as sessions were given the old ones. A refresh that
fails is not tried again for TOKEN_RETRY_SECONDS, then for twice as long, and so on; meanwhile a token
that has not expired is used.
"""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from corral.egress.book import Book, BookFull
from corral.egress.credentials import Credential, CredentialUnusable
from corral.egress.dial import Unreachable
from corral.egress.exchange import Exchange, booked, exchanged
from corral.egress.keeping import Keeping, NotAnswered, Seals
from corral.egress.oauth import Granted, NotGranted, granted
from corral.egress.outside import BrokenOff, Outside
from corral.egress.policy import Refused
from corral.egress.target import BadTarget
from corral.kernel.clock import Clock, parse_rfc3339, rfc3339
from corral.kernel.errors import VaultUnavailable
from corral.kernel.ids import CredentialId, Ids, SessionId
from corral.kernel.limits import (
    TOKEN_AGAIN_SECONDS,
    TOKEN_BUSY_SECONDS,
    TOKEN_CLAIM_SECONDS,
    TOKEN_EARLY_SECONDS,
    TOKEN_EXCHANGE_SECONDS,
    TOKEN_KEEPS_MAX,
    TOKEN_LINK_SECONDS,
    TOKEN_RETRY_SECONDS,
    TOKEN_RETRY_SECONDS_MAX,
    TOKENS_KNOWN_MAX,
)
from corral.vault.ring import CannotOpen

__all__ = ["NotRefreshed", "Refresher"]

_log = logging.getLogger(__name__)
_CLAIM: Final = "claim"
_ACCESS, _REFRESH = "access_token", "refresh_token"


class NotRefreshed(Exception):
    """There is no new token. The message is for the session's user, and names no secret.

    exchange: what the token endpoint said, if it said anything. is_final: as of `NotGranted`.
    """

    def __init__(self, reason: str, *, exchange: "Exchange | None" = None, is_final: bool = False) -> None:
        super().__init__(reason)
        self.exchange = exchange
        self.is_final = is_final


@dataclass(kw_only=True, slots=True)
class _Course:
    """Of one credential, by this process's monotonic clock. made_at: of the last new token. failed: when
    what failed was last changed: something else may succeed."""

    made_at: float | None = None
    failures: int = 0
    failed: str = ""
    not_before: float = 0.0
    reason: str = ""


class Refresher:
    """Of this process."""

    def __init__(
        self, outside: Outside, keeping: Keeping, seals: Seals, clock: Clock, *, book: Book
    ) -> None:
        self._outside = outside
        self._book = book
        self._keeping = keeping
        self._seals = seals
        self._clock = clock
        self._ids = Ids()
        self._newest: OrderedDict[CredentialId, Credential] = OrderedDict()
        self._courses: OrderedDict[CredentialId, _Course] = OrderedDict()
        self._flights: dict[CredentialId, asyncio.Task[Credential]] = {}
        self._exchanging: set[asyncio.Future[Exchange]] = set()
        self._later: set[asyncio.Task[object]] = set()

    async def aclose(self) -> None:
        """What is to be kept is on the disk. An exchange that has begun is waited for, because its refresh
        token may be worth nothing any more: up to TOKEN_EXCHANGE_SECONDS and TOKEN_LINK_SECONDS."""
        if self._exchanging:
            await asyncio.wait(self._exchanging, timeout=TOKEN_EXCHANGE_SECONDS)
        if self._later:
            await asyncio.wait(self._later, timeout=TOKEN_LINK_SECONDS)
        tasks = [*self._flights.values(), *self._later]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def current(self, credential: Credential, session_id: SessionId) -> Credential:
        """With an access token that has not expired, as far as we know. session_id: who needs it. Raises
        NotRefreshed."""
        newest = self.newest(credential)
        if newest.auth["refresh"] is None or not self._is_due(newest):
            return newest
        try:
            return await self._refreshed(newest, session_id)
        except NotRefreshed:
            if self._has_expired(newest):
                raise
            return newest

    async def after_refusal(
        self, credential: Credential, session_id: SessionId, *, token: str
    ) -> Credential | None:
        """With another access token than this one, which its MCP server does not take; None if there will
        be none. Raises NotRefreshed."""
        newest = self.newest(credential)
        if newest.secrets.get(_ACCESS) != token:
            return newest
        made_at = self._course(newest).made_at
        is_new = made_at is not None and self._clock.monotonic() - made_at < TOKEN_AGAIN_SECONDS
        if newest.auth["refresh"] is None or is_new:
            return None
        return await self._refreshed(newest, session_id)

    async def validated(self, credential: Credential) -> Credential:
        """With a new access token, whatever failed before: somebody waits to see what the token endpoint
        says. Raises NotRefreshed."""
        self._course(credential).not_before = 0.0
        return await self._refreshed(self.newest(credential), None)

    # -- what is known --------------------------------------------------------------------------------

    def newest(self, credential: Credential) -> Credential:
        """As it is stored or will be, as far as this process knows."""
        newest = self._newest.get(credential.credential_id)
        return credential if newest is None or newest.updated_at < credential.updated_at else newest

    def _remember(self, credential: Credential) -> Credential:
        self._newest[credential.credential_id] = credential
        self._newest.move_to_end(credential.credential_id)
        while len(self._newest) > TOKENS_KNOWN_MAX:
            self._newest.popitem(last=False)
        return credential

    def _course(self, credential: Credential) -> _Course:
        course = self._courses.setdefault(credential.credential_id, _Course())
        self._courses.move_to_end(credential.credential_id)
        while len(self._courses) > TOKENS_KNOWN_MAX:
            self._courses.popitem(last=False)
        return course

    def _is_due(self, credential: Credential) -> bool:
        expires_at = credential.auth["expires_at"]
        if expires_at is None:
            return False
        expires, updated = parse_rfc3339(expires_at), parse_rfc3339(credential.updated_at)
        life = max(expires - updated, timedelta(0))  # at least: of a record that changed since, less
        early = min(timedelta(seconds=TOKEN_EARLY_SECONDS), life / 5)
        return self._clock.now() >= expires - early

    def _has_expired(self, credential: Credential) -> bool:
        expires_at = credential.auth["expires_at"]
        return expires_at is not None and self._clock.now() >= parse_rfc3339(expires_at)

    # -- one refresh ----------------------------------------------------------------------------------

    async def _refreshed(self, credential: Credential, session_id: SessionId | None) -> Credential:
        """session_id: of the first that needs it; None for a user of the API. Raises NotRefreshed."""
        credential_id = credential.credential_id
        flight = self._flights.get(credential_id)
        if flight is None:
            course = self._course(credential)
            if self._clock.monotonic() < course.not_before and course.failed == credential.updated_at:
                raise NotRefreshed(course.reason)
            flight = asyncio.create_task(self._fly(credential, course, session_id), name="token-refresh")
            self._flights[credential_id] = flight
            flight.add_done_callback(lambda done: self._landed(credential_id, done))
        return await asyncio.shield(flight)

    def _landed(self, credential_id: CredentialId, flight: asyncio.Task[Credential]) -> None:
        self._flights.pop(credential_id, None)
        if not flight.cancelled():
            flight.exception()  # whoever waited for it may be gone

    async def _fly(
        self, credential: Credential, course: _Course, session_id: SessionId | None
    ) -> Credential:
        """Raises NotRefreshed, and says when the next may begin."""
        try:
            newest = await self._claimed_and_exchanged(credential, session_id)
        except NotRefreshed as failed:
            course.failures = course.failures + 1 if course.failed == credential.updated_at else 1
            course.failed = credential.updated_at
            course.reason = str(failed)
            pause = min(TOKEN_RETRY_SECONDS * 2 ** (course.failures - 1), TOKEN_RETRY_SECONDS_MAX)
            course.not_before = self._clock.monotonic() + pause
            _log.warning("%s", failed)
            raise
        course.made_at, course.failures, course.not_before = self._clock.monotonic(), 0, 0.0
        return newest

    async def _claimed_and_exchanged(
        self, credential: Credential, session_id: SessionId | None
    ) -> Credential:
        claim_id = self._ids.mint(_CLAIM)
        try:
            async with asyncio.timeout(TOKEN_CLAIM_SECONDS):
                key_id, claimed = await self._claimed(credential, claim_id)
        except (TimeoutError, NotAnswered, VaultUnavailable):
            raise NotRefreshed(
                f"credential {credential.credential_id} cannot be refreshed now: the store does not answer,"
                " or another node is about it"
            ) from None
        if key_id is None:  # somebody else was faster
            return self._remember(claimed)
        exchange: Exchange | None = None
        try:
            exchange = await self._exchange(claimed, session_id)
            tokens = granted(exchange.status, exchange.body)
        except (NotRefreshed, NotGranted, CredentialUnusable) as failed:
            await self._keeping.release(claimed, claim_id=claim_id)
            said, is_final = str(failed), False
            if isinstance(failed, NotGranted):
                said, is_final = f"the token endpoint {failed}", failed.is_final
            raise NotRefreshed(
                f"credential {credential.credential_id} cannot be refreshed: {said}",
                exchange=exchange,
                is_final=is_final,
            ) from None
        return await self._kept(claimed, tokens, claim_id=claim_id, key_id=key_id)

    async def _claimed(self, credential: Credential, claim_id: str) -> tuple[str | None, Credential]:
        """A key to seal with, and the credential to refresh; no key, and one that has been refreshed.
        Raises NotRefreshed, NotAnswered, VaultUnavailable."""
        used = credential.secrets.get(_ACCESS)
        while True:
            claimed = await self._keeping.claim(credential, claim_id=claim_id)
            if claimed.outcome == "claimed" and claimed.key_id is not None:
                return claimed.key_id, credential
            if claimed.outcome == "changed" and claimed.now is not None:
                credential = claimed.now
                if credential.secrets.get(_ACCESS) != used:
                    return None, credential
                continue  # its name, say: claim it as it is now
            if claimed.outcome == "gone":
                raise NotRefreshed(f"credential {credential.credential_id} is archived or deleted")
            await asyncio.sleep(TOKEN_BUSY_SECONDS)

    async def _exchange(self, credential: Credential, session_id: SessionId | None) -> Exchange:
        exchanging = asyncio.ensure_future(
            exchanged(self._outside, credential)
            if session_id is None
            else booked(self._outside, credential, session_id, self._book)
        )
        self._exchanging.add(exchanging)
        exchanging.add_done_callback(self._exchanging.discard)
        try:
            return await exchanging
        except (Refused, Unreachable, BrokenOff, BadTarget, BookFull) as error:
            raise NotRefreshed(f"the token endpoint cannot be asked: {error}") from None

    async def _kept(
        self, credential: Credential, tokens: Granted, *, claim_id: str, key_id: str
    ) -> Credential:
        """Waits for the store for TOKEN_LINK_SECONDS; after that the tokens are used, and kept later."""
        expires_at = None
        if tokens.lifetime_seconds is not None:
            expires_at = rfc3339(self._clock.now() + timedelta(seconds=tokens.lifetime_seconds))
        new = {_ACCESS: tokens.access_token}
        if tokens.refresh_token is not None:
            new[_REFRESH] = tokens.refresh_token
        record = {**credential.record, "auth": {**credential.auth, "expires_at": expires_at}}
        newest = replace(credential, record=record, secrets={**credential.secrets, **new})
        self._remember(newest)
        keeping = asyncio.create_task(
            self._keep(credential, newest, new, claim_id=claim_id, key_id=key_id, expires_at=expires_at)
        )
        self._later.add(keeping)
        keeping.add_done_callback(self._later.discard)
        await asyncio.wait({keeping}, timeout=TOKEN_LINK_SECONDS)
        return self.newest(credential)

    async def _keep(
        self,
        credential: Credential,
        newest: Credential,
        new: dict[str, str],
        *,
        claim_id: str,
        key_id: str,
        expires_at: str | None,
    ) -> None:
        """Instead of what was refreshed, and of nothing else: what somebody sets meanwhile stays."""
        refreshed = credential
        try:
            for _ in range(TOKEN_KEEPS_MAX):
                try:
                    sealed = await self._seals.seal(credential, new, key_id=key_id)
                except CannotOpen:  # the key was forgotten since the claim: ask for the one of now
                    key_id = (await self._keeping.claim(credential, claim_id=claim_id)).key_id or key_id
                    continue
                kept = await self._keeping.keep(
                    credential, sealed, claim_id=claim_id, expires_at=expires_at
                )
                if kept.outcome == "key_gone" and kept.key_id is not None:
                    key_id = kept.key_id  # changed since the claim
                    continue
                if kept.now is None:
                    return
                if kept.outcome == "kept":
                    self._remember(kept.now)
                    return
                new, expires_at = _still_needed(new, expires_at, refreshed=refreshed, now=kept.now)
                if not new:
                    self._remember(kept.now)
                    return
                credential = kept.now
            _log.error(
                "new tokens of credential %s are not kept: it changes too often", newest.credential_id
            )
        except (NotAnswered, VaultUnavailable, OSError) as error:
            _log.error("new tokens of credential %s are not kept: %s", newest.credential_id, error)


def _still_needed(
    new: dict[str, str], expires_at: str | None, *, refreshed: Credential, now: Credential
) -> tuple[dict[str, str], str | None]:
    """Which new tokens belong into a credential that was changed while it was refreshed, and when they
    expire. All, if what changed is its name, say. An access token that somebody set is theirs; but the
    refresh token beside it is worth nothing any more if it was used up for another one."""
    if now.secrets.get(_REFRESH) != refreshed.secrets.get(_REFRESH):
        return {}, None
    if now.secrets.get(_ACCESS) != refreshed.secrets.get(_ACCESS):
        return {name: new[name] for name in (_REFRESH,) if name in new}, now.auth["expires_at"]
    return new, expires_at
