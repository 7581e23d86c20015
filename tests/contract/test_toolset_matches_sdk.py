"""The same generated inputs for the SDK's own toolset and for ours; contents and is_error must agree.

The SDK's runs on a directory of the host, ours in a bwrap sandbox. CORRAL_TEST_SEED repeats a run.
What is normalised, and why:
- the SDK's root directories become /workspace and /mnt/session: only their names differ, and they have the
  same length because the cut of a long grep counts it;
- the random sentinel, which bash shows when it complains about a line that holds it;
- lines of glob and grep are sorted: directory order is the file system's, and mtimes tie within a tick (a
  test of its own sets the mtimes and compares the order);
- of an input that the SDK's parser rejects only is_error is compared: it answers with a Python repr, we
  name the field;
- of an output that ours sends to a file (above 100,000 characters; a rule of the hosted API that the SDK
  does not have) the last TOOL_PREVIEW_CHARS are compared.
"""

import asyncio
import os
import random
import re
import secrets
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from anthropic.lib.tools import ToolError
from anthropic.lib.tools._beta_functions import aclose_runnable_tool
from anthropic.lib.tools.agent_toolset import AgentToolContext, beta_agent_toolset_20260401

from corral.hands.ports import Sandbox
from corral.hands.providers.binary import find_python
from corral.hands.providers.bwrap import BwrapProvider
from corral.hands.providers.launch import environment
from corral.kernel.limits import TOOL_PREVIEW_CHARS
from corral.testing.lab import Lab, until

SEED = int(os.environ.get("CORRAL_TEST_SEED") or random.SystemRandom().randrange(10**6))
SEQUENCES, STEPS = 8, 45
Input = dict[str, Any]

