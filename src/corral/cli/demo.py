"""`corral demo`: the main job on a small bundled project, and a verdict of our own.

An agent gets a copy of a project with one failing test. When it says that it is done, the files that it
was to change (`shop/`) are put over a pristine copy of everything else, in a fresh sandbox, and the
pristine tests run there.
"""

import asyncio
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from corral.brain.models.replay import ReplayModel
from corral.cli.connect import Api, Say, Server, server_or_embedded
from corral.cli.drive import Driver
from corral.cli.models import check_model, is_recorded
from corral.cli.outcome import Exit, Problem
from corral.cli.render import Renderer, diff_text, safe
from corral.cli.work import agent_for, environment_for, official_client
from corral.cli.workspace import File, Tree, apply_changes, difference, pack, unpack
from corral.config import Config
from corral.hands.ports import Probe, Provider
from corral.hands.providers.choice import DEFAULT, FALLBACK, ProviderName, provider_of
from corral.kernel.errors import SandboxUnavailable
from corral.kernel.ids import EventId, Ids, SessionId, ThreadId
from corral.session.call import Placement, Recipe, ToolCall
from corral.supervisor.ready import our_command

__all__ = ["MODEL", "TASK", "demo", "demo_project", "verify"]

MODEL = "replay"
TASK = (
    "Customers of the shop in /workspace report that shipping is subtracted from the total of an order, "
    "instead of added to it. First look: `cat shop/*.py`. Then correct that line, and run "
    "`python3 -m unittest`. Do not change the tests."
)
_SYSTEM = "You fix small bugs in Python projects. Files are in /workspace."
_TESTS = 4  # of the pristine project; fewer means that something kept them from running
_MAY_CHANGE = "shop/"


