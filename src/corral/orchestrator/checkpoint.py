"""Checkpoints of the workspaces on this node's hands host: taken while their sessions are idle.

    idle for CHECKPOINT_IDLE_SECONDS and changed -> packed -> blob -> kept in the database -> the host knows
                                                                 |
                                                                 +-- the blob that nobody needs is deleted

Killed at any point, at most a blob is too many, which goes with its session's next checkpoint, or with
the session. The database never names a blob that is not there.
"""

import asyncio
import logging
import time
from contextlib import suppress

from corral.catalog.blobs import BlobStore
from corral.hands.archive import packed
from corral.hands.client import HandsClient
from corral.hands.wire import HeldWorkspace
from corral.kernel.clock import Clock
from corral.kernel.crash import crash_point
from corral.kernel.errors import CallerError, Conflict, NotFound, RequestTooLarge, WorldError
from corral.kernel.ids import Ids, SessionId
from corral.kernel.limits import (
    CHECKPOINT_IDLE_SECONDS,
    CHECKPOINT_LOOK_SECONDS,
    CHECKPOINT_RETRY_SECONDS,
    CHECKPOINTS_AT_ONCE,
    CHECKPOINTS_LEFT_MAX,
)
from corral.session.checkpoint import Checkpoint, CheckpointStore

__all__ = ["Checkpointer", "blob_prefix"]

log = logging.getLogger(__name__)


def blob_prefix(session_id: SessionId) -> str:
    """Keys of the blobs of all checkpoints of a session begin with it."""
    return f"checkpoints/{session_id}/"


class Checkpointer:
    """Takes checkpoints of workspaces on any host; `run` looks after one host until cancelled."""

    def __init__(self, checkpoints: CheckpointStore, blobs: BlobStore, *, clock: Clock, ids: Ids) -> None:
        self._checkpoints = checkpoints
        self._blobs = blobs
        self._clock = clock
        self._ids = ids

    async def run(self, hands: HandsClient) -> None:
        """Keep the checkpoints of the host behind `hands` young."""
        failed_at: dict[SessionId, float] = {}
        while True:
            try:
                await self.look(hands, idle_seconds=CHECKPOINT_IDLE_SECONDS, failed_at=failed_at)
            except WorldError as error:
                log.debug("checkpoints wait: %s", error.message)
            await asyncio.sleep(CHECKPOINT_LOOK_SECONDS)

    async def look(
        self, hands: HandsClient, *, idle_seconds: float, failed_at: dict[SessionId, float] | None = None
    ) -> int:
        """Take a checkpoint of every workspace there that is idle and has changed since its last one;
        returns how many could not be taken. `failed_at` is kept by the caller: those wait.
        Raises HandsUnavailable."""
        failures = {} if failed_at is None else failed_at
        recently = time.monotonic() - CHECKPOINT_RETRY_SECONDS
        there = await hands.held()
        for gone in failures.keys() - {held.session_id for held in there}:
            del failures[gone]
        due = [
            held
            for held in there
            if held.changes > held.kept
            and not held.is_busy
            and held.idle_seconds >= idle_seconds
            and failures.get(held.session_id, recently) <= recently
        ]
        host_id = (await hands.placement(SessionId(""))).host_id
        at_once, failed = asyncio.Semaphore(CHECKPOINTS_AT_ONCE), 0

        async def take(held: HeldWorkspace) -> None:
            nonlocal failed
            async with at_once:
                try:
                    await self.take(hands, held, host_id=host_id)
                    failures.pop(held.session_id, None)
                except Conflict:  # at work again: its next pause comes
                    failed += 1
                except (CallerError, WorldError) as error:
                    failed += 1
                    failures[held.session_id] = time.monotonic()
                    is_large = isinstance(error, RequestTooLarge)
                    log.warning(
                        "session %s: no checkpoint%s: %s",
                        held.session_id,
                        ", its files live on this host alone" if is_large else "",
                        error,
                    )

        async with asyncio.TaskGroup() as group:
            for held in due:
                group.create_task(take(held))
        return failed

    async def copy(self, hands: HandsClient, session_id: SessionId) -> None:
        """Take a checkpoint of one workspace as it is now. Raises as `take`."""
        host_id = (await hands.placement(SessionId(""))).host_id
        for held in await hands.held():
            if held.session_id == session_id:
                await self.take(hands, held, host_id=host_id)
                return
        raise NotFound(f"session {session_id!r} has no workspace on host {host_id!r}")

    async def take(self, hands: HandsClient, held: HeldWorkspace, *, host_id: str) -> Checkpoint | None:
        """Copy the workspace as it is, and make that the session's newest checkpoint. None if the session
        is gone, on another host by now, or was copied by somebody else meanwhile.

        Raises Conflict if a call changed it meanwhile; NotFound, RequestTooLarge, BlobUnavailable,
        HandsUnavailable, StoreUnavailable. Then nothing has changed.
        """
        session_id = held.session_id
        crash_point("checkpoint.before")
        earlier = await self._checkpoints.newest(session_id)  # before a byte is read
        key = f"{blob_prefix(session_id)}{self._ids.mint('chkp')}"
        blob = await self._blobs.put(key, packed(hands.pack(session_id)))
        crash_point("checkpoint.after")
        try:
            # Only the host knows whether the copy is one of a single moment.
            await hands.keep(session_id, changes=held.changes, only_check=True)
            there = [found.key async for found in self._blobs.keys(blob_prefix(session_id))]
        except BaseException:
            await self._blobs.delete(key)
            raise
        checkpoint = Checkpoint(
            session_id=session_id,
            blob_key=key,
            size_bytes=blob.size_bytes,
            sha256=blob.sha256,
            host_id=host_id,
            taken_at=self._clock.now(),
        )
        instead_of = earlier.blob_key if earlier else None
        unneeded = await self._checkpoints.keep(checkpoint, instead_of=instead_of)
        if unneeded == checkpoint:
            await self._blobs.delete(key)
            return None  # then the host must not rely on it
        # Whoever wrote another of these began before ours was the newest, so it cannot be named any more:
        # it was, until now, or its writer was killed, or comes too late.
        for other in there[:CHECKPOINTS_LEFT_MAX]:
            if other != key:
                await self._blobs.delete(other)
        with suppress(Conflict):  # changed since: then this is not the last one
            await hands.keep(session_id, changes=held.changes)
        return checkpoint
