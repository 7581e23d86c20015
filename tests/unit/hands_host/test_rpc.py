"""The host through its socket: every method of the port, every error, both streams, adoption."""

import asyncio
import io
import os
import resource
import stat
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from corral.app.hands import Keeping, hands_part
from corral.app.readiness import Readiness
from corral.brain.ports import Hands
from corral.daemon import private_path, socket_path, token_path
from corral.hands import client as client_module
from corral.hands import process as process_module
from corral.hands import rpc, workspace
from corral.hands.client import HandsClient
from corral.hands.news import OUTCOME_UNKNOWN
from corral.hands.process import serve_hands
from corral.kernel.clock import SystemClock
from corral.kernel.errors import (
    Conflict,
    HandsUnavailable,
    InvalidRequest,
    LeaseLost,
    NotFound,
    RequestTooLarge,
    SandboxUnavailable,
)
from corral.session.call import NeverStarted, Recipe, ToolCall
from corral.session.content import ToolResult
from corral.testing.clock import skip

SESSION = "sesn_1"


@pytest.fixture
async def serving(tmp_path: Path, provider) -> AsyncIterator[Callable[..., object]]:
    """Starts the host of `tmp_path` in this process; ends it with the test."""
    tasks: list[asyncio.Task[None]] = []

    async def start(*, unadopted_seconds: float = 60.0) -> "asyncio.Task[None]":
        ready = asyncio.Event()
        tasks.append(
            asyncio.create_task(
                serve_hands(
                    data_dir=tmp_path,
                    provider=lambda state_dir: provider,
                    unadopted_seconds=unadopted_seconds,
                    on_ready=ready.set,
                )
            )
        )
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait([waiting, tasks[-1]], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def client(tmp_path: Path, serving) -> AsyncIterator[HandsClient]:
    await serving()
    client = HandsClient(socket_path(tmp_path, "hands"), token=token_path(tmp_path, "hands").read_text())
    yield client
    await client.aclose()


@pytest.fixture
async def call(client: HandsClient) -> Callable[..., ToolCall]:
    placement = await client.placement(SESSION)

    def make(call_id: str, command: str, *, session_id: str = SESSION) -> ToolCall:
        return ToolCall(
            session_id=session_id,
            thread_id="sthr_1",
            call_id=call_id,
            name="bash",
            input={"command": command},
            recipe=Recipe(environment={"type": "cloud"}),
            placement=placement,
        )

    return make


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1000):
        yield data[start : start + 1000]


