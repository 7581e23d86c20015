"""A server is copied in the middle of a turn and lost; what is restored elsewhere goes on by itself."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.testing.messages_api import MessagesApi
from corral.testing.messages_reply import Reply
from tests.served import served, text
from tests.stage import Stages, words

FOR_EVER = "echo started > started; sleep 600"


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A data directory that is not there yet; a unix socket's path holds 107 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="corral-"))
    yield directory / "data"
    shutil.rmtree(directory)


async def corral(*arguments: str | Path) -> str:
    """Run the command line; what it says."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "corral.cli", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(running.communicate(), 60)
    assert running.returncode == 0, output.decode()
    return output.decode()


async def test_a_turn_goes_on_in_a_restored_store(tmp_path: Path, elsewhere: Path) -> None:
    archive = tmp_path / "backup.tar.zst"
    async with (
        MessagesApi() as upstream,
        served(messages_url=upstream.url) as lost,
        Stages(upstream, lost).open() as stage,
    ):
        replies = [Reply.tools(("toolu_1", "bash", {"command": FOR_EVER})), Reply.text("Done.")]
        stage.script = lambda request: replies[request.turns]
        session = await stage.session()
        await stage.send(session.id, text("Go."))
        await stage.exists(session.id, "started")
        before = [event.id for event in await stage.history(session.id)]
        said = await corral("backup", archive, "--data-dir", lost.config.data_dir)
        assert "from sqlite: 1 sessions" in said
        assert "not in it: the files of sessions" in said
        await lost.stop()

        said = await corral("restore", archive, "--data-dir", elsewhere)
        assert "as in the backup" in said and "begin with empty workspaces" in said
        here = {"data_dir": elsewhere}
        async with served(messages_url=upstream.url, settings=here) as found:
            stage.server, stage.client = found, found.client
            await stage.rests(session.id, seconds=60)
            history = await stage.history(session.id)
        assert [event.id for event in history][: len(before)] == before
        (result,) = [event for event in history if event.type == "agent.tool_result"]
        assert result.is_error and "outcome" in words(result) and "unknown" in words(result)
        (answer,) = [event for event in history if event.type == "agent.message"]
        assert words(answer) == "Done."
