"""What lies on hands hosts: shown, evicted, drained, and swept of what should not be there."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from corral.cluster.placement import PlacementStore, Why
from corral.hands.client import HandsClient
from corral.hands.router import HandsRouter
from corral.hands.wire import HeldWorkspace
from corral.kernel.errors import (
    CallerError,
    Conflict,
    HandsUnavailable,
    LeaseLost,
    NotFound,
    SandboxUnavailable,
    WorldError,
)
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    HANDS_REPLY_SECONDS,
    SANDBOX_SWEEP_BATCH_MAX,
    SANDBOX_SWEEP_SECONDS,
)
from corral.orchestrator.checkpoint import Checkpointer
from corral.session.checkpoint import CheckpointStore
from corral.session.sandboxes import SandboxView

__all__ = ["AllHosts", "Desk", "OneHost", "drain_host", "sweep_host", "sweep_sandboxes"]

log = logging.getLogger(__name__)


class Hosts(Protocol):
    """Which hosts there are, and how to reach them."""

    async def clients(self) -> Sequence[tuple[str, HandsClient]]:
        """Host ids with a client each; hosts that cannot be reached are left out."""


class OneHost:
    """The host of a server that has only its own."""

    def __init__(self, hands: HandsClient) -> None:
        self._hands = hands

    async def clients(self) -> Sequence[tuple[str, HandsClient]]:
        with suppress(HandsUnavailable):
            return [((await self._hands.placement(SessionId(""))).host_id, self._hands)]
        return []


class AllHosts:
    """The hosts of a cluster."""

    def __init__(self, router: HandsRouter) -> None:
        self._router = router

    async def clients(self) -> Sequence[tuple[str, HandsClient]]:
        async def reach(host_id: str) -> tuple[str, HandsClient] | None:
            with suppress(HandsUnavailable, TimeoutError):
                async with asyncio.timeout(HANDS_REPLY_SECONDS):
                    return host_id, await self._router.client(host_id)
            return None

        found = await asyncio.gather(*(reach(host.host_id) for host in self._router.hosts()))
        return [each for each in found if each is not None]


class Desk:
    """`session.sandboxes.SandboxDesk`."""

    def __init__(
        self,
        hosts: Hosts,
        *,
        checkpoints: CheckpointStore,
        checkpointer: Checkpointer | None,
        placements: PlacementStore | None,
    ) -> None:
        """checkpointer, placements: None where one host has all sessions for ever; evicting one there lets
        its sandbox go and leaves the files, of which there is no other copy and no other host to bring
        them to."""
        self._hosts = hosts
        self._checkpoints = checkpoints
        self._checkpointer = checkpointer
        self._placements = placements

    async def all(self) -> Sequence[SandboxView]:
        async def of_host(host_id: str, hands: HandsClient) -> list[SandboxView]:
            with suppress(HandsUnavailable, TimeoutError):
                async with asyncio.timeout(HANDS_REPLY_SECONDS):
                    return [await self._view(host_id, held) for held in await hands.held(with_disk=True)]
            return []

        clients = await self._hosts.clients()
        views = await asyncio.gather(*(of_host(host_id, hands) for host_id, hands in clients))
        return sorted(
            (view for of_one in views for view in of_one), key=lambda view: (view.host_id, view.session_id)
        )

    async def evict(self, session_id: SessionId) -> SandboxView:
        host_id, hands, held = await self._where(session_id)
        if held.is_busy:
            raise Conflict(f"Session {session_id} is at work. Interrupt it, or wait until it is idle.")
        view = await self._view(host_id, held)
        if self._checkpointer is None:
            await hands.evict(session_id, changes=held.changes, keeps_files=True)
            return view
        if not held.placed_at and not held.changes:  # of an older Corral, or what a killed eviction left
            raise Conflict(f"The host does not know the files of session {session_id}; its next call does.")
        # Also if the host knows of no change since the last copy: a process that a call left behind writes
        # on, and the store may have been restored from a time before that copy.
        if held.changes:
            taken = await self._checkpointer.take(hands, held, host_id=host_id)
            if taken is None:
                raise Conflict(f"Session {session_id} was copied, moved or deleted meanwhile. Look again.")
        # The host refuses if a call came meanwhile. From then on it asks for a restore before any other, so
        # the placement may stay: it only says where the session's next call is tried first.
        await hands.evict(session_id, changes=held.changes)
        return view

    async def _where(self, session_id: SessionId) -> tuple[str, HandsClient, HeldWorkspace]:
        placed = await self._placements.find(session_id) if self._placements else None
        for host_id, hands in await self._hosts.clients():
            if placed is None or placed.host_id == host_id:
                for held in await hands.held():
                    if held.session_id == session_id:
                        return host_id, hands, held
        raise NotFound(f"Session {session_id!r} has no sandbox and no workspace on any host.")

    async def _view(self, host_id: str, held: HeldWorkspace) -> SandboxView:
        checkpoint = await self._checkpoints.newest(held.session_id)
        return SandboxView(
            host_id=host_id,
            session_id=held.session_id,
            provider=held.provider,
            is_busy=held.is_busy,
            idle_seconds=round(held.idle_seconds, 3),
            disk_bytes=held.disk_bytes,
            has_changed=held.changes > held.kept,
            checkpoint_at=checkpoint.taken_at if checkpoint else None,
        )


async def drain_host(hands: HandsClient, checkpointer: Checkpointer) -> None:
    """The host's node is about to stop: it takes no new sessions, and what is idle there is copied, however
    short ago it was at work. If the node stays away, other hosts go on with the copies."""
    try:
        await hands.drain(is_draining=True)
        await checkpointer.look(hands, idle_seconds=0)
    except WorldError as error:
        log.warning("the hands host could not be drained: %s", error.message)


async def sweep_sandboxes(hands: HandsClient, placements: PlacementStore) -> None:
    """Every SANDBOX_SWEEP_SECONDS, until cancelled: rid this node's host of what should not be there."""
    while True:
        try:
            await sweep_host(hands, placements)
        except WorldError as error:
            log.debug("the sweep of sandboxes waits: %s", error.message)
        await asyncio.sleep(SANDBOX_SWEEP_SECONDS)