def tar(**files: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
    return packed.getvalue()


async def test_the_port_through_the_socket(client, call):
    hands: Hands = client
    await hands.announce(SESSION, epoch=3)
    await hands.provision(SESSION, epoch=3, recipe=Recipe())
    result = await hands.execute(call("c1", "echo é; exit 1"), epoch=3)
    assert result.is_error and result.content == ({"type": "text", "text": "é\n"},)
    assert await hands.attach(call("c1", "true"), epoch=3) == result
    running = asyncio.create_task(hands.execute(call("c2", "exec sleep 600"), epoch=3))
    while (await client.health())["calls"] == 0:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    await hands.cancel(SESSION, epoch=3, call_ids=["c2"])
    assert (await running).is_error
    await hands.settle(SESSION, call_ids=["c1", "c2"])
    late = await hands.execute(call("c1", "echo é; exit 1"), epoch=3)
    assert late.content == ({"type": "text", "text": OUTCOME_UNKNOWN},)
    with pytest.raises(NeverStarted):
        await hands.attach(call("c3", "true"), epoch=3)
    assert [sandbox.session_id for sandbox in await client.sandboxes()] == [SESSION]
    await client.release(SESSION, delete_workspace=True)
    assert await client.sandboxes() == []


async def test_errors_keep_their_kind_and_their_words(client, call, provider):
    await client.announce(SESSION, epoch=3)
    with pytest.raises(LeaseLost):
        await client.execute(call("c1", "true"), epoch=2)
    with pytest.raises(NeverStarted):
        await client.attach(call("c1", "true"), epoch=3)
    with pytest.raises(InvalidRequest, match="plain name"):
        await client.announce("../x", epoch=1)
    provider.unavailable = "install bubblewrap"
    with pytest.raises(SandboxUnavailable, match="install bubblewrap") as caught:
        await client.execute(call("c1", "true"), epoch=3)
    assert caught.value.retryable is False
    for body in ({"session": "s"}, {"session_id": 1, "epoch": 1}, {"session_id": "s", "epoch": 2**62}):
        with pytest.raises(InvalidRequest, match="malformed"):
            await client._post("/announce", body)
    with pytest.raises(HandsUnavailable):
        await client._post("/no-such-method", {})


async def test_what_is_for_the_owner_of_the_machine_stays_in_the_log(client, call, provider, caplog):
    provider.unavailable, provider.detail = "bwrap does not start", "/srv/private says no"
    with pytest.raises(SandboxUnavailable) as caught:
        await client.execute(call("c1", "true"), epoch=1)
    assert caught.value.message == "bwrap does not start" and "/srv" not in str(caught.value)
    [logged] = [record.message for record in caplog.records if "/srv/private says no" in record.message]
    assert logged.split(":")[0] in str(caught.value)  # what the log is searched for

    caplog.clear()
    for _ in range(2):  # the second is believed, not tried
        probe = await client.probe()
        assert (probe.summary, probe.detail, probe.remedy) == ("local processes", "", "")
    [logged] = [record.message for record in caplog.records if "/srv/private says no" in record.message]
    assert "bwrap does not start" in logged


async def test_readyz_says_what_is_wrong_without_paths(client, provider):
    provider.unavailable, provider.detail = "run `/opt/bwrap true`", "/srv/private says no"
    keeping = Keeping(placements=None, checkpoints=None, blobs=None, checkpointer=None)  # not asked
    readiness = Readiness(hands_part(keeping, client, SystemClock()).looks)
    await readiness.check()
    check = readiness.results()["hands"]
    assert check.status == "failed" and "local processes" in check.reason
    assert "/" not in check.reason and "corral doctor" in check.reason


async def test_a_disk_that_fails_is_told_without_its_paths(client, call, tmp_path, caplog):
    workspaces = tmp_path / "hands" / "workspaces"
    workspaces.rename(tmp_path / "not mounted")
    with pytest.raises(HandsUnavailable) as caught:
        await client.execute(call("c1", "true"), epoch=1)
    assert "FileNotFoundError" in str(caught.value) and str(tmp_path) not in str(caught.value)
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.exc_info and str(workspaces) in str(record.exc_info[1])
    assert record.message.split(":")[0] in str(caught.value)


async def test_a_workspace_goes_in_and_comes_out(client, call, monkeypatch):
    await client.import_workspace(SESSION, chunks(tar(**{"a.txt": "from outside"})))
    result = await client.execute(call("c1", "cat a.txt; echo inside > b.txt"), epoch=1)
    assert result.content[0]["text"] == "from outside"
    data = b"".join([chunk async for chunk in client.export_workspace(SESSION)])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.extractfile("./b.txt")
        assert member and member.read() == b"inside\n"
    with pytest.raises(NotFound):
        [chunk async for chunk in client.export_workspace("sesn_other")]
    with pytest.raises(InvalidRequest):
        await client.import_workspace(SESSION, chunks(b"no tar"))
    monkeypatch.setattr(workspace, "WORKSPACE_ARCHIVE_BYTES_MAX", 4000)
    with pytest.raises(RequestTooLarge):
        await client.import_workspace(SESSION, chunks(tar(**{"a.txt": "x" * 8000})))
    with pytest.raises(HandsUnavailable):  # cut short, and not mistaken for a whole one
        [chunk async for chunk in client.export_workspace(SESSION)]
    await client.release(SESSION, delete_workspace=True)
    with pytest.raises(NotFound, match="deleted"):
        await client.import_workspace(SESSION, chunks(tar(**{"a.txt": "late"})))


async def test_only_the_owner_with_the_token_is_let_in(client, tmp_path):
    path = socket_path(tmp_path, "hands")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((path.parent / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE((private_path(tmp_path, "hands") / "journal.sqlite").stat().st_mode) == 0o600
    for token in ("none", "wrong", token_path(tmp_path, "hands").read_text()[:-1]):
        transport = httpx2.AsyncHTTPTransport(uds=str(path))
        async with httpx2.AsyncClient(transport=transport, base_url="http://hands") as stranger:
            headers = {"authorization": f"Bearer {token}"}
            for method, route in (("GET", "/health"), ("POST", "/execute"), ("GET", "/adopt")):
                response = await stranger.request(method, f"/corral/hands/v1{route}", headers=headers)
                assert response.status_code == 401


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of a thousand connections are in this process: more than the usual soft limit."""
    needed = 4096
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"this user may open {hard} files, not {needed}")
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("many_files")
async def test_a_thousand_calls_wait_at_once(client, call, tmp_path):
    """Twelve run commands, all the others join them: each of a thousand askers holds a connection."""
    waits = "while [ ! -e go ]; do sleep 0.1; done"
    calls = [call(f"c{n % 12}", f"{waits}; echo {n % 12}") for n in range(1000)]
    asking: list[asyncio.Task[ToolResult]] = []
    async with asyncio.timeout(240):
        for one in calls:
            asking.append(asyncio.create_task(client.execute(one, epoch=1)))
            await asyncio.sleep(0)  # a thousand connections in one step could take longer than one may
        while len(os.listdir("/proc/self/fd")) < 2 * len(asking):  # noqa: ASYNC110, PTH208  (both ends)
            await asyncio.sleep(0.01)
        assert not any(task.done() for task in asking)
        (tmp_path / "hands" / "workspaces" / SESSION / "go").touch()
        results = await asyncio.gather(*asking)
    assert [result.content[0]["text"] for result in results] == [f"{n % 12}\n" for n in range(1000)]


async def test_calls_do_not_hold_up_what_would_end_them(tmp_path, serving, monkeypatch):
    monkeypatch.setattr(client_module, "HANDS_CONNECTIONS_MAX", 2)
    await serving()
    client = HandsClient(socket_path(tmp_path, "hands"), token=token_path(tmp_path, "hands").read_text())
    placement = await client.placement(SESSION)
    call_ids = [f"c{number}" for number in range(4)]
    calls = [
        ToolCall(
            session_id=SESSION,
            thread_id="sthr_1",
            call_id=call_id,
            name="bash",
            input={"command": "sleep 600"},
            recipe=Recipe(),
            placement=placement,
        )
        for call_id in call_ids
    ]
    running = [asyncio.create_task(client.execute(call, epoch=1)) for call in calls]
    async with asyncio.timeout(60):
        while (await client.health())["calls"] < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await client.cancel(SESSION, epoch=1, call_ids=call_ids)
        assert all(result.is_error for result in await asyncio.gather(*running))
    await client.aclose()


async def test_one_host_per_data_directory(client, tmp_path, provider):
    with pytest.raises(Conflict, match="another hands process"):
        await serve_hands(data_dir=tmp_path, provider=lambda state_dir: provider)
    assert (await client.health())["role"] == "hands"  # the first one was not disturbed


async def test_a_path_too_long_for_a_socket_is_said_so(tmp_path, provider):
    with pytest.raises(InvalidRequest, match="shorter data directory"):
        await serve_hands(data_dir=tmp_path / ("x" * 100), provider=lambda state_dir: provider)


async def test_an_adopted_host_stays_and_an_unadopted_one_ends_with_its_sandboxes(
    serving, tmp_path, provider, monkeypatch
):
    monkeypatch.setattr(rpc, "HANDS_HEARTBEAT_SECONDS", 0.01)
    task = await serving(unadopted_seconds=20.0)
    client = HandsClient(socket_path(tmp_path, "hands"), token=token_path(tmp_path, "hands").read_text())
    adopted = asyncio.Event()

    async def supervise() -> None:
        async for placement in client.adopt():
            assert placement == await client.placement(SESSION)
            adopted.set()

    supervisor = asyncio.create_task(supervise())
    await adopted.wait()
    await client.provision(SESSION, epoch=1, recipe=Recipe())
    assert (await client.health())["is_supervised"]
    skip(25.0)  # less than the supervisor's client waits for a byte
    done, _ = await asyncio.wait([task], timeout=0.3)
    assert not done
    supervisor.cancel()
    await asyncio.gather(supervisor, return_exceptions=True)
    async with asyncio.timeout(60):
        while (await client.health())["is_supervised"]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    skip(25.0)
    await asyncio.wait_for(task, 60)
    assert not any(sandbox.is_alive for sandbox in provider.created)
    assert not socket_path(tmp_path, "hands").exists()
    with pytest.raises(HandsUnavailable) as caught:
        await client.health()
    assert caught.value.retryable
    await client.aclose()


async def test_a_supervisor_learns_that_its_host_ends(serving, tmp_path):
    task = await serving()
    client = HandsClient(socket_path(tmp_path, "hands"), token=token_path(tmp_path, "hands").read_text())
    beats = 0
    async for _ in client.adopt():
        beats += 1
        os.kill(os.getpid(), process_module.signal.SIGTERM)  # to the handler that the host installed
    assert beats == 1
    await asyncio.wait_for(task, 60)
    await client.aclose()


def test_the_process_is_light():
    """Its memory and start-up are paid on every machine."""
    code = "import corral.hands.process, sys; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert not {"fastapi", "pydantic", "sqlalchemy", "anthropic", "httpx2", "rich"} & set(modules.split())
