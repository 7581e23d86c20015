"""The command line as a user has it: processes of its own, a real server, a fake Messages API."""

import asyncio
import json
import os
import pty
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from corral.cli.demo import demo_project, verify
from corral.cli.workspace import File
from corral.testing.messages_api import MessagesApi, by_turn
from corral.testing.messages_reply import Reply
from tests.served import KEY, Served, served, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
SECONDS = 180.0  # a command starts a Python, and some of them a server, on a machine that does much else
_numbers = count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upstream() -> AsyncIterator[MessagesApi]:
    async with MessagesApi() as api:
        yield api


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(upstream: MessagesApi) -> AsyncIterator[Served]:
    async with served(messages_url=upstream.url) as server:
        yield server


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Shell:
    """Runs `corral` with a server to talk to, as a user's shell would have it."""

    def __init__(self, environment: dict[str, str]) -> None:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
        self._environment = {**ours, "NO_COLOR": "1", **environment}

    async def start(self, *arguments: str, **pipes: Any) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "corral.cli", *arguments),
            **{"stdin": asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.PIPE,
               "stderr": asyncio.subprocess.PIPE, **pipes},
            env=self._environment,
        )  # fmt: skip

    async def run(self, *arguments: str) -> Ended:
        process = await self.start(*arguments)
        try:
            out, err = await asyncio.wait_for(process.communicate(), SECONDS)
        except TimeoutError:
            process.kill()
            raise AssertionError(f"corral {' '.join(arguments)} has not ended") from None
        assert b"Traceback" not in err, err.decode()
        assert process.returncode is not None
        return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture
def shell(server: Served) -> Shell:
    return Shell({"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": KEY})


def bash(command: str) -> Reply:
    return Reply.tools((f"toolu_{next(_numbers)}", "bash", {"command": command}))


async def test_a_task_on_a_copy_of_a_directory(upstream: MessagesApi, shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "greeting.txt").write_text("helo\n")
    upstream.script = by_turn([bash("sed -i s/helo/hello/ greeting.txt"), Reply.text("Corrected.")])
    ended = await shell.run("run", "correct the spelling", "--workspace", str(tmp_path))
    assert ended.code == 0
    assert "  bash  sed -i s/helo/hello/ greeting.txt\n" in ended.out
    assert " agent  Corrected.\n" in ended.out
    assert "-helo\n+hello\n" in ended.out
    assert (tmp_path / "greeting.txt").read_text() == "helo\n"
    assert "--apply" in ended.err

    applied = await shell.run("run", "correct the spelling", "--workspace", str(tmp_path), "--apply")
    assert applied.code == 0
    assert (tmp_path / "greeting.txt").read_text() == "hello\n"


async def test_json_is_the_events_of_the_wire(upstream: MessagesApi, shell: Shell) -> None:
    upstream.script = by_turn([Reply.text("Hello.")])
    ended = await shell.run("run", "greet", "--json")
    kinds = [event["type"] for event in ended.events]
    assert kinds[-1] == "session.status_idle"
    assert {"user.message", "agent.message", "session.usage"} <= set(kinds)


async def test_agents_and_environments_are_made_once(
    upstream: MessagesApi, shell: Shell, server: Served
) -> None:
    upstream.script = by_turn([Reply.text("Hello.")])
    for _ in range(2):
        assert (await shell.run("run", "greet", "--model", "claude-haiku-5-5")).code == 0
    agents = [agent async for agent in server.client.beta.agents.list()]
    assert len([agent for agent in agents if agent.model.id == "claude-haiku-5-5"]) == 1


async def test_an_approval_that_nobody_can_give(upstream: MessagesApi, shell: Shell) -> None:
    upstream.script = by_turn([bash("rm -rf /"), Reply.text("Done.")])
    ended = await shell.run("run", "clean up", "--ask")
    assert ended.code == 4
    assert "waits for an approval" in ended.out


async def test_a_failed_turn_is_a_failed_command(upstream: MessagesApi, shell: Shell) -> None:
    upstream.script = by_turn([])
    ended = await shell.run("run", "greet")
    assert ended.code == 1
    assert " error  model_request_failed_error" in ended.out


