"""The deep sweep: what the brains' own sweep cannot see, found and repaired, on every node in turn."""

import asyncio
import logging
import random
from collections import Counter
from contextlib import suppress

from corral.kernel.errors import StoreUnavailable
from corral.kernel.ids import SessionId
from corral.kernel.limits import SWEEP_DEEP_SECONDS
from corral.kernel.metrics import count
from corral.session.bus import Bus
from corral.session.sweep import SweepStore

log = logging.getLogger(__name__)

_SHOWN_MAX = 20  # session ids in one line of the log


class Sweep:
    """`run` until cancelled. `repaired`: how many repairs of each kind this process has made."""

    def __init__(self, store: SweepStore, bus: Bus) -> None:
        self._store = store
        self._bus = bus
        self._after: SessionId | None = None
        self.repaired: Counter[str] = Counter()

    async def run(self) -> None:
        while True:
            # Nodes that started together drift apart: they need not all look at the same moment.
            await asyncio.sleep(SWEEP_DEEP_SECONDS * random.uniform(0.5, 1.5))
            with suppress(StoreUnavailable):
                await self.once()

    async def once(self) -> None:
        """One look. Raises StoreUnavailable."""
        swept = await self._store.sweep(after=self._after)
        self._after = swept.after
        for kind, session_ids in swept.repaired.items():
            self.repaired[kind] += len(session_ids)
            shown = ", ".join(session_ids[:_SHOWN_MAX])
            log.error("repaired %d of %r, which should not happen: %s", len(session_ids), kind, shown)
            for session_id in session_ids:
                count("repairs", kind=kind)
                self._bus.wake(session_id)
