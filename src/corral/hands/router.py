"""Hands on many hosts: every session's calls go to the host that it is placed on.

    placement:  nowhere -> placed on a host -> its workspace is there -> calls
                              ^                                          |
                              +--- the host is lost, or was evicted -----+

Rules of this file:
- The database says where a session is, and moving it is a compare-and-set. The host says whether its
  workspace of *this* placement is there, by the placement's `placed_at`; if not, it is restored from the
  newest checkpoint before anything runs. So it does not matter who died between placing and restoring,
  and a host that was given up on and comes back runs nothing for sessions that went on elsewhere.
- A call goes to the host that was logged with it and to no other. If that host is lost, or does not have
  the workspace any more, the call has one error result; it never runs a second time.
- A host is lost when the list of nodes says so *and* it does not answer us: a connection that stands is
  worth more than a missed heartbeat.
"""

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from corral.catalog.blobs import BlobStore
from corral.cluster.node import HostFacts, SeenNode
from corral.cluster.placement import Placed, PlacementStore
from corral.hands.archive import BrokenCheckpoint, unpacked
from corral.hands.client import HandsClient
from corral.hands.news import OUTCOME_UNKNOWN
from corral.hands.ports import Probe, WorkspaceMissing
from corral.hands.unreachable import Unreachable
from corral.hands.wire import Restored
from corral.kernel.clock import rfc3339
from corral.kernel.errors import (
    BlobUnavailable,
    CallerError,
    HandsUnavailable,
    InvalidRequest,
    LeaseLost,
    NotFound,
    RequestTooLarge,
    SandboxUnavailable,
    WorldError,
)
from corral.kernel.ids import EventId, SessionId
from corral.kernel.limits import (
    DISK_FREE_BYTES_MIN,
    HANDS_CONNECT_SECONDS,
    HOST_CLIENTS_MAX,
    HOST_LOOK_SECONDS,
    NODE_BEAT_SECONDS,
    NODE_LOST_SECONDS,
    PLACEMENTS_CACHED_MAX,
)
from corral.session.call import NeverStarted, Placement, Recipe, ToolCall
from corral.session.checkpoint import CheckpointStore
from corral.session.content import ToolResult

__all__ = ["MOVED", "HandsRouter"]

log = logging.getLogger(__name__)

MOVED: Final = (
    "This tool call did not run: the session's sandbox moved to another machine in the same moment. Call it"
    " again."
)

T = TypeVar("T")


@dataclass(kw_only=True, slots=True)
class _Link:
    """Our end of a host. It did not answer from `away_since` to `failed_at` (monotonic), nor since."""

    client: HandsClient
    address: str
    users: int = 0
    is_told: bool = False  # that another host is behind the address
    away_since: float | None = None
    failed_at: float = 0.0

    def failed(self) -> None:
        now = time.monotonic()
        if self.away_since is None or now - self.failed_at > NODE_LOST_SECONDS:  # nobody asked for a while
            self.away_since = now
        self.failed_at = now

    @property
    def is_away(self) -> bool:
        return self.away_since is not None and time.monotonic() - self.failed_at < NODE_LOST_SECONDS


