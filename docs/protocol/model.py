"""The lease and append protocol, small enough to read, explored to the last state.

One session, a few brains, one hands host, one or two calls, one interrupt. Every function that yields states is
one atomic step of the code it names in docs/protocol.md; `explore` takes them in every order. A guard is a
check that the code makes; `without` leaves one out, to see which law breaks.

    python docs/protocol/model.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

GUARDS = {  # guard -> the law that breaks without it
    "append.epoch": "writers only get younger",
    "append.seen": "an input is taken once",
    "journal.start": "a call acts at most once",
    "journal.settle": "a call acts at most once",
    "host.placement": "a call acts at most once",
    "host.known": "a call acts at most once",
    "loop.append_first": "a call acts only if it is in the log",
    "lease.end": "rest can be reached",
}
SECOND_LINES = (  # can be left out too; the scenes below have not shown a law that needs them
    "append.claim",
    "journal.fence",
    "journal.forbid",
    "host.unknown",
    "turn.interrupt_waits",
    "dispatch.settled",
    "accept.needs_brain",
)


@dataclass(frozen=True, slots=True)
class Call:
    """A tool use in the log. journal: where it was placed; epoch: who placed it; answer: "" while open."""

    journal: int
    epoch: int
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """What a snapshot shows: log, inbox, and the columns that repeat the fold."""

    seq: int = 0
    arrival: int = 1
    inbox: frozenset[str] = frozenset({"message"})
    is_running: bool = False
    calls: tuple[Call, ...] = ()
    needs_brain: bool = True

    @property
    def open(self) -> list[int]:
        return [number for number, call in enumerate(self.calls) if not call.answer]


@dataclass(frozen=True, slots=True)
class Append:
    """`session.log.Append`, on its way. takes, answers, calls, ends: the events that it holds."""

    brain: int
    life: int
    epoch: int
    claims: bool
    seen: tuple[int, int]
    takes: str = ""
    answers: tuple[tuple[int, str], ...] = ()
    calls: tuple[Call, ...] = ()
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """A request to the hands, on its way: execute or attach; with `stops`, cancel."""

    brain: int
    epoch: int
    call: int
    journal: int
    stops: bool


@dataclass(frozen=True, slots=True)
class Brain:
    """One `Loop`. lease: the epoch that it believes to hold, 0 for none; hand: results to write down."""

    life: int = 0  # grows with each process; replies reach only the one that asked
    lease: int = 0
    seen: Log | None = None
    waits: bool = False  # for the reply to an append
    asked: frozenset[int] = frozenset()  # calls whose answer it waits for
    hand: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """`HandsHost` and its `Journal`. rows: "" absent, started, or a result; stages: "" | waiting | acting."""

    is_up: bool = True
    journal: int = 1
    fence: int = 0
    rows: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    log: Log
    epoch: int
    owner: int | None
    brains: tuple[Brain, ...]
    host: Host
    wire: frozenset[Append | Run]
    faults: tuple[int, int, int, int]  # left: brain crashes, leases over time, host crashes, interrupts
    acted: tuple[int, ...]
    taken: tuple[str, ...] = ()
    youngest: int = 0
    hosts_lost: bool = False
    broken: str = ""


def begin(*, brains: int, calls: int, faults: tuple[int, int, int, int]) -> State:
    return State(
        Log(), 0, None, (Brain(),) * brains, Host(rows=("",) * calls, stages=("",) * calls),
        frozenset(), faults, (0,) * calls,
    )  # fmt: skip


class Model:
    """`without`: guards that are left out."""

    def __init__(self, *without: str) -> None:
        assert set(without) <= {*GUARDS, *SECOND_LINES}, without
        self.without = without
        self.settled = "settled" if self.has("journal.settle") else ""

    def has(self, guard: str) -> bool:
        return guard not in self.without

    def steps(self, s: State) -> Iterator[State]:
        """Every state that can come next."""
        for number in range(len(s.brains)):
            yield from self.brain(s, number)
        for message in s.wire:
            rest = replace(s, wire=s.wire - {message})
            if isinstance(message, Append):
                yield self.append(rest, message)
            elif s.host.is_up:
                yield self.run(rest, message)
        yield from self.host(s)
        yield from self.world(s)

    # -- the brain ---------------------------------------------------------------------------------------

    def brain(self, s: State, n: int) -> Iterator[State]:
        me, log = s.brains[n], s.log
        if me.waits:
            return
        if me.seen != log:  # Loop._fold_news
            yield change(s, n, replace(me, seen=log))
        seen = me.seen
        if seen is None:
            return
        if not me.lease:
            if seen.is_running and s.owner is None and log.needs_brain:  # LeaseStore.claim
                yield replace(change(s, n, replace(me, lease=s.epoch + 1)), epoch=s.epoch + 1, owner=n)
            elif not seen.is_running and "message" in seen.inbox and log.needs_brain:
                call = Call(s.host.journal, s.epoch + 1)  # a claim by append; the model's reply is in it
                calls = (call,) * len(s.acted)
                yield self.send(s, n, Append(n, me.life, s.epoch + 1, True, at(seen), "message", (), calls))
            elif not seen.is_running and "interrupt" in seen.inbox and log.needs_brain:
                yield self.send(
                    s, n, Append(n, me.life, s.epoch + 1, True, at(seen), "interrupt", ends=True)
                )
            return
        if not seen.is_running:  # LeaseStore.rest: it came too late, there is nothing to do
            holds = (s.owner, s.epoch) == (n, me.lease)
            yield replace(change(s, n, Brain(me.life)), owner=None if holds else s.owner)
            return
        for number, answer in me.hand:  # Ran: write the result down
            if number in seen.open:
                yield self.send(
                    s, n, Append(n, me.life, me.lease, False, at(seen), "", ((number, answer),))
                )
        if not s.host.is_up and me.asked:  # Dispatch: the host stays away too long
            number = min(me.asked)
            yield change(s, n, replace(me, asked=me.asked - {number}, hand=(*me.hand, (number, "unknown"))))
        stops = "interrupt" in seen.inbox
        known = {number for number, _ in me.hand}
        for number in seen.open:  # decide: RunTool, or Stop of what an earlier brain has started
            call = seen.calls[number]
            run = Run(n, me.lease, number, call.journal, stops)
            if number not in known and s.host.is_up and run not in s.wire:
                if not stops or number in me.asked or call.epoch != me.lease:
                    yield replace(change(s, n, replace(me, asked=me.asked | {number})), wire=s.wire | {run})
        if stops:  # turn._Thread._interrupt
            left = [i for i in seen.open if seen.calls[i].epoch != me.lease]  # decide.left_running
            busy = [i for i in seen.open if i in me.asked or i in dict(me.hand)]
            if not self.has("turn.interrupt_waits") or not (busy or left):
                answers = tuple((number, "interrupted") for number in seen.open)
                yield self.send(
                    s, n, Append(n, me.life, me.lease, False, at(seen), "interrupt", answers, (), True)
                )
        elif not seen.open:
            yield self.send(s, n, Append(n, me.life, me.lease, False, at(seen), ends=True))

    def send(self, s: State, n: int, append: Append) -> State:
        s = replace(change(s, n, replace(s.brains[n], waits=True)), wire=s.wire | {append})
        if append.calls and not self.has("loop.append_first"):
            s = replace(s, wire=s.wire | {Run(n, append.epoch, 0, append.calls[0].journal, False)})
        return s

    # -- the store ---------------------------------------------------------------------------------------

    def append(self, s: State, a: Append) -> State:
        """store.append._refusal, then _write; the reply reaches its brain if that still waits."""
        log = s.log
        if a.claims:
            is_lost = self.has("append.claim") and (s.owner is not None or a.epoch != s.epoch + 1)
        else:
            is_lost = self.has("append.epoch") and a.epoch != s.epoch
        is_stale = self.has("append.seen") and a.seen != (log.seq, log.arrival)
        if is_lost or is_stale:
            return reply(s, a, Brain(a.life) if is_lost else None)
        calls = log.calls or a.calls
        broken = s.broken
        if a.epoch < s.youngest:
            broken = "writers only get younger"
        if a.takes and a.takes not in log.inbox:
            broken = "an input is taken once"
        for number, answer in a.answers:
            if number >= len(calls) or calls[number].answer:
                return reply(replace(s, broken=broken or "a call is answered once"), a, Brain(a.life))
            if answer == "real" and not s.acted[number]:
                broken = "a result is never invented"
            if answer == "unknown" and not s.hosts_lost:
                broken = "a result is never invented"
            calls = tuple(replace(c, answer=answer) if i == number else c for i, c in enumerate(calls))
        inbox = log.inbox - {a.takes}
        after = Log(log.seq + 1, log.arrival, inbox, not a.ends, calls, not a.ends or bool(inbox))
        rows = tuple(  # Dispatch.settled: what is in the log may leave the journal
            self.settled if i in dict(a.answers) and s.host.is_up and not s.host.stages[i] else row
            for i, row in enumerate(s.host.rows)
        )
        s = replace(
            s, log=after, epoch=max(s.epoch, a.epoch), broken=broken, youngest=max(s.youngest, a.epoch),
            owner=None if a.ends else a.brain if a.claims else s.owner,
            taken=(*s.taken, a.takes) if a.takes else s.taken, host=replace(s.host, rows=rows),
        )  # fmt: skip
        me = s.brains[a.brain]
        hand = tuple(done for done in me.hand if done not in a.answers)
        return reply(s, a, Brain(a.life) if a.ends else replace(me, lease=a.epoch, seen=after, hand=hand))

    # -- the hands ---------------------------------------------------------------------------------------

    def run(self, s: State, r: Run) -> State:
        """HandsHost._outcome or cancel: fence, then what the journal knows, then begin."""
        host = s.host
        if self.has("journal.fence") and r.epoch < host.fence:
            me = s.brains[r.brain]
            return change(s, r.brain, Brain(me.life)) if me.lease == r.epoch and not me.waits else s
        host = replace(host, fence=max(host.fence, r.epoch))
        row, stage = host.rows[r.call], host.stages[r.call]
        if self.has("host.placement") and r.journal != host.journal:
            return hear(replace(s, host=host), r, "unknown")
        if row == "settled":  # whoever asks is late: the log must refuse what it makes of this
            return hear(replace(s, host=host), r, "unknown")
        if r.stops and row in ("", "started"):
            if row == "" and not self.has("journal.forbid") and not stage:
                return hear(replace(s, host=host), r, "interrupted")
            host = put(host, r.call, row="interrupted" if row == "" or stage else "unknown", stage="")
        elif row == "started" and not stage:
            if self.has("host.unknown"):
                host = put(host, r.call, row="unknown")
            else:
                host = put(host, r.call, row="", stage="waiting")
        elif row == "" and (not stage or not self.has("host.known")):
            host = put(host, r.call, stage="waiting")
        elif row not in ("", "started") and not self.has("host.known"):
            host = put(host, r.call, row="", stage="waiting")
        return hear(replace(s, host=host), r, host.rows[r.call])

    def host(self, s: State) -> Iterator[State]:
        host = s.host
        if not host.is_up:
            yield replace(s, host=replace(host, is_up=True))
            return
        for n, stage in enumerate(host.stages):
            row = host.rows[n]
            if stage == "waiting" and row == "":  # Journal.start, before the effect
                started = "started" if self.has("journal.start") else ""
                acting = put(host, n, row=started, stage="acting")
                yield act(replace(s, host=acting), n)
            elif stage == "acting":  # Journal.finish, before the reply
                yield replace(s, host=put(host, n, row="real", stage=""))
            elif row not in ("", "started", "settled"):
                for brain, me in enumerate(s.brains):
                    if n in me.asked:
                        yield hear(s, Run(brain, 0, n, host.journal, False), row)
                        if not self.has("dispatch.settled"):
                            yield hear(
                                replace(s, host=put(host, n, row="")), Run(brain, 0, n, 0, False), row
                            )

    # -- the world ---------------------------------------------------------------------------------------

    def world(self, s: State) -> Iterator[State]:
        crashes, late, hosts, interrupts = s.faults
        for n, me in enumerate(s.brains):
            if crashes and me != Brain(me.life):  # kill -9; what it has sent may still arrive
                yield replace(
                    change(s, n, Brain(me.life + 1)), faults=(crashes - 1, late, hosts, interrupts)
                )
        if s.owner is not None:
            if self.has("lease.end") and s.brains[s.owner].lease != s.epoch:  # LeaseStore.end, or its time
                yield replace(s, owner=None)
            elif late:  # its holder was stopped, and does not know
                yield replace(s, owner=None, faults=(crashes, late - 1, hosts, interrupts))
        if hosts and s.host.is_up:
            gone = replace(s.host, is_up=False, stages=("",) * len(s.acted))
            runs = frozenset(m for m in s.wire if isinstance(m, Append))
            left = replace(s, wire=runs, hosts_lost=True, faults=(crashes, late, hosts - 1, interrupts))
            yield replace(left, host=gone)
            lost = Host(False, gone.journal + 1, 0, ("",) * len(s.acted), gone.stages)
            yield replace(left, host=lost)
        if interrupts:  # SessionLog.accept
            log, needs = s.log, self.has("accept.needs_brain")
            log = replace(log, arrival=log.arrival + 1, inbox=log.inbox | {"interrupt"}, needs_brain=needs)
            yield replace(s, log=log, faults=(crashes, late, hosts, 0))


def at(log: Log) -> tuple[int, int]:
    return log.seq, log.arrival


def change(s: State, n: int, brain: Brain) -> State:
    return replace(s, brains=(*s.brains[:n], brain, *s.brains[n + 1 :]))


def reply(s: State, a: Append, brain: Brain | None) -> State:
    me = s.brains[a.brain]
    hears = me.waits and me.life == a.life
    return change(s, a.brain, replace(brain or me, waits=False)) if hears else s


def put(host: Host, n: int, *, row: str | None = None, stage: str | None = None) -> Host:
    rows = host.rows if row is None else (*host.rows[:n], row, *host.rows[n + 1 :])
    stages = host.stages if stage is None else (*host.stages[:n], stage, *host.stages[n + 1 :])
    return replace(host, rows=rows, stages=stages)


def hear(s: State, r: Run, row: str) -> State:
    """The brain that waits for this call gets its result, if there is one."""
    me = s.brains[r.brain]
    if row in ("", "started", "settled") or r.call not in me.asked or r.call in dict(me.hand):
        return s
    return change(s, r.brain, replace(me, asked=me.asked - {r.call}, hand=(*me.hand, (r.call, row))))


def act(s: State, n: int) -> State:
    acted = (*s.acted[:n], s.acted[n] + 1, *s.acted[n + 1 :])
    broken = s.broken
    if acted[n] > 1:
        broken = "a call acts at most once"
    elif n >= len(s.log.calls):
        broken = "a call acts only if it is in the log"
    elif s.log.calls[n].answer not in ("", "unknown"):
        broken = "an answered call never acts"
    return replace(s, acted=acted, broken=broken)


def law_broken(s: State) -> str:
    """The law that this state breaks, or ""."""
    if s.broken:
        return s.broken
    if not s.log.is_running and s.log.open:
        return "who is idle waits for nothing"
    if len(set(s.taken)) != len(s.taken):
        return "an input is taken once"
    return ""


def is_at_rest(s: State) -> bool:
    return not s.log.is_running and not s.log.inbox and s.owner is None and not s.log.open


def explore(model: Model, start: State, *, states_max: int = 2_000_000) -> tuple[int, str]:
    """(states, the law that some state breaks or ""): breadth first, then backwards from rest."""
    numbers, frontier, before = {start: 0}, [start], list[list[int]]([[]])
    while frontier:
        following = []
        for state in frontier:
            number = numbers[state]
            for after in model.steps(state):
                known = numbers.get(after)
                if known is None:
                    if law := law_broken(after):
                        return len(numbers), law
                    known = numbers[after] = len(numbers)
                    before.append([])
                    following.append(after)
                before[known].append(number)
        frontier = following
        assert len(numbers) < states_max, "the model is not small any more"
    reached = {number for state, number in numbers.items() if is_at_rest(state)}
    todo = list(reached)
    while todo:
        new = set(before[todo.pop()]) - reached
        reached |= new
        todo += new
    return len(numbers), "" if len(reached) == len(numbers) else "rest can be reached"


SCENES = {  # faults: brain crashes, leases over time, host crashes, interrupts
    "a brain dies": begin(brains=2, calls=1, faults=(1, 0, 0, 0)),
    "a brain dies, an interrupt": begin(brains=1, calls=1, faults=(1, 0, 0, 1)),
    "a zombie": begin(brains=2, calls=1, faults=(0, 1, 0, 0)),
    "a zombie, an interrupt": begin(brains=2, calls=1, faults=(0, 1, 0, 1)),
    "a brain and the host die": begin(brains=1, calls=1, faults=(1, 0, 1, 0)),
    "two calls, a brain dies": begin(brains=1, calls=2, faults=(1, 0, 0, 0)),
    "three brains": begin(brains=3, calls=1, faults=(0, 0, 0, 0)),
}

if __name__ == "__main__":
    for scene, start in SCENES.items():
        states, law = explore(Model(), start)
        print(f"{scene}: {states} states, {law or 'every law holds'}")
