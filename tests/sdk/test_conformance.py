"""`corral conformance`, and the official SDKs of other languages and years, against a whole Corral."""

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest
import pytest_asyncio

import corral.conformance.cases  # noqa: F401  fills CASES
from corral.conformance.case import CASES
from corral.conformance.report import covered, write_junit
from corral.conformance.run import Outcome, Server, run_all
from corral.conformance.surface import SURFACE
from corral.testing.messages_api import MessagesApi, Request
from corral.testing.messages_reply import Answer, Reply
from tests.served import KEY, Served, served

MODEL = "claude-haiku-4-5"
TYPESCRIPT = Path(__file__).parents[1] / "typescript"
OLDER = Path(sys.prefix) / "older-sdks"
CLIENT_SECONDS_MAX = 240.0  # another client's whole run

KNOWN_GAPS: Mapping[str, str] = {}
"""Endpoints that no case covers, and why. An endpoint that is neither covered nor here fails a test."""


def follow(request: Request) -> Answer:
    """What any model does with the instructions of the cases."""
    last = request.json["messages"][-1]["content"]
    if last[-1]["type"] == "tool_result":
        content = last[-1]["content"]
        return Reply.text(content if isinstance(content, str) else content[0]["text"])
    said = last[-1]["text"]
    call_id = f"toolu_{request.number:024}"
    if found := re.search(r"bash tool once, with exactly this command: (.*)", said):
        return Reply.tools((call_id, "bash", {"command": found[1]}))
    if found := re.search(r"look_up tool once, with exactly this word: (.*)", said):
        return Reply.tools((call_id, "look_up", {"word": found[1]}))
    if found := re.search(r"exactly this word and nothing else: (.*)", said):
        return Reply.text(found[1])
    return Reply.text("Done.")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served_to_all() -> AsyncIterator[Served]:
    async with MessagesApi(follow) as upstream, served(messages_url=upstream.url) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outcomes(served_to_all: Served) -> list[Outcome]:
    target = Server(url=served_to_all.url, api_key=KEY, model=MODEL)
    return await run_all(target, CASES)


@pytest.mark.asyncio(loop_scope="module")
async def test_every_case_passes(outcomes: list[Outcome]) -> None:
    failed = {outcome.case.name: outcome.reason for outcome in outcomes if outcome.verdict != "passed"}
    assert failed == {}


@pytest.mark.asyncio(loop_scope="module")
async def test_the_junit_report_has_every_case(outcomes: list[Outcome], tmp_path: Path) -> None:
    write_junit(outcomes, tmp_path / "report.xml", url="http://server")
    suite = ElementTree.parse(tmp_path / "report.xml").getroot()
    assert [case.get("name") for case in suite] == [case.name for case in CASES]
    assert suite.get("failures") == "0"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_server_that_answers_wrongly_fails(served_to_all: Served) -> None:
    case = next(case for case in CASES if case.name == "an_unknown_agent_is_not_found")
    [outcome] = await run_all(Server(url=served_to_all.url, api_key="wrong", model=MODEL), [case])
    assert outcome.verdict == "failed"
    assert "401" in outcome.reason


def test_every_endpoint_is_covered_or_a_known_gap() -> None:
    cases = covered(CASES)
    assert {name for name, found in cases.items() if not found} == set(KNOWN_GAPS)
    assert len(cases) == len(SURFACE) == 83


async def output_of(*command: str, **environment: str) -> tuple[int | None, bytes, bytes]:
    """Exit code, output and standard error of another client's run."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, said = await asyncio.wait_for(process.communicate(), CLIENT_SECONDS_MAX)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, output, said


@pytest.mark.skipif(not OLDER.is_dir(), reason="not here: older official SDKs (scripts/setup dev)")
@pytest.mark.parametrize(("version", "options"), [("0.122.0", ["--lenient"]), ("1.17.0", [])])
@pytest.mark.asyncio(loop_scope="module")
async def test_older_sdks_do_their_main_flows(
    served_to_all: Served, version: str, options: list[str]
) -> None:
    command = [sys.executable, "-m", "corral.cli", "conformance", "--base-url", served_to_all.url, "--json"]
    code, output, said = await output_of(
        *command,
        *("--group", "agents,environments,sessions,events,vaults"),
        *options,
        PYTHONPATH=os.pathsep.join([str(OLDER / version), os.environ.get("PYTHONPATH", "")]),
        CONFORMANCE_API_KEY=KEY,
    )
    assert f"SDK {version} " in said.decode()
    found = json.loads(output)
    assert [f"{each['name']}: {each['reason']}" for each in found if each["verdict"] != "passed"] == []
    assert code == 0
    assert len(found) > 20


@pytest.mark.skipif(
    shutil.which("node") is None or not (TYPESCRIPT / "node_modules").is_dir(),
    reason="not here: Node.js and the TypeScript SDK (apt-get install nodejs npm, then make check)",
)
@pytest.mark.asyncio(loop_scope="module")
async def test_the_typescript_sdk_covers_every_endpoint(served_to_all: Served) -> None:
    environment = {"ANTHROPIC_BASE_URL": served_to_all.url, "ANTHROPIC_API_KEY": KEY, "MODEL": MODEL}
    code, output, _ = await output_of("node", str(TYPESCRIPT / "suite.mjs"), **environment)
    steps = [json.loads(line) for line in output.splitlines()]
    assert code == 0
    assert [f"{step['name']}: {step['failure']}" for step in steps if step["failure"]] == []
    known = {endpoint.name for endpoint in SURFACE}
    seen = {name for step in steps for name in step["covers"]}
    assert seen <= known
    assert known - seen == set(KNOWN_GAPS)
