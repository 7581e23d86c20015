"""From the store to the egress process of this node: the sealed credentials of the sessions that go out
through it, as it wishes for them (`egress.wishes`)."""

import asyncio
import json
import logging
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from corral.app.part import Part
from corral.catalog.repositories import SealedToken
from corral.catalog.vaults import SealedCredential, SessionCredentialStore
from corral.daemon import asked
from corral.kernel.errors import StoreUnavailable
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    CREDENTIALS_PART_BYTES,
    CREDENTIALS_POLL_SECONDS,
    CREDENTIALS_RETRY_SECONDS,
    EGRESS_REPLY_SECONDS,
)

__all__ = ["CredentialDuty", "as_json", "credentials_part"]

log = logging.getLogger(__name__)
_KINDS: Final = ("credentials", "repositories")
_Said: TypeAlias = tuple[str, dict[str, object]]  # one of the kinds, and a credential or token of it


class CredentialDuty:
    def __init__(self, data_dir: Path, store: SessionCredentialStore) -> None:
        self._data_dir = data_dir
        self._store = store
        self._told = ""

    async def run(self) -> None:
        """Until cancelled. What fails is told once and tried again: a wish stands until it is given."""
        while True:
            try:
                await self.give()
                self._told = ""
            except (OSError, TimeoutError, ValueError, StoreUnavailable) as error:
                is_away = isinstance(
                    error, OSError | TimeoutError
                )  # restarted; /readyz says so if it lasts
                if not is_away and str(error) != self._told:
                    self._told = str(error)
                    log.warning("credentials do not reach the egress process: %s", error)
                await asyncio.sleep(CREDENTIALS_RETRY_SECONDS)

    async def give(self) -> None:
        """Wait for wishes, and give what is wished for.

        Raises OSError, TimeoutError, ValueError: of the egress process; StoreUnavailable.
        """
        wanted = await self._ask("wanted", {}, seconds=CREDENTIALS_POLL_SECONDS + EGRESS_REPLY_SECONDS)
        failed: Exception | None = None
        for session_id in map(SessionId, wanted["session_ids"]):
            try:
                await self._give(session_id, round_=int(wanted["round"]))
            # The others are not to wait for this one.
            except (OSError, TimeoutError, ValueError, StoreUnavailable) as error:
                failed = error
        if failed is not None:
            raise failed

    async def _give(self, session_id: SessionId, *, round_: int) -> None:
        """Raises as `give`."""
        found = await self._store.of_session(session_id)
        tokens = await self._store.tokens_of_session(session_id)
        said = [("credentials", as_json(each)) for each in found]
        said += [("repositories", _token(each)) for each in tokens]
        for part, (held, is_last) in enumerate(_in_parts(said)):
            body: dict[str, object] = {
                "session_id": session_id,
                "round": round_,
                "part": part,
                "is_last": is_last,
                **{kind: [each for is_of, each in held if is_of == kind] for kind in _KINDS},
            }
            await self._ask("give", body, seconds=EGRESS_REPLY_SECONDS)

    async def _ask(self, what: str, body: Mapping[str, object], *, seconds: float) -> dict[str, Any]:
        data = json.dumps(body).encode()
        status, answer = await asked(self._data_dir, "egress", f"credentials/{what}", data, seconds=seconds)
        if status != 200:
            raise ValueError(str(answer.get("error", f"the egress process answered {status}")))
        return answer


def credentials_part(data_dir: Path, store: SessionCredentialStore) -> Part:
    return Part(later=[CredentialDuty(data_dir, store).run])


def _in_parts(said: Sequence[_Said]) -> Iterator[tuple[list[_Said], bool]]:
    """With what fits into a request, and whether it is the last one. There is one at least."""
    part: list[_Said] = []
    size = 0
    for each in said:
        length = len(json.dumps(each[1]))
        if part and size + length > CREDENTIALS_PART_BYTES:
            yield part, False
            part, size = [], 0
        part.append(each)
        size += length
    yield part, True


def as_json(credential: SealedCredential) -> dict[str, object]:
    """As `egress.wishes` reads it."""
    return {
        "workspace_id": credential.workspace_id,
        "record": credential.record,
        "secrets": [
            {"name": each.name, "key_id": each.key_id, "sealed": b64encode(each.sealed).decode()}
            for each in credential.secrets
        ],
    }


def _token(token: SealedToken) -> dict[str, object]:
    return {
        "workspace_id": token.place.workspace_id,
        "resource_id": token.place.resource_id,
        "url": token.place.url,
        "key_id": token.key_id,
        "sealed": b64encode(token.sealed).decode(),
    }