SET_UP = r"""
mkdir -p dir/sub node_modules .git empty
printf 'alpha\nbeta\ngamma\n' > a.txt; printf 'import os\n\ndef f(x):\n    return x\n' > b.py
printf 'no newline at the end' > dir/c.txt; printf 'ünïcödé ✓\r\nzweite Zeile\r\n' > 'dir/sub/ünï ✓.md'
printf '\377\376\000bin' > bin.dat; printf 'latin \351\n' > latin.txt; printf 'x' > .hidden
printf '\211PNG\r\n\032\nabc' > pic.PNG; printf '%%PDF-1.4 x' > doc.pdf; printf 'beta' > node_modules/x.js
printf 'beta' > .git/y; seq 1 60000 > big.txt; printf 'x%.0s' $(seq 3000) > longline.txt; : > void
ln -s a.txt link; ln -s loop2 loop; ln -s loop loop2; ln -s missing/x dangling; ln -s /etc outside
ln -s dir dirlink; mkfifo fifo; ln -s ../../../../../../etc/passwd up
"""
PATHS = [
    "a.txt", "b.py", "dir/c.txt", "dir/sub/ünï ✓.md", "bin.dat", "latin.txt", ".hidden", "pic.PNG",
    "doc.pdf",
    "big.txt", "longline.txt", "void", "link", "loop", "dangling", "outside/passwd", "dirlink/c.txt",
    "fifo",
    "up", "dir", ".", "", "missing.txt", "a.txt/below", "new/deep/er.txt", "./dir/../a.txt", "../up.txt",
    "/etc/passwd", "{root}/a.txt", "{root}", "{root}/../x", "{session}/outputs/o.txt", "dir//sub/./n.txt",
    "~", "nul\0byte", "x" * 300, "loop/x", "outside", "empty",
]  # fmt: skip
WRITABLE = [path for path in PATHS if path != "fifo"]  # the SDK blocks for ever on it; ours times out
TEXTS = [
    "", "x", "alpha", "beta", "a", "\n", "zwei\r\nZeilen\r\n", "✓ ünï", "line\n" * 40, "return x",
    "tab\there",
    "import os\n\ndef f(x):\n    return x\n", "𝔘" * 10, "$HOME `id` \\n", "\x1b[31mred\x1b[0m",
]  # fmt: skip
COMMANDS = [
    "echo hi", "pwd", "cd dir && pwd", "cd -", "cd {root}; pwd", "cd missing", "false",
    "true",
    "(exit 7)", "export A=1; B=2", "echo $A-$B-$?", "ls", "ls missing", "cat", "read x; echo [$x]",
    "echo out; echo err >&2", "printf 'no newline'", "printf '\\n\\ntwo\\n\\n'",
    "printf '\\033[1;31mred\\033[0m'",
    "printf '\\377\\376'", "printf 'a\\0b'", "echo ünï ✓", "seq 1 3000", "f() { echo in f $1; return 3; }",
    "f 1", "cat <<E\nhere $A\nE", "for i in 1 2 3; do\n  echo $i\ndone", "if then", "echo )", "echo 'open",
    "# nothing", "sleep 0.02 & wait; echo done", "x=$(printf 'a\\n\\n'); echo \"[$x]\"", "echo a \\\n b",
    "set -o pipefail; false | true", "wc -c < a.txt", "echo more >> a.txt", "rm -f b.py; ls *.py",
    "python3 -c 'print(1/0)' 2>&1 | tail -1", "echo $PS1$PS2$TERM; tty", "exit 3", "exec echo gone",
    "yes | head -c 99000 | tr -d '\\n'", "seq 1 40000", "yes ✓✓✓ | head -c 150000", "kill $$",
    "trap 'echo bye' EXIT",
    "alias ll='ls'; ll", "echo {1..5}", "[[ a == b ]]", "echo __ANT_CMD_x_DONE__0",
    "printf '   lead and trail   \\n'",
]  # fmt: skip
PATTERNS = [
    "*", "**/*", "**", "*.txt", "**/*.py", "[ab]*", "dir/*", "*/", ".*", "../*", "a/../b", "/etc/*",
    "", "x{a,b}",
    "dirlink/*", "outside/*", "**/c.txt", "a.txt", "missing*", "***", "dir/**/*.md", "[", "ünï*", "**/ünï*",
]  # fmt: skip
REGEXES = [
    "beta", "^import", "x$", "(", "[", "a|g", ".", "^$", "ünï", "\\d{4}", "(?i)ALPHA", "Zeile\\r?$",
    "*", "\\", "zz9",
    "^1234$", "PNG", "passwd", "(?P<n>a)(?P=n)", "x{2000}",
]  # fmt: skip
RANGES: list[Any] = [
    [1, 2], [2, 2], [0, -1], [3, 1], [1, 0], [-5, 3], [100, 200], [1], [1, 2, 3], [], [1, 59999],
    [5, 500], None,
]  # fmt: skip
BAD_INPUTS: list[tuple[str, Input]] = [
    ("read", {}), ("read", {"file_path": 1}), ("write", {"file_path": "a"}),
    ("edit", {"file_path": "a.txt"}),
    ("glob", {}), ("grep", {"path": "."}), ("bash", {"command": ["ls"]}), ("bash", {"cmd": "ls"}),
    ("read", {"file_path": "a.txt", "view_range": "1,2"}), ("bash", {"command": "echo",
    "timeout_ms": "soon"}),
]  # fmt: skip


