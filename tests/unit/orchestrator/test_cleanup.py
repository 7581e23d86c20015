"""Clean-up: what one session leaves behind does not keep the others, or the server, from going on."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from corral.kernel.errors import SandboxUnavailable
from corral.kernel.ids import SessionId
from corral.orchestrator.cleanup import clean_up
from corral.store.cleanup import Cleanup, queue_cleanup
from corral.store.database import Database

STUBBORN, GONE = SessionId("sesn_stubborn"), SessionId("sesn_gone")


class Hands:
    """A host on which one workspace cannot be emptied."""

    def __init__(self) -> None:
        self.second_round = asyncio.Event()
        self._tries = 0

    async def release(self, session_id: SessionId, *, delete_workspace: bool) -> None:
        if session_id == STUBBORN:
            self._tries += 1
            if self._tries == 2:
                self.second_round.set()
            raise SandboxUnavailable("the workspace could not be emptied")


async def test_a_workspace_that_cannot_be_removed_is_tried_again_alone(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "corral.db")
    cleanup, hands, now = Cleanup(database), Hands(), datetime(2026, 11, 20, tzinfo=UTC)
    for session_id in (STUBBORN, GONE):
        await database.write(lambda c, s=session_id: queue_cleanup(c, s, "workspace", now=now))
    cleaning = asyncio.create_task(clean_up(cleanup, hands))
    async with asyncio.timeout(60):
        await hands.second_round.wait()
    assert not cleaning.done()
    cleaning.cancel()
    await asyncio.gather(cleaning, return_exceptions=True)
    assert [work.session_id for work in await cleanup.pending(limit=9)] == [STUBBORN]
    await database.close()
