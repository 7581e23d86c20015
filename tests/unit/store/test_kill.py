"""A kill does not wait behind the failures of the session, whichever way its last brain went."""

import pytest

from corral.kernel.limits import LEASE_TTL_SECONDS
from corral.session.kill import KillTarget
from corral.store.kill import Kills
from corral.testing.sessions import user_message
from tests.opened import Opened


@pytest.mark.parametrize("is_past", [True, False])
async def test_who_let_its_lease_pass_keeps_no_kill_waiting(opened: Opened, is_past: bool) -> None:
    """Whether the kill comes after the end of the lease, or while nobody knows that its holder is dead."""
    stores = opened.stores
    lease = await stores.leased()
    await stores.log.accept(lease.session_id, [user_message(stores.ids)], now=stores.clock.now())
    for _ in range(3):
        await stores.leases.fail([lease])
        stores.clock.advance(60.0)
        [lease] = await stores.leases.claim(owner="brain-1", limit=1, session_ids=[lease.session_id])
    if is_past:
        stores.clock.advance(LEASE_TTL_SECONDS)
    assert await stores.leases.waiting(limit=1) == []
    target, now = KillTarget(workspace_id=None, session_id=lease.session_id), stores.clock.now()
    killed = await Kills(opened.database, stores.bus).kill(
        target, reason="", now=now, after=None, before=now
    )
    assert killed.session_ids == [lease.session_id]
    if not is_past:
        assert await stores.leases.waiting(limit=1) == [], "its holder may yet do it"
        stores.clock.advance(LEASE_TTL_SECONDS)
    assert await stores.leases.waiting(limit=1) == [lease.session_id]
    [lease] = await stores.leases.claim(owner="brain-2", limit=1)
    assert lease.failures == 4, "it is a failure all the same"
    stores.clock.advance(LEASE_TTL_SECONDS)
    assert await stores.leases.waiting(limit=1) == [], "the kill was seen: the next one waits again"
