"""From creation to deletion: what may happen when, and what is left behind."""

import asyncio
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest

from corral.testing.lab import new_mark
from corral.testing.messages_reply import Reply
from tests.served import KEY, WAIT_SECONDS, text, until
from tests.stage import Stage, words

pytestmark = pytest.mark.asyncio(loop_scope="session")


def bash(command: str, number: int = 1) -> Reply:
    return Reply.tools((f"toolu_{number}", "bash", {"command": command}))


def runs(argument: str) -> bool:
    """Whether a process with this argument exists anywhere on this machine, sandboxes included."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in path.read_bytes().split(b"\0"):
                return True
        except OSError:
            pass
    return False


@pytest.mark.parametrize("end", ["archive", "delete"])
async def test_an_ended_session_leaves_nothing_running(stage: Stage, end: str) -> None:
    """A background process of the agent lives until then, and not longer."""
    marker = new_mark()
    stage.play(
        bash(f"sleep {marker} >/dev/null 2>&1 & touch began"),
        Reply.text("Done."),
        Reply(hang_after_bytes=0),
    )
    session = await stage.session()
    sessions = stage.client.beta.sessions
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
        await until(lambda: runs(marker))  # what runs in the background outlives its call
        await stage.send(session.id, text("Hang."))
        await stage.asked(3)
        with pytest.raises(anthropic.BadRequestError, match="running"):
            await getattr(sessions, end)(session.id)
        await stage.send(session.id, {"type": "user.interrupt"})
        await tail.idle(2)
        await getattr(sessions, end)(session.id)  # at once: the status was visible before the event
        if end == "archive":
            await tail.until("session.status_terminated")
        else:
            await tail.until("session.deleted")
            await tail.ended()
    await until(lambda: not runs(marker))
    workspace = stage.server.workspace(session.id).parent
    if end == "archive":
        assert (await sessions.retrieve(session.id)).status == "terminated"
        assert workspace.exists(), "an archived session keeps its files"
        with pytest.raises(anthropic.ConflictError, match="archived"):
            await stage.send(session.id, text("Hello?"))
    else:
        stage.forget(session.id)
        await until(lambda: not workspace.exists())
        with pytest.raises(anthropic.NotFoundError):
            await sessions.retrieve(session.id)
        with pytest.raises(anthropic.NotFoundError):
            await stage.send(session.id, text("Hello?"))


async def test_what_waits_for_the_client_may_be_deleted(stage: Stage) -> None:
    lookup = {"type": "custom", "name": "ask", "description": "d", "input_schema": {"type": "object"}}
    stage.play(Reply.tools(("toolu_1", "ask", {})))
    session = await stage.session(lookup)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        assert (await tail.idle()).stop_reason.type == "requires_action"
        deleted = await stage.client.beta.sessions.delete(session.id)
        assert (deleted.id, deleted.type) == (session.id, "session_deleted")
        await tail.ended()
    stage.forget(session.id)


async def test_files_go_in_before_the_work_and_come_out_after_it(stage: Stage) -> None:
    stage.play(
        bash("tr a-z A-Z < in/poem > out.txt; ln -s /etc/hostname leak; ls -la"), Reply.text("Done.")
    )
    stage.play(Reply(hang_after_bytes=0))
    session = await stage.session()
    url = f"/corral/v1/sessions/{session.id}/workspace"
    async with (
        httpx2.AsyncClient(
            base_url=stage.server.url, headers={"x-api-key": KEY}, timeout=WAIT_SECONDS
        ) as http,
        stage.watch(session.id) as tail,
    ):
        put = await http.put(url, content=_tar({"in/poem": b"the sea\n"}))
        assert put.status_code == 200, put.text
        await stage.send(session.id, text("Shout."))
        await tail.idle()
        got = await http.get(url)
        assert (got.status_code, got.headers["content-type"]) == (200, "application/x-tar")
        with tarfile.open(fileobj=io.BytesIO(got.content)) as archive:
            members = {member.name.removeprefix("./"): member for member in archive}
            shouted = archive.extractfile(members["out.txt"])
            assert shouted is not None and shouted.read() == b"THE SEA\n"
            assert members["leak"].issym(), "a link is a link: what it points at stays"
        await stage.send(session.id, text("Hang."))
        await stage.asked(3)
        refused = await http.put(url, content=_tar({"x": b""}))
        assert refused.status_code == 400 and "running" in refused.json()["error"]["message"]
        hostile = await http.get(f"/corral/v1/sessions/{session.id}x/workspace")
        assert hostile.status_code == 404
        await stage.send(session.id, {"type": "user.interrupt"})
        await tail.idle(2)


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


async def test_a_key_makes_create_and_send_happen_once(stage: Stage) -> None:
    go = asyncio.Event()
    stage.play(Reply(content=Reply.text("Once.").content, held_until=go), Reply.text("Never."))
    session = await stage.session()
    key = {"Idempotency-Key": f"send-{session.id}"}
    async with stage.watch(session.id) as tail:
        first = await stage.send(session.id, text("Go."), extra_headers=key)
        await stage.asked(1)
        again = await asyncio.gather(
            *(stage.send(session.id, text("Go."), extra_headers=key) for _ in range(4))
        )
        assert all(answer[0].id == first[0].id for answer in again)
        with pytest.raises(anthropic.ConflictError):
            await stage.send(session.id, text("Something else."), extra_headers=key)
        go.set()
        await tail.idle()
        assert (await stage.send(session.id, text("Go."), extra_headers=key))[0].id == first[0].id
    assert len(tail.of("user.message")) == 2 and len(stage.requests) == 1
    stage.requests.clear()  # the rest is another session's

    stage.script = lambda _: Reply.text("Born.")
    fields: dict[str, Any] = {
        "agent": session.agent.id,
        "environment_id": session.environment_id,
        "initial_events": [text("Start.")],
        "extra_headers": {"Idempotency-Key": f"create-{session.id}"},
    }
    one = await stage.client.beta.sessions.create(**fields)
    stage.session_ids.append(one.id)
    await stage.rests(one.id)
    two = await stage.client.beta.sessions.create(**fields)
    assert one.id == two.id
    assert len(stage.requests) == 1


async def test_no_secret_reaches_the_sandbox_the_log_or_the_disk(stage: Stage) -> None:
    look = "env; cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'; ls -la / ~ /tmp; cat ~/.* /tmp/*"
    stage.play(bash(f"({look}) 2>&1; true"), Reply.text("Nothing."))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Look around."))
        await tail.idle()
    seen = words(await tail.until("agent.tool_result"))
    assert "PATH=" in seen, "it did look"
    secrets = (stage.server.environment["AWS_SECRET_ACCESS_KEY"], "upstream-key", KEY)
    shown = json.dumps([event.to_dict(mode="json") for event in tail.events])
    for secret in secrets:
        assert secret not in shown
    for path, content in stage.server.files():
        assert not [secret for secret in secrets if secret.encode() in content], path
    for role in ("hands", "egress", "server"):
        try:
            environment = Path(f"/proc/{stage.server.pid(role)}/environ").read_bytes()
        except PermissionError:
            assert os.geteuid() != 0
            continue  # closed to others of the same user
        assert not [secret for secret in secrets if secret.encode() in environment], role


async def test_sessions_do_not_see_each_other(stage: Stage) -> None:
    stage.script = lambda request: (
        bash("ls -A /workspace; echo x > mine; ls /workspace/.. /mnt/session/*")
        if request.turns == 0
        else Reply.text("Done.")
    )
    sessions = [await stage.session(initial_events=[text("Go.")]) for _ in range(4)]
    for session in sessions:
        await stage.rests(session.id)
        history = await stage.history(session.id)
        (result,) = [event for event in history if event.type == "agent.tool_result"]
        assert "mine" not in words(result) and "sesn_" not in words(result)


async def test_the_sync_client(stage: Stage) -> None:
    """The same SDK's blocking client, in a thread: stream, tool, approval, pages."""
    ask = {
        "type": "agent_toolset_20260401",
        "default_config": {"permission_policy": {"type": "always_ask"}},
    }
    stage.play(bash("echo $((6*7))"), Reply(content=Reply.text("It is 42.").content, delta_chars=2))
    session = await stage.session(ask)

    def work() -> list[Any]:
        with anthropic.Anthropic(
            base_url=stage.server.url, api_key=KEY, max_retries=0, timeout=WAIT_SECONDS
        ) as client:
            sessions = client.beta.sessions
            events = []
            with sessions.events.stream(session.id, event_deltas=["agent.message"]) as stream:
                sessions.events.send(session.id, events=[text("What is 6*7?")])
                for event in stream:
                    events.append(event)
                    if event.type != "session.status_idle":
                        continue
                    if event.stop_reason.type == "end_turn":
                        break
                    assert event.stop_reason.type == "requires_action"
                    for tool_use_id in event.stop_reason.event_ids:
                        sessions.events.send(
                            session.id,
                            events=[
                                {
                                    "type": "user.tool_confirmation",
                                    "tool_use_id": tool_use_id,
                                    "result": "allow",
                                }
                            ],
                        )
            listed = list(sessions.events.list(session.id, limit=3))
            stored = [e for e in events if e.type not in ("event_start", "event_delta") and e.processed_at]
            assert [event.id for event in listed] == [event.id for event in stored]
            found = [each.id for each in sessions.list(agent_id=session.agent.id)]
            assert found == [session.id]
            return events

    events = await asyncio.to_thread(work)
    (result,) = [event for event in events if event.type == "agent.tool_result"]
    assert words(result).strip() == "42"
    preview = "".join(event.delta.content.text for event in events if event.type == "event_delta")
    assert preview == "It is 42."