def generated(rng: random.Random) -> tuple[str, Input]:
    """One call. Timeouts are short and rare: each costs its time twice."""
    tool = rng.choice(
        ["bash"] * 4 + ["read"] * 3 + ["write"] + ["edit"] * 2 + ["glob"] * 2 + ["grep"] * 2 + ["bad"]
    )
    path, text = rng.choice(PATHS), rng.choice(TEXTS)
    match tool:
        case "bash" if rng.random() < 0.06:
            return tool, rng.choice([{}, {"command": ""}, {"restart": False}, {"command": None}])
        case "bash" if rng.random() < 0.15:
            return tool, {"restart": True, "command": "echo ignored"} if rng.random() < 0.3 else {
                "restart": True
            }
        case "bash" if rng.random() < 0.03:
            return tool, {"command": "echo before; sleep 9", "timeout_ms": rng.choice([150, 200, -5])}
        case "bash":
            command = rng.choice(COMMANDS)
            # an open quote swallows the sentinel: only its timeout ends it
            return tool, {
                "command": command,
                "timeout_ms": 250 if command.startswith("echo 'open") else 20_000,
            }
        case "read":
            fields: Input = {"file_path": path}
            return tool, fields | ({"view_range": rng.choice(RANGES)} if rng.random() < 0.4 else {})
        case "write":
            return tool, {"file_path": rng.choice(WRITABLE), "content": text * rng.choice([1, 1, 3])}
        case "edit":
            fields = {"file_path": path, "old_string": rng.choice(TEXTS), "new_string": text}
            return tool, fields | ({"replace_all": rng.random() < 0.6} if rng.random() < 0.5 else {})
        case "glob" | "grep":
            fields = {"pattern": rng.choice(PATTERNS if tool == "glob" else REGEXES)}
            return tool, fields | ({"path": path} if rng.random() < 0.4 else {})
    return rng.choice(BAD_INPUTS)


class Reference:
    """The SDK's toolset on a directory of the host."""

    def __init__(self) -> None:
        token = secrets.token_hex(3)
        self.root, self.session = Path(f"/tmp/{token[1:]}"), Path(f"/tmp/s{token}")
        assert (len(str(self.root)), len(str(self.session))) == (len("/workspace"), len("/mnt/session"))
        self.root.mkdir()
        (self.session / "outputs").mkdir(parents=True)
        context = AgentToolContext(
            workdir=self.root, allowed_roots=[self.session], env=environment(find_python())
        )
        self._tools = {tool.name: tool for tool in beta_agent_toolset_20260401(context)}

    async def run(self, name: str, fields: Input) -> tuple[list[Any], bool, bool]:
        """Content, is_error, and whether the input was rejected before the tool ran."""
        here = located(fields, str(self.root), str(self.session))
        try:
            return blocks(await self._tools[name].call(here)), False, False
        except ToolError as e:
            return blocks(e.content), True, False
        except ValueError as e:
            return blocks(repr(e)), True, str(e).startswith("Invalid arguments")

    async def settle(self) -> None:
        """Wait until a shell that ended is noticed: the SDK writes into a broken pipe otherwise."""
        await until(_is_every_end_known)
        await asyncio.sleep(0.02)

    async def aclose(self) -> None:
        for tool in self._tools.values():
            await aclose_runnable_tool(tool)
        shutil.rmtree(self.root)
        shutil.rmtree(self.session)

    def normal(self, text: str) -> str:
        return text.replace(str(self.root), "/workspace").replace(str(self.session), "/mnt/session")


def _is_every_end_known() -> bool:
    """Whether all children live, and asyncio waits for no other."""
    try:
        children = [child.cmdline() for child in psutil.Process().children()]
    except psutil.NoSuchProcess:  # a zombie, or gone by now
        return False
    waits = sum(thread.name.startswith("asyncio-waitpid-") for thread in threading.enumerate())
    return all(children) and waits <= len(children)  # what ends has no arguments before it has no files


def located(fields: Input, root: str, session: str) -> Input:
    return {
        key: value.replace("{root}", root).replace("{session}", session)
        if isinstance(value, str)
        else value
        for key, value in fields.items()
    }


def blocks(content: Any) -> list[Any]:
    return (
        [{"type": "text", "text": content or "(no output)"}] if isinstance(content, str) else list(content)
    )


def compared(name: str, text: str) -> Any:
    text = re.sub(r"__(ANT_CM''D|CORRAL'')_[0-9a-f]{32}_DONE__", "SENTINEL", text)
    return sorted(text.split("\n")) if name in ("glob", "grep") else text


