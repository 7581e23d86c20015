"""Who acts in a schedule: brain machines with one process after another, and the session's client."""

import asyncio
from typing import Any

from corral.brain.dispatch import Dispatch
from corral.brain.loop import Gear
from corral.catalog.models import ModelTable
from corral.kernel.errors import CallerError, CorralError
from corral.kernel.ids import SessionId
from corral.orchestrator.worker import Worker
from corral.session import events as ev
from corral.session.budget import Budget, is_paused
from corral.session.content import text_block
from corral.session.lease import Lease
from corral.session.log import SessionLog
from corral.store.bus import LocalBus
from corral.testing.simulation.eventloop import Process
from corral.testing.simulation.hands import HandsLink, HandsNode
from corral.testing.simulation.model import SimulatedModel
from corral.testing.simulation.store import SimulatedLeases, SimulatedLog
from corral.testing.simulation.world import SkewedClock, World

__all__ = ["FIRST_BUDGET", "BrainNode", "Client"]

NARROW = "claude-narrow"  # whose conversations outgrow it
_PRICE = {"input": 3, "output": 15, "cache_read": 0.3, "cache_write_5m": 3.75, "cache_write_1h": 6}
MODELS = ModelTable.packaged().extended(
    {"model": [{"ids": [NARROW], "context_window": 20_000, "max_output": 2_000, "price": _PRICE}]}
)


