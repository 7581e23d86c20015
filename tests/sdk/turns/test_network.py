"""What an agent reaches, through real processes, and what is written down of it."""

import asyncio
import contextlib
import csv
import io
import re
from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx2
import pytest

from corral.cli.audit import Wanted, export_audit, list_audit
from corral.cli.connect import Api, Server
from corral.cli.sessions import show_events
from corral.testing.messages_reply import Reply
from corral.testing.origin import Origin
from tests.served import KEY, WAIT_SECONDS, text
from tests.stage import TOOLSET, Stage, words
from tests.web_host import WebHost

pytestmark = pytest.mark.asyncio(loop_scope="session")
_numbers = count(1)
ASK = "curl -s --noproxy '' -w ' %{http_code}'"  # localhost is proxied, too


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin.start() as origin:
        yield origin


async def session_in(stage: Stage, networking: dict[str, Any]) -> str:
    environment = await stage.client.beta.environments.create(
        name="net",
        config={"type": "cloud", "networking": networking},  # type: ignore[typeddict-item]
    )
    agent = await stage.client.beta.agents.create(
        name="Tester", model="claude-opus-5-5", system=stage.name, tools=[TOOLSET]
    )
    session = await stage.client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    stage.session_ids.append(session.id)
    return str(session.id)


async def runs(stage: Stage, session_id: str, command: str) -> str:
    call = (f"toolu_net_{next(_numbers)}", "bash", {"command": command})
    stage.play(Reply.tools(call), Reply.text("Done."))
    async with stage.watch(session_id) as tail:
        await stage.send(session_id, text("Go on."))
        await tail.idle()
        return words(await tail.until("agent.tool_result"))


def client(stage: Stage) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=stage.server.url, headers={"x-api-key": KEY}, timeout=WAIT_SECONDS)


async def audit(stage: Stage, path: str, *, most: int, **params: str) -> list[dict[str, Any]]:
    """Once there are so many entries, all of them over."""
    async with client(stage) as http:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:  # what is written down arrives within a second or two
                answer = await http.get(path, params=params)
                assert answer.status_code == 200, answer.text
                found: list[dict[str, Any]] = answer.json()["data"]
                if len(found) >= most and all(
                    each["seconds"] is not None or each["decision"] == "denied" for each in found
                ):
                    return found
                await asyncio.sleep(0.1)


async def until_metrics(stage: Stage, *patterns: str) -> None:
    async with client(stage) as http:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:  # doors are counted at every look, 5 s apart; requests once they are in the store
                shown = (await http.get("/metrics")).text
                if all(re.search(each, shown) for each in patterns):
                    return
                await asyncio.sleep(0.5)


async def test_pages_that_an_agent_reads_are_written_down_too(stage: Stage, web: WebHost) -> None:
    session_id = await session_in(stage, {"type": "limited", "allowed_hosts": ["localhost"]})
    url = web.page("here", path="/written-down", type_="text/plain")
    stage.play(
        Reply.tools(("toolu_page_1", "web_fetch", {"url": url})),
        Reply.tools(("toolu_page_2", "web_fetch", {"url": "https://example.com/"})),
        Reply.text("Done."),
    )
    async with stage.watch(session_id) as tail:
        await stage.send(session_id, text("Read both."))
        await tail.idle()
    page, refused = tail.of("agent.tool_result")
    assert not page.is_error and words(refused).startswith("url_not_allowed: ")
    denied, allowed = await audit(stage, f"/corral/v1/sessions/{session_id}/audit", most=2)
    assert (denied["host"], denied["method"], denied["decision"]) == ("example.com", "CONNECT", "denied")
    assert (allowed["host"], allowed["port"], allowed["decision"]) == ("localhost", web.port, "allowed")


