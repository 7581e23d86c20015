"""The promises of the hands host, on real processes and a real journal."""

import asyncio
import io
import os
import tarfile
from pathlib import Path

import pytest

from corral.hands import calls as calls_module
from corral.hands.news import NEWS_KEPT, OUTCOME_UNKNOWN, SANDBOX_STOPPED
from corral.hands.ports import WorkspaceMissing
from corral.hands.wire import Restored
from corral.kernel.errors import (
    Conflict,
    HandsUnavailable,
    InvalidRequest,
    LeaseLost,
    NotFound,
    SandboxUnavailable,
)
from corral.session.call import INTERRUPTED, NeverStarted, Recipe

SESSION = "sesn_1"


def text(result) -> str:
    return "".join(block["text"] for block in result.content)


async def until(fact, *, seconds: float = 60.0) -> None:
    """Wait for a fact about another process, which can send no signal to us."""
    async with asyncio.timeout(seconds):
        while not fact():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspaces" / SESSION


# -- at most once -----------------------------------------------------------------------------------


async def test_a_call_runs_once_however_often_it_is_asked_for(host, bash, tmp_path):
    call = bash("c1", "echo ran >> log; echo out")
    results = await asyncio.gather(*(host.execute(call, epoch=1) for _ in range(20)))
    results += [await host.execute(call, epoch=1), await host.attach(call, epoch=2)]
    assert {text(result) for result in results} == {"out\n"}
    assert (workspace(tmp_path) / "log").read_text() == "ran\n"


async def test_a_failed_command_is_a_result(host, bash):
    result = await host.execute(bash("c1", "echo no; exit 3"), epoch=1)
    assert (text(result), result.is_error) == ("no\n", True)


async def test_attach_joins_a_running_call_whose_asker_vanished(host, bash, tmp_path):
    call = bash("c1", "touch begun; while [ ! -e go ]; do sleep 0.01; done; echo done")
    asker = asyncio.create_task(host.execute(call, epoch=1))
    await until(lambda: (workspace(tmp_path) / "begun").exists())
    asker.cancel()
    await asyncio.gather(asker, return_exceptions=True)
    await host.announce(SESSION, epoch=2)
    joined = asyncio.create_task(host.attach(call, epoch=2))
    (workspace(tmp_path) / "go").touch()
    assert text(await joined) == "done\n"


async def test_attach_to_an_unseen_call_says_it_never_started(host, bash, provider):
    with pytest.raises(NeverStarted):
        await host.attach(bash("c1", "true"), epoch=1)
    assert not provider.created


@pytest.mark.parametrize("verb", ["attach", "execute"])
async def test_a_call_placed_under_another_journal_is_never_run(host, bash, provider, verb):
    result = await getattr(host, verb)(bash("c1", "true", journal_id="hjrn_lost"), epoch=1)
    assert (text(result), result.is_error) == (OUTCOME_UNKNOWN, True)
    assert not provider.created


@pytest.mark.parametrize("verb", ["attach", "execute"])
async def test_a_cancel_does_not_settle_what_another_journal_started(host, bash, verb):
    await host.cancel(SESSION, epoch=1, call_ids=["c1"])
    result = await getattr(host, verb)(bash("c1", "true", journal_id="hjrn_lost"), epoch=1)
    assert text(result) == OUTCOME_UNKNOWN


async def test_a_call_cut_off_by_a_crash_has_one_stable_unknown_outcome(host, bash, journal, provider):
    await journal.start(SESSION, "c1")  # what an earlier process left behind
    first = await host.attach(bash("c1", "true"), epoch=1)
    assert (text(first), first.is_error) == (OUTCOME_UNKNOWN, True)
    assert await host.execute(bash("c1", "true"), epoch=1) == first
    assert not provider.created


