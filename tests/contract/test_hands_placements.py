"""Placements and checkpoints, on both engines."""

import pytest

from corral.store.checkpoints import Checkpoints
from corral.store.placements import Placements
from corral.testing.contract_placements import CHECKS, PlacementCheck
from tests.opened import Opened


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(check: PlacementCheck, opened: Opened) -> None:
    await check(opened.stores, Placements(opened.database), Checkpoints(opened.database))
