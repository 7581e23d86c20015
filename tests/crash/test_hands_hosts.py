"""Two hands hosts, killed and lost: a session goes on elsewhere with its files, and no call runs twice."""

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from corral.hands.news import NEWS_KEPT, NEWS_LOST
from corral.hands.router import MOVED
from corral.hands.wire import Restored
from corral.kernel.errors import HandsUnavailable
from corral.kernel.limits import NODE_LOST_SECONDS
from corral.orchestrator.sandboxes import AllHosts, sweep_host
from corral.session.call import NeverStarted, Recipe
from corral.session.content import ToolResult
from tests.crash.hosts import (
    SECONDS,
    WORK,
    unknown,
    until,
)


async def test_a_host_lost_during_a_call_one_unknown_result_and_the_session_goes_on_elsewhere(cluster):
    await cluster.start("a")
    await cluster.start("b")
    router, session_id = cluster.router(), await cluster.session()
    assert await cluster.run(router, session_id, "echo one > file; echo done") == ["done\n"]
    first = cluster.host_of(await router.placement(session_id))
    await cluster.keep(first)
    call = cluster.bash(session_id, await router.placement(session_id), WORK)
    running = asyncio.create_task(router.execute(call, epoch=1))
    await until((first.files(session_id) / "begun").exists)

    await first.kill()
    with pytest.raises(HandsUnavailable):  # it may come back: its supervisor starts it again
        await running
    with pytest.raises(HandsUnavailable):
        await router.attach(call, epoch=1)
    first.age_seconds = NODE_LOST_SECONDS + 1
    for brain in (router, cluster.router()):  # this one, and one that comes after it
        assert unknown(await brain.attach(call, epoch=2))
        assert unknown(await brain.execute(call, epoch=2))

    news, text = await cluster.run(router, session_id, "cat file; ls")
    assert news.startswith("[This is a fresh sandbox on another machine. The files in /workspace were res")
    assert text == "one\nfile\n"
    second = cluster.host_of(await router.placement(session_id))
    assert second is not first
    assert await cluster.run(router, session_id, "echo on") == ["on\n"]
    assert (first.files(session_id) / "log").read_text() == "ran\n"
    assert not (second.files(session_id) / "log").exists()


async def test_a_call_is_not_waited_for_when_its_host_is_lost_and_silent(cluster, monkeypatch):
    """Stopped, not dead: the connection stands and nothing comes, as of a machine behind a partition."""
    monkeypatch.setattr("corral.hands.hosts.HANDS_CONNECT_SECONDS", 0.2)
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    call = cluster.bash(session_id, await router.placement(session_id), WORK)
    running = asyncio.create_task(router.execute(call, epoch=1))
    await until((host.files(session_id) / "begun").exists)
    host.process.send_signal(signal.SIGSTOP)
    host.age_seconds = NODE_LOST_SECONDS + 1
    assert unknown(await asyncio.wait_for(running, SECONDS))


async def test_a_missed_heartbeat_does_not_end_a_call_whose_host_answers(cluster, monkeypatch):
    monkeypatch.setattr("corral.hands.hosts.HOST_LOOK_SECONDS", 0.02)
    monkeypatch.setattr("corral.hands.hosts.HANDS_CONNECT_SECONDS", SECONDS)  # it answers, sooner or later
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    call = cluster.bash(session_id, await router.placement(session_id), WORK)
    running = asyncio.create_task(router.execute(call, epoch=1))
    await until((host.files(session_id) / "begun").exists)
    host.age_seconds = NODE_LOST_SECONDS + 1
    done, _ = await asyncio.wait([running], timeout=0.5)  # many looks
    assert not done
    (host.files(session_id) / "go").touch()
    assert (await asyncio.wait_for(running, SECONDS)).content[0]["text"] == "true result\n"


async def test_a_host_that_only_restarts_keeps_its_sessions(cluster):
    host = await cluster.start("a")
    await cluster.start("b")
    router = cluster.router()
    session_id = await cluster.session()
    await cluster.placements.place(session_id, host_id=host.facts.host_id, instead_of=None)
    assert await cluster.run(router, session_id, "echo x > file; echo done") == ["done\n"]
    await host.kill()
    with pytest.raises(HandsUnavailable):
        await router.placement(session_id)
    await cluster.start("a")
    assert await cluster.run(router, session_id, "cat file") == [NEWS_KEPT, "x\n"]


@pytest.mark.parametrize("is_listed", [True, False], ids=["draining", "left"])
async def test_a_host_that_stops_in_good_order_is_replaced_at_once(cluster, is_listed):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    assert await cluster.run(router, session_id, "echo x > file; echo done") == ["done\n"]
    await cluster.keep(host)
    await cluster.start("b")
    await host.kill()
    if is_listed:
        host.facts = replace(host.facts, is_draining=True)
    else:
        del cluster.hosts["a"]
    placement = await router.placement(session_id)  # the first try: nothing is waited out
    assert cluster.host_of(placement) is cluster.hosts["b"]
    assert (await cluster.run(router, session_id, "cat file"))[-1] == "x\n"


