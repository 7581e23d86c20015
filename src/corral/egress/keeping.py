"""What this process asks its node's server about tokens that it refreshes: the store is the server's alone.

    POST .../tokens/wanted  {}                       {"asks": [ask]}, as soon as there are any, and none
                                                     after TOKEN_POLL_SECONDS; it stands until answered
    POST .../tokens/told    {"answers": [answer]}    {}

    ask     {"ask_id", "what": "claim" | "keep" | "release", "where": {workspace, vault and credential id},
             "claim_id", "updated_at", "seconds", "expires_at", "secrets": [{"name", "key_id", "sealed"}]}
    answer  {"ask_id", "outcome", "key_id": to seal with, "credential": as in `wishes`, or null}

What is to be kept is on the disk before it is asked for, sealed: a refresh token that was rotated is lost
with this process otherwise, and the old one is worth nothing.
"""

import asyncio
import contextlib
import json
import logging
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from corral.catalog.credentials import place_of
from corral.catalog.tokens import ClaimOutcome, KeepOutcome, Where
from corral.catalog.vaults import SealedCredential, SealedSecret
from corral.egress.credentials import Credential, opened_one
from corral.egress.wishes import sealed_credential
from corral.kernel.ids import Ids
from corral.kernel.limits import TOKEN_CLAIM_SECONDS, TOKEN_LINK_SECONDS, TOKEN_POLL_SECONDS
from corral.vault.ring import KeyRing

__all__ = ["Claimed", "Keeping", "Kept", "NotAnswered", "Seals", "TokenDesk", "where_of"]

_log = logging.getLogger(__name__)
_ASK: Final = "ask"


