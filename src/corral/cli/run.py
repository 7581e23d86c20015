"""`corral run "task"`: one agent, one task, watched and steered from a terminal."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from corral.cli.connect import Api, Say, Server, server_or_embedded
from corral.cli.drive import Driver
from corral.cli.models import check_model, is_recorded
from corral.cli.outcome import Exit, Problem
from corral.cli.render import Renderer, diff_text
from corral.cli.work import agent_for, environment_for, official_client
from corral.cli.workspace import Tree, apply_changes, changed, difference, pack, read_tree, unpack
from corral.config import Config

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from anthropic.types.beta import BetaManagedAgentsSession

__all__ = ["DEFAULT_MODEL", "Errand", "run"]

DEFAULT_MODEL = "claude-sonnet-5-5"
_SYSTEM = (
    "You work for a person at a terminal. Files are in /workspace. Be brief; check your work by running it."
)
_TITLE_CHARS = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Errand:
    """What the user asked for.

    agent_id, model: one of both, or neither (DEFAULT_MODEL). session_id: go on with this one instead.
    workspace:       a copy of this directory goes in, a diff comes out; written back only with is_applied.
    must_ask:        every tool call needs the user's y.
    """

    task: str | None
    agent_id: str | None = None
    model: str | None = None
    session_id: str | None = None
    workspace: Path | None = None
    is_applied: bool = False
    must_ask: bool = False
    as_json: bool = False


def run(errand: Errand, config: Config, *, url: str | None, is_here: bool = False) -> Exit:
    """Raises Problem."""
    if errand.session_id and (errand.workspace or errand.agent_id or errand.model or errand.must_ask):
        raise Problem(
            "--session goes on with what is there: no --workspace, --agent, --model or --ask",
            exit=Exit.USAGE,
        )
    if not errand.session_id and not errand.task:
        raise Problem('say what to do: corral run "fix the failing test"', exit=Exit.USAGE)
    if errand.is_applied and errand.workspace is None:
        raise Problem("--apply needs --workspace", exit=Exit.USAGE)
    before = read_tree(errand.workspace) if errand.workspace else {}

    def check() -> None:
        if not errand.agent_id and not errand.session_id:
            check_model(errand.model or DEFAULT_MODEL, config)

    with server_or_embedded(config, url=url, is_here=is_here, say=Say(), before_start=check) as server:
        return asyncio.run(_run(errand, server, before))


async def _run(errand: Errand, server: Server, before: Tree) -> Exit:
    console = Console(highlight=False)
    renderer = Renderer(console, as_json=errand.as_json)
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty() and not errand.as_json
    api = Api(server)
    try:
        async with official_client(server) as client:
            if errand.session_id:
                session = await client.beta.sessions.retrieve(errand.session_id)
            else:
                session = await _new_session(client, errand)
            session_id = session.id
            renderer.note(f"session {session_id} at {server.url}")
            if is_recorded(session.agent.model.id):
                renderer.note(
                    "a recorded run is played back, whatever the task; commands are real", "yellow"
                )
            if before:
                await asyncio.to_thread(
                    api.put, f"/corral/v1/sessions/{session_id}/workspace", pack(before)
                )
            driver = Driver(client, session_id, renderer, is_interactive=is_interactive)
            outcome = await driver.drive(errand.task)
        if outcome in (Exit.DETACHED, Exit.INTERRUPTED, Exit.NEEDS_ANSWER):
            if server.is_embedded:
                renderer.note(f"its server ends now: corral serve --data-dir {server.data_dir}")
            renderer.note(driver.how_to_return)
        if errand.workspace and outcome is not Exit.DETACHED:
            archive = await asyncio.to_thread(api.get_bytes, f"/corral/v1/sessions/{session_id}/workspace")
            _settle(errand, before, unpack(archive), console)
    finally:
        api.close()
    return outcome


async def _new_session(client: "AsyncAnthropic", errand: Errand) -> "BetaManagedAgentsSession":
    agent_id = errand.agent_id
    if agent_id is None:
        toolset: dict[str, Any] = {
            "type": "agent_toolset_20260401",
            "default_config": {
                "permission_policy": {"type": "always_ask" if errand.must_ask else "always_allow"}
            },
            "configs": [{"name": name, "enabled": False} for name in ("web_fetch", "web_search")],
        }
        agent_id = await agent_for(
            client, name="corral run", model=errand.model or DEFAULT_MODEL, system=_SYSTEM, tools=[toolset]
        )
    environment_id = await environment_for(client, name="corral run", config={"type": "cloud"})
    title = " ".join((errand.task or "").split())[:_TITLE_CHARS]
    return await client.beta.sessions.create(agent=agent_id, environment_id=environment_id, title=title)


def _settle(errand: Errand, before: Tree, after: Tree, console: Console) -> None:
    """Show what the agent changed; write it back if the user asked for that beforehand."""
    assert errand.workspace
    names = changed(before, after)
    if errand.as_json:
        import json

        diff = difference(before, after)
        print(json.dumps({"type": "corral.workspace_diff", "changed": names, "diff": diff}), flush=True)
    elif names:
        console.print(diff_text(difference(before, after)), soft_wrap=True)
    else:
        console.print("no file changed")
    if errand.is_applied and names:
        apply_changes(errand.workspace, before, after)
        Say()(f"applied to {errand.workspace}: {len(names)} files")
    elif names:
        Say()(f"{errand.workspace} itself is unchanged; --apply writes the result there")
