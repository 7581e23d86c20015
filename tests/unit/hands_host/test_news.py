"""A fresh sandbox tells the model that an earlier one is gone: once, and never the first one ever."""

import asyncio

import pytest

from corral.hands.host import HandsHost
from corral.hands.journal import Journal
from corral.hands.news import NEWS_FOUND, NEWS_KEPT, NEWS_LOST, NEWS_RESTORED, SANDBOX_STOPPED
from corral.hands.ports import WorkspaceMissing
from corral.hands.process import lose_workspaces
from corral.hands.wire import Restored
from corral.kernel.errors import LeaseLost, SandboxUnavailable
from corral.session.call import INTERRUPTED, Recipe

SESSION = "sesn_1"


def texts(result) -> list[str]:
    return [block["text"] for block in result.content]


async def until(fact) -> None:
    async with asyncio.timeout(60):
        while not fact():  # noqa: ASYNC110  of another process
            await asyncio.sleep(0.005)


async def stream(*chunks: bytes):
    for chunk in chunks:
        yield chunk


async def test_the_first_sandbox_ever_has_no_news_and_its_second_call_neither(host, bash):
    await host.provision(SESSION, epoch=1, recipe=Recipe())
    for number in (1, 2):
        assert texts(await host.execute(bash(f"c{number}", "echo x"), epoch=1)) == ["x\n"]


async def test_files_that_came_before_the_first_sandbox_are_no_news(host, bash, provider, tmp_path):
    await provider.prepare_workspace(tmp_path / "workspaces" / "sesn_other")
    (tmp_path / "workspaces" / "sesn_other" / "file").write_text("x\n")
    packed = b"".join([c async for c in provider.export_archive(tmp_path / "workspaces" / "sesn_other")])
    await host.held.import_workspace(SESSION, stream(packed))
    assert texts(await host.execute(bash("c1", "cat file"), epoch=1)) == ["x\n"]


async def test_only_the_first_of_parallel_calls_tells(host, bash, provider):
    await host.execute(bash("c0", "true"), epoch=1)
    await provider.created[0].destroy()
    results = await asyncio.gather(*(host.execute(bash(f"c{n}", "echo x"), epoch=1) for n in range(1, 6)))
    assert sorted(map(texts, results)) == [[NEWS_KEPT, "x\n"], *[["x\n"]] * 4]
    assert texts(await host.execute(bash("c9", "echo x"), epoch=1)) == ["x\n"]


async def test_a_sandbox_that_dies_under_a_call_is_told_there_and_not_again(host, bash, provider, tmp_path):
    running = asyncio.create_task(host.execute(bash("c1", "touch begun; sleep 600"), epoch=1))
    await until((tmp_path / "workspaces" / SESSION / "begun").exists)
    await provider.created[0].destroy()
    assert texts(await running) == [SANDBOX_STOPPED]
    assert texts(await host.execute(bash("c2", "ls"), epoch=1)) == ["begun\n"]
    await provider.created[1].destroy()
    assert texts(await host.execute(bash("c3", "ls"), epoch=1)) == [NEWS_KEPT, "begun\n"]


async def test_an_interrupted_call_leaves_the_news_to_the_next(host, bash, provider, tmp_path):
    await host.execute(bash("c0", "true"), epoch=1)
    await provider.created[0].destroy()
    running = asyncio.create_task(host.execute(bash("c1", "touch begun; sleep 600"), epoch=1))
    await until((tmp_path / "workspaces" / SESSION / "begun").exists)
    await host.cancel(SESSION, epoch=1, call_ids=["c1"])
    result = await running
    assert NEWS_KEPT not in texts(result) and result.is_error
    assert texts(await host.execute(bash("c2", "ls"), epoch=1)) == [NEWS_KEPT, "begun\n"]
    assert INTERRUPTED not in NEWS_KEPT


