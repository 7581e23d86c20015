"""Where a session is: found in the database, or placed on the host with most room, with its files.

    nowhere -> placed on a host -> its workspace is there -> calls
                  ^                                            |
                  +--- the host is lost, or it was evicted ----+

Rules of this file:
- The database says where a session is, and moving it is a compare-and-set: only who runs it moves it, or
  anybody while nobody does, and only soon after its host was found away. Else a brain that was cut off
  itself would take a session, when it is back, from a host where others have worked on.
- The host says whether its workspace of *this* placement is there, by the placement's `placed_at`; if not,
  it is restored from the newest checkpoint before anything runs. So it does not matter who died between
  placing and restoring, and a host that was given up on and comes back runs nothing for sessions that went
  on elsewhere.
"""

import asyncio
import logging
import random
import time
from collections import OrderedDict

from corral.catalog.blobs import BlobStore
from corral.cluster.placement import Placed, PlacementStore
from corral.hands.archive import BrokenCheckpoint, unpacked
from corral.hands.hosts import Hosts
from corral.hands.ports import WorkspaceMissing
from corral.hands.wire import Restored
from corral.kernel.clock import rfc3339
from corral.kernel.errors import (
    BlobUnavailable,
    HandsUnavailable,
    InvalidRequest,
    LeaseLost,
    NotFound,
    RequestTooLarge,
    SandboxUnavailable,
)
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    DISK_FREE_BYTES_MIN,
    MOVE_SECONDS_MAX,
    MOVES_REFUSED_MAX,
    NODE_BEAT_SECONDS,
    NODE_LOST_SECONDS,
    PLACEMENTS_CACHED_MAX,
)
from corral.session.call import Placement
from corral.session.checkpoint import CheckpointStore

__all__ = ["Placer"]

log = logging.getLogger(__name__)


