"""The vault's keys between the egress process, which holds them, and the database, where everybody finds
the public part. Of a node with the role `egress`.

The first such node has its egress process make a key and writes the public part down. To rotate:

    asked for  -> the egress process makes a key -> it is current, the other one old
               -> secrets of old keys are sealed anew, batch by batch -> an old key that seals nothing is
                  forgotten, first by the database, then by the egress process

Every step is in the database or in the key file before the next begins, so whoever is killed is followed
by one who goes on from there. Two nodes at once do the same work twice at worst.
"""

import asyncio
import http.client
import json
import logging
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corral.api.dependencies import Check
from corral.app.part import Part
from corral.catalog.vaults import KeyUse, SealedSecret, VaultKey, VaultKeyStore
from corral.kernel.clock import Clock
from corral.kernel.errors import CorralError, VaultUnavailable
from corral.kernel.limits import EGRESS_REPLY_SECONDS, VAULT_LOOK_SECONDS, VAULT_RESEAL_BATCH
from corral.supervisor.adopt import ask_json

__all__ = ["VaultDuty", "vault_part"]

log = logging.getLogger(__name__)


class VaultDuty:
    def __init__(self, data_dir: Path, keys: VaultKeyStore, clock: Clock) -> None:
        self._data_dir = data_dir
        self._keys = keys
        self._clock = clock
        self._told = ""

    async def look(self) -> Check:
        """Readiness: there is a key, and this node's egress process holds every key in use. Without one no
        credential can be made; what a node does not hold, another one may."""
        uses = await self._keys.all()
        try:
            held = await self._held()
            if not uses:
                await self._keys.add_first(await self._newer_than(None), now=self._clock.now())
                uses, held = await self._keys.all(), await self._held()
        except VaultUnavailable as error:
            return Check(
                status="warning" if uses else "failed", reason=f"the vault's keys: {error.message}"
            )
        missing = [use.key.key_id for use in uses if use.key.key_id not in held]
        if missing:
            return Check(
                status="warning",
                reason=f"this node's egress process does not hold {', '.join(missing)}, so it cannot open"
                " what is sealed with it: copy the key file from the node that made it",
            )
        return Check(status="ok")

    async def run(self) -> None:
        """Until cancelled: do what was asked for. What fails is told once and tried again."""
        while True:
            try:
                await self.work()
                self._told = ""
            except CorralError as error:
                if str(error) != self._told:
                    self._told = str(error)
                    log.warning("vault keys: %s", error)
            await asyncio.sleep(VAULT_LOOK_SECONDS)

    async def work(self) -> None:
        """One round. Raises VaultUnavailable, StoreUnavailable; the next round goes on."""
        uses = await self._keys.all()
        if not uses or not uses[0].is_current:
            return
        current = uses[0]
        if current.rotation_asked_at is not None:
            held = await self._held()
            if current.key.key_id not in held:
                return  # the node that holds it rotates
            new = await self._newer_than(current.key.key_id)
            if not await self._keys.replace(current.key.key_id, new, now=self._clock.now()):
                return
            log.info("vault keys: %s takes the place of %s", new.key_id, current.key.key_id)
            uses = await self._keys.all()
        old = [use for use in uses if not use.is_current]
        if old:
            await self._seal_anew(uses[0], old)
            await self._forget()

    async def _seal_anew(self, current: KeyUse, old: Sequence[KeyUse]) -> None:
        held = await self._held()
        can_open = [use.key.key_id for use in old if use.key.key_id in held and use.secrets]
        if not can_open or current.key.key_id not in held:
            return
        after: tuple[str, str] | None = None
        while batch := await self._keys.sealed_otherwise(can_open, after=after, limit=VAULT_RESEAL_BATCH):
            asked = {
                "to": current.key.key_id,
                "secrets": [
                    {
                        "key_id": secret.key_id,
                        "place": b64encode(secret.place.encode()).decode(),
                        "sealed": b64encode(secret.sealed).decode(),
                    }
                    for secret in batch
                ],
            }
            sealed = (await self._ask("reseal", asked))["sealed"]
            done = [(old, new) for old, new in zip(batch, sealed, strict=True) if new is not None]
            await self._keys.seal_anew(
                [old for old, _ in done],
                [
                    SealedSecret(name=old.place.name, key_id=current.key.key_id, sealed=b64decode(new))
                    for old, new in done
                ],
            )
            if len(done) < len(batch):
                raise VaultUnavailable(
                    f"{len(batch) - len(done)} secrets do not open with the key that they name, and stay"
                    " as they are; send them anew",
                    retryable=False,
                )
            after = (batch[-1].place.credential_id, batch[-1].place.name)

    async def _forget(self) -> None:
        forgotten = list(await self._keys.forget_unused())
        if forgotten:
            await self._ask("forget", {"key_ids": forgotten})
            log.info("vault keys: nothing uses %s any more", ", ".join(forgotten))

    async def _held(self) -> frozenset[str]:
        return frozenset(key["id"] for key in (await self._ask("keys", {}))["keys"])

    async def _newer_than(self, current: str | None) -> VaultKey:
        key = (await self._ask("newer", {"current": current}))["key"]
        return VaultKey(key_id=key["id"], public_key=b64decode(key["public_key"]))

    async def _ask(self, what: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Raises VaultUnavailable."""
        try:
            status, answer = await asyncio.to_thread(
                ask_json,
                self._data_dir,
                "egress",
                f"vault/{what}",
                json.dumps(body).encode(),
                seconds=EGRESS_REPLY_SECONDS,
            )
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise VaultUnavailable(f"the egress process does not answer ({type(error).__name__})") from None
        if status != 200:
            raise VaultUnavailable(str(answer.get("error", f"the egress process answered {status}")))
        return answer


def vault_part(data_dir: Path, keys: VaultKeyStore, clock: Clock) -> Part:
    duty = VaultDuty(data_dir, keys, clock)
    return Part(looks={"vault": duty.look}, later=[duty.run])
