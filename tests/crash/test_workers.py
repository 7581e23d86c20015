"""Workers of a self-hosted environment, and outputs of cloud sessions, on a server that dies in every turn.

Laws, besides those that hold for every session (`tests/stage.py`): each call has exactly one result, which
is what some run of it said; the files of a session are what its sandbox holds; each content of a file is
published once, whatever dies.
"""

import asyncio
import hashlib
import re
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anthropic
import pytest
from sqlalchemy import select

from corral.store.engine import sqlite_engine
from corral.store.schema import files
from corral.testing.messages_api import Request
from corral.testing.messages_reply import Answer, Reply
from tests.sdk.workers.conftest import Pool
from tests.served import WAIT_SECONDS, Served, text, until
from tests.stage import Stage, staged, words

HOSTED, CLOUD, ROUNDS = 3, 2, 2  # sessions of each kind, and calls of each turn
LEASE_SECONDS = 5  # of work: that of the worker which dies ends by then
TURN_SECONDS = 90.0  # of one turn, with its fault, on a busy machine
KILL = "kill -9, in the middle of a call"
FAULTS = (  # one in each turn
    KILL,
    "store.accept.after",  # a result is stored, and its worker never hears of it
    "outputs.after_file:2",  # that it is there is noted nowhere yet
    "outputs.after_file:5",
)
DEATH_OF_A_WORKER = 1  # in this turn, too: it is its result that was stored
OUT = "/mnt/session/outputs"
FILES = ["managed-agents-2026-04-01"]


def command(said: str, number: int, notes: Path) -> str:
    """Of a hosted session: say a number that nobody can guess, and note it. Of a cloud session: a new file,
    one that is written anew, one that is renamed."""
    if said.startswith("hosted"):
        note = f"{notes}/{said.split()[1]}-{number}"
        return f"n=$RANDOM$RANDOM; echo $n >> {note}; sleep 0.3; echo it said $n"
    return (
        f"cd {OUT}; echo {said} {number} > new-{number}; echo {said} {number} >> again;"
        f" echo {said} {number} > was-{number}; sleep 0.6; mv was-{number} is-{number};"
        " for f in *; do echo $(sha256sum < $f | cut -c1-64) $f; done"
    )


def script(notes: Path) -> Callable[[Request], Answer]:
    def answer(request: Request) -> Answer:
        messages = request.json["messages"]
        blocks = [
            block for message in messages if message["role"] == "user" for block in message["content"]
        ]
        said = [number for number, block in enumerate(blocks) if block["type"] == "text"][-1]
        if len(blocks) - said > ROUNDS:
            return Reply.text("Done.")
        number = sum(block["type"] == "tool_result" for block in blocks)
        call = {"command": command(blocks[said]["text"], number, notes)}
        return Reply.tools((f"toolu_{number}", "bash", call))

    return answer


class Watcher:
    """What becomes of the outputs of sessions. `seen`: the ids of each content, by session and name."""

    def __init__(self, server: Served, session_ids: list[str]) -> None:
        self._client, self._session_ids = server.client, session_ids
        self._engine = sqlite_engine(server.config.data_dir / "corral.db", writes=False)
        self.seen: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)

    def look(self) -> None:
        """Below the API: at this moment, whether the server lives or not."""
        with self._engine.begin() as connection:
            rows = connection.execute(select(files).where(files.c.scope_id.in_(self._session_ids)))
            for row in rows:
                self.seen[row.scope_id, row.filename, row.sha256].add(row.file_id)

    async def run(self) -> None:
        try:
            while True:
                self.look()
                await asyncio.sleep(0.05)
        finally:
            self._engine.dispose()

    async def held(self, session_id: str) -> dict[str, str]:
        """The digest of each file, by name, as a client gets them."""
        listed = [each async for each in self._client.beta.files.list(scope_id=session_id, betas=FILES)]
        found = {}
        for each in listed:
            with suppress(anthropic.NotFoundError):  # it has just been replaced
                content = await self._client.beta.files.download(each.id, betas=FILES)
                found[each.filename] = hashlib.sha256(await content.read()).hexdigest()
        assert len({each.filename for each in listed}) == len(listed), "a file is there twice"
        return found