async def same(lab: Lab, box: Sandbox, reference: Reference, name: str, fields: Input) -> bool:
    """Run both, compare; True if it was a success."""
    theirs, is_error, was_rejected = await reference.run(name, fields)
    ours = await box.run(lab.call(name, **located(fields, "/workspace", "/mnt/session")))
    said = f"seed {SEED}: {name} {fields}\nSDK:  {theirs!r:.600}\nours: {ours.content!r:.600}"
    assert ours.is_error == is_error, said
    if was_rejected:
        return False
    assert len(ours.content) == len(theirs), said
    for mine, other in zip(ours.content, theirs, strict=True):
        if other["type"] != "text":
            assert dict(mine) == other, said
        elif mine["text"].startswith("[output of more than"):
            assert (
                mine["text"][-TOOL_PREVIEW_CHARS:] == reference.normal(other["text"])[-TOOL_PREVIEW_CHARS:]
            ), said
        else:
            assert compared(name, mine["text"]) == compared(name, reference.normal(other["text"])), said
    return not is_error


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with Lab.open(BwrapProvider(state_dir=tmp_path), root=tmp_path) as lab:
        yield lab


@pytest.fixture
async def reference() -> AsyncIterator[Reference]:
    reference = Reference()
    yield reference
    await reference.aclose()


@pytest.mark.parametrize("sequence", range(SEQUENCES))
async def test_generated_inputs(lab: Lab, reference: Reference, sequence: int) -> None:
    print(f"CORRAL_TEST_SEED={SEED}")
    rng = random.Random(f"{SEED}/{sequence}")
    box = await lab.sandbox()
    assert await same(lab, box, reference, "bash", {"command": SET_UP})
    successes = 0
    for _ in range(STEPS):
        name, fields = generated(rng)
        successes += await same(lab, box, reference, name, fields)
        if name == "bash":
            await reference.settle()
    assert successes > STEPS // 6, "inputs that only fail prove little"
    await same(lab, box, reference, "bash", {"restart": True})
    sums = "find . -type f -exec sha256sum {} + | sort; find . -type l -o -type d -o -type p | sort"
    assert await same(lab, box, reference, "bash", {"command": sums})


async def test_glob_is_newest_first_and_capped(lab: Lab, reference: Reference) -> None:
    box = await lab.sandbox()
    make = "for i in $(seq 250); do touch -d @$((1000000000 + (i * 7919) % 1009 * 60)) f$i; done"
    assert await same(lab, box, reference, "bash", {"command": make})
    theirs, _, _ = await reference.run("glob", {"pattern": "f*"})
    ours = await box.run(lab.call("glob", pattern="f*"))
    assert ours.content[0]["text"] == reference.normal(theirs[0]["text"])
    assert ours.content[0]["text"].count("\n") == 199


async def test_every_listed_input_once(lab: Lab, reference: Reference) -> None:
    """What chance may have left out."""
    box = await lab.sandbox()
    assert await same(lab, box, reference, "bash", {"command": SET_UP})
    for name, fields in BAD_INPUTS:
        await same(lab, box, reference, name, fields)
    for path in PATHS:
        await same(lab, box, reference, "read", {"file_path": path})
        await same(lab, box, reference, "edit", {"file_path": path, "old_string": "a", "new_string": "b"})
        await same(lab, box, reference, "glob", {"pattern": "*", "path": path})
        await same(lab, box, reference, "grep", {"pattern": "e", "path": path})
    for pattern in PATTERNS:
        await same(lab, box, reference, "glob", {"pattern": pattern})
    for regex in REGEXES:
        await same(lab, box, reference, "grep", {"pattern": regex})
    for view_range in RANGES:
        for path in ["a.txt", "big.txt", "void", "doc.pdf", "longline.txt"]:
            await same(lab, box, reference, "read", {"file_path": path, "view_range": view_range})
    for path in WRITABLE:
        await same(lab, box, reference, "write", {"file_path": path, "content": "new\n"})
    for command in COMMANDS:
        await same(
            lab,
            box,
            reference,
            "bash",
            {"command": command, "timeout_ms": 250 if "'open" in command else 15_000},
        )
        await reference.settle()
        await same(lab, box, reference, "bash", {"restart": True})