async def test_settled_calls_leave_the_journal_even_while_they_run(host, bash, journal, tmp_path):
    call = bash("c1", "touch begun; while [ ! -e go ]; do sleep 0.01; done")
    running = asyncio.create_task(host.execute(call, epoch=1))
    await until(lambda: (workspace(tmp_path) / "begun").exists())
    await host.settle(SESSION, call_ids=["c1", "unknown"])
    assert await journal.fence(SESSION, epoch=1, call_id="c1") is not None  # still guards the running call
    (workspace(tmp_path) / "go").touch()
    await running
    for call_id in ("c1", "unknown"):
        row = await journal.fence(SESSION, epoch=1, call_id=call_id)
        assert row is not None and row.is_settled


@pytest.mark.parametrize("verb", ["attach", "execute"])
async def test_a_request_that_comes_after_its_call_was_settled_runs_nothing(host, bash, tmp_path, verb):
    call = bash("c1", "echo ran >> ran")
    await host.execute(call, epoch=1)
    await host.settle(SESSION, call_ids=["c1"])
    await host.cancel(SESSION, epoch=1, call_ids=["c1"])
    late = await getattr(host, verb)(call, epoch=1)
    assert (text(late), late.is_error) == (OUTCOME_UNKNOWN, True)
    assert (workspace(tmp_path) / "ran").read_text() == "ran\n"


