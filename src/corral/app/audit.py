"""From the egress process of this node into the store: what sandboxes asked for from the network."""

import asyncio
import http.client
import json
import logging
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from corral.app.part import Part
from corral.catalog.audit import AuditStore, Begun, Ended
from corral.kernel.clock import Clock, parse_rfc3339
from corral.kernel.errors import StoreUnavailable
from corral.kernel.limits import (
    AUDIT_ENTRIES_MAX,
    AUDIT_PRUNE_SECONDS,
    AUDIT_TAKE_SECONDS,
    EGRESS_REPLY_SECONDS,
)
from corral.kernel.metrics import count
from corral.supervisor.adopt import ask_json

__all__ = ["AuditDuty", "audit_part"]

log = logging.getLogger(__name__)


class AuditDuty:
    """days: how long an entry is kept."""

    def __init__(self, data_dir: Path, store: AuditStore, clock: Clock, *, days: int) -> None:
        self._data_dir = data_dir
        self._store = store
        self._clock = clock
        self._days = days

    async def take_forever(self) -> None:
        """What fails is tried again; until it succeeds, the egress process keeps it."""
        while True:
            try:
                while await self.take():
                    pass
            except (OSError, http.client.HTTPException, ValueError):
                pass  # it is being restarted; /readyz says so if it lasts
            except StoreUnavailable as error:
                log.warning("the audit waits: %s", error)
            await asyncio.sleep(AUDIT_TAKE_SECONDS)

    async def take(self) -> bool:
        """A page of what is new; whether there was any. Killed in the middle, it is taken again.

        Raises OSError, HTTPException, ValueError: of the egress process; StoreUnavailable.
        """
        page = await self._ask("read", {})
        lines: list[Mapping[str, Any]] = page["lines"]
        begun = [line["begin"] for line in lines if "begin" in line]
        await self._store.add(
            [Begun(**{**each, "created_at": parse_rfc3339(each["created_at"])}) for each in begun],
            [Ended(**line["end"]) for line in lines if "end" in line],
        )
        if page["position"]:
            await self._ask("forget", {"position": page["position"]})
        for each in begun:  # now: what is taken again is counted once
            count("egress_requests", decision=each["decision"])
        return bool(lines)

    async def prune_forever(self) -> None:
        while True:
            try:
                before = self._clock.now() - timedelta(days=self._days)
                while await self._store.prune(before=before, keep=AUDIT_ENTRIES_MAX):
                    pass
            except StoreUnavailable as error:
                log.warning("old entries of the audit stay for now: %s", error)
            await asyncio.sleep(AUDIT_PRUNE_SECONDS)

    async def _ask(self, what: str, body: Mapping[str, object]) -> dict[str, Any]:
        status, answer = await asyncio.to_thread(
            ask_json,
            self._data_dir,
            "egress",
            f"audit/{what}",
            json.dumps(body).encode(),
            seconds=EGRESS_REPLY_SECONDS,
        )
        if status != 200:
            raise ValueError(str(answer.get("error", status)))
        return answer


def audit_part(data_dir: Path, store: AuditStore, clock: Clock, *, days: int) -> Part:
    duty = AuditDuty(data_dir, store, clock, days=days)
    return Part(later=[duty.take_forever, duty.prune_forever])