async def test_what_an_agent_reaches_is_written_down(
    stage: Stage, origin: Origin, capsys: pytest.CaptureFixture[str]
) -> None:
    session_id = await session_in(stage, {"type": "limited", "allowed_hosts": ["localhost"]})
    url = f"localhost:{origin.port}"
    assert await runs(stage, session_id, f"{ASK} http://{url}/") == "hello 200"
    assert "example.com is blocked" in await runs(stage, session_id, f"{ASK} http://example.com/")
    assert origin.requests[0][:2] == ("GET", "/")

    denied, allowed = await audit(stage, "/corral/v1/audit", most=2, session_id=session_id)
    session = await stage.client.beta.sessions.retrieve(session_id)
    assert (denied["host"], denied["port"], denied["decision"]) == ("example.com", 80, "denied")
    assert (allowed["host"], allowed["method"], allowed["decision"]) == ("localhost", "GET", "allowed")
    assert allowed["agent_id"] == session.agent.id and allowed["api_key_id"].startswith("apikey_")
    assert allowed["workspace_id"] == "wrkspc_default" and allowed["credential_id"] is None
    assert allowed["received_bytes"] > 5 and allowed["failed"] is None

    of_session = await audit(stage, f"/corral/v1/sessions/{session_id}/audit", most=2)
    assert [each["id"] for each in of_session] == [denied["id"], allowed["id"]]
    assert not {"api_key_id", "detail", "workspace_id"} & of_session[0].keys()
    [only] = await audit(stage, "/corral/v1/audit", most=1, session_id=session_id, decision="denied")
    assert only == denied
    key = allowed["api_key_id"]
    mine = {"api_key_id": key, "session_id": session_id}  # other tests have the same key
    [only] = await audit(stage, "/corral/v1/audit", most=1, host="localhost", **mine)
    assert only == allowed

    events = await stage.client.beta.sessions.events.list(session_id, limit=100)
    assert not [each for each in events.data if "audit" in each.type]  # nothing of it is on the wire

    api = Api(Server(url=stage.server.url, key=KEY))
    wanted = Wanted(session_id=session_id)
    with contextlib.closing(api):
        await asyncio.to_thread(list_audit, api, wanted, most=10, as_json=False)
        assert "example.com:80" in capsys.readouterr().out
        await asyncio.to_thread(show_events, api, session_id, most=100, with_network=True, as_json=False)
        shown = capsys.readouterr().out
        places = [f"GET {url} allowed", "hello 200", "GET example.com:80 denied: the networking"]
        assert sorted(places, key=shown.index) == places
        await asyncio.to_thread(export_audit, api, wanted, format_="csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["host"] for row in rows] == ["example.com", "localhost"]


async def test_unrestricted_is_not_everywhere(stage: Stage, origin: Origin) -> None:
    """Addresses of our own network are refused, in every notation; what the operator opened is not."""
    session_id = await session_in(stage, {"type": "unrestricted"})
    assert await runs(stage, session_id, f"{ASK} http://localhost:{origin.port}/") == "hello 200"
    for host in ("127.0.0.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"):
        said = await runs(stage, session_id, f"{ASK} -g 'http://{host}:{origin.port}/'")
        assert "is blocked: it is at an address that is not public" in said and said.endswith("403")
    entries = await audit(stage, f"/corral/v1/sessions/{session_id}/audit", most=7)
    assert [each["decision"] for each in entries] == ["denied"] * 6 + ["allowed"]
    assert "127.0.0.1" not in str(entries[0]["reason"])
    assert len(origin.requests) == 1
    await until_metrics(stage, r"corral_egress_doors ([1-9]\d*)", r"corral_egress_audit_bytes \d+")
    await until_metrics(
        stage, *(rf'_requests_total{{decision="{it}"}} [1-9]' for it in ("allowed", "denied"))
    )


async def test_it_outlives_the_egress_process(stage: Stage, origin: Origin) -> None:
    session_id = await session_in(stage, {"type": "unrestricted"})
    ask = f"{ASK} http://localhost:{origin.port}/"
    assert await runs(stage, session_id, ask) == "hello 200"
    await stage.server.kill("egress")
    assert await runs(stage, session_id, ask) == "hello 200"
    await audit(stage, f"/corral/v1/sessions/{session_id}/audit", most=2)
