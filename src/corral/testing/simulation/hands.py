"""The real hands host, over a journal in memory and sandboxes that only keep books."""

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from corral.catalog.mcp.servers import McpServer, McpTools
from corral.hands.host import HandsHost
from corral.hands.journal import Journal
from corral.hands.journal_file import SCHEMA
from corral.hands.journal_writer import JournalWriter, Operation, resolve
from corral.hands.ports import Capabilities, Probe, SandboxLost
from corral.hands.wire import decode_result
from corral.kernel.errors import HandsUnavailable, SandboxUnavailable
from corral.kernel.ids import EventId, SessionId
from corral.session.call import INTERRUPTED, Placement, Recipe, ToolCall
from corral.session.content import ToolResult
from corral.testing.simulation.eventloop import CURRENT, Process
from corral.testing.simulation.world import Execution, World, outcome

__all__ = ["HandsLink", "HandsNode", "MemoryJournal"]

T = TypeVar("T")

REQUEST_LATE_SECONDS_MAX = 4.0  # longer than most calls take, with their answer and its settling

_STATE_DIR = Path(tempfile.gettempdir())
_disk: sqlite3.Connection | None = None  # one database in memory, wiped for each new journal


def _memory() -> sqlite3.Connection:
    global _disk
    if _disk is None:
        _disk = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        for statement in SCHEMA:
            _disk.execute(statement)
    return _disk


class MemoryJournal(Journal):
    """`hands.journal.Journal`, its SQL included; its disk is memory and its thread a process of the
    simulation. Batches commit in order, after a while; what has not when the host dies is lost."""

    def __init__(self, world: World, db: sqlite3.Connection) -> None:
        self._take(db, _Writer(db, world, on_end=self._on_end))


class _Writer(JournalWriter):
    """Its queue is the simulation's: batches commit as that thread commits them."""

    def __init__(self, db: sqlite3.Connection, world: World, *, on_end: Callable[[bool], None]) -> None:
        self._db = db
        self._on_end = on_end
        self._operations = _Disk(self, world)  # type: ignore[assignment]  # the queue that its thread reads
        self._is_closed = False

    async def aclose(self, last: Callable[[sqlite3.Connection], object]) -> None:
        self._is_closed = True


class _Disk:
    """Takes operations as the queue of the writer's thread does."""

    def __init__(self, writer: _Writer, world: World) -> None:
        self._writer = writer
        self._world = world
        self._batch: list[Operation] = []

    def put(self, operation: Operation) -> None:
        self._batch.append(operation)
        if len(self._batch) == 1:
            self._world.loop.post(CURRENT.get(), self._commit, after=self._world.delay())

    def _commit(self) -> None:
        batch, self._batch = self._batch, []
        if CURRENT.get().is_alive or self._world.chance.random() < 0.5:  # the fsync was on its way
            resolve(self._writer.commit(batch))


class _Sandbox:
    """`hands.ports.Sandbox`: a call takes its time, and has one effect, at its beginning."""

    def __init__(self, world: World, node: "HandsNode") -> None:
        self._world = world
        self._node = node
        self._process = CURRENT.get()
        self._running: dict[EventId, tuple[Execution, asyncio.Future[str]]] = {}
        self.is_alive = True

    async def run(self, call: ToolCall) -> ToolResult:
        if not self.is_alive or not self._process.is_alive:
            raise SandboxLost("the simulated sandbox is gone")
        execution = self._node.begin(call)
        ended: asyncio.Future[str] = self._world.loop.create_future()
        self._running[call.call_id] = execution, ended
        seconds = float(call.input.get("seconds", 0.1))
        self._world.loop.call_later(seconds, self._end, call.call_id, "finished")
        try:
            how = await ended
        except asyncio.CancelledError:
            self._end(call.call_id, "cut")
            raise
        if how == "cut":
            raise SandboxLost("the simulated sandbox died")
        if how == "cancelled":
            return ToolResult.text(INTERRUPTED, is_error=True)
        return ToolResult.text(execution.text)

    def _end(self, call_id: EventId, how: str) -> None:
        execution, ended = self._running.pop(call_id, (None, None))
        if execution is not None and ended is not None:
            execution.end = how
            if how == "finished":
                execution.text = f"result of {call_id}"
            self._world.note("%s is %s", call_id, how)
            if not ended.done():
                ended.set_result(how)

    async def cancel(self, call_id: str) -> None:
        self._end(EventId(call_id), "cancelled")

    async def destroy(self) -> None:
        self.lose()

    def lose(self) -> None:
        """It dies, with everything in it."""
        self.is_alive = False
        for call_id in list(self._running):
            self._end(call_id, "cut")


