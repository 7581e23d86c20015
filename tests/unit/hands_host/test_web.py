"""Calls of web tools in a hands host: journaled like every call, and no sandbox is made for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import orjson
import pytest

from corral.catalog.web.rules import WebRules
from corral.hands.wire import decode_call, encode_call
from corral.kernel.errors import SandboxUnavailable
from corral.kernel.limits import TOOL_OUTPUT_CHARS_MAX
from corral.session.call import INTERRUPTED, Recipe, ToolCall
from corral.session.content import ToolResult

SESSION = "sesn_1"


class Counter:
    """A web whose pages are numbers: how often one was asked for. A page "wait" comes once `go` is set."""

    def __init__(self) -> None:
        self.asked = 0
        self.unavailable = False
        self.is_closed = False
        self.arrived, self.go = asyncio.Event(), asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self.places, self.waits = asyncio.Semaphore(5), asyncio.Event()

    @asynccontextmanager
    async def place(self, session_id: str) -> AsyncIterator[None]:
        if self.places.locked():
            self.waits.set()
        async with self.places:
            yield

    async def run(self, call: ToolCall) -> ToolResult:
        self.asked += 1
        self.arrived.set()
        if self.unavailable:
            raise SandboxUnavailable("no sandbox here")
        if call.input["url"] == "long":
            data = "a" + "é" * TOOL_OUTPUT_CHARS_MAX + "z"
            return ToolResult(
                content=({"type": "document", "source": {"type": "text", "data": data}, "title": "Long"},)
            )
        if call.input["url"] == "wait":
            waiting = asyncio.ensure_future(self.go.wait())
            self._running[call.call_id] = waiting  # type: ignore[assignment]
            await asyncio.wait({waiting})
            if waiting.cancelled():
                return ToolResult.text(INTERRUPTED, is_error=True)
        return ToolResult.text(str(self.asked))

    async def cancel(self, call_id: str) -> None:
        self._running[call_id].cancel()

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.fixture
def web() -> Counter:
    return Counter()


@pytest.fixture
async def host(open_host, web):
    async with open_host(web=web) as host:
        yield host


@pytest.fixture
def fetch(bash):
    def make(call_id: str, url: str = "page") -> ToolCall:
        return replace(bash(call_id, ""), name="web_fetch", input={"url": url}, web=WebRules())

    return make


def text(result: ToolResult) -> str:
    return "".join(block["text"] for block in result.content)


async def test_a_fetch_happens_once_and_needs_no_sandbox(host, fetch, web, provider) -> None:
    call = fetch("c1")
    results = await asyncio.gather(*(host.execute(call, epoch=1) for _ in range(5)))
    results += [await host.execute(call, epoch=1), await host.attach(call, epoch=2)]
    assert {text(result) for result in results} == {"1"}
    assert (web.asked, provider.created) == (1, [])


async def test_a_fetch_is_no_news_for_the_sandbox(host, fetch, bash, journal) -> None:
    await host.execute(fetch("c1"), epoch=1)
    assert await journal.held.rows(SESSION) == [], "nothing lies here yet"
    first = await host.execute(bash("c2", "echo shell"), epoch=1)
    assert text(first) == "shell\n", "the model is not told that an earlier sandbox is gone"
    (before,) = await journal.held.rows(SESSION)
    await host.execute(fetch("c3"), epoch=1)
    assert await journal.held.rows(SESSION) == [before], "and there is nothing to copy"


async def test_a_fetch_goes_on_while_the_shell_works(host, fetch, bash, web, provider) -> None:
    waiting = asyncio.create_task(host.execute(fetch("c1", "wait"), epoch=1))
    await web.arrived.wait()
    assert text(await host.execute(bash("c2", "echo shell"), epoch=1)) == "shell\n"
    web.go.set()
    assert text(await waiting) == "1"
    assert len(provider.created) == 1


async def test_a_fetch_can_be_cancelled_and_the_sandbox_stays(host, fetch, bash, web, provider) -> None:
    await host.execute(bash("c0", "true"), epoch=1)
    waiting = asyncio.create_task(host.execute(fetch("c1", "wait"), epoch=1))
    await web.arrived.wait()
    await host.cancel(SESSION, epoch=1, call_ids=["c1"])
    result = await waiting
    assert (text(result), result.is_error) == (INTERRUPTED, True)
    assert text(await host.execute(fetch("c1", "wait"), epoch=1)) == INTERRUPTED
    await host.execute(bash("c2", "true"), epoch=1)
    assert (web.asked, len(provider.created)) == (1, 1)


async def test_a_fetch_that_waits_for_its_turn_has_not_started(open_host, fetch, web, journal) -> None:
    """If its host dies, no row of the journal keeps it from being run."""
    web.places = asyncio.Semaphore(0)
    async with open_host(web=web) as host, asyncio.timeout(30):
        waiting = asyncio.create_task(host.execute(fetch("c1"), epoch=1))
        await web.waits.wait()
        assert await journal.fence(SESSION, epoch=1, call_id="c1") is None
        web.places.release()
        assert text(await waiting) == "1"
        assert await journal.fence(SESSION, epoch=1, call_id="c1") is not None
        web.waits.clear()
        await web.places.acquire()
        waiting = asyncio.create_task(host.execute(fetch("c2"), epoch=1))
        await web.waits.wait()
        await host.cancel(SESSION, epoch=1, call_ids=["c2"])
        assert text(await waiting) == INTERRUPTED
    assert web.asked == 1


async def test_a_fetch_that_cannot_be_made_safe_is_an_error_result(host, fetch, web) -> None:
    web.unavailable = True
    result = await host.execute(fetch("c1"), epoch=1)
    assert result.is_error
    assert text(result).startswith("unavailable: no sandbox")


async def test_a_long_page_is_a_file_in_the_workspace(host, fetch, bash, journal) -> None:
    result = await host.execute(fetch("c1", "long"), epoch=1)
    [document] = result.content
    shown, path = document["source"]["data"], "/mnt/session/tool-outputs/c1.txt"
    assert shown.startswith(f"[output of more than 100000 characters; all of it is in {path}]\naé")
    assert shown.endswith("éz") and len(shown) < 5000 and document["title"] == "Long"
    (held,) = await journal.held.rows(SESSION)
    assert (held.had, held.changes - held.kept > 0) == (False, True), "to copy, and no news"
    # The provider of these tests sees the whole layout below the workspace.
    counted = await host.execute(bash("c2", f"wc -m < .{path}; tail -c 1 .{path}"), epoch=1)
    assert text(counted) == f"{TOOL_OUTPUT_CHARS_MAX + 2}\nz"
    assert (await host.execute(fetch("c1", "long"), epoch=1)) == result


async def test_a_long_page_of_a_session_elsewhere_is_cut(host, fetch, journal) -> None:
    elsewhere = replace(fetch("c1", "long"), recipe=Recipe(environment={"type": "self_hosted"}))
    [document] = (await host.execute(elsewhere, epoch=1)).content
    shown = document["source"]["data"]
    assert shown.startswith("aé") and shown.endswith("these are its first 100000 characters]")
    assert await journal.held.rows(SESSION) == []


async def test_a_long_page_is_shown_though_no_file_can_be_made(host, fetch, provider) -> None:
    async def full(workspace, archive) -> None:
        raise SandboxUnavailable("the disk is full")

    provider.unpack = full
    result = await host.execute(fetch("c1", "long"), epoch=1)
    shown = result.content[0]["source"]["data"]
    assert "all of it is in no file (the disk is full)]" in shown and shown.endswith("éz")
    assert not result.is_error


async def test_a_host_without_web_tools_says_so(open_host, fetch) -> None:
    async with open_host() as host:
        result = await host.execute(fetch("c1"), epoch=1)
    assert (result.is_error, text(result)) == (True, "unavailable: this host has no web tools")


async def test_the_host_ends_what_the_web_still_does(open_host, web) -> None:
    async with open_host(web=web):
        pass
    assert web.is_closed


@pytest.mark.parametrize(
    "rules",
    [
        None,
        WebRules(),
        WebRules(
            allowed_domains=("example.com",),
            blocked_domains=("a.example",),
            allowed_hosts=(),
            max_content_tokens=7,
            user_location={"type": "approximate", "city": "Berlin"},
        ),
    ],
)
def test_rules_travel_with_their_call(fetch, rules) -> None:
    call = replace(fetch("c1"), web=rules)
    assert decode_call(orjson.loads(encode_call(call, epoch=3))) == (call, 3)


def test_a_rule_that_a_host_does_not_know_stops_the_call(fetch) -> None:
    body = orjson.loads(encode_call(fetch("c1"), epoch=3))
    body["call"]["web"]["only_on_sundays"] = True
    with pytest.raises(TypeError):
        decode_call(body)
