"""One schedule: a session, two or three brains, hands, a client, and what goes wrong; all from a seed.

A schedule has a stormy part, in which faults happen, and a calm one, in which nothing fails and the client
answers what is asked. By its end the session must be at rest; then the laws are checked.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal

from corral.brain.dispatch import Dispatch
from corral.kernel.crash import intercepted
from corral.kernel.ids import EnvironmentId, SessionId, ThreadId
from corral.kernel.limits import SESSION_FAILURES_MAX
from corral.orchestrator.worker import Worker
from corral.session.budget import is_paused
from corral.session.content import Json
from corral.session.record import SessionRecord, ThreadRecord
from corral.testing.oracle import Oracle
from corral.testing.simulation import laws
from corral.testing.simulation.actors import FIRST_BUDGET, MODELS, NARROW, BrainNode, Client
from corral.testing.simulation.eventloop import CURRENT
from corral.testing.simulation.hands import HandsNode, MemoryJournal
from corral.testing.simulation.model import SimulatedModel
from corral.testing.simulation.store import SimulatedLog
from corral.testing.simulation.world import START, Faults, World

__all__ = ["CRASH_POINTS", "Outcome", "Parts", "play"]

CALM_SECONDS_MAX = 900.0  # longer than every patience, backoff and lease of the code together
STEPS_MAX = 100_000  # callbacks of one schedule; a common one takes three hundred

BUDGETED = 0.2  # of all schedules
RUNTIME_RATE = Decimal(
    3_600_000_000
)  # a cent for each second: a turn of a few seconds uses the first one up

CRASH_POINTS = (
    "brain.before_append",
    "brain.after_append",
    "brain.before_model",
    "brain.before_tool",
    "brain.after_tool",
    "hands.before_started",
    "hands.after_started",
    "hands.before_result",
    "hands.after_result",
)
"""Points of `kernel.crash` that schedules aim at. All others are reached by deaths at random awaits."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a schedule is built from: the real parts, or one with a mistake in it."""

    oracle: type[Oracle] = Oracle
    log: type[SimulatedLog] = SimulatedLog
    dispatch: type[Dispatch] = Dispatch
    worker: type[Worker] = Worker
    journal: type[MemoryJournal] = MemoryJournal


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """violations: [] when every law held. coverage: how often each kind of thing happened."""

    seed: int
    violations: list[str]
    trace: list[str]
    coverage: dict[str, int]
    seconds: float
    steps: int


def play(seed: int, parts: Parts | None = None, *, keeps_trace: bool = False) -> Outcome:
    """Run the schedule of a seed. Same seed, same code, same hash seed: same run."""
    random.seed(seed)  # the jitter of a backoff
    schedule = _Schedule(seed, parts or Parts())
    with intercepted(schedule.at_crash_point), _heard(schedule.world):
        violations = schedule.run()
    world = schedule.world
    return Outcome(
        seed=seed,
        violations=violations,
        trace=world.trace() if violations or keeps_trace else [],
        coverage=world.coverage,
        seconds=world.loop.now,
        steps=world.loop.steps,
    )


