"""What ended sessions leave behind: queued with the event that ends it, done here.

At least once and safe to repeat: a hands host that is away gets its work when it is back, and one that is
lost is swept when it comes back (`orchestrator.sandboxes`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from corral.catalog.blobs import BlobStore
from corral.kernel.errors import (
    BlobUnavailable,
    HandsUnavailable,
    SandboxUnavailable,
    StoreUnavailable,
    WorldError,
)
from corral.kernel.ids import SessionId
from corral.kernel.limits import CLEANUP_BATCH_MAX, SWEEP_SECONDS
from corral.orchestrator.checkpoint import blob_prefix
from corral.session.checkpoint import CheckpointStore
from corral.session.cleanup import CleanupStore, CleanupWork

__all__ = ["Releasing", "clean_up", "forget_checkpoint"]

log = logging.getLogger(__name__)


class Releasing(Protocol):
    async def release(self, session_id: SessionId, *, delete_workspace: bool) -> None:
        """Destroy the session's sandbox, and its workspace if asked. Repeat: safe.

        Raises HandsUnavailable; SandboxUnavailable (the workspace could not be emptied).
        """


async def forget_checkpoint(session_id: SessionId, checkpoints: CheckpointStore, blobs: BlobStore) -> None:
    """The session is gone: delete its checkpoint, first the bytes, then what names them; with it those that
    killed servers left unnamed. Repeat: safe."""
    for blob in [found async for found in blobs.keys(blob_prefix(session_id))]:
        await blobs.delete(blob.key)
    await checkpoints.forget(session_id)


async def _no_blobs(session_id: SessionId) -> None:
    """Of a server that takes no checkpoints."""


async def clean_up(
    store: CleanupStore,
    hands: Releasing,
    *,
    forget_blobs: Callable[[SessionId], Awaitable[None]] = _no_blobs,
) -> None:
    """Do the queued work, look again every SWEEP_SECONDS; runs until cancelled."""
    while True:
        done: list[CleanupWork] = []
        try:
            for work in await store.pending(limit=CLEANUP_BATCH_MAX):
                try:
                    if work.kind == "blobs":
                        await forget_blobs(work.session_id)
                    else:
                        await hands.release(work.session_id, delete_workspace=work.kind == "workspace")
                except SandboxUnavailable as error:  # this one's workspace; the others need not wait
                    log.warning("clean-up of %s will be tried again: %s", work.session_id, error)
                except (HandsUnavailable, BlobUnavailable) as error:  # away; what others need may not be
                    log.debug("clean-up of %s waits: %s", work.session_id, error)
                else:
                    done.append(work)
        except WorldError as error:
            log.debug("clean-up waits: %s", error)
        finally:
            if done:
                try:
                    await store.done(done)
                except StoreUnavailable as error:
                    log.debug("clean-up will be repeated: %s", error)
        await asyncio.sleep(SWEEP_SECONDS)