class NotAnswered(Exception):
    """The server did not answer in time; nobody knows what it did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """key_id: what new tokens are sealed with. now: of a credential that was changed."""

    outcome: ClaimOutcome
    key_id: str | None = None
    now: Credential | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """now: the credential as it is stored; None if it is gone. key_id: to seal with instead, if the key has
    gone."""

    outcome: KeepOutcome | Literal["key_gone"]
    key_id: str | None = None
    now: Credential | None = None


class Keeping(Protocol):
    """`catalog.tokens.TokenStore`, as far as this process gets."""

    async def claim(self, credential: Credential, *, claim_id: str) -> Claimed:
        """Raises NotAnswered, VaultUnavailable."""

    async def keep(
        self,
        credential: Credential,
        secrets: Sequence[SealedSecret],
        *,
        claim_id: str,
        expires_at: str | None,
    ) -> Kept:
        """Returns when it is answered, however long that takes; cancelled, it is asked for all the same.
        Raises OSError: it cannot be written down; VaultUnavailable."""

    async def release(self, credential: Credential, *, claim_id: str) -> None:
        """Returns at once."""


def where_of(credential: Credential) -> Where:
    return Where(
        workspace_id=credential.workspace_id,
        vault_id=credential.vault_id,
        credential_id=credential.credential_id,
    )


class Seals:
    """The ring, in its turn and off the event loop: it may wait for a disk or a command."""

    def __init__(self, ring: KeyRing, turn: asyncio.Lock) -> None:
        self._ring = ring
        self._turn = turn

    async def open(self, sealed: SealedCredential) -> Credential:
        """Raises VaultUnavailable."""
        async with self._turn:
            return await asyncio.to_thread(opened_one, self._ring, sealed)

    async def seal(
        self, credential: Credential, secrets: Mapping[str, str], *, key_id: str
    ) -> list[SealedSecret]:
        """Secrets of the credential, by name. Raises CannotOpen, VaultUnavailable."""

        def seal_all() -> list[SealedSecret]:
            return [
                SealedSecret(
                    name=name,
                    key_id=key_id,
                    sealed=self._ring.seal(
                        plain.encode(),
                        to=key_id,
                        place=place_of(
                            credential.record, name, workspace_id=credential.workspace_id
                        ).encode(),
                    ),
                )
                for name, plain in secrets.items()
            ]

        async with self._turn:
            return await asyncio.to_thread(seal_all)


class TokenDesk:
    """`Keeping`. folder: for what is to be kept; made if needed. Of the event loop."""

    def __init__(self, folder: Path, seals: Seals, *, ended: asyncio.Event) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._seals = seals
        self._ended = ended
        self._ids = Ids()
        self._asks: dict[str, dict[str, Any]] = {}
        self._waiting: dict[str, asyncio.Future[Mapping[str, Any]]] = {}
        self._asked = asyncio.Event()
        self._resume()

    # -- for this process -----------------------------------------------------------------------------

    async def claim(self, credential: Credential, *, claim_id: str) -> Claimed:
        ask = self._ask("claim", credential, claim_id, seconds=TOKEN_CLAIM_SECONDS)
        try:
            async with asyncio.timeout(TOKEN_LINK_SECONDS):
                answer = await self._answer(ask)
        except TimeoutError:
            raise NotAnswered from None
        finally:
            self._asks.pop(ask["ask_id"], None)
        return Claimed(outcome=answer["outcome"], key_id=answer["key_id"], now=await self._opened(answer))

    async def keep(
        self,
        credential: Credential,
        secrets: Sequence[SealedSecret],
        *,
        claim_id: str,
        expires_at: str | None,
    ) -> Kept:
        sealed = [
            {"name": each.name, "key_id": each.key_id, "sealed": b64encode(each.sealed).decode()}
            for each in secrets
        ]
        ask = self._ask("keep", credential, claim_id, expires_at=expires_at, secrets=sealed)
        await asyncio.to_thread(_write, self._path(ask["ask_id"]), ask)
        answer = await self._answer(ask)
        return Kept(outcome=answer["outcome"], key_id=answer["key_id"], now=await self._opened(answer))

    async def release(self, credential: Credential, *, claim_id: str) -> None:
        self._put(self._ask("release", credential, claim_id))

    def _ask(self, what: str, credential: Credential, claim_id: str, **more: object) -> dict[str, Any]:
        return {
            "ask_id": self._ids.mint(_ASK),
            "what": what,
            "where": asdict(where_of(credential)),
            "claim_id": claim_id,
            "updated_at": credential.updated_at,
            **more,
        }

    async def _answer(self, ask: dict[str, Any]) -> Mapping[str, Any]:
        waiting = self._waiting[ask["ask_id"]] = asyncio.get_running_loop().create_future()
        self._put(ask)
        try:
            answer: Mapping[str, Any] = await waiting
            return answer
        finally:
            del self._waiting[ask["ask_id"]]

    def _put(self, ask: dict[str, Any]) -> None:
        self._asks[ask["ask_id"]] = ask
        self._asked.set()

    async def _opened(self, answer: Mapping[str, Any]) -> Credential | None:
        given = answer.get("credential")
        return None if given is None else await self._seals.open(sealed_credential(given))

    # -- for the server -------------------------------------------------------------------------------

    async def answer(self, what: str, body: bytes) -> tuple[str, dict[str, object]]:
        """Status line and body of the answer."""
        try:
            said = json.loads(body or b"{}")
            if what == "wanted":
                return "200 OK", {"asks": await self._wanted()}
            if what == "told":
                for answer in said["answers"]:
                    self._take(answer)
                return "200 OK", {}
        except (KeyError, TypeError, ValueError) as error:
            return "400 Bad Request", {"error": f"not a request of ours ({type(error).__name__})"}
        return "404 Not Found", {"error": "no such path"}

    async def _wanted(self) -> list[dict[str, Any]]:
        if not self._asks:
            self._asked.clear()
            waits = [asyncio.ensure_future(each.wait()) for each in (self._asked, self._ended)]
            try:
                await asyncio.wait(waits, timeout=TOKEN_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        return list(self._asks.values())

    def _take(self, answer: Mapping[str, Any]) -> None:
        ask_id = str(answer["ask_id"])
        ask = self._asks.pop(ask_id, None)
        if ask is None:
            return  # told twice
        if ask["what"] == "keep":
            self._path(ask_id).unlink(missing_ok=True)
        waiting = self._waiting.get(ask_id)
        if waiting is None and answer["outcome"] == "changed":  # of an earlier process: nobody looks closer
            where = ask["where"]["credential_id"]
            _log.warning("new tokens of credential %s are dropped: it was changed before a restart", where)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    # -- what was not kept yet ------------------------------------------------------------------------

    def _path(self, ask_id: str) -> Path:
        return self._folder / f"{ask_id}.json"

    def _resume(self) -> None:
        """Ask for what another process of this directory could not have kept."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                ask = dict(json.loads(path.read_bytes()))
                self._asks[str(ask["ask_id"])] = ask
            except (OSError, ValueError, KeyError, TypeError):
                _log.warning("tokens that were to be kept cannot be read: %s", path.name)


def _write(path: Path, ask: Mapping[str, Any]) -> None:
    """All or nothing, and durable. Raises OSError."""
    draft = path.with_suffix(".new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(json.dumps(ask).encode())
        file.flush()
        os.fsync(fd)
    draft.rename(path)
    with contextlib.suppress(OSError):
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
