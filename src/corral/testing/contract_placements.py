"""What every store of placements and checkpoints must do. `CHECKS`: each an async function of a `Stores`,
and of the two stores on the same database and clock."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

from corral.cluster.placement import PlacementStore
from corral.kernel.errors import NotFound
from corral.kernel.ids import SessionId
from corral.session.checkpoint import Checkpoint, CheckpointStore
from corral.testing.stores import Stores, error_of

__all__ = ["CHECKS", "PlacementCheck"]

PlacementCheck = Callable[[Stores, PlacementStore, CheckpointStore], Awaitable[None]]


async def placing_is_a_compare_and_set(
    stores: Stores, placements: PlacementStore, _: CheckpointStore
) -> None:
    session_id = (await stores.session()).session_id
    assert await placements.find(session_id) is None
    first = await placements.place(session_id, host_id="host_1", instead_of=None)
    assert first.host_id == "host_1" and await placements.find(session_id) == first
    assert await placements.place(session_id, host_id="host_1", instead_of=None) == first  # repeated
    assert await placements.place(session_id, host_id="host_2", instead_of=None) == first  # too late
    never = replace(first, placed_at=first.placed_at - 1)
    assert await placements.place(session_id, host_id="host_2", instead_of=never) == first
    second = await placements.place(session_id, host_id="host_2", instead_of=first)
    assert second.host_id == "host_2" and second.placed_at > first.placed_at
    assert await placements.place(session_id, host_id="host_3", instead_of=first) == second
    await placements.remove(session_id, host_id="host_1")  # it is not there
    assert await placements.find(session_id) == second
    await placements.remove(session_id, host_id="host_2")
    await placements.remove(session_id, host_id="host_2")
    assert await placements.find(session_id) is None


async def each_placement_has_a_name_of_its_own(
    stores: Stores, placements: PlacementStore, _: CheckpointStore
) -> None:
    """Also when the clock stands still."""
    session_id = (await stores.session()).session_id
    names, placed = [], None
    for n in range(4):
        placed = await placements.place(session_id, host_id=f"host_{n % 2}", instead_of=placed)
        names.append(placed.placed_at)
    assert names == sorted(set(names))


async def what_was_claimed_since_somebody_looked_stays(
    stores: Stores, placements: PlacementStore, _: CheckpointStore
) -> None:
    """Who claimed it may have worked where it is."""
    session_id = (await stores.session()).session_id
    looked = await placements.place(session_id, host_id="host_1", instead_of=None)
    [lease] = await stores.leases.claim(owner="brain-1", limit=1, session_ids=[session_id])
    stays = await placements.place(session_id, host_id="host_2", instead_of=looked)
    assert stays == looked and (looked.epoch, stays.epoch) == (lease.epoch - 1, lease.epoch)
    assert (await placements.place(session_id, host_id="host_2", instead_of=stays)).host_id == "host_2"


async def what_was_decided_on_too_long_ago_stays(
    stores: Stores, placements: PlacementStore, _: CheckpointStore
) -> None:
    session_id = (await stores.session()).session_id
    placed = await placements.place(session_id, host_id="host_1", instead_of=None, until=time.monotonic())
    now = time.monotonic()
    assert await placements.place(session_id, host_id="host_2", instead_of=placed, until=now) == placed
    moved = await placements.place(session_id, host_id="host_2", instead_of=placed, until=now + 60)
    assert moved.host_id == "host_2"


async def nobody_places_what_is_gone(
    stores: Stores, placements: PlacementStore, _: CheckpointStore
) -> None:
    session_id = (await stores.session()).session_id
    before = await placements.place(session_id, host_id="host_1", instead_of=None)
    await stores.sessions.delete(session_id)
    assert isinstance(
        await error_of(placements.place(session_id, host_id="host_2", instead_of=before)), NotFound
    )
    unknown = SessionId("sesn_unknown")
    assert isinstance(await error_of(placements.place(unknown, host_id="h", instead_of=None)), NotFound)
    placed = await placements.find(session_id)
    assert placed is not None and placed.host_id == "host_1"  # it says where there is still work to do


async def a_host_knows_what_it_should_not_have(
    stores: Stores, placements: PlacementStore, _: CheckpointStore
) -> None:
    here, elsewhere, nowhere, ended, deleted = [(await stores.session()).session_id for _ in range(5)]
    for session_id in (here, ended, deleted):
        await placements.place(session_id, host_id="host_1", instead_of=None)
    await placements.place(elsewhere, host_id="host_2", instead_of=None)
    await stores.sessions.archive(ended)
    await stores.sessions.delete(deleted)
    listed = [here, elsewhere, nowhere, ended, deleted, SessionId("sesn_never")]
    assert await placements.misplaced("host_1", listed) == {
        elsewhere: "elsewhere", ended: "ended", deleted: "deleted", "sesn_never": "unknown"
    }  # fmt: skip
    assert await placements.misplaced("host_1", []) == {}


async def what_is_on_a_host_is_listed_and_counted(
    stores: Stores, placements: PlacementStore, _: CheckpointStore
) -> None:
    session_ids = sorted([(await stores.session()).session_id for _ in range(5)])
    for session_id in session_ids[:3]:
        await placements.place(session_id, host_id="host_1", instead_of=None)
    for session_id in session_ids[3:]:
        await placements.place(session_id, host_id="host_2", instead_of=None)
    page = await placements.on_host("host_1", after=None, limit=2)
    assert [placed.session_id for placed in page] == session_ids[:2]
    assert {placed.host_id for placed in page} == {"host_1"}
    rest = await placements.on_host("host_1", after=session_ids[1], limit=2)
    assert [placed.session_id for placed in rest] == session_ids[2:3]
    assert await placements.counts() == {"host_1": 3, "host_2": 2}


async def a_new_session_has_not_acted(
    stores: Stores, placements: PlacementStore, _: CheckpointStore
) -> None:
    assert not await placements.has_acted((await stores.session()).session_id)


async def the_newest_checkpoint_is_kept(
    stores: Stores, placements: PlacementStore, checkpoints: CheckpointStore
) -> None:
    session_id = (await stores.session()).session_id
    assert await checkpoints.newest(session_id) is None
    first = _checkpoint(stores, session_id, "one")
    assert await checkpoints.keep(first, instead_of=None) is None
    assert await checkpoints.newest(session_id) == first
    assert await checkpoints.keep(first, instead_of=None) is None  # repeated: its blob is needed
    second = _checkpoint(stores, session_id, "two")  # clocks of hosts differ: the time says nothing
    assert await checkpoints.keep(second, instead_of=first.blob_key) == first
    for before in (first.blob_key, None):  # begun before the second, however late its clock
        late = replace(first, blob_key="late", taken_at=first.taken_at + timedelta(hours=1))
        assert await checkpoints.keep(late, instead_of=before) == late
    assert await checkpoints.newest(session_id) == second


async def a_host_that_was_given_up_on_keeps_nothing(
    stores: Stores, placements: PlacementStore, checkpoints: CheckpointStore
) -> None:
    session_id = (await stores.session()).session_id
    before = await placements.place(session_id, host_id="host_1", instead_of=None)
    first = _checkpoint(stores, session_id, "one")
    assert await checkpoints.keep(first, instead_of=None) is None
    await placements.place(session_id, host_id="host_2", instead_of=before)
    stale = _checkpoint(stores, session_id, "two")
    assert await checkpoints.keep(stale, instead_of=first.blob_key) == stale
    assert await checkpoints.newest(session_id) == first
    moved = replace(stale, blob_key="three", host_id="host_2")
    assert await checkpoints.keep(moved, instead_of=first.blob_key) == first


async def a_deleted_session_leaves_its_blob_to_the_clean_up(
    stores: Stores, placements: PlacementStore, checkpoints: CheckpointStore
) -> None:
    kept, bare = (await stores.session()).session_id, (await stores.session()).session_id
    checkpoint = _checkpoint(stores, kept, "one")
    await checkpoints.keep(checkpoint, instead_of=None)
    for session_id in (kept, bare):
        await stores.sessions.delete(session_id)
    work = {(work.session_id, work.kind) for work in await stores.cleanup.pending(limit=10)}
    assert work == {(kept, "workspace"), (kept, "blobs"), (bare, "workspace")}
    late = _checkpoint(stores, kept, "two")
    assert await checkpoints.keep(late, instead_of=checkpoint.blob_key) == late
    assert await checkpoints.newest(kept) == checkpoint
    assert await checkpoints.forget(kept) == checkpoint
    assert await checkpoints.forget(kept) is None and await checkpoints.newest(kept) is None


def _checkpoint(stores: Stores, session_id: SessionId, name: str) -> Checkpoint:
    return Checkpoint(
        session_id=session_id,
        blob_key=f"checkpoints/{session_id}/{name}",
        size_bytes=3,
        sha256="00" * 32,
        host_id="host_1",
        taken_at=stores.clock.now(),
    )


CHECKS: tuple[PlacementCheck, ...] = (
    placing_is_a_compare_and_set,
    each_placement_has_a_name_of_its_own,
    what_was_claimed_since_somebody_looked_stays,
    what_was_decided_on_too_long_ago_stays,
    nobody_places_what_is_gone,
    a_host_knows_what_it_should_not_have,
    what_is_on_a_host_is_listed_and_counted,
    a_new_session_has_not_acted,
    the_newest_checkpoint_is_kept,
    a_host_that_was_given_up_on_keeps_nothing,
    a_deleted_session_leaves_its_blob_to_the_clean_up,
)