async def test_a_bug_in_the_provider_ends_its_call_and_nothing_else(
    host, bash, provider, tmp_path, monkeypatch
):
    good = bash("c1", "touch begun; while [ ! -e go ]; do sleep 0.01; done; echo fine")
    running = asyncio.create_task(host.execute(good, epoch=1))
    await until(lambda: (workspace(tmp_path) / "begun").exists())

    async def broken(call):
        raise RuntimeError("a bug")

    monkeypatch.setattr(provider.created[0], "run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        await host.execute(bash("c2", "true"), epoch=1)
    assert text(await host.attach(bash("c2", "true"), epoch=1)) == OUTCOME_UNKNOWN
    (workspace(tmp_path) / "go").touch()
    assert text(await running) == "fine\n"


async def test_a_bug_while_warming_up_is_nobodys_end(host, bash, provider, monkeypatch, caplog):
    async def broken(**_):
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(provider, "create", broken)
        await host.provision(SESSION, epoch=1, recipe=Recipe())
        await until(lambda: "warming up" in caplog.text)
    assert text(await host.execute(bash("c1", "echo fine"), epoch=1)) == "fine\n"


# -- fencing ----------------------------------------------------------------------------------------


async def test_a_lower_epoch_is_refused_everywhere_and_does_nothing(host, bash, provider):
    await host.announce(SESSION, epoch=7)
    await host.announce(SESSION, epoch=7)
    for attempt in (
        host.announce(SESSION, epoch=6),
        host.execute(bash("c1", "true"), epoch=6),
        host.attach(bash("c1", "true"), epoch=6),
        host.cancel(SESSION, epoch=6, call_ids=["c1"]),
        host.provision(SESSION, epoch=6, recipe=Recipe()),
    ):
        with pytest.raises(LeaseLost):
            await attempt
    assert not provider.created
    assert text(await host.execute(bash("c2", "echo ok", session_id="sesn_2"), epoch=1)) == "ok\n"


async def test_a_newer_brain_finds_the_call_that_an_older_one_sent_just_before_it(host, bash):
    call = bash("c1", "sleep 0.05; echo true result")
    old = asyncio.create_task(host.execute(call, epoch=1))
    await asyncio.sleep(0)  # sent, and nothing of it is written yet
    await host.announce(SESSION, epoch=2)
    assert text(await host.attach(call, epoch=2)) == "true result\n"
    await old


# -- interrupts ---------------------------------------------------------------------------------------


async def test_cancel_kills_the_command_and_records_it(host, bash, tmp_path, provider, monkeypatch):
    call = bash("c1", "echo $$ > pid; exec sleep 600")
    running = asyncio.create_task(host.execute(call, epoch=1))
    await until(
        lambda: (workspace(tmp_path) / "pid").exists() and (workspace(tmp_path) / "pid").read_text()
    )
    pid = int((workspace(tmp_path) / "pid").read_text())
    monkeypatch.setattr(calls_module, "CANCEL_GRACE_SECONDS", 600.0)
    async with asyncio.timeout(60):  # at once, and not with its sandbox when the grace is over
        await host.cancel(SESSION, epoch=1, call_ids=["c1", "unknown"])
    assert not Path(f"/proc/{pid}").exists() and provider.created[0].is_alive
    result = await running
    assert result.is_error and await host.attach(call, epoch=1) == result
    await host.cancel(SESSION, epoch=1, call_ids=["c1"])  # finished: ignored


async def test_a_command_that_cannot_be_cancelled_goes_with_its_sandbox(host, bash, tmp_path, provider):
    running = asyncio.create_task(host.execute(bash("c1", "touch begun; exec sleep 600"), epoch=1))
    await until(lambda: (workspace(tmp_path) / "begun").exists())
    provider.created[0].ignores_cancel = True
    async with asyncio.timeout(60):
        await host.cancel(SESSION, epoch=1, call_ids=["c1"])
        assert text(await running) == INTERRUPTED
    await until(lambda: not provider.created[0].is_alive)
    news, out = (await host.execute(bash("c2", "ls"), epoch=1)).content
    assert (news["text"], out["text"]) == (NEWS_KEPT, "begun\n")


async def test_a_call_that_waits_for_a_sandbox_can_be_interrupted_and_never_runs(open_host, bash, tmp_path):
    async with open_host(sandboxes_max=1) as host:
        busy = asyncio.create_task(host.execute(bash("c1", "touch begun; exec sleep 600"), epoch=1))
        await until(lambda: (workspace(tmp_path) / "begun").exists())
        other = bash("c2", "touch ran", session_id="sesn_2")
        waiting = asyncio.create_task(host.execute(other, epoch=1))
        await until(lambda: host.calls_running == 2)
        await host.cancel("sesn_2", epoch=1, call_ids=["c2"])
        assert text(await waiting) == INTERRUPTED
        await host.cancel(SESSION, epoch=1, call_ids=["c1"])
        await busy
        assert text(await host.execute(other, epoch=1)) == INTERRUPTED
        assert not (tmp_path / "workspaces" / "sesn_2").exists()


async def test_a_cancel_that_overtakes_its_call_is_not_lost(host, bash, provider, journal):
    await journal.start(
        SESSION, "c0"
    )  # cut off by a crash: a cancel does not know better what became of it
    await host.cancel(SESSION, epoch=1, call_ids=["c0", "c1"])
    assert text(await host.execute(bash("c1", "echo ran"), epoch=1)) == INTERRUPTED
    assert text(await host.attach(bash("c0", "echo ran"), epoch=1)) == OUTCOME_UNKNOWN
    assert not provider.created
    calls = [bash(f"d{n}", "true") for n in range(8)]  # at the same time, in every order
    for call in calls:
        asking = asyncio.create_task(host.execute(call, epoch=1))
        await asyncio.gather(asking, host.cancel(SESSION, epoch=1, call_ids=[call.call_id]))
        assert (asking.result()).is_error


async def test_a_call_interrupted_before_its_first_step_ends(host, bash, tmp_path):
    call = bash("c1", "touch ran")
    running = asyncio.create_task(host.execute(call, epoch=1))
    while not host.calls_running:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await host._calls.interrupt(SESSION)  # in the very step that began it
    assert text(await running) == INTERRUPTED
    assert not (workspace(tmp_path) / "ran").exists()


async def test_cancel_touches_no_other_session(host, bash, tmp_path):
    call = bash("c1", "touch begun; while [ ! -e go ]; do sleep 0.01; done; echo done")
    running = asyncio.create_task(host.execute(call, epoch=1))
    await until(lambda: (workspace(tmp_path) / "begun").exists())
    await host.cancel("sesn_2", epoch=1, call_ids=["c1"])
    (workspace(tmp_path) / "go").touch()
    assert text(await running) == "done\n"


# -- sandboxes die ------------------------------------------------------------------------------------


async def test_a_dead_sandbox_is_an_error_result_and_the_next_call_gets_a_fresh_one(
    host, bash, tmp_path, provider
):
    running = asyncio.create_task(host.execute(bash("c1", "touch begun; exec sleep 600"), epoch=1))
    await until(lambda: (workspace(tmp_path) / "begun").exists())
    os.kill(provider.created[0].pid, 9)
    result = await running
    assert (text(result), result.is_error) == (SANDBOX_STOPPED, True)
    assert text(await host.execute(bash("c2", "ls"), epoch=1)) == "begun\n"
    assert len(provider.created) == 2


async def test_without_a_sandbox_nothing_has_started(host, bash, provider):
    provider.unavailable = "install bubblewrap"
    with pytest.raises(SandboxUnavailable, match="install bubblewrap"):
        await host.execute(bash("c1", "echo ran"), epoch=1)
    with pytest.raises(NeverStarted):
        await host.attach(bash("c1", "echo ran"), epoch=1)
    await host.provision(SESSION, epoch=1, recipe=Recipe())  # a hint: harmless
    provider.unavailable = ""
    assert text(await host.execute(bash("c1", "echo ran"), epoch=1)) == "ran\n"


async def test_a_nearly_full_disk_refuses_new_work_and_keeps_old_results(open_host, bash):
    async with open_host() as host:
        await host.execute(bash("c1", "echo old"), epoch=1)
    async with open_host(disk_free_bytes_min=1 << 62) as host:
        assert text(await host.attach(bash("c1", "echo old"), epoch=1)) == "old\n"
        with pytest.raises(SandboxUnavailable, match="almost full"):
            await host.execute(bash("c2", "true"), epoch=1)
        with pytest.raises(NeverStarted):
            await host.attach(bash("c2", "true"), epoch=1)


async def test_a_result_beyond_the_bound_is_replaced(host, bash, monkeypatch):
    monkeypatch.setattr(calls_module, "TOOL_RESULT_BYTES_MAX", 1024)
    result = await host.execute(bash("c1", "head -c 2000 /dev/zero | tr '\\0' x"), epoch=1)
    assert result.is_error and "larger than" in text(result)


@pytest.mark.parametrize("session_id", ["../other", "", ".", "a/b", "x" * 200])
async def test_a_session_id_never_leaves_the_workspaces(host, bash, session_id):
    with pytest.raises(InvalidRequest):
        await host.execute(bash("c1", "true", session_id=session_id), epoch=1)
    with pytest.raises(InvalidRequest):
        await host.release(session_id, delete_workspace=True)


# -- ends ---------------------------------------------------------------------------------------------


async def test_a_deleted_session_leaves_nothing_and_is_fenced_for_good(
    host, bash, tmp_path, provider, journal
):
    await host.execute(bash("c0", "echo kept > file"), epoch=1)
    running = asyncio.create_task(host.execute(bash("c1", "touch begun; exec sleep 600"), epoch=1))
    await until(lambda: (workspace(tmp_path) / "begun").exists())
    await host.release(SESSION, delete_workspace=True)
    assert text(await running)
    assert not workspace(tmp_path).exists() and not host.sandboxes()
    assert not any(sandbox.is_alive for sandbox in provider.created)
    with pytest.raises(LeaseLost):
        await host.execute(bash("c2", "true"), epoch=10**9)
    assert await journal.is_released(SESSION)
    await host.release(SESSION, delete_workspace=True)


async def test_an_ended_session_keeps_its_workspace(host, bash, provider):
    await host.execute(bash("c0", "echo kept > file"), epoch=1)
    await host.release(SESSION, delete_workspace=False)
    assert not host.sandboxes()
    for late in (
        host.execute(bash("c1", "cat file"), epoch=1),
        host.provision(SESSION, epoch=1, recipe=Recipe()),
    ):
        with pytest.raises(LeaseLost):
            await late
    assert len(provider.created) == 1
    news, out = (await host.execute(bash("c1", "cat file"), epoch=2)).content
    assert (news["text"], out["text"]) == (NEWS_KEPT, "kept\n")


async def test_an_end_overtakes_a_sandbox_that_is_only_being_warmed_up(host, bash, provider):
    await host.provision(SESSION, epoch=1, recipe=Recipe())
    await host.release(SESSION, delete_workspace=False)
    await host.execute(bash("c1", "true", session_id="sesn_2"), epoch=1)
    assert [sandbox.session_id for sandbox in host.sandboxes()] == ["sesn_2"]
    assert not [sandbox for sandbox in provider.created[:-1] if sandbox.is_alive]


async def test_a_deletion_cuts_an_upload_short_and_leaves_nothing_of_it(host, tmp_path):
    packed, begun, deleted = io.BytesIO(), asyncio.Event(), asyncio.Event()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("file"))

    async def slowly():
        yield packed.getvalue()[:600]
        begun.set()
        await deleted.wait()
        yield packed.getvalue()[600:]

    uploading = asyncio.create_task(host.held.import_workspace(SESSION, slowly()))
    await begun.wait()
    await host.release(SESSION, delete_workspace=True)
    deleted.set()
    with pytest.raises(NotFound, match="was deleted"):
        await uploading
    assert not workspace(tmp_path).exists()