class _Provider:
    """`hands.ports.Provider`."""

    name = "simulated"
    capabilities = Capabilities(isolation="none: nothing runs")

    def __init__(self, world: World, node: "HandsNode") -> None:
        self._world = world
        self._node = node

    async def probe(self) -> Probe:
        return Probe(is_available=True, summary="simulated")

    async def create(self, *, session_id: str, workspace: Path, recipe: Recipe) -> _Sandbox:
        await asyncio.sleep(self._world.delay())
        if self._world.happens(self._world.faults.sandbox_fails):
            self._world.ledger.refusals += 1
            raise SandboxUnavailable("the simulated provider has no sandbox to give")
        sandbox = _Sandbox(self._world, self._node)
        self._node.sandboxes.append(sandbox)
        return sandbox

    async def prepare_workspace(self, workspace: Path) -> None:
        return

    def place(self, workspace: Path, place: str) -> Path:
        return workspace / place

    def seen(self, workspace: Path, path: str) -> str:
        return path

    async def prepare_memory(self, workspace: Path, slug: str) -> int | None:
        raise AssertionError("no memory in a simulation")

    def has_layer(self, digest: str) -> bool:
        raise AssertionError("no packages in a simulation")

    async def put_layer(self, digest: str, archive: AsyncIterator[bytes]) -> None:
        raise AssertionError("no packages in a simulation")

    async def import_archive(
        self, workspace: Path, archive: AsyncIterator[bytes], *, below: str | None = None
    ) -> None:
        raise AssertionError("no archives in a simulation")

    def export_archive(self, workspace: Path) -> AsyncIterator[bytes]:
        raise AssertionError("no archives in a simulation")

    pack = export_archive
    unpack = import_archive

    async def remove_workspace(self, workspace: Path) -> None:
        return

    async def aclose(self) -> None:
        return


class HandsNode:
    """The machine of the hands: a disk, and one host process after another."""

    def __init__(self, world: World, *, journal: type[MemoryJournal] = MemoryJournal) -> None:
        self._world = world
        self._journal_class = journal
        self._db = _memory()
        self._new_journal()
        self._incarnations = 0
        self.sandboxes: list[_Sandbox] = []
        self.process: Process | None = None
        self.host: HandsHost | None = None
        self.journal_id = ""
        self._stopping: asyncio.Event | None = None
        self._waiting: dict[asyncio.Future[Any], Process] = {}  # replies that this incarnation owes
        self.is_wanted = True

    def _new_journal(self) -> None:
        for table in ("meta", "epochs", "calls", "held", "settled"):
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608  # names of ours
        self._db.execute("INSERT INTO meta VALUES (?)", (self._world.ids.mint("hjrn"),))

    def start(self) -> None:
        """A host process begins; it answers when it is up. Repeat: safe."""
        if self.process is not None:
            return
        self._incarnations += 1
        self.process = Process(f"hands-{self._incarnations}")
        self._world.loop.spawn(self.process, self._main(self.process))

    async def _main(self, process: Process) -> None:
        journal = self._journal_class(self._world, self._db)
        self.journal_id = journal.journal_id
        self._stopping = asyncio.Event()
        host = HandsHost(
            _Provider(self._world, self),
            journal=journal,
            host_id="hands",
            state_dir=_STATE_DIR,
            clock=self._world.clock,
            disk_free_bytes_min=0,
        )
        async with host:
            self.host = host
            self._world.note("the hands are up, journal %s", journal.journal_id)
            for away in self._world.ledger.hands_away[-1:]:
                away[1] = self._world.loop.now
            await self._stopping.wait()
            self._world.note("the hands are told to stop")
        if self.process is process:
            self._gone()

    def stop(self) -> None:
        """SIGTERM: running calls get a moment, then sandboxes go."""
        if self._stopping is not None:
            self._world.loop.post(self.process or self._world.loop.world, self._stopping.set)

    def kill(self, *, keeps_journal: bool) -> None:
        """The host process dies, and its sandboxes with it; or its disk, too."""
        if self.process is None:
            return
        self._world.note("the hands are killed, the journal is %s", "kept" if keeps_journal else "lost")
        process = self.process
        self._gone()
        self._world.loop.kill(process)
        if not keeps_journal:
            self._world.ledger.journals_lost.add(self.journal_id)
            self._new_journal()

    def _gone(self) -> None:
        self.process = self.host = None
        self._world.ledger.deaths += 1
        self._world.ledger.hands_away.append([self._world.loop.now, None])
        for sandbox in self.sandboxes:
            sandbox.lose()
        self.sandboxes.clear()
        waiting, self._waiting = self._waiting, {}
        for reply, asker in waiting.items():
            self._world.answer(asker, reply, HandsUnavailable("the connection broke"))

    def lose_sandboxes(self) -> None:
        self._world.note("the sandboxes are lost")
        self._world.ledger.sandboxes_lost += len(self.sandboxes)
        for sandbox in self.sandboxes:
            sandbox.lose()

    async def ask(self, what: str, run: Callable[[HandsHost], Awaitable[T]]) -> T:
        """A request of the current process to the host that is there when it arrives."""
        asker = CURRENT.get()
        if not asker.is_alive:
            raise asyncio.CancelledError
        world, after = self._world, self._world.delay()
        reply: asyncio.Future[T] = world.loop.create_future()
        if world.happens(world.faults.request_late):
            world.note("%s is on the wire for long, its client gives up", what)
            world.answer(asker, reply, HandsUnavailable("the connection broke"))
            after += world.chance.random() * REQUEST_LATE_SECONDS_MAX
        world.loop.post(world.store, self._arrive, what, run, asker, reply, self.process, after=after)
        return await reply

    def _arrive(
        self,
        what: str,
        run: Callable[[HandsHost], Awaitable[Any]],
        asker: Process,
        reply: "asyncio.Future[Any]",
        sent_to: Process | None,
    ) -> None:
        process, host = self.process, self.host
        if process is None or host is None or process is not sent_to:
            self._world.answer(asker, reply, HandsUnavailable("there is no hands host"))
            return
        self._waiting[reply] = asker
        self._world.loop.spawn(process, self._handle(what, run, host, asker, reply))

    async def _handle(
        self,
        what: str,
        run: Callable[[HandsHost], Awaitable[Any]],
        host: HandsHost,
        asker: Process,
        reply: "asyncio.Future[Any]",
    ) -> None:
        answer = await outcome(run(host))
        if self._waiting.pop(reply, None) is None:
            return  # the host died meanwhile
        if self._world.happens(self._world.faults.reply_lost):
            self._world.note("the reply to %s is lost", what)
            self._world.ledger.lost_replies_of_hands += 1
            answer = HandsUnavailable("the connection broke")
        self._world.answer(asker, reply, answer)

    # -- the books ---------------------------------------------------------------------------------------

    def begin(self, call: ToolCall) -> Execution:
        """A call begins to act: note it, and hold it against the log."""
        world = self._world
        epochs = self._db.execute("SELECT epoch FROM epochs").fetchall()
        execution = Execution(
            call_id=call.call_id,
            journal_id=self.journal_id,
            epoch=epochs[0][0] if epochs else 0,
            began=world.loop.now,
        )
        earlier = world.ledger.executions.setdefault(call.call_id, [])
        earlier.append(execution)
        world.note("%s acts", call.call_id)
        if len(earlier) > 1:
            world.violation(f"{call.call_id} runs a second time")
        log = world.oracle.sessions[call.session_id].log
        if all(event.event_id != call.call_id for event in log):
            world.violation(f"{call.call_id} acts before its intent is in the log")
        for event in log:
            if event.answers == call.call_id and b" is unknown" not in event.body:
                world.violation(f"{call.call_id} acts after it was answered")
        if call.call_id in world.oracle.sessions[call.session_id].record.blocked_on:
            world.violation(f"{call.call_id} acts without permission")
        return execution