class BrainNode:
    """A machine that runs one brain process at a time: the real worker, loops and dispatch."""

    def __init__(
        self,
        world: World,
        number: int,
        *,
        log: SessionLog,
        hands: HandsNode,
        model: SimulatedModel,
        dispatch: type[Dispatch] = Dispatch,
        worker: type[Worker] = Worker,
    ) -> None:
        self._world = world
        self._name = f"brain-{number}"
        self._log = log
        self._hands = hands
        self._model = model
        self._dispatch_class = dispatch
        self._worker_class = worker
        self._incarnations = 0
        self._bus: LocalBus | None = None
        self._worker: Worker | None = None
        self.clock = SkewedClock(world.loop)
        self.process: Process | None = None

    def start(self, *, ends_leases: bool) -> None:
        """A brain process begins. `ends_leases`: as one does whose supervisor saw the last one die.
        Repeat: safe."""
        if self.process is not None:
            return
        self._incarnations += 1
        self.process = Process(f"{self._name}.{self._incarnations}")
        self._world.note("%s starts", self.process.name)
        self._world.loop.spawn(self.process, self._main(self.process, ends_leases=ends_leases))

    async def _main(self, process: Process, *, ends_leases: bool) -> None:
        world, owner = self._world, process.name
        leases = SimulatedLeases(world)
        if ends_leases:
            while True:
                try:
                    await leases.end(owner_prefix=f"{self._name}.", except_owner=owner)
                    break
                except CorralError:
                    await asyncio.sleep(0.5)

        async def claim(session_id: SessionId) -> Lease | None:
            claimed = await leases.claim(owner=owner, limit=1, session_ids=[session_id])
            return claimed[0] if claimed else None

        self._bus = LocalBus()
        gear = Gear(
            owner=owner,
            claim=claim,
            log=self._log,
            bus=self._bus,
            model=self._model,
            models=MODELS,
            dispatch=self._dispatch_class(HandsLink(self._hands)),
            clock=self.clock,
            ids=world.ids,
        )
        self._worker = self._worker_class(gear, leases=leases, bus=self._bus)
        await self._worker.run()

    def hint(self, session_id: SessionId, *, after: float) -> None:
        if self.process is not None and self._bus is not None:
            self._world.loop.post(self.process, self._bus.wake, session_id, after=after)

    def kill(self) -> None:
        if self.process is not None:
            self._world.note("%s is killed", self.process.name)
            self._world.ledger.deaths += 1
            process, self.process, self._bus, self._worker = self.process, None, None, None
            self._world.loop.kill(process)

    def drain(self) -> None:
        """SIGTERM: hand over, then end."""
        process, worker = self.process, self._worker
        if process is None or worker is None or process.is_stopped:
            return
        self._world.note("%s drains", process.name)

        async def drain() -> None:
            await worker.drain()
            self._world.note("%s has drained", process.name)
            if self.process is process:
                self._world.loop.post(self._world.loop.world, self.kill)

        self._world.loop.spawn(process, drain())

    def stall(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so many seconds."""
        process = self.process
        if process is not None and not process.is_stopped:
            self._world.note("%s is stopped for %.1f s", process.name, seconds)
            self._world.ledger.stalls += 1
            self._world.loop.stop_process(process)
            self._world.loop.post(self._world.loop.world, self._resume, process, after=seconds)

    def _resume(self, process: Process) -> None:
        if process.is_stopped:
            self._world.note("%s goes on", process.name)
            self._world.loop.resume(process)

    def revive(self) -> None:
        """Whatever was done to it, it works from now on."""
        if self.process is not None:
            self._resume(self.process)
        self.start(ends_leases=True)


def budget(cents: int) -> Budget:
    return {"type": "limit", "max_list_cost": {"amount": str(cents), "currency": "USD"}}


FIRST_BUDGET = budget(1)
"""Of sessions that have one."""


class Client:
    """Sends inputs to one session through the API's side of the log, and answers what it waits for."""

    def __init__(self, world: World, session_id: SessionId, *, log: SimulatedLog) -> None:
        self._world = world
        self._session_id = session_id
        self._log = log
        self._process = Process("client")
        self._answered: set[str] = set()

    def say(self) -> None:
        self._send(self._event(ev.UserMessage, content=[text_block("words")]))

    def system(self) -> None:
        said = self._event(ev.UserMessage, content=[text_block("words")])
        self._send(said, self._event(ev.SystemMessage, content=[text_block("be brief")]))

    def interrupt(self) -> None:
        self._send(self._event(ev.UserInterrupt))

    def answer(self, *, is_calm: bool) -> None:
        """Answer something that the session waits for, or once did; in the calm all of it, kindly."""
        world, chance = self._world, self._world.chance
        session = world.oracle.sessions[self._session_id]
        blocked = [use for use in session.record.blocked_on if use not in self._answered or is_calm]
        if not is_calm:
            asked = [e.event_id for e in session.log if e.type == "agent.custom_tool_use"]
            if asked and chance.random() < 0.2:
                blocked = [chance.choice(asked)]  # early, late, or again
            elif blocked:
                blocked = [chance.choice(blocked)]
        for use in blocked:
            self._answered.add(use)
            kind = next(e.type for e in session.log if e.event_id == use)
            if kind == "agent.custom_tool_use":
                fields: dict[str, Any] = {"custom_tool_use_id": use, "content": [text_block("looked up")]}
                self._send(self._event(ev.UserCustomToolResult, **fields))
            else:
                denies = not is_calm and chance.random() < 0.3
                fields = {"tool_use_id": use, "result": "deny" if denies else "allow"}
                self._send(self._event(ev.UserToolConfirmation, **fields))

    def change_budget(self, *, is_calm: bool) -> None:
        """Raise it, whatever the session does; in the calm remove it, once the session waits for that."""
        record = self._world.oracle.sessions[self._session_id].record
        if record.budget is None or (is_calm and not is_paused(record)):
            return
        raised = None if is_calm else budget(int(record.budget["max_list_cost"]["amount"]) + 1)
        self._world.loop.spawn(self._process, self._request_budget(raised))

    async def _request_budget(self, raised: Budget | None) -> None:
        try:
            await self._log.change_budget(self._session_id, raised, now=self._world.clock.now())
        except CorralError:
            self._world.note("the budget is not changed")

    def _event(self, kind: type[ev.Event], **fields: Any) -> ev.Event:
        return kind(id=self._world.ids.event(), type=kind.TYPE, **fields)

    def _send(self, *inputs: ev.Event) -> None:
        ledger = self._world.ledger
        ledger.sent += [event.id for event in inputs]
        for event in inputs:
            if isinstance(event, ev.UserInterrupt):
                ledger.interrupts += 1
            if isinstance(event, ev.UserToolConfirmation) and event.result == "deny":
                ledger.denials.add(event.tool_use_id)
        self._world.loop.spawn(self._process, self._request(inputs))

    async def _request(self, inputs: tuple[ev.Event, ...]) -> None:
        try:
            stored = await self._log.accept(self._session_id, inputs, now=self._world.clock.now())
        except CallerError as error:
            self._world.note("refused: %s", error.message[:60])
        except CorralError:
            pass  # it may be stored or not: nobody told us
        else:
            self._world.ledger.acknowledged += [entry.event_id for entry in stored]