async def test_a_host_that_was_started_again_knows_that_there_was_one(provider, bash, tmp_path):
    for expected in (["x\n"], [NEWS_KEPT, "x\n"], [NEWS_KEPT, "x\n"]):
        journal = Journal(tmp_path / "journal.sqlite")
        async with HandsHost(provider, journal=journal, host_id="host_1", state_dir=tmp_path) as host:
            call = bash(f"c{len(provider.created)}", "echo x", journal_id=journal.journal_id)
            assert texts(await host.execute(call, epoch=1)) == expected
        await journal.aclose()


@pytest.mark.parametrize(
    ("restored", "news"),
    [
        (Restored(what="nothing"), []),
        (Restored(what="lost"), [NEWS_LOST]),
        (
            Restored(what="checkpoint", taken_at="2026-11-20T10:00:00Z"),
            [NEWS_RESTORED.format(taken_at="2026-11-20T10:00:00Z")],
        ),
    ],
)
async def test_what_a_workspace_began_with_is_told(host, bash, provider, tmp_path, restored, news):
    await provider.prepare_workspace(tmp_path / "workspaces" / "sesn_other")
    packed = b"".join([c async for c in provider.pack(tmp_path / "workspaces" / "sesn_other")])
    with pytest.raises(WorkspaceMissing):
        await host.held.hold(SESSION, placed_at=7)
    for _ in range(2):  # the second one does nothing
        await host.held.restore(SESSION, stream(packed), placed_at=7, restored=restored)
    await host.held.hold(SESSION, placed_at=7)
    call = bash("c1", "echo x")
    encoded = await host.execute_encoded(call, epoch=1, placed_at=7)
    assert texts(await host.attach(call, epoch=1)) == [*news, "x\n"] and encoded
    with pytest.raises(LeaseLost):
        await host.held.restore(SESSION, stream(packed), placed_at=6, restored=restored)
    with pytest.raises(WorkspaceMissing):
        await host.execute_encoded(bash("c2", "echo x"), epoch=1, placed_at=8)


async def test_a_restore_that_breaks_leaves_nothing_and_may_be_repeated(host, bash, provider, tmp_path):
    async def broken():
        yield b"not"
        raise RuntimeError("the connection broke")

    checkpoint = Restored(what="checkpoint", taken_at="now")
    with pytest.raises(RuntimeError):
        await host.held.restore(SESSION, broken(), placed_at=7, restored=checkpoint)
    assert not (tmp_path / "workspaces" / SESSION).exists()
    with pytest.raises(WorkspaceMissing):
        await host.held.hold(SESSION, placed_at=7)
    await host.held.restore(SESSION, stream(), placed_at=7, restored=Restored(what="nothing"))
    await host.execute_encoded(bash("c1", "echo x"), epoch=1, placed_at=7)


async def test_a_full_host_takes_no_session_that_is_not_there(open_host, bash, tmp_path):
    async with open_host(sandboxes_max=1) as host:
        await host.held.restore(SESSION, stream(), placed_at=7, restored=Restored(what="nothing"))
        call = bash("c1", "touch begun; while [ ! -e go ]; do sleep 0.01; done")
        running = asyncio.create_task(host.execute(call, epoch=1))
        await until((tmp_path / "workspaces" / SESSION / "begun").exists)
        await host.held.hold(SESSION, placed_at=7)
        with pytest.raises(SandboxUnavailable, match="busy") as caught:
            await host.held.hold("sesn_2", placed_at=8)
        assert caught.value.retryable
        (tmp_path / "workspaces" / SESSION / "go").touch()
        await running
        with pytest.raises(WorkspaceMissing):  # an idle sandbox makes room
            await host.held.hold("sesn_2", placed_at=8)
        await host.drain(is_draining=True)
        await host.held.hold(SESSION, placed_at=7)
        with pytest.raises(SandboxUnavailable, match="drained"):
            await host.held.hold("sesn_2", placed_at=8)
        assert host.facts()["is_draining"] and host.facts()["capacity"] == 1


async def test_a_workspace_from_before_placements_is_adopted_as_it_lies(host, bash):
    await host.execute(bash("c1", "echo x > file"), epoch=1)
    await host.held.restore(SESSION, stream(), placed_at=7, restored=Restored(what="lost"))
    await host.held.hold(SESSION, placed_at=7)
    assert texts(await host.execute(bash("c2", "cat file"), epoch=1)) == ["x\n"]


