"""From the store to the egress process of this node: the sealed credentials of the sessions that go out
through it, as it wishes for them (`egress.wishes`)."""

import asyncio
import json
import logging
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corral.app.part import Part
from corral.catalog.repositories import SealedToken
from corral.catalog.vaults import SealedCredential, SessionCredentialStore
from corral.daemon import asked
from corral.kernel.errors import StoreUnavailable
from corral.kernel.ids import SessionId
from corral.kernel.limits import CREDENTIALS_POLL_SECONDS, CREDENTIALS_RETRY_SECONDS, EGRESS_REPLY_SECONDS

__all__ = ["CredentialDuty", "as_json", "credentials_part"]

log = logging.getLogger(__name__)


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
                found = await self._store.of_session(session_id)
                tokens = await self._store.tokens_of_session(session_id)
                await self._ask(
                    "give",
                    {
                        "session_id": session_id,
                        "credentials": [as_json(each) for each in found],
                        "repositories": [_token(each) for each in tokens],
                    },
                    seconds=EGRESS_REPLY_SECONDS,
                )
            # The others are not to wait for this one: what is too large for one request is hung up on.
            except (OSError, TimeoutError, ValueError, StoreUnavailable) as error:
                failed = error
        if failed is not None:
            raise failed

    async def _ask(self, what: str, body: Mapping[str, object], *, seconds: float) -> dict[str, Any]:
        data = json.dumps(body).encode()
        status, answer = await asked(self._data_dir, "egress", f"credentials/{what}", data, seconds=seconds)
        if status != 200:
            raise ValueError(str(answer.get("error", f"the egress process answered {status}")))
        return answer


def credentials_part(data_dir: Path, store: SessionCredentialStore) -> Part:
    return Part(later=[CredentialDuty(data_dir, store).run])


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