class Placer:
    """Of one process; others place sessions at the same time."""

    def __init__(
        self, hosts: Hosts, *, placements: PlacementStore, checkpoints: CheckpointStore, blobs: BlobStore
    ) -> None:
        self._hosts = hosts
        self._placements = placements
        self._checkpoints = checkpoints
        self._blobs = blobs
        self._sent: dict[str, list[float]] = {}  # sessions placed by us that the list does not count yet
        self._placed: OrderedDict[SessionId, Placed] = OrderedDict()

    async def place(self, session_id: SessionId) -> Placement:
        """Where its next call goes; its workspace is there. Raises NotFound for a deleted session, too;
        HandsUnavailable, SandboxUnavailable, LeaseLost."""
        refusing: set[str] = set()
        is_renewed = leaves = False
        refusals = 0
        placed = await self._placements.find(session_id)
        while True:
            if placed is not None and placed.host_id not in refusing:
                try:
                    return await self._ready(placed)
                except SandboxUnavailable as error:  # it takes no new ones, and this one is not there yet
                    log.info("session %s goes to another host: %s", session_id, error.message)
                except HandsUnavailable:
                    if not self._hosts.is_gone(placed.host_id):
                        raise
                    leaves = True
                except LeaseLost:  # the host saw a later placement than this
                    if is_renewed:
                        raise
                    is_renewed = True
                    stale, placed = placed, await self._placements.find(session_id)
                    if placed == stale:  # so the database is of before that: restored from a backup
                        placed = await self._placements.place(
                            session_id, host_id=stale.host_id, instead_of=stale
                        )
                    continue
                refusing.add(placed.host_id)
            host_id = self._choose(refusing)
            left, placed = (
                placed,
                await self._placements.place(
                    session_id,
                    host_id=host_id,
                    instead_of=placed,
                    until=time.monotonic() + MOVE_SECONDS_MAX,
                ),
            )
            if placed.host_id == host_id:
                if leaves and left is not None:
                    log.warning("session %s leaves host %s, which is lost to us", session_id, left.host_id)
                leaves = False
            else:  # others have it, or had it since we looked: where it is may well answer by now
                refusals += 1
                if refusals > MOVES_REFUSED_MAX:
                    raise HandsUnavailable(f"the hands host {placed.host_id!r} does not answer")
                refusing.discard(placed.host_id)

    async def find(self, session_id: SessionId, *, epoch: int = 0) -> Placed | None:
        """Where it was when it was last placed, as far as we know; None: nowhere. epoch: found under this
        lease, or a later one; before it, others could move it."""
        known = self._placed.get(session_id)
        if known is not None and (known.epoch or 0) >= epoch:
            return known
        return await self.look_up(session_id)

    async def look_up(self, session_id: SessionId) -> Placed | None:
        """Where it is, from the database."""
        return await self._placements.find(session_id)

    async def remove(self, placed: Placed) -> None:
        """The session was deleted."""
        self._placed.pop(placed.session_id, None)
        await self._placements.remove(placed.session_id, host_id=placed.host_id)

    async def has_files(self, session_id: SessionId) -> bool:
        """Whether there is or was a workspace of it anywhere."""
        is_placed = await self._placements.find(session_id) is not None
        return is_placed or await self._checkpoints.newest(session_id) is not None

    async def restore(self, placed: Placed) -> None:
        """Bring the newest checkpoint to the host, or what there is. Raises HandsUnavailable,
        SandboxUnavailable, LeaseLost."""
        session_id = placed.session_id
        had_checkpoint, broken = False, ""
        while (checkpoint := await self._checkpoints.newest(session_id)) is not None:
            had_checkpoint = True
            if checkpoint.blob_key == broken:
                break
            try:
                found = Restored(
                    what="checkpoint",
                    taken_at=rfc3339(checkpoint.taken_at),
                    host_id=checkpoint.host_id,
                )
                archive = unpacked(self._blobs, checkpoint)
                async with self._hosts.lent(placed.host_id) as client:
                    await client.restore(session_id, archive, placed_at=placed.placed_at, restored=found)
                return
            except BlobUnavailable as error:  # it may come back, and then nothing is lost
                raise HandsUnavailable(
                    f"a checkpoint cannot be read: {error.message}", detail=error.detail
                ) from error
            except (BrokenCheckpoint, NotFound, InvalidRequest, RequestTooLarge) as error:
                # It may just have been replaced by a newer one. If not, the session must go on without it.
                log.error("session %s: its checkpoint is broken: %s", session_id, error)
                broken = checkpoint.blob_key
        is_lost = had_checkpoint or await self._placements.has_acted(session_id)
        restored = Restored(what="lost" if is_lost else "nothing")
        async with self._hosts.lent(placed.host_id) as client:
            await client.restore(session_id, None, placed_at=placed.placed_at, restored=restored)

    # -- one try ------------------------------------------------------------------------------------

    async def _ready(self, placed: Placed) -> Placement:
        """The session's next call may come. Raises SandboxUnavailable, HandsUnavailable."""
        try:
            placement = await self._hold(placed)
        except WorkspaceMissing:
            await self.restore(placed)
            placement = await self._hold(placed)
        if placement.host_id != placed.host_id:  # it changed since it was asked who it is
            raise HandsUnavailable(f"{placed.host_id} is not the hands host at its address any more")
        self._placed[placed.session_id] = placed
        self._placed.move_to_end(placed.session_id)
        if len(self._placed) > PLACEMENTS_CACHED_MAX:
            self._placed.popitem(last=False)
        return placement

    async def _hold(self, placed: Placed) -> Placement:
        link = self._hosts.link(placed.host_id)
        try:
            async with asyncio.timeout(NODE_LOST_SECONDS):  # one that hangs is as good as one that is away
                hold = link.client.hold(placed.session_id, placed_at=placed.placed_at)
                return await self._hosts.through(placed.host_id, hold)
        except TimeoutError as error:
            self._hosts.failed(link)
            raise HandsUnavailable(f"the hands host {placed.host_id!r} does not answer") from error

    def _choose(self, refusing: set[str]) -> str:
        """The host with most room, as far as we know. Raises HandsUnavailable if none takes sessions."""
        now = time.monotonic()
        young = {
            host_id: [at for at in sent if now - at < 2 * NODE_BEAT_SECONDS]
            for host_id, sent in self._sent.items()
        }
        self._sent = {host_id: sent for host_id, sent in young.items() if sent}
        rooms: list[tuple[int, float, str]] = []
        for seen in self._hosts.listed():
            host = seen.node.host
            assert host is not None
            is_full = host.disk_free_bytes < DISK_FREE_BYTES_MIN
            if host.host_id in refusing or seen.node.is_draining or host.is_draining or is_full:
                continue
            if self._hosts.is_blocked(host.host_id):
                continue
            try:
                if self._hosts.link(host.host_id).is_away:
                    continue
            except HandsUnavailable:  # there is no way to it from here
                continue
            sent = len(self._sent.get(host.host_id, ()))
            rooms.append((host.capacity - host.sandboxes - sent, random.random(), host.host_id))
        if not rooms:
            raise HandsUnavailable(
                f"no hands host takes new sessions now{self._hosts.why_not()}; see `corral status`"
            )
        host_id = max(rooms)[2]
        self._sent.setdefault(host_id, []).append(now)
        return host_id