async def test_a_stopping_host_answers_what_runs_and_takes_nothing_new(
    open_host, bash, tmp_path, monkeypatch
):
    monkeypatch.setattr(calls_module, "HANDS_DRAIN_SECONDS", 0.1)
    async with open_host() as host:
        running = asyncio.create_task(host.execute(bash("c1", "touch begun; exec sleep 600"), epoch=1))
        await until(lambda: (workspace(tmp_path) / "begun").exists())
        await host.stop()
        assert text(await running) == SANDBOX_STOPPED
        with pytest.raises(HandsUnavailable, match="stopping"):
            await host.execute(bash("c2", "true"), epoch=1)
    async with open_host() as host:
        assert text(await host.attach(bash("c1", "true"), epoch=2)) == SANDBOX_STOPPED
        with pytest.raises(NeverStarted):
            await host.attach(bash("c2", "true"), epoch=2)


async def test_a_probe_is_believed_for_seconds(host, provider):
    probes = await asyncio.gather(host.probe(), host.probe(), host.probe())
    assert provider.probes == 1 and all(probe.is_available for probe in probes)


# -- evictions meet what is on its way ------------------------------------------------------------------


async def test_an_import_is_work_and_no_eviction_takes_its_files(host, tmp_path):
    coming, go = asyncio.Event(), asyncio.Event()

    async def archive():
        coming.set()
        await go.wait()
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("file"))
        yield data.getvalue()

    importing = asyncio.create_task(host.held.import_workspace(SESSION, archive()))
    await coming.wait()
    [held] = await host.held.all()
    assert held.is_busy
    with pytest.raises(Conflict):
        await host.held.evict(SESSION, changes=0)
    go.set()
    await importing
    assert (workspace(tmp_path) / "file").exists()
    with pytest.raises(Conflict):
        await host.held.evict(SESSION, changes=0)
    await host.held.evict(SESSION, changes=1)
    with pytest.raises(SandboxUnavailable):
        await host.held.import_workspace(SESSION, archive())
    assert not workspace(tmp_path).exists()


async def test_a_call_that_meets_an_eviction_did_not_start_and_is_not_called_interrupted(
    host, bash, tmp_path, provider, monkeypatch
):
    await host.held.restore(SESSION, _nothing(), placed_at=7, restored=Restored(what="nothing"))
    creating, go, create = asyncio.Event(), asyncio.Event(), provider.create

    async def slowly(**arguments):
        creating.set()
        await go.wait()
        return await create(**arguments)

    evict = host._journal.held.evict

    async def marked(*arguments, **conditions):  # the call comes after the look for calls
        nonlocal calling
        calling = asyncio.create_task(host.execute_encoded(call, epoch=1, placed_at=7))
        await creating.wait()
        await evict(*arguments, **conditions)
        go.set()

    calling, call = None, bash("c1", "touch ran")
    monkeypatch.setattr(provider, "create", slowly)
    monkeypatch.setattr(host._journal.held, "evict", marked)
    await host.held.evict(SESSION, changes=0)
    with pytest.raises(WorkspaceMissing):
        await calling
    with pytest.raises(NeverStarted):
        await host.attach(call, epoch=1)
    assert not (workspace(tmp_path) / "ran").exists()


async def _nothing():
    for chunk in ():
        yield chunk
