"""Placements and checkpoints, on both engines."""

import pytest

from corral.kernel.limits import LEASE_TTL_SECONDS
from corral.store.checkpoints import Checkpoints
from corral.store.placements import Placements
from corral.testing.contract_placements import CHECKS, PlacementCheck
from tests.opened import Opened


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(check: PlacementCheck, opened: Opened) -> None:
    await check(opened.stores, Placements(opened.database), Checkpoints(opened.database))


async def test_who_runs_a_session_moves_it_and_nobody_else(opened: Opened) -> None:
    """While the lease lasts; it says where the calls go."""
    stores = opened.stores
    lease = await stores.leased()
    ours, theirs = (Placements(opened.database, owner=owner) for owner in (lease.owner, "another"))
    placed = await theirs.place(lease.session_id, host_id="host_1", instead_of=None)
    assert await theirs.place(lease.session_id, host_id="host_2", instead_of=placed) == placed
    moved = await ours.place(lease.session_id, host_id="host_2", instead_of=placed)
    assert moved.host_id == "host_2"
    stores.clock.advance(LEASE_TTL_SECONDS + 1)
    assert (await theirs.place(lease.session_id, host_id="host_3", instead_of=moved)).host_id == "host_3"
