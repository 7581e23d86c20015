"""From the egress process of this node to the store: which credentials it may refresh, and the new tokens,
sealed (`egress.keeping`)."""

import asyncio
import json
import logging
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corral.app.credentials import as_json
from corral.app.part import Part
from corral.catalog.tokens import TokenStore, Where
from corral.catalog.vaults import SealedCredential, SealedSecret, VaultKeyStore
from corral.daemon import asked
from corral.kernel.clock import Clock
from corral.kernel.errors import StoreUnavailable, VaultUnavailable
from corral.kernel.ids import CredentialId, VaultId, WorkspaceId
from corral.kernel.limits import CREDENTIALS_RETRY_SECONDS, EGRESS_REPLY_SECONDS, TOKEN_POLL_SECONDS

__all__ = ["TokenDuty", "tokens_part"]

log = logging.getLogger(__name__)


class TokenDuty:
    def __init__(self, data_dir: Path, store: TokenStore, keys: VaultKeyStore, clock: Clock) -> None:
        self._data_dir = data_dir
        self._store = store
        self._keys = keys
        self._clock = clock
        self._told = ""

    async def run(self) -> None:
        """Until cancelled. What fails is told once and tried again: an ask stands until it is answered."""
        while True:
            try:
                await self.work()
                self._told = ""
            except (OSError, TimeoutError):
                await asyncio.sleep(CREDENTIALS_RETRY_SECONDS)  # restarted; /readyz says so if it lasts
            except (ValueError, StoreUnavailable) as error:
                if str(error) != self._told:
                    self._told = str(error)
                    log.warning("refreshed tokens wait: %s", error)
                await asyncio.sleep(CREDENTIALS_RETRY_SECONDS)

    async def work(self) -> None:
        """Wait for asks, and answer each; one that fails does not hold up the others.

        Raises OSError, TimeoutError, ValueError: of the egress process; StoreUnavailable.
        """
        wanted = await self._ask("wanted", {}, seconds=TOKEN_POLL_SECONDS + EGRESS_REPLY_SECONDS)
        failed: Exception | None = None
        for ask in wanted["asks"]:
            try:
                answer = await self._answer(ask)
            except StoreUnavailable as error:
                failed = error
                continue
            await self._ask("told", {"answers": [answer]}, seconds=EGRESS_REPLY_SECONDS)
        if failed is not None:
            raise failed

    async def _answer(self, ask: Mapping[str, Any]) -> dict[str, object]:
        """Raises StoreUnavailable."""
        where, claim_id = _where(ask["where"]), str(ask["claim_id"])
        credential: SealedCredential | None = None
        outcome = "released"
        match ask["what"]:
            case "claim":
                outcome, credential = await self._store.claim(
                    where, updated_at=ask["updated_at"], claim_id=claim_id, seconds=float(ask["seconds"])
                )
            case "keep":
                secrets = [
                    SealedSecret(
                        name=each["name"],
                        key_id=each["key_id"],
                        sealed=b64decode(each["sealed"], validate=True),
                    )
                    for each in ask["secrets"]
                ]
                try:
                    outcome, credential = await self._store.keep(
                        where,
                        secrets,
                        updated_at=ask["updated_at"],
                        claim_id=claim_id,
                        expires_at=ask["expires_at"],
                        now=self._clock.now(),
                    )
                except VaultUnavailable:
                    outcome = "key_gone"
            case _:
                await self._store.release(where, claim_id=claim_id)
        key = await self._keys.current()
        return {
            "ask_id": ask["ask_id"],
            "outcome": outcome,
            "key_id": None if key is None else key.key_id,
            "credential": None if credential is None else as_json(credential),
        }

    async def _ask(self, what: str, body: Mapping[str, object], *, seconds: float) -> dict[str, Any]:
        data = json.dumps(body).encode()
        status, answer = await asked(self._data_dir, "egress", f"tokens/{what}", data, seconds=seconds)
        if status != 200:
            raise ValueError(str(answer.get("error", f"the egress process answered {status}")))
        return answer


def tokens_part(data_dir: Path, store: TokenStore, keys: VaultKeyStore, clock: Clock) -> Part:
    return Part(later=[TokenDuty(data_dir, store, keys, clock).run])


def _where(given: Mapping[str, str]) -> Where:
    return Where(
        workspace_id=WorkspaceId(given["workspace_id"]),
        vault_id=VaultId(given["vault_id"]),
        credential_id=CredentialId(given["credential_id"]),
    )