async def test_what_the_server_refuses_is_one_line(shell: Shell) -> None:
    ended = await shell.run("run", "greet", "--model", "nobodys")
    assert ended.code == 1
    assert ended.err.startswith("corral: the server says: ")
    assert "nobodys" in ended.err
    other = Shell({"ANTHROPIC_BASE_URL": "http://127.0.0.1:1", "ANTHROPIC_API_KEY": "corral_x"})
    assert (await other.run("run", "greet")).code == 3


async def test_a_session_that_is_not_there_is_not_announced(shell: Shell) -> None:
    ended = await shell.run("run", "go on", "--session", "sesn_nope")
    assert (ended.code, ended.out) == (1, "")
    assert "sesn_nope" in ended.err


async def test_a_recorded_run_says_that_it_is_one(shell: Shell) -> None:
    ended = await shell.run("run", "write me a poem", "--model", "replay")
    assert "a recorded run is played back, whatever the task" in ended.out


async def test_a_demo_that_fails_before_its_session_leaves_nothing(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 100)  # too long for the sockets of a server
    directory.mkdir()
    ended = await Shell({"TMPDIR": str(directory)}).run("demo")
    assert ended.code == 1
    assert "shorter" in ended.err
    assert not list(directory.iterdir())


async def test_a_wrong_key_is_named(server: Served) -> None:
    ended = await Shell({"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": "corral_x"}).run(
        "keys", "list"
    )
    assert (ended.code, ended.out) == (3, "")
    assert "x-api-key" in ended.err


async def test_sessions_are_listed_shown_and_followed(upstream: MessagesApi, shell: Shell) -> None:
    upstream.script = by_turn([Reply.text("Hello there."), Reply.text("And again.")])
    events = (await shell.run("run", "greet me", "--json")).events
    sessions = json.loads((await shell.run("sessions", "list", "--json")).out)
    session_id = next(each["id"] for each in sessions if each["title"] == "greet me")
    assert session_id in (await shell.run("sessions", "list")).out
    assert json.loads((await shell.run("sessions", "show", session_id)).out)["status"] == "idle"
    logged = (await shell.run("sessions", "events", session_id, "--json")).events
    assert [e["id"] for e in logged] == [e["id"] for e in events if e["processed_at"]]
    assert "agent  Hello there." in (await shell.run("sessions", "events", session_id)).out

    tail = await shell.start("sessions", "tail", session_id, "--json")
    assert tail.stdout
    seen: list[dict[str, Any]] = []
    async with asyncio.timeout(SECONDS):
        while not seen or seen[-1]["type"] != "session.status_idle":
            seen.append(json.loads(await tail.stdout.readline()))
    assert [e["id"] for e in seen if e["processed_at"]] == [e["id"] for e in logged]
    again = await shell.run("run", "and again", "--session", session_id, "--json")
    assert again.code == 0
    async with asyncio.timeout(SECONDS):
        while seen[-1]["id"] != again.events[-1]["id"]:
            seen.append(json.loads(await tail.stdout.readline()))
    tail.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(tail.wait(), SECONDS) == 130


async def test_keys_live_and_die(server: Served, shell: Shell) -> None:
    key = (await shell.run("keys", "create", "--name", "mine", "--role", "admin")).out.strip()
    mine = Shell({"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": key})
    keys = json.loads((await mine.run("keys", "list", "--json")).out)
    assert key not in json.dumps(keys)
    key_id = next(each["id"] for each in keys if each["name"] == "mine")
    assert (await shell.run("keys", "revoke", key_id)).code == 0
    assert (await mine.run("keys", "list")).code == 3
    assert key_id in (await shell.run("keys", "list")).out


async def test_a_workspace_and_a_key_of_it(server: Served, shell: Shell) -> None:
    workspace_id = (await shell.run("workspaces", "create", "research")).out.strip()
    created = await shell.run("keys", "create", "--name", "ci", "--workspace", workspace_id)
    inside = Shell({"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": created.out.strip()})
    assert (await inside.run("sessions", "list")).code == 0
    assert (await inside.run("keys", "list")).code != 0, "a developer's"
    [listed] = [
        each
        for each in json.loads((await shell.run("keys", "list", "--json")).out)
        if each["workspace_id"] == workspace_id
    ]
    assert (listed["name"], listed["role"]) == ("ci", "developer")
    assert (await shell.run("workspaces", "archive", workspace_id)).code == 0
    assert "research" in (await shell.run("workspaces", "list")).out
    assert (await inside.run("sessions", "list")).code == 3


