"""One server for all turns: unmodified SDK -> real processes -> fake Messages API -> real sandboxes."""

from collections.abc import AsyncIterator

import pytest_asyncio

from corral.testing.messages_api import MessagesApi
from tests.served import Served, served
from tests.stage import Stage, Stages


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def upstream() -> AsyncIterator[MessagesApi]:
    async with MessagesApi() as api:
        yield api


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def corral(upstream: MessagesApi) -> AsyncIterator[Served]:
    async with served(messages_url=upstream.url, AWS_SECRET_ACCESS_KEY="canary-5f2d9c") as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stages(upstream: MessagesApi, corral: Served) -> Stages:
    return Stages(upstream, corral)


@pytest_asyncio.fixture(loop_scope="session")
async def stage(stages: Stages) -> AsyncIterator[Stage]:
    async with stages.open() as stage:
        yield stage