async def sweep_host(hands: HandsClient, placements: PlacementStore) -> dict[SessionId, Why]:
    """One sweep; returns what was found. Raises HandsUnavailable, StoreUnavailable."""
    host_id = (await hands.placement(SessionId(""))).host_id
    held = {each.session_id: each for each in await hands.held()}
    live = {each.session_id for each in await hands.sandboxes()}
    listed = sorted(held.keys() | live)
    found: dict[SessionId, Why] = {}
    for start in range(0, len(listed), SANDBOX_SWEEP_BATCH_MAX):
        batch = listed[start : start + SANDBOX_SWEEP_BATCH_MAX]
        for session_id, why in (await placements.misplaced(host_id, batch)).items():
            try:
                is_live = session_id in live
                if await _rid(hands, session_id, why, held.get(session_id), is_live=is_live):
                    found[session_id] = why
                    log.info("session %s (%s): swept from this hands host", session_id, why)
            except (CallerError, LeaseLost, SandboxUnavailable) as error:
                log.warning("session %s could not be swept from this host: %s", session_id, error)
    return found


async def _rid(
    hands: HandsClient, session_id: SessionId, why: Why, held: HeldWorkspace | None, *, is_live: bool
) -> bool:
    has_no_copy = held is not None and held.changes > 0 and held.kept == 0
    match why:
        case "deleted":
            await hands.release(session_id, delete_workspace=True)
        case "elsewhere" if has_no_copy and is_live:  # too large for one, or too young: for its user
            assert held is not None
            await hands.evict(session_id, placed_at=held.placed_at, keeps_files=True)
            log.warning("session %s went on elsewhere; its files here have no copy, and stay", session_id)
        case "elsewhere" if held is not None and not has_no_copy:  # what lies here is nobody's
            await hands.evict(session_id, placed_at=held.placed_at)
        case "ended" if is_live:
            await hands.release(session_id, delete_workspace=False)
        case "unknown" if is_live:  # of another database? Its files are not ours to delete
            await hands.evict(session_id, keeps_files=True)
        case _:
            return False
    return True