def demo_project() -> Tree:
    """The bundled project, as its author left it: one test of four fails."""
    with as_file(files("corral.cli").joinpath("demo-project")) as directory:
        return {
            str(path.relative_to(directory)): File(path.read_bytes())
            for path in sorted(directory.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        }


def demo(config: Config, *, model: str, url: str | None, keep: bool) -> Exit:
    """DONE only if the verification passed. Raises Problem, InvalidRequest.

    Its data directory is kept once a session's log is in it.
    """
    if url is None:
        check_model(model, config)
    console = Console(highlight=False)
    project = demo_project()
    _heading(console, "An agent gets a small project in which one test fails")
    if is_recorded(model):
        label = ReplayModel(directory=config.recordings_dir).recording(model).label
        console.print(
            Text(
                f"model: recorded run of {safe(label)}. Its words are played back; "
                "every command is really executed, and the real output is what you see.\n"
                "live instead: corral demo --model local, or --model claude-sonnet-5-5 with a key",
                style="yellow",
            ),
            soft_wrap=True,
        )
    else:
        console.print(Text(f"model: {model}, live", style="yellow"))
    sandbox = asyncio.run(_choose_sandbox(config, console))
    with ExitStack() as until_session:
        data_dir = None
        if url is None:
            data_dir = _reachable(Path(tempfile.mkdtemp(prefix="corral-")))
            until_session.callback(shutil.rmtree, data_dir, ignore_errors=True)
        with server_or_embedded(
            config, url=url, say=Say(), own_data_dir=data_dir, sandbox=sandbox
        ) as server:
            work = _work(server, project, model, console, on_session=until_session.pop_all)
            session_id, outcome, after = asyncio.run(work)
            log_path = server.data_dir
    _heading(console, "What changed")
    console.print(diff_text(difference(project, after)) or Text("nothing\n"), end="", soft_wrap=True)
    _heading(console, "Verified in a fresh sandbox, with the pristine tests")
    verifying = verify(
        project, after, sandbox=sandbox, root=config.sandbox_root, image=config.sandbox_image
    )
    is_verified, report = asyncio.run(verifying)
    for line in safe(report).rstrip().splitlines()[-12:]:
        console.print(Text(f"  {line}", style="dim"), soft_wrap=True)
    verdict = "VERIFIED: the bug is fixed" if is_verified else "NOT FIXED: the pristine tests fail"
    console.print(Text(f"\n{verdict}", style="bold green" if is_verified else "bold red"))
    if not is_verified and outcome is not Exit.DONE:
        console.print(Text(f"(the agent's turn ended with {outcome.name.lower()})"))
    if keep:
        kept = Path(tempfile.mkdtemp(prefix="corral-demo-"))
        apply_changes(kept, {}, after)
        console.print(f"\nThe result is kept in {kept}", soft_wrap=True)
    _next_steps(console, log_path, session_id, sandbox)
    return Exit.DONE if is_verified else Exit.FAILED


async def _work(
    server: Server, project: Tree, model: str, console: Console, *, on_session: Callable[[], object]
) -> tuple[str, Exit, Tree]:
    """Agent, environment and session through the official SDK; the project in, the result out."""
    renderer = Renderer(console)
    toolset: dict[str, Any] = {
        "type": "agent_toolset_20260401",
        "default_config": {"enabled": False},
        "configs": [{"name": "bash", "enabled": True}],
    }
    api = Api(server)
    try:
        async with official_client(server) as client:
            agent_id = await agent_for(client, name="demo", model=model, system=_SYSTEM, tools=[toolset])
            environment_id = await environment_for(client, name="demo", config={"type": "cloud"})
            session = await client.beta.sessions.create(
                agent=agent_id, environment_id=environment_id, title="corral demo"
            )
            on_session()
            renderer.note(f"agent {agent_id}\nsession {session.id} at {server.url}\n")
            path = f"/corral/v1/sessions/{session.id}/workspace"
            await asyncio.to_thread(api.put, path, pack(project))
            outcome = await Driver(client, session.id, renderer, is_interactive=False).drive(TASK)
            if outcome is Exit.INTERRUPTED:
                raise Problem("interrupted", exit=Exit.INTERRUPTED)
            return session.id, outcome, unpack(await asyncio.to_thread(api.get_bytes, path))
    finally:
        api.close()


async def _choose_sandbox(config: Config, console: Console) -> ProviderName:
    """The one of the settings; unless set, the default, else the fallback, which is said. Raises Problem
    before anything is started, with what to do about it."""
    name = config.sandbox or DEFAULT
    found = await _probed(name, config)
    if found.is_available:
        return name
    if config.sandbox is None and (await _probed(FALLBACK, config)).is_available:
        text = f"sandbox: {FALLBACK}, weaker than {name}, because {found.summary}; see `corral doctor`"
        console.print(Text(text, style="yellow"), soft_wrap=True)
        return FALLBACK
    raise Problem(f"no sandbox can be made here: {found.report}\n{found.remedy}")


async def _probed(name: ProviderName, config: Config) -> Probe:
    with tempfile.TemporaryDirectory(prefix="corral-") as state:
        provider = provider_of(
            name,
            state_dir=_reachable(Path(state)),
            is_warm=False,
            root=config.sandbox_root,
            image=config.sandbox_image,
        )
        try:
            return await provider.probe()
        finally:
            await provider.aclose()


async def verify(
    project: Tree,
    after: Tree,
    *,
    sandbox: ProviderName = DEFAULT,
    root: Path | None = None,
    image: str | None = None,
) -> tuple[bool, str]:
    """Run the pristine tests over the agent's `shop/` in a fresh sandbox: the verdict and the output."""
    tree = {name: file for name, file in project.items() if not name.startswith(_MAY_CHANGE)}
    tree |= {name: file for name, file in after.items() if name.startswith(_MAY_CHANGE)}
    with tempfile.TemporaryDirectory(prefix="corral-") as state:
        provider = provider_of(
            sandbox, state_dir=_reachable(Path(state)), is_warm=False, root=root, image=image
        )
        try:
            return await _verify_in(provider, Path(state) / "verification", tree)
        except SandboxUnavailable as error:
            raise Problem(str(error)) from error
        finally:
            await provider.remove_workspace(Path(state) / "verification")
            await provider.aclose()


async def _verify_in(provider: Provider, workspace: Path, tree: Tree) -> tuple[bool, str]:
    session_id = SessionId("verification")
    await provider.prepare_workspace(workspace)
    await provider.import_archive(workspace, _chunks(pack(tree)))
    sandbox = await provider.create(session_id=session_id, workspace=workspace, recipe=Recipe())
    mark = secrets.token_hex(8)  # a status that the tested code cannot have printed beforehand
    call = ToolCall(
        session_id=session_id,
        thread_id=ThreadId("verification"),
        call_id=EventId(Ids().mint("sevt")),
        name="bash",
        input={"command": f"python3 -m unittest -v </dev/null; echo {mark} $?"},
        recipe=Recipe(),
        placement=Placement(host_id="", journal_id=""),
    )
    try:
        result = await sandbox.run(call)
    finally:
        await sandbox.destroy()
    text = "\n".join(str(block.get("text", "")) for block in result.content)
    report, _, status = text.rpartition(mark)
    ran = re.search(r"^Ran (\d+) tests? in", report, re.MULTILINE)
    return status.strip() == "0" and ran is not None and int(ran[1]) == _TESTS, report


def _reachable(directory: Path) -> Path:
    """Sandboxes of a root user have a uid of their own, which must pass through to its workspace."""
    directory.chmod(0o711)
    return directory


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _heading(console: Console, text: str) -> None:
    console.print(Text(f"\n== {text}", style="bold"), soft_wrap=True)


def _next_steps(console: Console, data_dir: Path | None, session_id: str, sandbox: ProviderName) -> None:
    corral = our_command()
    option = f" --data-dir {data_dir}" if data_dir else ""
    option += f" --sandbox {sandbox}" if sandbox != DEFAULT else ""
    if data_dir:
        console.print(f"\nThe log of everything above: {data_dir}/corral.db ({session_id})", soft_wrap=True)
    console.print("\nNext:")
    for command, why in (
        (f"{corral} serve{option}", "serve this log, or without the option a fresh one"),
        (f'{corral} run "what is in this directory?" --workspace . --model local', "your own task"),
        (f"{corral} doctor", "what this machine can do"),
    ):
        console.print(Text(f"  {command}", style="cyan") + Text(f"   # {why}", style="dim"), soft_wrap=True)
