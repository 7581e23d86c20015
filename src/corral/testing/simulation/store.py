"""The store's ports over the oracle: a request and a reply, either of which the world may lose or delay."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from corral.kernel.ids import SessionId
from corral.session.budget import Budget
from corral.session.events import Event
from corral.session.lease import Lease
from corral.session.log import (
    Append,
    EventFilter,
    EventPage,
    InboxEntry,
    Position,
    Snapshot,
    StoredEvent,
)
from corral.testing.simulation.world import World

__all__ = ["SimulatedLeases", "SimulatedLog"]


class SimulatedLog:
    """`session.log.SessionLog` for brains and clients of a simulation."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.last: dict[SessionId, Append] = {}

    async def append(self, append: Append) -> Sequence[StoredEvent]:
        return await self._world.ask_store("append", lambda: self._append(append))

    def _append(self, append: Append) -> Sequence[StoredEvent]:
        world, oracle = self._world, self._world.oracle
        log = oracle.sessions[append.session_id].log
        before = len(log)
        oracle.append(append)
        if len(log) > before:
            self.last[append.session_id] = append
            world.ledger.epochs += [append.lease.epoch] * (len(log) - before)
            for event in log[before:]:
                world.note("log %s %s, epoch %s", event.seq, event.type, append.lease.epoch)
        return log[before:]

    async def close_turn(self, lease: Lease, *, message: str, now: datetime) -> Sequence[StoredEvent]:
        def close_turn() -> Sequence[StoredEvent]:
            stored = self._world.oracle.close_turn(lease, message=message, now=now)
            self._world.ledger.epochs += [lease.epoch] * len(stored)
            self._world.note("the turn is closed, epoch %s", lease.epoch)
            return stored

        return await self._world.ask_store("close_turn", close_turn)

    async def accept(
        self, session_id: SessionId, inputs: Sequence[Event], *, now: datetime
    ) -> Sequence[StoredEvent | InboxEntry]:
        return await self._world.ask_store("accept", lambda: self._accept(session_id, inputs, now))

    def _accept(
        self, session_id: SessionId, inputs: Sequence[Event], now: datetime
    ) -> Sequence[StoredEvent | InboxEntry]:
        session = self._world.oracle.sessions[session_id]
        before = len(session.log)
        returned = set(self._world.oracle.accept(session_id, inputs, now=now))
        self._world.ledger.epochs += [0] * (len(session.log) - before)
        self._world.note("accepted %s", inputs[0].type)
        self._world.hint(session_id)
        entries: list[StoredEvent | InboxEntry] = [*session.log, *session.inbox]
        return [entry for entry in entries if entry.event_id in returned]

    async def change_budget(self, session_id: SessionId, budget: Budget | None, *, now: datetime) -> None:
        """What the API does beside the log."""

        def change() -> None:
            session = self._world.oracle.sessions[session_id]
            before = len(session.log)
            self._world.oracle.change_budget(session_id, budget, now=now)
            self._world.ledger.epochs += [0] * (len(session.log) - before)
            self._world.note("the budget is %s", "removed" if budget is None else "raised")
            self._world.hint(session_id)

        await self._world.ask_store("change_budget", change)

    async def snapshot(self, session_id: SessionId, *, after_seq: int = 0) -> Snapshot:
        return await self._world.ask_store("snapshot", lambda: self._snapshot(session_id, after_seq))

    def _snapshot(self, session_id: SessionId, after_seq: int) -> Snapshot:
        snapshot = self._world.oracle.snapshot(session_id)
        return replace(snapshot, events=snapshot.events[after_seq:]) if after_seq else snapshot

    async def page(
        self,
        session_id: SessionId,
        where: EventFilter,
        *,
        descending: bool,
        limit: int,
        after: Position | None = None,
    ) -> EventPage:
        raise AssertionError("nobody reads pages in a simulation")

    async def tail(self, session_id: SessionId, after: Position, *, limit: int) -> EventPage:
        raise AssertionError("nobody follows a stream in a simulation")

    async def ends(self, session_ids: Sequence[SessionId]) -> Mapping[SessionId, Position]:
        raise AssertionError("nobody follows a stream in a simulation")


class SimulatedLeases:
    """`session.lease.LeaseStore`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._oracle = world.oracle

    async def claim(
        self, *, owner: str, limit: int, session_ids: Sequence[SessionId] | None = None
    ) -> list[Lease]:
        def claim() -> list[Lease]:
            leases = self._oracle.claim(owner=owner, limit=limit, session_ids=session_ids)
            for lease in leases:
                self._world.note("%s claims epoch %s", owner, lease.epoch)
            return leases

        return await self._world.ask_store("claim", claim)

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        return await self._world.ask_store("renew", lambda: self._oracle.renew(leases))

    async def release(self, leases: Sequence[Lease], *, pause_seconds: float = 0.0) -> None:
        def release() -> None:
            self._oracle.release(leases, pause_seconds=pause_seconds)

        await self._world.ask_store("release", release)

    async def fail(self, leases: Sequence[Lease]) -> None:
        await self._world.ask_store("fail", lambda: self._oracle.fail(leases))

    async def rest(self, lease: Lease, *, seen_seq: int, seen_arrival: int) -> None:
        def rest() -> None:
            self._oracle.rest(lease, seen_seq=seen_seq, seen_arrival=seen_arrival)

        await self._world.ask_store("rest", rest)

    async def failures(self, session_ids: Sequence[SessionId]) -> Mapping[SessionId, int]:
        return await self._world.ask_store("failures", lambda: self._oracle.failures(session_ids))

    async def end(self, *, owner_prefix: str, except_owner: str) -> list[SessionId]:
        def end() -> list[SessionId]:
            return self._oracle.end(owner_prefix=owner_prefix, except_owner=except_owner)

        return await self._world.ask_store("end", end)

    async def waiting(self, *, limit: int) -> list[SessionId]:
        return await self._world.ask_store("waiting", lambda: self._oracle.waiting()[:limit])
