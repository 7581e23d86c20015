"""A brain that was stopped and comes back: it cancels its own request and writes nothing."""

import asyncio
from pathlib import Path

import pytest

from corral.brain.loop import Loop
from corral.kernel.errors import LeaseLost
from corral.kernel.limits import LEASE_TTL_SECONDS
from corral.testing.clock import skip
from corral.testing.messages_api import MessagesApi, Request
from corral.testing.messages_reply import Reply
from corral.testing.sessions import Draft, agent_message
from tests.unit.orchestrator.brain import cluster, until


@pytest.mark.parametrize("is_taken_over", [True, False])
@pytest.mark.parametrize("is_answered", [True, False])
async def test_a_stopped_brain_writes_nothing(
    tmp_path: Path, is_taken_over: bool, is_answered: bool
) -> None:
    """Whether or not another has the session by now, whether or not its model has answered meanwhile."""
    slow = Reply(content=Reply.text("too late").content, first_seconds=LEASE_TTL_SECONDS)
    silent = Reply(content=Reply.text("never").content, hang_after_bytes=200)

    def script(request: Request) -> Reply:
        return slow if is_answered and request.number == 1 else silent

    async with MessagesApi(script) as api, cluster(api, tmp_path) as brains:
        record = await brains.session()
        brains.worker("brain-1")
        request = await api.request(1)
        before = await brains.log.snapshot(record.session_id)
        assert before.record.epoch == 1

        skip(LEASE_TTL_SECONDS)  # it was stopped for so long, and did not notice
        brains.clock.advance(LEASE_TTL_SECONDS)
        if is_taken_over:
            [lease] = await brains.leases.claim(owner="brain-2", limit=1, session_ids=[record.session_id])
            draft = Draft(
                seen=await brains.log.snapshot(record.session_id), lease=lease, now=brains.clock.now()
            )
            await brains.log.append(draft.append([agent_message(brains.ids, "from brain 2")]))

        async def has_stopped() -> bool:
            seen = await brains.sessions.read(record.session_id)
            return request.closed.is_set() and (seen.failures == 1 or seen.epoch > 1)

        await until(has_stopped)
        if not is_answered:
            assert request.is_aborted, "it stopped its own request"
        after = await brains.log.snapshot(record.session_id)
        written = [event.type for event in after.events[len(before.events) :]]
        if is_taken_over:
            assert written == ["agent.message"]
        else:  # nobody else came, so it may have claimed the session anew: as any brain, under a new epoch
            assert written in ([], ["span.model_request_end", "span.model_request_start"])
            assert bool(written) <= (after.record.epoch == 2)
        assert b"too late" not in b"".join(event.body for event in after.events)


async def test_a_loop_looks_at_the_clock_itself(tmp_path: Path) -> None:
    """Before anybody tells it that its lease is over: the answer that waits is not written."""
    slow = Reply(content=Reply.text("too late").content, first_seconds=LEASE_TTL_SECONDS)
    async with MessagesApi(lambda _: slow) as api, cluster(api, tmp_path) as brains:
        record = await brains.session()
        running = asyncio.create_task(Loop(record.session_id, brains.gear("brain-1")).run())
        await api.request(1)
        before = await brains.log.snapshot(record.session_id)
        skip(LEASE_TTL_SECONDS)
        with pytest.raises(LeaseLost):
            await running
        assert (await brains.log.snapshot(record.session_id)).events == before.events