class _Ear(logging.Handler):
    """Warnings are part of the trace; an error that the code logs about itself is a violation."""

    def __init__(self, world: World) -> None:
        super().__init__(level=logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR or "its turn is ended" in record.msg:
            self._world.note("logged: %s", record.getMessage())
        elif CURRENT.get().is_alive:
            self._world.violation(
                f"logged: {record.getMessage()}: {record.exc_info and record.exc_info[1]!r}"
            )


@contextmanager
def _heard(world: World) -> Iterator[None]:
    logger, ear = logging.getLogger("corral"), _Ear(world)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(ear)
    try:
        yield
    finally:
        logger.removeHandler(ear)
        logger.propagate = propagates


class _Schedule:
    def __init__(self, seed: int, parts: Parts) -> None:
        world = self.world = World(seed, parts.oracle)
        chance = world.chance
        self.session_id = SessionId("sesn_1")
        # From chances of their own: without a budget or a narrow model, a seed plays what it always played.
        self._budgets = random.Random(f"budgets of {seed}")
        narrow = random.Random(f"window of {seed}")
        is_narrow = narrow.random() < 0.2
        model_id = NARROW if is_narrow else "claude-sonnet-4-5"
        record = _record(_agent(model_id, asks=chance.random() < 0.3))
        if self._budgets.random() < BUDGETED:
            record = replace(record, budget=FIRST_BUDGET, runtime_rate=RUNTIME_RATE)
        world.oracle.create(record)
        if chance.random() < 0.05:  # a bad past: the next brain ends its turn, or the one after its death
            failures = SESSION_FAILURES_MAX + chance.choice((-1, 0, 1))
            world.oracle.sessions[self.session_id].failures = failures
            world.ledger.has_failed = True
        self.log = parts.log(world)
        self.hands = HandsNode(world, journal=parts.journal)
        model = SimulatedModel(
            world, rounds_max=chance.choice((0, 1, 1, 2, 4)), narrow=narrow if is_narrow else None
        )
        self.brains = [
            BrainNode(
                world,
                number,
                log=self.log,
                hands=self.hands,
                model=model,
                dispatch=parts.dispatch,
                worker=parts.worker,
            )
            for number in range(chance.choice((1, 2, 2, 2, 3)))
        ]
        world.brains = list(self.brains)
        self.client = Client(world, self.session_id, log=self.log)
        self._crash: tuple[str, int] | None = None

    # -- the storm -----------------------------------------------------------------------------------------

    def run(self) -> list[str]:
        world, loop, chance = self.world, self.world.loop, self.world.chance
        storm_seconds = chance.choice((0.5, 2.0, 6.0))
        self._plan(storm_seconds)
        self.hands.start()
        for brain in self.brains:
            brain.start(ends_leases=False)
        try:
            loop.run(lambda: bool(world.ledger.violations), until=storm_seconds, steps_max=STEPS_MAX)
            self._calm()
            if not loop.run(self._is_at_rest, until=loop.now + CALM_SECONDS_MAX, steps_max=STEPS_MAX):
                world.violation(f"not at rest after {CALM_SECONDS_MAX:.0f} s without faults: {self._why()}")
        except RuntimeError as error:
            world.violation(str(error))
        violations = list(world.ledger.violations)
        if not violations:
            violations = laws.check(world, self.session_id, self.log.last.get(self.session_id), MODELS)
        self._end()
        return violations

    def _plan(self, storm_seconds: float) -> None:
        """Draw everything that will happen, and when."""
        world, chance = self.world, self.world.chance

        def at_random(action: Callable[[], object]) -> None:
            world.loop.post(world.loop.world, action, after=chance.random() * storm_seconds)

        world.loop.post(world.loop.world, self.client.say, after=chance.random() * 0.1)
        for _ in range(chance.choice((0, 0, 1, 2))):
            at_random(chance.choice((self.client.say, self.client.say, self.client.system)))
        for _ in range(chance.choice((0, 0, 0, 1, 1, 2))):
            at_random(self.client.interrupt)
        for _ in range(chance.choice((0, 1, 3))):
            at_random(lambda: self.client.answer(is_calm=False))
        for _ in range(chance.choice((0, 1, 1, 2, 3))):
            at_random(self._draw_fault())
        for _ in range(self._budgets.choice((0, 0, 1, 2))):
            after = self._budgets.random() * storm_seconds
            world.loop.post(world.loop.world, lambda: self.client.change_budget(is_calm=False), after=after)
        if chance.random() < 0.4:
            self._crash = (chance.choice(CRASH_POINTS), chance.choice((1, 1, 1, 2, 3)))
        if chance.random() < 0.4:
            world.faults = Faults(
                slow=chance.choice((0.0, 0.1, 0.5)),
                slow_seconds=chance.choice((0.01, 0.2, 2.0)),
                refused=chance.choice((0.0, 0.0, 0.05)),
                reply_lost=chance.choice((0.0, 0.0, 0.05)),
                hint_lost=chance.choice((0.0, 0.3, 1.0)),
                model_fails=chance.choice((0.0, 0.0, 0.3)),
                sandbox_fails=chance.choice((0.0, 0.0, 0.3)),
                request_late=chance.choice((0.0, 0.0, 0.1, 0.3)),
            )

    def _draw_fault(self) -> Callable[[], object]:
        chance = self.world.chance
        brain = chance.choice(self.brains)
        draw = chance.random()
        if draw < 0.3:
            return lambda: self._kill_brain(brain)
        if draw < 0.5:
            return lambda: brain.stall(chance.choice((0.5, 4.0, 12.0, 25.0)))
        if draw < 0.57:
            return lambda: self._drain(brain)
        if draw < 0.72:
            return lambda: self._kill_hands(keeps_journal=True)
        if draw < 0.82:
            return lambda: self._kill_hands(keeps_journal=False)
        if draw < 0.86:
            return self._stop_hands
        if draw < 0.95:
            return self.hands.lose_sandboxes
        return lambda: self._step_clock(brain)

    def _kill_brain(self, brain: BrainNode) -> None:
        chance, loop = self.world.chance, self.world.loop
        brain.kill()
        ends_leases = chance.random() < 0.8
        after = chance.choice((0.0, 0.1, 1.0, 5.0))
        loop.post(loop.world, lambda: brain.start(ends_leases=ends_leases), after=after)

    def _drain(self, brain: BrainNode) -> None:
        brain.drain()
        self.world.loop.post(self.world.loop.world, lambda: brain.start(ends_leases=True), after=12.0)

    def _kill_hands(self, *, keeps_journal: bool) -> None:
        self.hands.kill(keeps_journal=keeps_journal)
        after = self.world.chance.choice((0.0, 0.2, 0.2, 1.0, 35.0))
        self.world.loop.post(self.world.loop.world, self.hands.start, after=after)

    def _stop_hands(self) -> None:
        self.hands.stop()
        self.world.loop.post(self.world.loop.world, self.hands.start, after=6.0)

    def _step_clock(self, brain: BrainNode) -> None:
        brain.clock.skew_seconds = self.world.chance.choice((-3600.0, -2.0, 2.0, 3600.0))
        self.world.note("a brain's clock is off by %.0f s", brain.clock.skew_seconds)

    def at_crash_point(self, name: str) -> None:
        """End the process that passes the chosen point, there and then."""
        if self._crash is None or self._crash[0] != name:
            return
        self._crash = (name, self._crash[1] - 1)
        if self._crash[1]:
            return
        self._crash = None
        process = CURRENT.get()
        if not process.is_alive:
            return
        self.world.note("crash point %s", name)
        if process is self.hands.process:
            self._kill_hands(keeps_journal=True)
        for brain in self.brains:
            if process is brain.process:
                self._kill_brain(brain)
        raise asyncio.CancelledError

    # -- the calm ------------------------------------------------------------------------------------------

    def _calm(self) -> None:
        """Nothing fails from here on, everybody is there, and the client answers."""
        world = self.world
        world.note("calm")
        world.faults = Faults()
        self._crash = None
        self.hands.start()
        for brain in self.brains:
            brain.revive()
        self._answer()

    def _answer(self) -> None:
        self.client.answer(is_calm=True)
        self.client.change_budget(is_calm=True)
        self.world.loop.post(self.world.loop.world, self._answer, after=2.0)

    def _is_at_rest(self) -> bool:
        session = self.world.oracle.sessions[self.session_id]
        return bool(self.world.ledger.violations) or (
            session.needs_brain_since is None
            and not session.inbox
            and session.record.status == "idle"
            and not session.record.blocked_on
            and not is_paused(session.record)
            and self.world.oracle._is_free(session)
        )

    def _why(self) -> str:
        session = self.world.oracle.sessions[self.session_id]
        return (
            f"status {session.record.status}, owner {session.owner}, epoch {session.epoch},"
            f" needs a brain since {session.needs_brain_since}, {len(session.inbox)} in the inbox,"
            f" blocked on {list(session.record.blocked_on)}"
        )

    def _end(self) -> None:
        """Unwind every process, so that nothing is left half-done when it is thrown away."""
        loop = self.world.loop
        for brain in self.brains:
            brain.kill()
        self.hands.kill(keeps_journal=True)
        loop.run(lambda: True, until=loop.now, steps_max=loop.steps + STEPS_MAX)


def _agent(model_id: str, *, asks: bool) -> dict[str, Json]:
    policy = "always_ask" if asks else "always_allow"
    return {
        "type": "agent",
        "id": "agent_1",
        "version": 1,
        "name": "Tester",
        "model": {"id": model_id, "speed": "standard", "effort": None, "inference_geo": None},
        "system": None,
        "tools": [
            {
                "type": "agent_toolset_20260401",
                "default_config": {"enabled": True, "permission_policy": {"type": "always_allow"}},
                "configs": [{"name": "write", "permission_policy": {"type": policy}}],
            },
            {"type": "custom", "name": "lookup", "description": "Look up.", "input_schema": {}},
        ],
    }


def _record(agent: dict[str, Json]) -> SessionRecord:
    return SessionRecord(
        session_id=SessionId("sesn_1"),
        primary_thread_id=ThreadId("sthr_1"),
        title=None,
        metadata={},
        agent=agent,
        environment_id=EnvironmentId("env_1"),
        environment={"type": "cloud"},
        status="idle",
        usage={"input_tokens": 0, "output_tokens": 0},
        active_seconds=0.0,
        running_since=None,
        blocked_on=(),
        last_seq=0,
        last_arrival=0,
        epoch=0,
        created_at=START,
        updated_at=START,
        archived_at=None,
        terminated_at=None,
        threads=(
            ThreadRecord(thread_id=ThreadId("sthr_1"), agent=agent, created_at=START, updated_at=START),
        ),
    )