async def test_a_live_host_without_a_way_to_it_is_told_of_once(cluster, caplog):
    host = await cluster.start("a")
    host.facts = replace(host.facts, address="https://10.0.0.5:8421")
    router, session_id = cluster.router(is_same_machine=False), await cluster.session()
    for _ in range(20):
        with pytest.raises(HandsUnavailable, match="asks for a certificate") as caught:
            await router.placement(session_id)
        assert "10.0.0.5" not in caught.value.message, "it may be shown to anybody"
    with pytest.raises(HandsUnavailable, match="asks for a certificate"):
        await router.probe()
    assert len([record for record in caplog.records if "asks for a certificate" in record.message]) == 1
    assert "https://10.0.0.5:8421" in router.unreachable()[host.facts.host_id]


async def test_without_a_checkpoint_the_model_is_told_that_nothing_is_left(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    assert await cluster.run(router, session_id, "echo x > file; echo done") == ["done\n"]
    await cluster.acted(session_id)
    await cluster.start("b")
    await host.kill()
    host.age_seconds = NODE_LOST_SECONDS + 1
    assert await cluster.run(router, session_id, "ls; echo on") == [NEWS_LOST, "on\n"]


async def test_a_session_that_was_only_placed_hears_nothing_about_an_earlier_sandbox(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await router.provision(session_id, epoch=1, recipe=Recipe())
    await cluster.start("b")
    await host.kill()
    host.age_seconds = NODE_LOST_SECONDS + 1
    assert await cluster.run(router, session_id, "echo first") == ["first\n"]


async def test_a_lost_host_that_comes_back_runs_nothing_and_is_swept(cluster):
    lost = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo old > file")
    late = cluster.bash(session_id, await router.placement(session_id), "echo ran >> log")  # never sent
    await cluster.keep(lost)
    kept = await cluster.start("b")
    await lost.kill()
    lost.age_seconds = NODE_LOST_SECONDS + 1
    await cluster.run(router, session_id, "echo new > file")
    assert cluster.host_of(await router.placement(session_id)) is kept

    back = await cluster.start("a")
    with pytest.raises(NeverStarted):
        await router.attach(late, epoch=1)
    assert await router.execute(late, epoch=1) == ToolResult.text(MOVED, is_error=True)
    await cluster.keep(back)  # what lies there is nobody's: it must not replace the newer one
    await cluster.keep(kept)
    assert await sweep_host(cluster.client(back), cluster.placements) == {session_id: "elsewhere"}
    assert not back.files(session_id).exists()
    assert await sweep_host(cluster.client(back), cluster.placements) == {}
    assert await sweep_host(cluster.client(kept), cluster.placements) == {}
    # And there again, once the other one is gone.
    await kept.kill()
    kept.age_seconds = NODE_LOST_SECONDS + 1
    assert (await cluster.run(router, session_id, "cat file"))[-1] == "new\n"
    assert not (back.files(session_id) / "log").exists()


async def test_cut_off_from_the_list_nobody_is_given_up_on(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    call = cluster.bash(session_id, await router.placement(session_id), "true")
    await host.kill()
    cluster.silence_seconds = NODE_LOST_SECONDS + 1
    with pytest.raises(HandsUnavailable):
        await router.attach(call, epoch=1)
    cluster.silence_seconds, host.age_seconds = 0.0, NODE_LOST_SECONDS + 1  # it is the host that is cut off
    assert unknown(await router.attach(call, epoch=1))


async def test_another_host_behind_an_address_gets_nothing(cluster, caplog):
    mine, other = await cluster.start("a"), await cluster.start("b")
    facts = other.facts
    other.facts = replace(facts, address=mine.facts.address)  # as in two containers
    router, session_id = cluster.router(), await cluster.session()
    await cluster.placements.place(session_id, host_id=other.facts.host_id, instead_of=None)
    with pytest.raises(HandsUnavailable):
        await router.placement(session_id)
    assert await cluster.client(mine).held() == []
    assert [r.levelname for r in caplog.records if "CORRAL_HANDS_LISTEN" in r.message] == ["WARNING"]
    assert [host_id for host_id, _ in await AllHosts(router).clients()] == [mine.facts.host_id]
    other.facts = facts
    assert await cluster.run(router, session_id, "echo on") == ["on\n"]


async def test_an_import_has_a_second_copy_at_once(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    (cluster.directory / "file").write_text("imported\n")
    tar = await asyncio.create_subprocess_exec(
        "tar", "-cC", str(cluster.directory), "file", stdout=asyncio.subprocess.PIPE
    )
    data, _ = await tar.communicate()

    async def archive() -> AsyncIterator[bytes]:
        yield data

    await router.import_workspace(session_id, archive())
    await cluster.start("b")
    await host.kill()
    host.age_seconds = NODE_LOST_SECONDS + 1
    assert (await cluster.run(router, session_id, "cat file"))[-1] == "imported\n"


async def test_files_without_a_copy_are_not_swept(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    await cluster.start("b")
    await host.kill()
    host.age_seconds = NODE_LOST_SECONDS + 1
    await cluster.run(router, session_id, "echo on")
    host = await cluster.start("a")
    assert await sweep_host(cluster.client(host), cluster.placements) == {}
    assert (host.files(session_id) / "file").read_text() == "x\n"


async def test_a_host_that_saw_a_later_placement_than_a_restored_database_goes_on(cluster):
    host = await cluster.start("a")
    router, session_id = cluster.router(), await cluster.session()
    await cluster.run(router, session_id, "echo x > file")
    await cluster.keep(host)
    placed = await cluster.placements.find(session_id)
    await cluster.client(host).restore(
        session_id, None, placed_at=placed.placed_at + 1, restored=Restored(what="lost")
    )
    assert (await cluster.run(cluster.router(), session_id, "cat file"))[-1] == "x\n"
