"""The world of one schedule: time, chance, the store, wires between processes, and what really happened.

What really happened is the ledger: which inputs were acknowledged, what the model said, which call ran
where and how it ended. The laws compare it with the log.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeVar

from corral.kernel.errors import CorralError, StoreUnavailable
from corral.kernel.ids import EventId, Ids, SessionId
from corral.session.call import NeverStarted
from corral.testing.oracle import Oracle
from corral.testing.simulation.eventloop import CURRENT, Process, VirtualLoop

__all__ = ["Execution", "Faults", "Ledger", "SkewedClock", "World"]

T = TypeVar("T")

START = datetime(2026, 11, 20, 10, tzinfo=UTC)


class CountingIds(Ids):
    """Ids that are quick to make and easy to read in a trace."""

    def __init__(self) -> None:
        self._last = 0

    def mint(self, prefix: str) -> str:
        self._last += 1
        return f"{prefix}_{self._last:06d}"


class SkewedClock:
    """`kernel.clock.Clock` of one process: virtual time, off by `skew_seconds`, which may step."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.skew_seconds = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.now + self.skew_seconds)

    def monotonic(self) -> float:
        return self._loop.now


@dataclass(kw_only=True)
class Faults:
    """Shares of messages to which something happens. All 0 in the calm at the end of a schedule."""

    slow: float = 0.0
    slow_seconds: float = 0.0
    refused: float = 0.0  # by the store, nothing written
    reply_lost: float = 0.0
    request_late: float = 0.0  # to the hands: its client sees a broken connection, and yet it arrives
    hint_lost: float = 0.0
    model_fails: float = 0.0
    sandbox_fails: float = 0.0


@dataclass(kw_only=True, slots=True)
class Execution:
    """One real run of a call in a sandbox. `end`: None while it runs."""

    call_id: EventId
    journal_id: str
    epoch: int
    began: float
    end: str | None = None  # finished | cancelled | cut
    text: str = ""


@dataclass(kw_only=True)
class Ledger:
    """What really happened.

    hands_away: (from, to) times at which no hands host answered; `to` is None while it is away.
    """

    acknowledged: list[EventId] = field(default_factory=list)
    sent: list[EventId] = field(default_factory=list)
    interrupts: int = 0
    has_failed: bool = False  # so often that its turn may be ended
    denials: set[EventId] = field(default_factory=set)
    replies: dict[str, int] = field(default_factory=dict)  # nonce -> output tokens
    executions: dict[EventId, list[Execution]] = field(default_factory=dict)
    journals_lost: set[str] = field(default_factory=set)
    hands_away: list[list[float | None]] = field(default_factory=list)
    refusals: int = 0  # of sandboxes: none could be made
    lost_replies_of_hands: int = 0
    deaths: int = 0
    sandboxes_lost: int = 0
    stalls: int = 0
    epochs: list[int] = field(default_factory=list)  # of the appends, in the order of the log
    violations: list[str] = field(default_factory=list)


class World:
    """Shared by everything in a schedule."""

    def __init__(self, seed: int, oracle: type[Oracle] = Oracle) -> None:
        self.chance = Random(seed)  # repeatable is the point
        self.loop = VirtualLoop(self.chance)  # type: ignore[abstract]  # sockets are not there
        self.clock = SkewedClock(self.loop)
        self.oracle = oracle(self.clock)
        self.ids = CountingIds()
        self.faults = Faults()
        self.ledger = Ledger()
        self.store = Process("store")
        self.brains: list[Any] = []  # of `actors.BrainNode`
        self.coverage: dict[str, int] = {}
        self._trace: list[tuple[float, str, str, tuple[Any, ...]]] = []

    # -- the trace ---------------------------------------------------------------------------------------

    def note(self, what: str, *values: Any) -> None:
        """One line of the trace; `what` says where values go, as in %-formatting. Cheap until read."""
        self._trace.append((self.loop.now, CURRENT.get(self.loop.world).name, what, values))
        self.coverage[what] = self.coverage.get(what, 0) + 1

    def trace(self) -> list[str]:
        return [f"{at:9.3f} {who:10s} {what % values}" for at, who, what, values in self._trace]

    def violation(self, text: str) -> None:
        self.note("VIOLATION %s", text)
        self.ledger.violations.append(text)

    # -- wires -------------------------------------------------------------------------------------------

    def happens(self, share: float) -> bool:
        return share > 0 and self.chance.random() < share

    def delay(self) -> float:
        faults = self.faults
        if not faults.slow or self.chance.random() >= faults.slow:
            return 0.0
        return self.chance.random() * faults.slow_seconds

    async def ask_store(self, what: str, run: Callable[[], T]) -> T:
        """A request of the current process to the store, and its reply."""
        asker = CURRENT.get()
        if not asker.is_alive:
            raise asyncio.CancelledError
        reply: asyncio.Future[T] = self.loop.create_future()
        self.loop.post(self.store, self._serve, what, run, asker, reply, after=self.delay())
        return await reply

    def _serve(self, what: str, run: Callable[[], T], asker: Process, reply: "asyncio.Future[T]") -> None:
        answer: Any
        if self.happens(self.faults.refused):
            self.note("%s of %s is refused", what, asker.name)
            answer = StoreUnavailable("the simulated store is away")
        else:
            try:
                answer = run()
            except (CorralError, AssertionError) as error:
                answer = error
            if self.happens(self.faults.reply_lost):
                self.note("the reply to %s of %s is lost", what, asker.name)
                answer = StoreUnavailable("the connection broke", written=True)
        self.answer(asker, reply, answer)

    def answer(self, asker: Process, reply: "asyncio.Future[Any]", answer: Any) -> None:
        """Send an answer, or an exception, back to whoever asked."""
        if asker.is_alive:
            self.loop.post(asker, _resolve, reply, answer, after=self.delay())

    def hint(self, session_id: SessionId) -> None:
        """Wake hints to all brains: each may be lost, late, or come twice."""
        for brain in self.brains:
            if self.happens(self.faults.hint_lost):
                continue
            brain.hint(session_id, after=self.delay())
            if self.happens(self.faults.hint_lost):
                brain.hint(session_id, after=self.delay())


def _resolve(reply: "asyncio.Future[Any]", answer: Any) -> None:
    if reply.done():
        return
    if isinstance(answer, BaseException):
        reply.set_exception(answer)
    else:
        reply.set_result(answer)


async def outcome(work: Awaitable[T]) -> T | Exception:
    """The result of `work`, or the error that a port may answer with."""
    try:
        return await work
    except (CorralError, NeverStarted) as error:
        return error