async def packed_with(provider, tmp_path, **files: str) -> bytes:
    workspace = tmp_path / "workspaces" / "sesn_other"
    await provider.prepare_workspace(workspace)
    for name, content in files.items():
        (workspace / name).write_text(content)
    return b"".join([chunk async for chunk in provider.pack(workspace)])


@pytest.mark.parametrize("copied_on", ["", "host_1", "host_2"])
async def test_files_whose_journal_was_lost_stay_unless_a_copy_may_be_newer(
    host, bash, provider, tmp_path, copied_on
):
    (tmp_path / "workspaces" / SESSION).mkdir()
    (tmp_path / "workspaces" / SESSION / "file").write_text("here\n")
    packed = await packed_with(provider, tmp_path, file="copy\n")
    what = "checkpoint" if copied_on else "lost"
    restored = Restored(what=what, taken_at="now", host_id=copied_on)
    await host.held.restore(SESSION, stream(packed), placed_at=7, restored=restored)
    expected = [NEWS_FOUND, "here\n"]
    if copied_on == "host_2":
        expected = [NEWS_RESTORED.format(taken_at="now"), "copy\n"]
    assert texts(await host.execute(bash("c1", "cat file"), epoch=1)) == expected
    [held] = [held for held in await host.held.all() if held.session_id == SESSION]
    assert held.changes > held.kept  # it is copied soon


async def test_what_went_on_elsewhere_without_a_copy_is_found_again(host, bash, provider, tmp_path):
    await host.held.restore(SESSION, stream(), placed_at=7, restored=Restored(what="nothing"))
    await host.execute(bash("c1", "echo here > file"), epoch=1)
    await host.held.restore(SESSION, stream(), placed_at=9, restored=Restored(what="lost"))
    assert texts(await host.execute(bash("c2", "cat file"), epoch=1)) == ["here\n"]
    packed = await packed_with(provider, tmp_path, file="copy\n")
    restored = Restored(what="checkpoint", taken_at="now", host_id="host_1")
    await host.held.restore(SESSION, stream(packed), placed_at=11, restored=restored)
    assert texts(await host.execute(bash("c3", "cat file"), epoch=1))[-1] == "copy\n"


async def test_half_a_restored_workspace_is_not_found_again(open_host, bash, provider, tmp_path, journal):
    """As a crash leaves it: the mark and some files."""
    async with open_host() as host:
        await journal.held.evict(SESSION)
        (tmp_path / "workspaces" / SESSION).mkdir()
        (tmp_path / "workspaces" / SESSION / "half").touch()
        await host.held.restore(SESSION, stream(), placed_at=7, restored=Restored(what="lost"))
        assert texts(await host.execute(bash("c1", "ls; echo on"), epoch=1)) == [NEWS_LOST, "on\n"]
        await journal.held.evict("sesn_2")
        (tmp_path / "workspaces" / "sesn_2").mkdir()
    async with open_host():
        await until(lambda: not (tmp_path / "workspaces" / "sesn_2").exists())


async def test_a_session_whose_files_a_restore_did_not_bring_is_told(provider, bash, tmp_path):
    (tmp_path / "hands" / "workspaces" / "sesn_here").mkdir(parents=True)
    for _ in range(2):
        await lose_workspaces(tmp_path, [SESSION, "sesn_here"])
    journal = Journal(tmp_path / "hands" / "private" / "journal.sqlite")
    async with HandsHost(provider, journal=journal, host_id="host_1", state_dir=tmp_path / "hands") as host:
        for call_id, session_id, expected in (
            ("c1", SESSION, [NEWS_LOST, "x\n"]),
            ("c2", SESSION, ["x\n"]),
            ("c3", "sesn_here", ["x\n"]),
        ):
            call = bash(call_id, "echo x", session_id=session_id, journal_id=journal.journal_id)
            assert texts(await host.execute(call, epoch=1)) == expected
    await journal.aclose()
