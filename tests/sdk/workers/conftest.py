"""One server with a short lease of work, an environment per test, and workers as processes."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from corral.testing.messages_api import MessagesApi
from tests.served import Served, served
from tests.stage import MODEL, TOOLSET, Stage, Stages

LEASE_SECONDS = 10  # longer than a busy machine takes to start a process


class Worker:
    """A process with an EnvironmentWorker; its tools act in `workdir`."""

    def __init__(self, process: asyncio.subprocess.Process, workdir: Path, log: Path) -> None:
        self.process, self.workdir, self._log = process, workdir, log

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> None:
        if self.process.returncode is None:
            await self.kill()


class Pool:
    """A self-hosted environment of a stage, its key and its workers."""

    def __init__(self, stage: Stage, environment_id: str, key: str, directory: Path) -> None:
        self.stage, self.id, self.key, self.directory = stage, environment_id, key, directory
        self.workers: list[Worker] = []

    async def worker(self, *, max_idle: float = 0.5, **environment: str) -> Worker:
        number = len(self.workers)
        workdir, log = self.directory / f"worker-{number}", self.directory / f"worker-{number}.log"
        workdir.mkdir()
        given = {
            "ANTHROPIC_BASE_URL": self.stage.server.url,
            "ANTHROPIC_ENVIRONMENT_ID": self.id,
            "ANTHROPIC_ENVIRONMENT_KEY": self.key,
            "WORKDIR": str(workdir),
            "MAX_IDLE": str(max_idle),
            **environment,
        }
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.sdk.workers.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, **given},
            )
        made = Worker(process, workdir, log)
        self.workers.append(made)
        return made

    async def session(self, *tools: Any, **fields: Any) -> Any:
        agent = await self.stage.client.beta.agents.create(
            name="Tester",
            model=MODEL,
            system=self.stage.name,
            tools=list(tools or (TOOLSET,)),
            skills=fields.pop("skills", []),
        )
        made = await self.stage.client.beta.sessions.create(
            agent=agent.id, environment_id=self.id, **fields
        )
        self.stage.session_ids.append(made.id)
        return made

    async def items(self) -> list[Any]:
        return [item async for item in self.stage.client.beta.environments.work.list(self.id)]

    async def close(self) -> None:
        for worker in self.workers:
            await worker.stop()
            sys.stderr.write(worker.log)  # shown by pytest when a test fails
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def upstream() -> AsyncIterator[MessagesApi]:
    async with MessagesApi() as api:
        yield api


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def corral(upstream: MessagesApi) -> AsyncIterator[Served]:
    settings = {"work_lease_seconds": LEASE_SECONDS}
    async with served(messages_url=upstream.url, settings=settings) as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stages(upstream: MessagesApi, corral: Served) -> Stages:
    return Stages(upstream, corral)


@pytest_asyncio.fixture(loop_scope="session")
async def stage(stages: Stages) -> AsyncIterator[Stage]:
    async with stages.open() as stage:
        yield stage


@pytest_asyncio.fixture(loop_scope="session")
async def pool(stage: Stage) -> AsyncIterator[Pool]:
    made = await stage.client.beta.environments.create(name="pool", config={"type": "self_hosted"})
    path = f"/corral/v1/environments/{made.id}/keys"
    key = await stage.client.post(path, body={"name": "pool"}, cast_to=object)
    pool = Pool(stage, made.id, key["key"], Path(tempfile.mkdtemp(prefix="corral-workers-")))
    yield pool
    await pool.close()
