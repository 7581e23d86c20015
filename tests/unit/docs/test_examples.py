"""Every example in the documentation runs: Python against a real server, the rest is at least read."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from corral.config import load
from corral.testing.messages_api import MessagesApi, Request
from corral.testing.messages_reply import Answer, HttpError, Reply
from tests.served import KEY, served
from tests.unit.docs.markdown import ROOT, blocks, name_of, pages

RUN_SECONDS = 240.0

# What the model says in the pages' conversations, by a word of their first message.
SCRIPTS: dict[str, list[Reply]] = {
    "squares": [
        Reply.tools(
            (
                "toolu_1",
                "bash",
                {
                    "command": "for i in 1 2 3 4 5; do echo $((i * i)); done > squares.txt;"
                    " echo $((1 + 4 + 9 + 16 + 25))"
                },
            )
        ),
        Reply.text("Their sum is 55."),
    ],
    "Delete everything": [
        Reply.tools(("toolu_1", "bash", {"command": "rm -rf ./*"})),
        Reply.text("Understood, I deleted nothing."),
    ],
    "order 1047": [
        Reply.tools(("toolu_1", "order_status", {"number": "1047"})),
        Reply.text("Order 1047 left the warehouse this morning."),
    ],
    "Hello": [Reply.text("Hello to you."), Reply.text("Still here.")],
}


def script(request: Request) -> Answer:
    first = str(request.json["messages"][0]["content"])
    for word, replies in SCRIPTS.items():
        if word in first and request.turns < len(replies):
            return replies[request.turns]
    return HttpError(status=400, message=f"no script for {first!r}")


def python_blocks(path: Path) -> list[tuple[str, str | None]]:
    """Each Python block of a page, and the output that the page shows under it."""
    found: list[tuple[str, str | None]] = []
    all_blocks = blocks(path)
    for block, after in zip(all_blocks, [*all_blocks[1:], None], strict=False):
        if block.language == "python":
            found.append((block.code, after.code if after and after.language == "text" else None))
    return found


EXAMPLES = {name_of(path): found for path in pages() if (found := python_blocks(path))}


@pytest.mark.timeout(300)
async def test_every_page_prints_what_it_says() -> None:
    async with MessagesApi(script) as upstream, served(messages_url=upstream.url) as server:
        runner = await asyncio.create_subprocess_exec(
            *(sys.executable, Path(__file__).with_name("run_pages.py")),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": KEY},
        )
        work = json.dumps({page: [code for code, _ in found] for page, found in EXAMPLES.items()})
        stdout, _ = await asyncio.wait_for(runner.communicate(work.encode()), RUN_SECONDS)
    printed = json.loads(stdout)
    for page, found in EXAMPLES.items():
        for number, ((_, expected), output) in enumerate(zip(found, printed[page], strict=False), 1):
            assert output == (expected or ""), f"{page}, Python block {number}:\n{output}"
        assert len(printed[page]) == len(found), page


OTHERS = [
    pytest.param(block.language, block.code, id=f"{name_of(path)}:{block.line}")
    for path in pages()
    for block in blocks(path)
    if block.language not in ("python", "text", "mermaid", "ini")
]


@pytest.mark.parametrize(("language", "code"), OTHERS)
def test_every_other_block_is_what_it_claims_to_be(language: str, code: str, tmp_path: Path) -> None:
    match language:
        case "bash":
            checked = subprocess.run(["bash", "-n"], input=code, text=True, capture_output=True)
            assert checked.returncode == 0, checked.stderr
        case "json":
            json.loads(code)
        case "toml":  # every one is a settings file
            file = tmp_path / "corral.toml"
            file.write_text(code)
            load(environ={"HOME": str(tmp_path)}, config_file=file)
        case "javascript":
            if (node := shutil.which("node")) is None:
                pytest.skip("node is not installed")
            command = [node, "--check", "--input-type=module", "-"]
            checked = subprocess.run(command, input=code, text=True, capture_output=True)
            assert checked.returncode == 0, checked.stderr
        case _:
            raise AssertionError(f"a block of {language!r} is checked by nothing; name a language")


def test_the_tutorial_is_an_example() -> None:
    assert len(EXAMPLES["docs/tutorial.md"]) >= 6
    assert (ROOT / "docs" / "tutorial.md").exists()
