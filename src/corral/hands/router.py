"""Hands on many hosts: every session's calls go to the host that it is placed on.

`placer.py` says which that is, `hosts.py` how it is reached. The rule of this file: a call goes to the host
that was logged with it and to no other. If that host is lost, or does not have the workspace any more, the
call has one error result; it never runs a second time.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from typing import Any, Final, TypeVar

from corral.catalog.blobs import BlobStore
from corral.catalog.mcp.servers import McpServer, McpTools
from corral.cluster.node import HostFacts, SeenNode
from corral.cluster.placement import PlacementStore
from corral.hands.client import HandsClient
from corral.hands.hosts import Hosts
from corral.hands.news import OUTCOME_UNKNOWN
from corral.hands.placer import Placer
from corral.hands.ports import Probe, WorkspaceMissing
from corral.hands.wire import TreeNews
from corral.kernel.errors import CallerError, HandsUnavailable, NotFound, WorldError
from corral.kernel.ids import EventId, SessionId
from corral.kernel.limits import HANDS_CONNECT_SECONDS, PLACEMENTS_CACHED_MAX
from corral.session.call import Mount, NeverStarted, Placement, Recipe, ToolCall
from corral.session.checkpoint import CheckpointStore
from corral.session.content import Json, ToolResult

__all__ = ["MOVED", "HandsRouter"]

log = logging.getLogger(__name__)

MOVED: Final = (
    "This tool call did not run: the session's sandbox moved to another machine in the same moment. Call it"
    " again."
)

T = TypeVar("T")


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
        self._hosts = Hosts(nodes, connect)
        self._placer = Placer(self._hosts, placements=placements, checkpoints=checkpoints, blobs=blobs)
        self._copy = copy
        self._calls: OrderedDict[EventId, str] = OrderedDict()  # where sent: for cancel and settle

    # -- the port of the brain ------------------------------------------------------------------------

    async def placement(self, session_id: SessionId) -> Placement:
        """Raises NotFound for a deleted session, too."""
        return await self._placer.place(session_id)

    async def announce(self, session_id: SessionId, *, epoch: int) -> None:
        placed = await self._placer.find(session_id)
        if placed is not None:
            link = self._hosts.link(placed.host_id)
            await self._hosts.through(placed.host_id, link.client.announce(session_id, epoch=epoch))

    async def provision(self, session_id: SessionId, *, epoch: int, recipe: Recipe) -> None:
        placement = await self.placement(session_id)
        link = self._hosts.link(placement.host_id)
        await self._hosts.through(
            placement.host_id, link.client.provision(session_id, epoch=epoch, recipe=recipe)
        )

    async def missing(self, session_id: SessionId, *, epoch: int, recipe: Recipe) -> Sequence[str]:
        placement = await self.placement(session_id)
        link = self._hosts.link(placement.host_id)
        missing = link.client.missing(session_id, epoch=epoch, recipe=recipe)
        return await self._hosts.through(placement.host_id, missing)

    async def put_mount(
        self, session_id: SessionId, mount: Mount, archive: AsyncIterator[bytes], *, epoch: int
    ) -> None:
        """To where the session is. What left that host meanwhile is missed again, elsewhere."""
        placed = await self._placer.find(session_id, epoch=epoch)
        if placed is None:
            return
        with suppress(WorkspaceMissing):
            async with self._hosts.lent(placed.host_id) as client:
                await client.put_mount(session_id, mount, archive, epoch=epoch, placed_at=placed.placed_at)

    async def tree(self, session_id: SessionId, place: str) -> TreeNews:
        async with self._hosts.lent(await self._host_of(session_id)) as client:
            return await client.tree(session_id, place)

    async def tree_file(self, session_id: SessionId, place: str, path: str) -> AsyncGenerator[bytes, None]:
        async with (
            self._hosts.lent(await self._host_of(session_id)) as client,
            aclosing(client.tree_file(session_id, place, path)) as chunks,
        ):
            async for chunk in chunks:
                yield chunk

    async def note_tree(
        self, session_id: SessionId, place: str, note: dict[str, Json], *, instead_of: int
    ) -> None:
        async with self._hosts.lent(await self._host_of(session_id)) as client:
            await client.note_tree(session_id, place, note, instead_of=instead_of)

    async def apply_tree(
        self, session_id: SessionId, place: str, change: dict[str, Json], *, epoch: int
    ) -> dict[str, Json]:
        """Only where the session is. Raises NotFound if it has left meanwhile."""
        placed = await self._placer.find(session_id, epoch=epoch)
        if placed is None:
            raise NotFound(f"session {session_id!r} is on no host")
        async with self._hosts.lent(placed.host_id) as client:
            try:
                return await client.apply_tree(
                    session_id, place, change, epoch=epoch, placed_at=placed.placed_at
                )
            except WorkspaceMissing as error:
                raise NotFound(f"session {session_id!r} has left its host") from error

    async def _host_of(self, session_id: SessionId) -> str:
        placed = await self._placer.find(session_id)
        if placed is None:
            raise NotFound(f"session {session_id!r} is on no host")
        return placed.host_id

    async def execute(self, call: ToolCall, *, epoch: int) -> ToolResult:
        host_id = call.placement.host_id
        placed = await self._placer.find(call.session_id, epoch=epoch)
        for is_last in (False, True):
            if placed is None or placed.host_id != host_id:
                break
            try:
                execute = self._hosts.link(host_id).client.execute(
                    call, epoch=epoch, placed_at=placed.placed_at
                )
                return await self._call(call, execute)
            except WorkspaceMissing:  # nobody has brought it back yet, or it has just been evicted
                placed = await self._placer.look_up(call.session_id)
                if not is_last and placed is not None and placed.host_id == host_id:
                    await self._placer.restore(placed)
            except HandsUnavailable:
                if self._hosts.is_lost(host_id):
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
            attach = self._hosts.link(host_id).client.attach(call, epoch=epoch, forbids=forbids)
            return await self._call(call, attach)
        except HandsUnavailable:
            if self._hosts.is_lost(host_id):
                return _unknown()
            raise

    async def cancel(self, session_id: SessionId, *, epoch: int, call_ids: Sequence[EventId]) -> None:
        for host_id, of_host in (await self._by_host(session_id, call_ids)).items():
            cancel = self._hosts.link(host_id).client.cancel(session_id, epoch=epoch, call_ids=of_host)
            await self._hosts.through(host_id, cancel)

    async def list_tools(
        self, session_id: SessionId, servers: Sequence[McpServer], *, epoch: int, only_changed: bool = False
    ) -> Sequence[McpTools]:
        placement = await self.placement(session_id)
        link = self._hosts.link(placement.host_id)
        listing = link.client.list_tools(session_id, servers, epoch=epoch, only_changed=only_changed)
        return await self._hosts.through(placement.host_id, listing)

    async def settle(self, session_id: SessionId, *, call_ids: Sequence[EventId]) -> None:
        for host_id, of_host in (await self._by_host(session_id, call_ids)).items():
            settle = self._hosts.link(host_id).client.settle(session_id, call_ids=of_host)
            await self._hosts.through(host_id, settle)
        for call_id in call_ids:
            self._calls.pop(call_id, None)

    # -- for the server ---------------------------------------------------------------------------------

    async def release(self, session_id: SessionId, *, delete_workspace: bool) -> None:
        """The session ended, or was deleted. Work of a lost host is dropped with the placement: the sweep
        of that host finds it, should it come back. Repeat: safe. Raises HandsUnavailable."""
        placed = await self._placer.look_up(session_id)
        if placed is None:
            return
        try:
            link = self._hosts.link(placed.host_id)
            release = link.client.release(session_id, delete_workspace=delete_workspace)
            await self._hosts.through(placed.host_id, release)
        except HandsUnavailable:
            if not self._hosts.is_gone(placed.host_id):
                raise
            log.warning(
                "session %s: its host %s is lost, clean-up is left to it", session_id, placed.host_id
            )
        if delete_workspace:
            await self._placer.remove(placed)

    async def import_workspace(self, session_id: SessionId, archive: AsyncIterator[bytes]) -> None:
        async with self._hosts.lent((await self.placement(session_id)).host_id) as client:
            await client.import_workspace(session_id, archive)
            try:
                await self._copy(client, session_id)
            except (CallerError, WorldError) as error:  # it is there; a later look copies it
                log.warning("session %s: its import has no second copy yet: %s", session_id, error)

    async def export_workspace(self, session_id: SessionId) -> AsyncIterator[bytes]:
        if not await self._placer.has_files(session_id):
            raise NotFound(f"session {session_id!r} has no workspace yet")
        async with self._hosts.lent((await self.placement(session_id)).host_id) as client:
            export = client.export_workspace(session_id)
            async with aclosing(export) as chunks:  # type: ignore[type-var]  # a generator
                async for chunk in chunks:
                    yield chunk

    async def probe(self) -> Probe:
        """Whether some host can make a sandbox. Raises HandsUnavailable if none answers."""
        unavailable: Probe | None = None
        for host in self.hosts():
            with suppress(HandsUnavailable, TimeoutError):
                async with asyncio.timeout(HANDS_CONNECT_SECONDS):
                    client = self._hosts.link(host.host_id).client
                    probe = await self._hosts.through(host.host_id, client.probe())
                if probe.is_available:
                    return probe
                unavailable = probe
        if unavailable is None:
            raise HandsUnavailable(f"no hands host answers{self._hosts.why_not()}; see `corral status`")
        return unavailable

    async def client(self, host_id: str) -> HandsClient:
        """Raises HandsUnavailable if there is no way to the host."""
        async with self._hosts.lent(host_id) as client:
            return client

    def hosts(self) -> Sequence[HostFacts]:
        """Of all live nodes."""
        return self._hosts.facts()

    def unreachable(self) -> Mapping[str, str]:
        """Why no call from here reaches a host that is listed as live, by its id."""
        return self._hosts.unreachable()

    async def aclose(self) -> None:
        """Close every connection. Calls go on."""
        await self._hosts.aclose()

    # -- where calls are --------------------------------------------------------------------------------

    async def _call(self, call: ToolCall, request: Coroutine[Any, Any, T]) -> T:
        self._calls[call.call_id] = call.placement.host_id
        if len(self._calls) > PLACEMENTS_CACHED_MAX:
            self._calls.popitem(last=False)
        return await self._hosts.through(call.placement.host_id, request)

    async def _by_host(
        self, session_id: SessionId, call_ids: Sequence[EventId]
    ) -> dict[str, list[EventId]]:
        """The calls by where they were sent; those that we did not send, by where the session is."""
        found: dict[str, list[EventId]] = {}
        for call_id in call_ids:
            host_id = self._calls.get(call_id)
            if host_id is None:
                placed = await self._placer.find(session_id)
                if placed is None:
                    continue
                host_id = placed.host_id
            found.setdefault(host_id, []).append(call_id)
        return found


def _unknown() -> ToolResult:
    return ToolResult.text(OUTCOME_UNKNOWN, is_error=True)