async def test_status_names_every_process(server: Served, shell: Shell) -> None:
    arguments = ("status", "--data-dir", str(server.config.data_dir))
    found = json.loads((await shell.run(*arguments, "--json")).out)
    assert {each["role"] for each in found["processes"]} == {"supervisor", "server", "hands", "egress"}
    for each in found["processes"]:
        assert Path(f"/proc/{each['pid']}").exists()
        assert each["version"]
    assert "local_key" not in json.dumps(found)
    assert found["url"] in (await shell.run(*arguments)).out


async def test_the_local_key_of_this_machine(server: Served) -> None:
    without_key = Shell({"CORRAL_DATA_DIR": str(server.config.data_dir)})
    assert (await without_key.run("sessions", "list")).code == 0


async def test_interrupt_from_outside_a_terminal(upstream: MessagesApi, shell: Shell) -> None:
    upstream.script = by_turn([bash("sleep 600"), Reply.text("Done.")])
    process = await shell.start("run", "wait", "--json")
    assert process.stdout
    async with asyncio.timeout(SECONDS):
        while json.loads(await process.stdout.readline())["type"] != "agent.tool_use":
            pass
    process.send_signal(signal.SIGINT)
    out, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    events = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 130
    assert "user.interrupt" in [event["type"] for event in events]


class Terminal:
    """A `corral` at a terminal: types, and sees the screen."""

    def __init__(self) -> None:
        self.screen = ""

    async def open(self, shell: Shell, *arguments: str) -> None:
        self._fd, inside = pty.openpty()
        self.process = await shell.start(*arguments, stdin=inside, stdout=inside, stderr=inside)
        os.close(inside)
        os.set_blocking(self._fd, False)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
        if b"\x1b[6n" in data:
            os.write(self._fd, b"\x1b[1;1R")  # a terminal answers where its cursor is
        self.screen += data.decode(errors="replace")

    async def sees(self, text: str, *, times: int = 1) -> None:
        try:
            await until(lambda: self.screen.count(text) >= times, seconds=SECONDS)
        except TimeoutError:
            raise AssertionError(f"{text!r} is not on the screen:\n{self.screen}") from None

    def types(self, text: str) -> None:
        os.write(self._fd, text.encode())

    async def ended(self) -> int:
        code = await asyncio.wait_for(self.process.wait(), SECONDS)
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        return code


async def test_approving_denying_and_steering_at_a_terminal(upstream: MessagesApi, shell: Shell) -> None:
    go = asyncio.Event()
    calls = [bash(f"echo {word}") for word in ("one", "two", "three")]
    held = Reply(content=Reply.text("Done.").content, held_until=go)
    upstream.script = by_turn([*calls, held, Reply.text("Faster.")])
    terminal = Terminal()
    await terminal.open(shell, "run", "count", "--ask")
    await terminal.sees("bash: y / n reason >")
    terminal.types("y\r")
    await terminal.sees("allowed")
    await terminal.sees("echo two")
    await terminal.sees("may it?", times=2)
    terminal.types("n because I say so\r")
    await terminal.sees("denied: because I say so")
    await terminal.sees("may it?", times=3)
    terminal.types("y\r")
    await terminal.sees("allowed", times=2)
    terminal.types("faster, please\r")
    await terminal.sees("you  faster, please")  # while the model still thinks
    go.set()
    assert await terminal.ended() == 0
    said = [m for request in upstream.requests for m in request.json["messages"]]
    assert "because I say so" in json.dumps(said)
    assert "faster, please" in json.dumps(said)


async def test_ctrl_c_interrupts_and_then_leaves(upstream: MessagesApi, shell: Shell) -> None:
    upstream.script = by_turn([bash("sleep 600"), Reply.text("Done.")])
    terminal = Terminal()
    await terminal.open(shell, "run", "wait")
    await terminal.sees("sleep 600")
    terminal.types("\x03")
    await terminal.sees("say what to do instead")
    terminal.types("\x03")
    assert await terminal.ended() == 5
    assert "to go on: corral run --session sesn_" in terminal.screen.replace("\r\n", "")


