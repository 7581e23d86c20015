"""Packages of skills that nobody has any more are removed in the background."""

import asyncio
import logging

from corral.catalog.blobs import BlobStore
from corral.catalog.skills.ports import SkillForgetting
from corral.kernel.errors import BlobUnavailable, StoreUnavailable
from corral.kernel.limits import SKILL_FORGET_BATCH_MAX, SKILL_FORGET_LOOK_SECONDS, SWEEP_PAUSE_SECONDS

__all__ = ["forget_batch", "forget_skills"]

_log = logging.getLogger(__name__)


async def forget_skills(store: SkillForgetting, blobs: BlobStore) -> None:
    """Batch by batch while there is anything, then a look every SKILL_FORGET_LOOK_SECONDS. Runs until
    cancelled."""
    while True:
        is_more = False
        try:
            is_more = await forget_batch(store, blobs)
        except (StoreUnavailable, BlobUnavailable) as error:
            _log.debug("packages of skills that are over wait: %s", error)
        await asyncio.sleep(SWEEP_PAUSE_SECONDS if is_more else SKILL_FORGET_LOOK_SECONDS)


async def forget_batch(store: SkillForgetting, blobs: BlobStore) -> bool:
    """First the bytes, then what is known of them: killed in between, it is repeated. True: there may be
    more. Raises StoreUnavailable, BlobUnavailable."""
    over = await store.over(limit=SKILL_FORGET_BATCH_MAX)
    for version in over:
        await blobs.delete(version.blob_key)
    await store.forget([version.skill_version_id for version in over])
    return len(over) == SKILL_FORGET_BATCH_MAX