@asynccontextmanager
async def pool_of(stage: Stage) -> AsyncIterator[Pool]:
    made = await stage.client.beta.environments.create(name="pool", config={"type": "self_hosted"})
    path = f"/corral/v1/environments/{made.id}/keys"
    key = await stage.client.post(path, body={"name": "pool"}, cast_to=object)
    pool = Pool(stage, made.id, key["key"], Path(tempfile.mkdtemp(prefix="corral-workers-")))  # type: ignore[index]
    try:
        yield pool
    finally:
        await pool.close()


async def rested(stage: Stage, session_id: str, turns: int) -> list[Any]:
    """The log of a session once so many turns are over."""
    async with asyncio.timeout(TURN_SECONDS):
        while True:
            with suppress(anthropic.APIConnectionError, anthropic.InternalServerError):
                events = await stage.history(session_id)
                reasons = [each.stop_reason.type for each in events if each.type == "session.status_idle"]
                if reasons.count("end_turn") == turns:
                    return events
            await asyncio.sleep(0.1)


async def break_it(
    server: Served, fault: str, pool: Pool, notes: Path, watcher: Watcher, *, with_worker: bool
) -> None:
    """Once a call of a hosted session runs; an output may be there at any time."""
    if not fault.startswith("outputs."):
        before = len(list(notes.iterdir()))
        await until(lambda: len(list(notes.iterdir())) > before, seconds=TURN_SECONDS)
    if fault == KILL:
        await server.kill("server")
    else:
        server.crash_at(fault)
        if with_worker:
            await pool.workers[0].kill()
            await pool.worker()
        await until(server.has_crashed, seconds=TURN_SECONDS)
    watcher.look()


def check_hosted(events: list[Any], notes: Path, number: int) -> None:
    uses = [event.id for event in events if event.type == "agent.tool_use"]
    results = [event for event in events if event.type == "user.tool_result"]
    assert [result.tool_use_id for result in results] == uses and len(uses) == ROUNDS * len(FAULTS)
    for call, result in enumerate(results):
        said = re.search(r"it said (\d+)", words(result))
        noted = (notes / f"{number}-{call}").read_text().split()
        assert said and said[1] in noted, "a result is what a run of the call said"


async def check_cloud(events: list[Any], watcher: Watcher, session_id: str) -> None:
    results = [event for event in events if event.type == "agent.tool_result"]
    assert len(results) == ROUNDS * len(FAULTS) and not any(result.is_error for result in results)
    lines = re.findall(r"^([0-9a-f]{64}) (\S+)$", words(results[-1]), re.M)
    there = {name: digest for digest, name in lines}
    assert len(there) == 2 * len(results) + 1
    async with asyncio.timeout(WAIT_SECONDS):
        while await watcher.held(session_id) != there:  # noqa: ASYNC110  (a list sends no events)
            await asyncio.sleep(0.1)


@pytest.mark.timeout(300)
async def test_workers_and_outputs_on_a_server_that_dies_in_every_turn() -> None:
    settings = {"work_lease_seconds": LEASE_SECONDS}
    async with (
        staged(crashing=True, settings=settings) as stages,
        stages.open() as stage,
        pool_of(stage) as pool,
    ):
        notes = pool.directory / "notes"
        notes.mkdir()
        stage.script = script(notes)
        for _ in range(2):
            await pool.worker()
        hosted = [(await pool.session()).id for _ in range(HOSTED)]
        cloud = [(await stage.session()).id for _ in range(CLOUD)]
        watcher = Watcher(stage.server, cloud)
        watching = asyncio.create_task(watcher.run())
        for turn, fault in enumerate(FAULTS):
            with_worker = turn == DEATH_OF_A_WORKER
            breaking = asyncio.create_task(
                break_it(stage.server, fault, pool, notes, watcher, with_worker=with_worker)
            )
            for kind, session_ids in (("cloud", cloud), ("hosted", hosted)):
                for number, session_id in enumerate(session_ids):
                    await stage.send_surely(session_id, text(f"{kind} {number}"))
            await breaking
            logs = {each: await rested(stage, each, turn + 1) for each in (*hosted, *cloud)}
        for number, session_id in enumerate(hosted):
            check_hosted(logs[session_id], notes, number)
        for session_id in cloud:
            await check_cloud(logs[session_id], watcher, session_id)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        twice = {of: ids for of, ids in watcher.seen.items() if len(ids) > 1}
        assert twice == {} and len(watcher.seen) > CLOUD * ROUNDS * len(FAULTS)
        assert stage.server.deaths == len(FAULTS)
