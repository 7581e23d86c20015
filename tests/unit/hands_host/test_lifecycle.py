"""One sandbox per session, made lazily, bounded in number, evicted when idle."""

import asyncio
from datetime import UTC, datetime
from functools import partial

import pytest

from corral.hands import journal as journal_module
from corral.hands import lifecycle
from corral.kernel.errors import SandboxUnavailable
from corral.session.call import NeverStarted, Recipe


class ManualClock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds


async def until(fact) -> None:
    async with asyncio.timeout(60):
        while not fact():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_parallel_first_calls_share_one_sandbox(host, bash, provider):
    await asyncio.gather(*(host.execute(bash(f"c{n}", "true"), epoch=1) for n in range(10)))
    assert len(provider.created) == 1


async def test_provision_warms_up_without_being_waited_for(host, bash, provider):
    await host.provision("sesn_1", epoch=1, recipe=Recipe())
    await host.provision("sesn_1", epoch=1, recipe=Recipe())
    await until(lambda: host.sandboxes())
    await host.execute(bash("c1", "true"), epoch=1)
    assert len(provider.created) == 1


async def test_the_one_idle_for_longest_makes_room(open_host, bash, provider):
    clock = ManualClock()
    async with open_host(clock=clock, sandboxes_max=2) as host:
        for number, session_id in enumerate(["sesn_a", "sesn_b", "sesn_a", "sesn_c"]):
            await host.execute(bash(f"c{number}", "true", session_id=session_id), epoch=1)
            clock.seconds += 1
        assert {sandbox.session_id for sandbox in host.sandboxes()} == {"sesn_a", "sesn_c"}
        assert [sandbox.is_alive for sandbox in provider.created] == [True, False, True]
        await host.provision("sesn_d", epoch=1, recipe=Recipe())  # speculation evicts nobody
        await host.execute(bash("c9", "true", session_id="sesn_a"), epoch=1)
        assert {sandbox.session_id for sandbox in host.sandboxes()} == {"sesn_a", "sesn_c"}


async def test_many_sessions_take_turns_on_few_places(open_host, bash, provider):
    async with open_host(sandboxes_max=2) as host:
        calls = [bash(f"c{n}", f"echo {n}", session_id=f"sesn_{n}") for n in range(12)]
        most_alive = 0

        async def watch() -> None:
            nonlocal most_alive
            while True:
                most_alive = max(most_alive, sum(sandbox.is_alive for sandbox in provider.created))
                await asyncio.sleep(0.001)

        watching = asyncio.create_task(watch())
        results = await asyncio.gather(*(host.execute(call, epoch=1) for call in calls))
        watching.cancel()
        assert [result.content[0]["text"] for result in results] == [f"{n}\n" for n in range(12)]
        assert most_alive == 2


async def test_the_wait_for_a_place_ends_without_a_start(open_host, bash, tmp_path, monkeypatch):
    async with open_host(sandboxes_max=1) as host:
        busy = bash("c1", "touch begun; while [ ! -e go ]; do sleep 0.01; done", session_id="sesn_busy")
        running = asyncio.create_task(host.execute(busy, epoch=1))
        begun = tmp_path / "workspaces" / "sesn_busy" / "begun"
        await until(begun.exists)
        late = [bash(f"late{n}", "true") for n in range(3)]
        with monkeypatch.context() as patch:
            patch.setattr(lifecycle, "SANDBOX_WAIT_SECONDS_MAX", 0.1)
            async with asyncio.timeout(60):
                results = await asyncio.gather(
                    *(host.execute(c, epoch=1) for c in late), return_exceptions=True
                )
        assert all(isinstance(result, SandboxUnavailable) and "busy" in str(result) for result in results)
        with pytest.raises(NeverStarted):
            await host.attach(late[0], epoch=1)
        begun.with_name("go").touch()
        await running
        assert not (await host.execute(late[0], epoch=1)).is_error


async def test_idle_and_dead_sandboxes_are_reaped_and_busy_ones_stay(
    open_host, bash, provider, tmp_path, monkeypatch
):
    monkeypatch.setattr(lifecycle, "SANDBOX_REAP_SECONDS", 0.02)
    clock = ManualClock()
    async with open_host(clock=clock, idle_seconds=60) as host:
        await host.execute(bash("c1", "true", session_id="sesn_idle"), epoch=1)
        busy = bash("c2", "touch begun; while [ ! -e go ]; do sleep 0.01; done", session_id="sesn_busy")
        running = asyncio.create_task(host.execute(busy, epoch=1))
        begun = tmp_path / "workspaces" / "sesn_busy" / "begun"
        await until(begun.exists)
        clock.seconds += 61
        await host.execute(bash("c3", "true", session_id="sesn_new"), epoch=1)
        await until(lambda: len(host.sandboxes()) == 2)  # the reaper's own tick
        assert {sandbox.session_id for sandbox in host.sandboxes()} == {"sesn_busy", "sesn_new"}
        begun.with_name("go").touch()
        await running
        await provider.created[-1].destroy()
        await until(lambda: [s.session_id for s in host.sandboxes()] == ["sesn_busy"])


async def test_what_nobody_settled_goes_with_the_idle_sandbox(open_host, bash, journal, monkeypatch):
    monkeypatch.setattr(lifecycle, "SANDBOX_REAP_SECONDS", 0.02)
    monkeypatch.setattr(journal, "settle_old", partial(journal.settle_old, seconds=0))  # as if a day later
    clock = ManualClock()
    async with open_host(clock=clock, idle_seconds=60) as host:
        await host.execute(bash("c1", "true"), epoch=1)
        clock.seconds += 61
        await until(lambda: not host.sandboxes())
        await host.announce("sesn_1", epoch=1)
        with pytest.raises(NeverStarted):
            await host.attach(bash("c1", "true"), epoch=1)


async def test_a_full_journal_is_a_call_that_was_not_started(host, bash, monkeypatch):
    monkeypatch.setattr(journal_module, "JOURNAL_CALLS_MAX", 1)
    await host.execute(bash("c1", "true"), epoch=1)
    with pytest.raises(SandboxUnavailable, match="unsettled"):
        await host.execute(bash("c2", "true"), epoch=1)
    await host.settle("sesn_1", call_ids=["c1"])
    assert not (await host.execute(bash("c2", "true"), epoch=1)).is_error


async def test_a_changed_recipe_gets_its_own_sandbox(host, bash, provider):
    await host.execute(bash("c1", "true"), epoch=1)
    await host.execute(bash("c2", "true", environment={"type": "cloud"}), epoch=1)
    assert [sandbox.is_alive for sandbox in provider.created] == [False, True]