class HandsRouter:
    """`corral.brain.ports.Hands` and `corral.session.workspace.Workspaces` over all hosts of a cluster."""

    def __init__(
        self,
        *,
        placements: PlacementStore,
        checkpoints: CheckpointStore,
        blobs: BlobStore,
        nodes: Callable[[], Sequence[SeenNode]],
        connect: Callable[[SeenNode], HandsClient],
        copy: Callable[[HandsClient, SessionId], Awaitable[None]],
    ) -> None:
        """nodes: every node that was heard of, as of now; from memory.
        connect: a client of a node's host; raises HandsUnavailable if there is no way to it from here.
        copy: take a checkpoint of what was imported: no call of it is in the log, to tell of its loss."""
        self._placements = placements
        self._checkpoints = checkpoints
        self._blobs = blobs
        self._nodes = nodes
        self._connect = connect
        self._copy = copy
        self._links: OrderedDict[str, _Link] = OrderedDict()
        self._left: list[_Link] = []  # replaced, while somebody waits for an answer
        self._unlisted_since: dict[str, float] = {}
        self._unreachable = Unreachable()
        self._sent: dict[str, list[float]] = {}  # sessions placed by us that the list does not count yet
        self._placed: OrderedDict[SessionId, Placed] = OrderedDict()
        self._calls: OrderedDict[EventId, str] = (
            OrderedDict()
        )  # where they were sent: for cancel and settle

    # -- the port of the brain ------------------------------------------------------------------------

    async def placement(self, session_id: SessionId) -> Placement:
        """Raises NotFound for a deleted session, too."""
        refusing: set[str] = set()
        is_renewed = leaves = False
        placed = await self._placements.find(session_id)
        while True:
            if placed is not None and placed.host_id not in refusing:
                try:
                    return await self._ready(placed)
                except SandboxUnavailable as error:  # it takes no new ones, and this one is not there yet
                    log.info("session %s goes to another host: %s", session_id, error.message)
                except HandsUnavailable:
                    if not self._is_gone(placed.host_id):
                        raise
                    leaves = True
                except LeaseLost:  # the host saw a later placement than this
                    if is_renewed:
                        raise
                    is_renewed = True
                    stale, placed = placed, await self._placements.find(session_id)
                    if placed == stale:  # so the database is of before that: restored from a backup
                        placed = await self._placements.place(
                            session_id, host_id=stale.host_id, instead_of=stale.host_id
                        )
                    continue
                refusing.add(placed.host_id)
            host_id = self._choose(refusing)
            if leaves and placed is not None:  # told here: until there is another host, it goes nowhere
                log.warning("session %s leaves host %s, which is lost to us", session_id, placed.host_id)
                leaves = False
            placed = await self._placements.place(
                session_id, host_id=host_id, instead_of=placed.host_id if placed else None
            )

    async def announce(self, session_id: SessionId, *, epoch: int) -> None:
        placed = await self._find(session_id)
        if placed is not None:
            link = self._link(placed.host_id)
            await self._through(placed.host_id, link.client.announce(session_id, epoch=epoch))

    async def provision(self, session_id: SessionId, *, epoch: int, recipe: Recipe) -> None:
        placement = await self.placement(session_id)
        link = self._link(placement.host_id)
        await self._through(
            placement.host_id, link.client.provision(session_id, epoch=epoch, recipe=recipe)
        )

    async def execute(self, call: ToolCall, *, epoch: int) -> ToolResult:
        host_id = call.placement.host_id
        placed = await self._find(call.session_id)
        for is_last in (False, True):
            if placed is None or placed.host_id != host_id:
                break
            try:
                execute = self._link(host_id).client.execute(call, epoch=epoch, placed_at=placed.placed_at)
                return await self._call(call, execute)
            except WorkspaceMissing:  # nobody has brought it back yet, or it has just been evicted
                placed = await self._placements.find(call.session_id)
                if not is_last and placed is not None and placed.host_id == host_id:
                    await self._restore(placed)
            except HandsUnavailable:
                if self._is_lost(host_id):
                    return _unknown()
                raise
        try:
            # A request that was given up on may still be on its way there, to files that are nobody's now.
            return await self._attach(call, epoch=epoch, forbids=True)
        except NeverStarted:
            return ToolResult.text(MOVED, is_error=True)

    async def attach(self, call: ToolCall, *, epoch: int) -> ToolResult:
        return await self._attach(call, epoch=epoch, forbids=False)

    async def _attach(self, call: ToolCall, *, epoch: int, forbids: bool) -> ToolResult:
        host_id = call.placement.host_id
        try:
            attach = self._link(host_id).client.attach(call, epoch=epoch, forbids=forbids)
            return await self._call(call, attach)
        except HandsUnavailable:
            if self._is_lost(host_id):
                return _unknown()
            raise

    async def cancel(self, session_id: SessionId, *, epoch: int, call_ids: Sequence[EventId]) -> None:
        for host_id, of_host in (await self._by_host(session_id, call_ids)).items():
            cancel = self._link(host_id).client.cancel(session_id, epoch=epoch, call_ids=of_host)
            await self._through(host_id, cancel)

    async def settle(self, session_id: SessionId, *, call_ids: Sequence[EventId]) -> None:
        for host_id, of_host in (await self._by_host(session_id, call_ids)).items():
            settle = self._link(host_id).client.settle(session_id, call_ids=of_host)
            await self._through(host_id, settle)
        for call_id in call_ids:
            self._calls.pop(call_id, None)

    # -- for the server ---------------------------------------------------------------------------------

    async def release(self, session_id: SessionId, *, delete_workspace: bool) -> None:
        """The session ended, or was deleted. Work of a lost host is dropped with the placement: the sweep
        of that host finds it, should it come back. Repeat: safe. Raises HandsUnavailable."""
        placed = await self._placements.find(session_id)
        if placed is None:
            return
        try:
            link = self._link(placed.host_id)
            release = link.client.release(session_id, delete_workspace=delete_workspace)
            await self._through(placed.host_id, release)
        except HandsUnavailable:
            if not self._is_gone(placed.host_id):
                raise
            log.warning(
                "session %s: its host %s is lost, clean-up is left to it", session_id, placed.host_id
            )
        if delete_workspace:
            self._placed.pop(session_id, None)
            await self._placements.remove(session_id, host_id=placed.host_id)

    async def import_workspace(self, session_id: SessionId, archive: AsyncIterator[bytes]) -> None:
        async with self._lent((await self.placement(session_id)).host_id) as client:
            await client.import_workspace(session_id, archive)
            try:
                await self._copy(client, session_id)
            except (CallerError, WorldError) as error:  # it is there; a later look copies it
                log.warning("session %s: its import has no second copy yet: %s", session_id, error)

    async def export_workspace(self, session_id: SessionId) -> AsyncIterator[bytes]:
        is_placed = await self._placements.find(session_id) is not None
        if not is_placed and await self._checkpoints.newest(session_id) is None:
            raise NotFound(f"session {session_id!r} has no workspace yet")
        async with self._lent((await self.placement(session_id)).host_id) as client:
            export = client.export_workspace(session_id)
            async with aclosing(export) as chunks:  # type: ignore[type-var]  # a generator
                async for chunk in chunks:
                    yield chunk

    async def probe(self) -> Probe:
        """Whether some host can make a sandbox. Raises HandsUnavailable if none answers."""
        unavailable: Probe | None = None
        for seen in self._live():
            with suppress(HandsUnavailable, TimeoutError):
                host_id = _facts(seen).host_id
                async with asyncio.timeout(HANDS_CONNECT_SECONDS):
                    probe = await self._through(host_id, self._link(host_id).client.probe())
                if probe.is_available:
                    return probe
                unavailable = probe
        if unavailable is None:
            raise HandsUnavailable(f"no hands host answers{self._why_not()}; see `corral status`")
        return unavailable

    async def client(self, host_id: str) -> HandsClient:
        """Raises HandsUnavailable if there is no way to the host."""
        async with self._lent(host_id) as client:
            return client

    def hosts(self) -> Sequence[HostFacts]:
        """Of all live nodes."""
        return [_facts(seen) for seen in self._live()]

    def unreachable(self) -> Mapping[str, str]:
        """Why no call from here reaches a host that is listed as live, by its id."""
        live = {host.host_id for host in self.hosts()}
        return {
            host_id: str(error) for host_id, error in self._unreachable.why().items() if host_id in live
        }

    async def aclose(self) -> None:
        """Close every connection. Calls go on."""
        links = [*self._links.values(), *self._left]
        self._links.clear()
        self._left.clear()
        for link in links:
            await link.client.aclose()

    # -- where a session is -------------------------------------------------------------------------------

    async def _find(self, session_id: SessionId) -> Placed | None:
        return self._placed.get(session_id) or await self._placements.find(session_id)

    async def _ready(self, placed: Placed) -> Placement:
        """The session's next call may come. Raises SandboxUnavailable, HandsUnavailable."""
        try:
            placement = await self._hold(placed)
        except WorkspaceMissing:
            await self._restore(placed)
            placement = await self._hold(placed)
        if placement.host_id != placed.host_id:  # it changed since it was asked who it is
            raise HandsUnavailable(f"{placed.host_id} is not the hands host at its address any more")
        self._placed[placed.session_id] = placed
        self._placed.move_to_end(placed.session_id)
        if len(self._placed) > PLACEMENTS_CACHED_MAX:
            self._placed.popitem(last=False)
        return placement

    async def _hold(self, placed: Placed) -> Placement:
        link = self._link(placed.host_id)
        try:
            async with asyncio.timeout(NODE_LOST_SECONDS):  # one that hangs is as good as one that is away
                hold = link.client.hold(placed.session_id, placed_at=placed.placed_at)
                return await self._through(placed.host_id, hold)
        except TimeoutError as error:
            link.failed()
            raise HandsUnavailable(f"the hands host {placed.host_id!r} does not answer") from error

    async def _restore(self, placed: Placed) -> None:
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
                async with self._lent(placed.host_id) as client:
                    await client.restore(session_id, archive, placed_at=placed.placed_at, restored=found)
                return
            except BlobUnavailable as error:  # it may come back, and then nothing is lost
                raise HandsUnavailable(f"a checkpoint cannot be read: {error.message}") from error
            except (BrokenCheckpoint, NotFound, InvalidRequest, RequestTooLarge) as error:
                # It may just have been replaced by a newer one. If not, the session must go on without it.
                log.error("session %s: its checkpoint is broken: %s", session_id, error)
                broken = checkpoint.blob_key
        is_lost = had_checkpoint or await self._placements.has_acted(session_id)
        restored = Restored(what="lost" if is_lost else "nothing")
        async with self._lent(placed.host_id) as client:
            await client.restore(session_id, None, placed_at=placed.placed_at, restored=restored)

    def _choose(self, refusing: set[str]) -> str:
        """The host with most room, as far as we know. Raises HandsUnavailable if none takes sessions."""
        now = time.monotonic()
        rooms: list[tuple[int, float, str]] = []
        for seen in self._live():
            host = _facts(seen)
            is_full = host.disk_free_bytes < DISK_FREE_BYTES_MIN
            if host.host_id in refusing or seen.node.is_draining or host.is_draining or is_full:
                continue
            if self._unreachable.blocks(host.host_id):
                continue
            try:
                if self._link(host.host_id).is_away:
                    continue
            except HandsUnavailable:  # there is no way to it from here
                continue
            sent = [at for at in self._sent.get(host.host_id, ()) if now - at < 2 * NODE_BEAT_SECONDS]
            self._sent[host.host_id] = sent
            rooms.append((host.capacity - host.sandboxes - len(sent), random.random(), host.host_id))
        if not rooms:
            raise HandsUnavailable(
                f"no hands host takes new sessions now{self._why_not()}; see `corral status`"
            )
        host_id = max(rooms)[2]
        self._sent[host_id].append(now)
        return host_id

    def _live(self) -> list[SeenNode]:
        return [seen for seen in self._nodes() if seen.node.host is not None and not seen.is_lost]

    def _why_not(self) -> str:
        """For a message to anybody: what keeps us from live hosts, without their addresses."""
        live = {host.host_id for host in self.hosts()}
        whys = {error.message for host_id, error in self._unreachable.why().items() if host_id in live}
        return "".join(f": {why}" for why in sorted(whys))

    def _is_gone(self, host_id: str) -> bool:
        """Whether sessions of a host that does not answer us go elsewhere."""
        if self._has_left(host_id) or self._unreachable.is_given_up(host_id):
            return True
        link = self._links.get(host_id)
        is_away = link is not None and link.away_since is not None
        if is_away and link and time.monotonic() - (link.away_since or 0) > NODE_LOST_SECONDS:
            return any(not seen.is_lost for seen in self._nodes())
        return self._is_lost(host_id)

    def _has_left(self, host_id: str) -> bool:
        """Whether its node has stopped in good order, or does so: it has copied the workspaces, and there
        is no silence to wait out. For where sessions go: a call of it is asked for until it is lost."""
        live = [seen for seen in self._nodes() if not seen.is_lost]
        if not live or any("hands" in seen.node.roles and seen.node.host is None for seen in live):
            return False  # we are cut off; or a node that has just begun has not named its host yet
        for seen in self._nodes():
            if seen.node.host is not None and seen.node.host.host_id == host_id:
                return seen.node.is_draining or seen.node.host.is_draining
        return True

    def _is_lost(self, host_id: str) -> bool:
        """Whether a host that does not answer us will not be waited for: all nodes know it as lost."""
        nodes, now = self._nodes(), time.monotonic()
        if all(seen.is_lost for seen in nodes):  # it is we who are cut off: we know nothing of anybody
            return False
        for seen in nodes:
            if seen.node.host is not None and seen.node.host.host_id == host_id:
                self._unlisted_since.pop(host_id, None)
                return seen.is_lost
        return now - self._unlisted_since.setdefault(host_id, now) > NODE_LOST_SECONDS

    # -- one request to one host ----------------------------------------------------------------------

    def _link(self, host_id: str) -> _Link:
        seen = next(
            (s for s in self._nodes() if s.node.host is not None and s.node.host.host_id == host_id), None
        )
        link = self._links.get(host_id)
        if seen is None:
            if link is None:
                raise HandsUnavailable(f"no node has the hands host {host_id!r}")
            return link
        address = _facts(seen).address
        if link is None or link.address != address:
            replaced = link
            try:
                client = self._connect(seen)
            except HandsUnavailable as error:
                self._unreachable.failed(host_id, address, error)
                raise
            self._prune()
            link = self._links[host_id] = _Link(client=client, address=address)
            if replaced is not None:  # closed once nobody waits for it any more
                self._left.append(replaced)
        self._links.move_to_end(host_id)
        return link

    def _prune(self) -> None:
        """Forget what was counted of hosts that no node has any more."""
        listed = {_facts(seen).host_id for seen in self._nodes() if seen.node.host is not None}
        for host_id in self._sent.keys() - listed:
            del self._sent[host_id]
        self._unreachable.forget(listed)
        for host_id in self._unlisted_since.keys() - self._links.keys():
            del self._unlisted_since[host_id]

    async def _call(self, call: ToolCall, request: Coroutine[Any, Any, T]) -> T:
        self._calls[call.call_id] = call.placement.host_id
        if len(self._calls) > PLACEMENTS_CACHED_MAX:
            self._calls.popitem(last=False)
        return await self._through(call.placement.host_id, request)

    async def _through(self, host_id: str, request: Coroutine[Any, Any, T]) -> T:
        """Await a request to the host, but not one that is lost. Raises HandsUnavailable."""
        link = self._links[host_id]
        if (untrusted := self._unreachable.blocks(host_id)) is not None:
            request.close()
            raise untrusted
        link.users += 1
        task = asyncio.ensure_future(self._checked(host_id, link, request))
        try:
            while True:
                await asyncio.wait({task}, timeout=HOST_LOOK_SECONDS)
                if task.done():
                    break
                if self._is_lost(host_id) and not await _answers(link.client, host_id):
                    raise HandsUnavailable(f"the hands host {host_id!r} is lost")
            if not isinstance(task.exception(), HandsUnavailable):  # an answer, if not a welcome one
                link.away_since = None
                self._unlisted_since.pop(host_id, None)
                self._unreachable.answered(host_id)
            return task.result()
        except HandsUnavailable as error:
            link.failed()
            self._unreachable.failed(host_id, link.address, error)
            raise
        finally:
            task.cancel()
            link.users -= 1
            await self._forget_links()

    @asynccontextmanager
    async def _lent(self, host_id: str) -> AsyncIterator[HandsClient]:
        """For requests that stream: a client of the host, known to be that host's. Raises
        HandsUnavailable."""
        link = self._link(host_id)
        await self._through(host_id, link.client.placement(SessionId("")))
        link.users += 1
        try:
            yield link.client
        finally:
            link.users -= 1

    async def _checked(self, host_id: str, link: _Link, request: Coroutine[Any, Any, T]) -> T:
        """Await a request once the host behind the link has said that it is the one: containers of one
        machine may have one boot id and one path, and then a node finds its own host under each of them.
        Asked once for each connection. Raises HandsUnavailable."""
        try:
            found = (await link.client.placement(SessionId(""))).host_id
            if found != host_id:  # it may be another one by now
                found = str((await link.client.health())["host_id"])
            if found != host_id:
                if not link.is_told:
                    link.is_told = True
                    log.warning(
                        "hands host %s is at %s, where we find host %s: nodes that share no sockets need"
                        " CORRAL_HANDS_LISTEN on each of them",
                        host_id,
                        link.address,
                        found,
                    )
                raise HandsUnavailable(f"another hands host is at the address of {host_id!r}")
            return await request
        finally:
            request.close()  # if it was never awaited

    async def _forget_links(self) -> None:
        """Close what was not used for longest, once there are too many; and what was replaced."""
        for link in [left for left in self._left if left.users == 0]:
            self._left.remove(link)
            await link.client.aclose()
        if len(self._links) > HOST_CLIENTS_MAX:
            oldest = next((h for h, link in self._links.items() if link.users == 0), None)
            if oldest is not None:
                await self._links.pop(oldest).client.aclose()

    async def _by_host(
        self, session_id: SessionId, call_ids: Sequence[EventId]
    ) -> dict[str, list[EventId]]:
        """The calls by where they were sent; those that we did not send, by where the session is."""
        found: dict[str, list[EventId]] = {}
        for call_id in call_ids:
            host_id = self._calls.get(call_id)
            if host_id is None:
                placed = await self._find(session_id)
                if placed is None:
                    continue
                host_id = placed.host_id
            found.setdefault(host_id, []).append(call_id)
        return found


async def _answers(client: HandsClient, host_id: str) -> bool:
    with suppress(HandsUnavailable, TimeoutError):
        async with asyncio.timeout(HANDS_CONNECT_SECONDS):
            return bool((await client.health())["host_id"] == host_id)
    return False


def _facts(seen: SeenNode) -> HostFacts:
    assert seen.node.host is not None
    return seen.node.host


def _unknown() -> ToolResult:
    return ToolResult.text(OUTCOME_UNKNOWN, is_error=True)
