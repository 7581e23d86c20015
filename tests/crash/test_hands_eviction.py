"""A workspace that leaves its host on purpose: evictions, drains, room."""

import asyncio
from dataclasses import replace

import pytest

from corral.kernel.errors import Conflict, HandsUnavailable, NotFound
from corral.orchestrator.sandboxes import drain_host
from tests.crash.hosts import (
    SECONDS,
    WORK,
    until,
)


async def test_an_ended_session_still_has_its_files(cluster):
    await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    await cluster.sessions.archive(session_id)
    await router.release(session_id, delete_workspace=False)
    packed = b"".join([chunk async for chunk in router.export_workspace(session_id)])
    assert b"file" in packed
    with pytest.raises(NotFound):
        [_ async for _ in router.export_workspace(await cluster.session())]


async def test_an_evicted_session_gets_its_files_back_with_its_next_call(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    desk = cluster.desk(router)
    [view] = await desk.all()
    assert (view.session_id, view.provider, view.is_busy, view.has_changed) == (
        session_id, "local", False, True
    )  # fmt: skip
    assert view.disk_bytes > 0 and view.checkpoint_at is None
    await desk.evict(session_id)
    assert not host.files(session_id).exists() and await desk.all() == []
    with pytest.raises(NotFound):
        await desk.evict(session_id)
    news, text = await cluster.run(router, session_id, "cat file")
    assert "restored" in news and text == "x\n"


async def test_what_was_written_between_calls_is_evicted_with_a_copy(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    await cluster.keep(host)
    (host.files(session_id) / "file").write_text("by a process that lives on\n")
    await cluster.desk(router).evict(session_id)
    assert (await cluster.run(router, session_id, "cat file"))[-1] == "by a process that lives on\n"


async def test_files_that_no_journal_knows_are_not_evicted(cluster):
    """Of an older Corral, or of an eviction that was killed: nobody can tell, so nobody removes them."""
    host = await cluster.start("a")
    session_id = await cluster.session()
    host.files(session_id).mkdir(parents=True)
    (host.files(session_id) / "file").write_text("the only copy")
    with pytest.raises(Conflict, match="next call"):
        await cluster.desk(cluster.router()).evict(session_id)
    assert (host.files(session_id) / "file").read_text() == "the only copy"


async def test_a_session_at_work_is_not_evicted(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    call = cluster.bash(session_id, await router.placement(session_id), WORK)
    running = asyncio.create_task(router.execute(call, epoch=1))
    await until((host.files(session_id) / "begun").exists)
    with pytest.raises(Conflict):
        await cluster.desk(router).evict(session_id)
    with pytest.raises(Conflict):
        await cluster.client(host).evict(session_id, changes=1)
    (host.files(session_id) / "go").touch()
    assert (await running).content[0]["text"] == "true result\n"


async def test_a_call_that_meets_an_eviction_runs_after_the_restore_or_not_at_all(cluster):
    await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    call = cluster.bash(session_id, await router.placement(session_id), "cat file")
    await cluster.desk(router).evict(session_id)  # between the intent and the call
    result = await router.execute(call, epoch=1)
    assert result.content[-1]["text"] == "x\n"


async def test_a_host_killed_during_an_eviction_restores_before_the_next_call(cluster):
    host = await cluster.start("a", crash_at="hands.evict")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    with pytest.raises(HandsUnavailable):
        await cluster.desk(router).evict(session_id)
    await host.process.wait()
    (host.files(session_id) / "file").write_text("not from the checkpoint\n")
    await cluster.start("a")
    assert (await cluster.run(router, session_id, "cat file"))[-1] == "x\n"


async def test_a_draining_host_keeps_its_sessions_and_takes_no_new_ones(cluster):
    draining = await cluster.start("a")
    router, old = cluster.router(), await cluster.session()
    await cluster.run(router, old, "echo x > file")
    await drain_host(cluster.client(draining), cluster.checkpointer())
    assert await cluster.checkpoints.newest(old) is not None
    assert await cluster.run(router, old, "cat file") == ["x\n"]
    new = await cluster.session()
    with pytest.raises(HandsUnavailable, match="takes new sessions"):
        await router.placement(new)
    other = await cluster.start("b")
    for _ in range(4):  # the list of nodes does not know yet that the first one drains
        assert cluster.host_of(await router.placement(await cluster.session())) is other


async def test_sessions_spread_over_hosts_by_their_room(cluster, monkeypatch):
    # What was placed counts until the list of nodes has it; that of these tests never has.
    monkeypatch.setattr("corral.hands.placer.NODE_BEAT_SECONDS", SECONDS)
    for name in ("a", "b"):
        await cluster.start(name)
    router = cluster.router()
    placed = [
        cluster.host_of(await router.placement(await cluster.session())).data_dir.name for _ in range(20)
    ]
    assert placed.count("a") == 10
    full = cluster.hosts["a"]
    full.facts = replace(full.facts, sandboxes=full.facts.capacity)
    placed = {
        cluster.host_of(await router.placement(await cluster.session())).data_dir.name for _ in "1234"
    }
    assert placed == {"b"}
