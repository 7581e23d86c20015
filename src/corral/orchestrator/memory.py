"""Old versions of memories, and what deleted memory stores left, are removed in the background."""

import asyncio
import logging

from corral.catalog.memory.ports import MemoryForgetting
from corral.kernel.errors import StoreUnavailable
from corral.kernel.limits import MEMORY_FORGET_SECONDS, SWEEP_PAUSE_SECONDS

__all__ = ["forget_memories"]

_log = logging.getLogger(__name__)


async def forget_memories(store: MemoryForgetting) -> None:
    """One batch after the other while there are any, with a pause for those who wait for the store; then a
    look every MEMORY_FORGET_SECONDS. Runs until cancelled."""
    while True:
        is_more = False
        try:
            is_more = await store.forget()
        except StoreUnavailable as error:
            _log.debug("old versions of memories wait: %s", error)
        await asyncio.sleep(SWEEP_PAUSE_SECONDS if is_more else MEMORY_FORGET_SECONDS)