async def test_a_server_for_one_command() -> None:
    data_dir = Path(tempfile.mkdtemp(prefix="corral-"))  # not under pytest's: a socket's path is short
    try:
        ended = await Shell({"CORRAL_DATA_DIR": str(data_dir)}).run("run", "x", "--model", "replay:absent")
        assert ended.code == 1
        assert f"starting a server for this command (data in {data_dir})" in ended.err
        assert not (data_dir / "supervisor.json").exists()
    finally:
        shutil.rmtree(data_dir)


async def test_the_demos_verdict_takes_nobodys_word() -> None:
    project = demo_project()
    broken = project["shop/cart.py"].data
    fixed = File(broken.replace(b" - shipping", b" + shipping"))
    quitter = File(b"import os\nprint('Ran 4 tests in 0.1s OK')\nos._exit(0)\n")
    cases = {
        "untouched": (project, False),
        "fixed": ({**project, "shop/cart.py": fixed}, True),
        "tests deleted": ({"shop/shipping.py": project["shop/shipping.py"]}, False),
        "tests weakened": ({**project, "tests/test_cart.py": File(b"")}, False),
        "unittest replaced": ({**project, "unittest.py": File(b"print('Ran 4 tests in 0s OK')")}, False),
        "exits early": ({**project, "shop/shipping.py": quitter}, False),
    }
    for name, (after, expected) in cases.items():
        is_verified, report = await verify(project, after)
        assert is_verified is expected, (name, report)


async def test_the_doctor_finds_this_machine_well(shell: Shell, tmp_path: Path) -> None:
    ended = await shell.run("doctor", "--json", "--data-dir", str(tmp_path / "d"))
    found = json.loads(ended.out)
    assert ended.code == 0, found
    states = {check["name"]: check["state"] for check in found["checks"]}
    assert states["sandbox"] == states["store"] == states["disk"] == states["egress"] == "ok"
    assert states["packages"] == "ok"
    assert "open files" in states
    assert not (tmp_path / "d").exists()


async def test_the_doctor_says_what_is_wrong(tmp_path: Path) -> None:
    shell = Shell({
        "CORRAL_ANTHROPIC_API_KEY": "sk-canary", "CORRAL_ANTHROPIC_BASE_URL": "http://127.0.0.1:1",
        "CORRAL_SANDBOX_CHOICES": "docker", "DOCKER_HOST": f"unix://{tmp_path}/nobody.sock",
    })  # fmt: skip
    ended = await shell.run("doctor", "--data-dir", str(tmp_path / ("x" * 120)))
    assert ended.code == 1
    for said in (
        "FAIL  store", "FAIL  claude-*", "shorter --data-dir", "FAIL  sandbox docker", "SANDBOX_CHOICES",
    ):  # fmt: skip
        assert said in ended.out
    assert "canary" not in ended.out + ended.err


async def test_keys_of_an_environment(shell: Shell, server: Served) -> None:
    made = await server.client.beta.environments.create(name="pool", config={"type": "self_hosted"})
    key = (await shell.run("environments", "key", "create", made.id, "--name", "rack 4")).out.strip()
    assert key.startswith("sk-ant-oat01-corral-")
    [listed] = json.loads((await shell.run("environments", "key", "list", made.id, "--json")).out)
    assert (listed["name"], listed["hint"], listed["revoked_at"]) == ("rack 4", key[-4:], None)
    assert (await shell.run("environments", "key", "revoke", made.id, listed["id"])).code == 0
    shown = (await shell.run("environments", "key", "list", made.id)).out
    assert listed["id"] in shown and key not in shown


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("audit", "list", "--since", "yesterday"), "--since: 'yesterday' is not a moment"),
        (("audit", "export", "--csv", "--until", "2026-01-31"), "--until: '2026-01-31' is not a moment"),
        (("audit", "list", "--decision", "refused"), "'refused' is not one of"),
        (("environments", "limits", "env_1", "--memory", "4XB"), "--memory: '4XB' is not a size such as"),
        (
            ("environments", "limits", "env_1", "--command-seconds", "1h"),
            "--command-seconds: '1h' is not a number",
        ),
    ],
)
async def test_a_wrong_value_is_named_by_its_option(
    shell: Shell, command: tuple[str, ...], said: str
) -> None:
    ended = await shell.run(*command)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