class HandsLink:
    """`brain.ports.Hands` of one brain process, as `hands.client.HandsClient` is over a socket."""

    def __init__(self, node: HandsNode) -> None:
        self._node = node
        self._placement: Placement | None = None

    async def _ask(self, what: str, run: Callable[[HandsHost], Awaitable[T]]) -> T:
        try:
            return await self._node.ask(what, run)
        except HandsUnavailable:
            self._placement = None
            raise

    async def placement(self, session_id: SessionId) -> Placement:
        if self._placement is None:
            self._placement = await self._ask("placement", lambda host: host.placement(session_id))
        return self._placement

    async def announce(self, session_id: SessionId, *, epoch: int) -> None:
        async def announce(host: HandsHost) -> Placement:
            await host.announce(session_id, epoch=epoch)
            return await host.placement(session_id)

        self._placement = await self._ask("announce", announce)

    async def provision(self, session_id: SessionId, *, epoch: int, recipe: Recipe) -> None:
        await self._ask("provision", lambda host: host.provision(session_id, epoch=epoch, recipe=recipe))

    async def execute(self, call: ToolCall, *, epoch: int) -> ToolResult:
        run: Callable[[HandsHost], Awaitable[bytes]]
        run = lambda host: host.execute_encoded(call, epoch=epoch)  # noqa: E731
        return decode_result(await self._ask("execute", run))

    async def attach(self, call: ToolCall, *, epoch: int) -> ToolResult:
        run: Callable[[HandsHost], Awaitable[bytes]]
        run = lambda host: host.attach_encoded(call, epoch=epoch)  # noqa: E731
        return decode_result(await self._ask("attach", run))

    async def cancel(self, session_id: SessionId, *, epoch: int, call_ids: Sequence[EventId]) -> None:
        await self._ask("cancel", lambda host: host.cancel(session_id, epoch=epoch, call_ids=call_ids))

    async def list_tools(
        self, session_id: SessionId, servers: Sequence[McpServer], *, epoch: int, only_changed: bool = False
    ) -> Sequence[McpTools]:
        raise AssertionError("no MCP servers in a simulation")

    async def settle(self, session_id: SessionId, *, call_ids: Sequence[EventId]) -> None:
        await self._ask("settle", lambda host: host.settle(session_id, call_ids=call_ids))
