"""Mistakes, put into the real parts one at a time: a simulation that does not see them proves nothing.

A claim of a session that is held is not among them: it would be wasteful and harmless, which is what
fencing is for. The fence of the hands, and a cancelled call that comes late, need more coincidence than
a few thousand schedules hold.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from corral.brain.dispatch import NO_SANDBOX, Dispatch
from corral.kernel.errors import HandsUnavailable, SandboxUnavailable, Stale, Stop
from corral.kernel.ids import EventId, SessionId
from corral.orchestrator.worker import Worker
from corral.session.call import ToolCall
from corral.session.content import ToolResult
from corral.session.events import Event
from corral.session.log import Append, InboxEntry, StoredEvent
from corral.session.state import State
from corral.testing.oracle import Oracle, OracleSession
from corral.testing.simulation.hands import MemoryJournal
from corral.testing.simulation.schedule import Parts
from corral.testing.simulation.store import SimulatedLog

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """`within`: schedules by which a law must have been broken; several times as many as it took."""

    mistake: str
    parts: Parts
    within: int


class _DispatchThatRunsAgain(Dispatch):
    """Executes anew, on whatever host is there, instead of attaching to where the call was sent."""

    async def _until_answered(
        self,
        call: ToolCall,
        *,
        epoch: int,
        attach: bool,
        stop: asyncio.Event,
        is_restored: bool = False,
    ) -> ToolResult:
        while True:
            try:
                placement = await self._hands.placement(call.session_id)
                return await self._hands.execute(replace(call, placement=placement), epoch=epoch)
            except HandsUnavailable:
                await asyncio.sleep(0.1)
            except SandboxUnavailable as error:
                return ToolResult.text(NO_SANDBOX.format(reason=error.message), is_error=True)


class _DispatchThatSettlesEarly(Dispatch):
    """Lets the journal forget a result that the brain has, but the log has not."""

    async def run(
        self, state: State, pending: object, *, epoch: int, attach: bool, stop: asyncio.Event
    ) -> ToolResult:
        result = await super().run(state, pending, epoch=epoch, attach=attach, stop=stop)  # type: ignore[arg-type]
        with suppress(HandsUnavailable):
            await self._hands.settle(state.session_id, call_ids=[pending.call_id])  # type: ignore[attr-defined]
        return result


class _DispatchThatGuesses(Dispatch):
    """A connection that broke is taken for a call that failed."""

    async def _until_answered(
        self,
        call: ToolCall,
        *,
        epoch: int,
        attach: bool,
        stop: asyncio.Event,
        is_restored: bool = False,
    ) -> ToolResult:
        try:
            return await self._hands.execute(call, epoch=epoch)
        except (HandsUnavailable, SandboxUnavailable):
            return ToolResult.text(f"result of {call.call_id}")


class _OracleWithoutEpochs(Oracle):
    """Writes whatever comes, as long as the writer has seen the log: no fencing."""

    def _check(self, session: OracleSession, append: Append) -> None:
        if (len(session.log), session.last_arrival) != (append.seen_seq, append.seen_arrival):
            raise Stale


class _OracleWithoutSeen(Oracle):
    """Checks the lease, and not what the writer has seen."""

    def _check(self, session: OracleSession, append: Append) -> None:
        seen = replace(append, seen_seq=len(session.log), seen_arrival=session.last_arrival)
        super()._check(session, seen)


class _LogThatAnswersFirst(SimulatedLog):
    """Says that an append is durable before it is."""

    async def append(self, append: Append) -> Sequence[StoredEvent]:
        asyncio.get_running_loop().call_later(0.05, self._try, append)
        return []

    def _try(self, append: Append) -> None:
        try:
            self._append(append)
        except Stop:
            return


class _LogThatForgetsInputs(SimulatedLog):
    """Acknowledges an input that it has not stored, now and then."""

    def _accept(
        self, session_id: SessionId, inputs: Sequence[Event], now: datetime
    ) -> Sequence[StoredEvent | InboxEntry]:
        if self._world.chance.random() > 0.1:
            return super()._accept(session_id, inputs, now)
        session, said = self._world.oracle.sessions[session_id], inputs[0]
        return [
            InboxEntry(
                arrival=session.last_arrival + 1,
                event_id=said.id,
                type=said.type,
                thread_id=session.record.primary_thread_id,
                body=said.body(processed_at=None),
            )
        ]


class _JournalThatStartsLate(MemoryJournal):
    """Does not write down that a call starts: a host that dies meanwhile does not know of it."""

    async def start(
        self, session_id: SessionId, call_id: EventId, *, in_workspace: bool = True
    ) -> bytes | None:
        return None


class _JournalThatForgets(MemoryJournal):
    """Does not remember what is settled: a request that comes late finds nothing."""

    def _take_settled(self) -> Callable[[sqlite3.Connection], None]:
        take = super()._take_settled()

        def apply(db: sqlite3.Connection) -> None:
            take(db)
            db.execute("DELETE FROM settled")

        return apply


class _WorkerThatTrustsHints(Worker):
    """Never looks for work by itself."""

    async def _sweep(self) -> None:
        await asyncio.Event().wait()


MUTANTS: Mapping[str, Mutant] = MappingProxyType(
    {
        "runs-again": Mutant(
            mistake="a call is executed again instead of attached to",
            parts=Parts(dispatch=_DispatchThatRunsAgain),
            within=1000,
        ),
        "settles-early": Mutant(
            mistake="the journal forgets a result before the log has it",
            parts=Parts(dispatch=_DispatchThatSettlesEarly),
            within=1000,
        ),
        "guesses": Mutant(
            mistake="a lost connection is answered with an invented result",
            parts=Parts(dispatch=_DispatchThatGuesses),
            within=1000,
        ),
        "no-epoch": Mutant(
            mistake="an append is not held against the lease's epoch",
            parts=Parts(oracle=_OracleWithoutEpochs),
            within=1000,
        ),
        "no-seen": Mutant(
            mistake="an append is not held against what its writer has seen",
            parts=Parts(oracle=_OracleWithoutSeen),
            within=1000,
        ),
        "answers-first": Mutant(
            mistake="effects begin before their announcement is durable",
            parts=Parts(log=_LogThatAnswersFirst),
            within=1000,
        ),
        "forgets-inputs": Mutant(
            mistake="an acknowledged input is not stored",
            parts=Parts(log=_LogThatForgetsInputs),
            within=1000,
        ),
        "starts-late": Mutant(
            mistake="a call acts before the journal says started",
            parts=Parts(journal=_JournalThatStartsLate),
            within=1000,
        ),
        "forgets-settled": Mutant(
            mistake="a settled call is not known any more when its request comes late",
            parts=Parts(journal=_JournalThatForgets),
            within=2000,
        ),
        "no-sweep": Mutant(
            mistake="correctness hangs on hints",
            parts=Parts(worker=_WorkerThatTrustsHints),
            within=100,
        ),
    }
)
