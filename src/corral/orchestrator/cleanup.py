"""What ended sessions leave behind for the hands: queued with the event that ends them, done here.

At least once and safe to repeat: a hands host that is away gets its work when it is back.
"""

import asyncio
import logging
from typing import Protocol

from corral.kernel.errors import SandboxUnavailable, StoreUnavailable, WorldError
from corral.kernel.ids import SessionId
from corral.kernel.limits import CLEANUP_BATCH_MAX, SWEEP_SECONDS
from corral.session.cleanup import CleanupStore, CleanupWork

log = logging.getLogger(__name__)


class Releasing(Protocol):
    async def release(self, session_id: SessionId, *, delete_workspace: bool) -> None:
        """Destroy the session's sandbox, and its workspace if asked. Repeat: safe.

        Raises HandsUnavailable; SandboxUnavailable (the workspace could not be emptied).
        """


async def clean_up(store: CleanupStore, hands: Releasing) -> None:
    """Do the queued work, look again every SWEEP_SECONDS; runs until cancelled."""
    while True:
        done: list[CleanupWork] = []
        try:
            for work in await store.pending(limit=CLEANUP_BATCH_MAX):
                try:
                    await hands.release(work.session_id, delete_workspace=work.kind == "workspace")
                except SandboxUnavailable as error:  # this one's workspace; the others need not wait
                    log.warning("clean-up of %s will be tried again: %s", work.session_id, error.message)
                else:
                    done.append(work)
        except WorldError as error:
            log.debug("clean-up waits: %s", error.message)
        finally:
            if done:
                try:
                    await store.done(done)
                except StoreUnavailable as error:
                    log.debug("clean-up will be repeated: %s", error.message)
        await asyncio.sleep(SWEEP_SECONDS)
