"""Files that have expired, and bytes that no file names, are removed in the background."""

import asyncio
import logging

from corral.catalog.blobs import BlobStore
from corral.catalog.files import UnneededBlobs
from corral.kernel.errors import BlobUnavailable, StoreUnavailable
from corral.kernel.limits import FILES_CLEAN_BATCH_MAX, FILES_CLEAN_SECONDS, SWEEP_PAUSE_SECONDS

__all__ = ["clean_batch", "clean_files"]

_log = logging.getLogger(__name__)


async def clean_files(unneeded: UnneededBlobs, blobs: BlobStore) -> None:
    """One batch after the other while there are any, with a pause for those who wait for the store; then a
    look every FILES_CLEAN_SECONDS. Runs until cancelled."""
    while True:
        is_more = False
        try:
            is_more = await clean_batch(unneeded, blobs)
        except (StoreUnavailable, BlobUnavailable) as error:
            _log.debug("files that are over wait: %s", error)
        await asyncio.sleep(SWEEP_PAUSE_SECONDS if is_more else FILES_CLEAN_SECONDS)


async def clean_batch(unneeded: UnneededBlobs, blobs: BlobStore) -> bool:
    """First the bytes, then what is known of them: killed in between, it is repeated. True: there is more.

    Raises StoreUnavailable, BlobUnavailable.
    """
    is_more = await unneeded.expire()
    going = await unneeded.going(limit=FILES_CLEAN_BATCH_MAX)
    for blob_key in going:
        await blobs.delete(blob_key)
    await unneeded.gone(going)
    return is_more or len(going) == FILES_CLEAN_BATCH_MAX
