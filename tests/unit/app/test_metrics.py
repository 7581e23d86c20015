"""`/metrics`: what was counted is shown under the declared names, and nothing else is."""

import asyncio
import re
from collections.abc import Iterator

import pytest

from corral.app.metrics import Exposition, Gauges, OneCount
from corral.kernel import metrics
from corral.kernel.limits import METRICS_FRESH_SECONDS
from corral.session.backlog import Backlog
from corral.testing.clock import ManualClock


@pytest.fixture
def reads() -> list[float]:
    return []


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def exposition(reads: list[float], clock: ManualClock) -> Iterator[Exposition]:
    async def gauges() -> Gauges:
        reads.append(float(len(reads)))
        return {"streams_open": {(): reads[-1]}, "nodes": {("live",): 3, ("lost",): 1}}

    made = Exposition(gauges, monotonic=clock.monotonic)
    metrics.install(made.recorder)
    yield made
    metrics.install(None)


async def test_what_happened_is_counted(exposition: Exposition) -> None:
    metrics.count("events_appended", 3)
    metrics.count("model_requests", outcome="ok")
    metrics.count("model_requests", outcome="overloaded")
    metrics.observe("append_seconds", 0.004)
    text = (await exposition.text()).decode()
    assert "corral_events_appended_total 3.0" in text
    assert 'corral_model_requests_total{outcome="overloaded"} 1.0' in text
    assert 'corral_append_seconds_bucket{le="0.005"} 1.0' in text
    assert 'corral_append_seconds_bucket{le="0.0025"} 0.0' in text
    assert 'corral_nodes{state="live"} 3.0' in text
    assert "_created" not in text
    shown = set(re.findall(r"^# TYPE corral_(\S+)", text, re.MULTILINE))
    known = {n + "_total" if i.kind == "counter" else n for n, i in metrics.INSTRUMENTS.items()}
    assert shown <= known


async def test_gauges_cost_one_reading_however_often_they_are_asked_for(
    exposition: Exposition, reads: list[float], clock: ManualClock
) -> None:
    for _ in range(5):
        assert b"corral_streams_open 0.0" in await exposition.text()
    assert len(reads) == 1
    clock.advance(METRICS_FRESH_SECONDS + 0.1)
    assert b"corral_streams_open 1.0" in await exposition.text()


async def test_two_processes_do_not_share_what_they_count(exposition: Exposition) -> None:
    metrics.count("loops_failed")

    async def nothing() -> Gauges:
        return {}

    assert b"corral_loops_failed_total 0.0" in await Exposition(nothing).text()
    assert b"corral_loops_failed_total 1.0" in await exposition.text()


async def test_without_a_recorder_nothing_happens() -> None:
    metrics.count("events_appended")
    metrics.observe("append_seconds", 1.0)


AT_REST = Backlog(
    needing=0,
    waiting=0,
    held_back=0,
    oldest_wait_seconds=0.0,
    inbox=0,
    leases={},
    leases_ended=0,
    stalest_lease_seconds=0.0,
)


async def test_a_store_that_hangs_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, may_answer, backlog = list[bool](), asyncio.Event(), AT_REST

    class Hanging:
        async def count(self) -> Backlog:
            asked.append(True)
            await may_answer.wait()
            return backlog

    count = OneCount(Hanging())
    async with asyncio.timeout(60):
        with monkeypatch.context() as patch:
            patch.setattr("corral.app.metrics.METRICS_READ_SECONDS", 0.02)
            assert await asyncio.gather(*(count() for _ in range(5))) == [None] * 5
            assert await count() is None
        monkeypatch.setattr("corral.app.metrics.METRICS_READ_SECONDS", 60.0)
        assert len(asked) == 1
        may_answer.set()
        assert await asyncio.gather(count(), count()) == [backlog] * 2
        assert len(asked) == 1
        await count()
    assert len(asked) == 2
