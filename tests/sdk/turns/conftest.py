"""One server for all turns: unmodified SDK -> real processes -> fake Messages API -> real sandboxes."""

from collections.abc import AsyncIterator

import pytest_asyncio

from corral.testing.messages_api import MessagesApi
from tests.served import Served, served
from tests.stage import NARROW, NARROW_TOKENS, Stage, Stages


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def upstream() -> AsyncIterator[MessagesApi]:
    async with MessagesApi() as api:
        yield api


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def corral(upstream: MessagesApi) -> AsyncIterator[Served]:
    narrow = {"ids": [NARROW], "context_window": NARROW_TOKENS, "max_output": 2_000}
    async with served(
        messages_url=upstream.url,
        settings={"models": {"model": [narrow]}},
        AWS_SECRET_ACCESS_KEY="canary-5f2d9c",
    ) as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stages(upstream: MessagesApi, corral: Served) -> Stages:
    return Stages(upstream, corral)


@pytest_asyncio.fixture(loop_scope="session")
async def stage(stages: Stages) -> AsyncIterator[Stage]:
    async with stages.open() as stage:
        yield stage
