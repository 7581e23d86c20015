"""A wall clock that is set while the server runs: stamps still increase, nobody loses a lease or waits."""

import time
from pathlib import Path

from corral.testing.messages_reply import Reply
from tests.served import text
from tests.stage import staged

STEPS = (0, -3600, 3600, -60)  # seconds from the true time, one after the other


async def test_turns_go_on_when_the_clock_is_set(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    async with staged(CORRAL_FAULTS=f"@{clock}") as stages, stages.open() as stage:
        for turn in range(len(STEPS)):
            bash = {"type": "tool_use", "id": f"toolu_{turn}", "name": "bash", "input": {"command": "true"}}
            stage.play(Reply(content=[bash], stop_reason="tool_use"), Reply.text("Done."))
        session = await stage.session()
        async with stage.watch(session.id) as tail:
            for turn, step in enumerate(STEPS, start=1):
                new = clock.with_suffix(".new")
                new.write_text(f"clock.step={step}")
                new.rename(clock)
                await stage.send(session.id, text("Go."))
                await tail.idle(turn)  # within a minute: nobody waited for the old time to come
        events = await stage.history(session.id)
    assert [event.type for event in events].count("agent.tool_result") == len(STEPS)
    assert not any(event.type == "session.error" for event in events)
    stamps = [event.processed_at.timestamp() for event in events]
    assert stamps == sorted(set(stamps))
    assert stamps[-1] - time.time() > 3000, "the server's clock was really set"
