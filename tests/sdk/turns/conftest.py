"""One server for all turns: unmodified SDK -> real processes -> fake Messages API -> real sandboxes."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from corral.testing.messages_api import MessagesApi
from tests.mcp_host import McpHost
from tests.oauth_host import OAuthHost
from tests.served import Served, served
from tests.stage import NARROW, NARROW_TOKENS, Stage, Stages
from tests.web_host import WebHost


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def upstream() -> AsyncIterator[MessagesApi]:
    async with MessagesApi() as api:
        yield api


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebHost]:
    """A web server that `web_fetch` may reach."""
    with WebHost.start(tmp_path_factory.mktemp("web")) as host:
        yield host


@pytest.fixture(scope="session")
def searxng() -> Iterator[WebHost]:
    """Where the server's search engine would be."""
    with WebHost.start() as host:
        yield host


@pytest.fixture(scope="session")
def mcp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[McpHost]:
    """An MCP server that agents may reach."""
    with McpHost.start("legacy", tmp_path_factory.mktemp("mcp")) as host:
        yield host


@pytest.fixture(scope="session")
def liar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[McpHost]:
    """Likewise, one that says what a test tells it to."""
    with McpHost.start("liar", tmp_path_factory.mktemp("liar")) as host:
        yield host


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[McpHost]:
    """Likewise, one over TLS that asks for a token."""
    with McpHost.start("oauth", tmp_path_factory.mktemp("locked")) as host:
        yield host


@pytest.fixture(scope="session")
def login(locked: McpHost) -> Iterator[OAuthHost]:
    """Where new tokens for it are had."""
    with OAuthHost.start(locked) as host:
        yield host


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def corral(
    upstream: MessagesApi,
    web: WebHost,
    searxng: WebHost,
    mcp: McpHost,
    liar: McpHost,
    locked: McpHost,
    login: OAuthHost,
) -> AsyncIterator[Served]:
    narrow = {"ids": [NARROW], "context_window": NARROW_TOKENS, "max_output": 2_000}
    async with served(
        messages_url=upstream.url,
        settings={
            "models": {"model": [narrow]},
            "web_private_hosts": (web.where,),
            "mcp_private_hosts": (mcp.where, liar.where, locked.where, login.where),
            "mcp_ca": locked.authority,
            "web_ca": web.authority,
            "egress_internal_hosts": ("localhost",),
            "search_url": searxng.url(""),
        },
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
