"""The local bus: bounded, in order, and never in the way of a writer."""

import asyncio

from corral.kernel.ids import SessionId
from corral.kernel.limits import WAKES_MAX
from corral.session.bus import Committed, Deleted, Message, Overflow
from corral.store.bus import LocalBus

ONE, TWO = SessionId("sesn_1"), SessionId("sesn_2")


async def test_subscribers_get_their_session_in_order() -> None:
    bus = LocalBus()
    messages: list[Message] = [Committed(session_id=ONE), Deleted(session_id=ONE)]
    async with bus.subscribe(ONE, buffer=5) as first, bus.subscribe(ONE, buffer=5) as second:
        for message in (messages[0], Committed(session_id=TWO), messages[1]):
            bus.publish(message)
        for subscriber in (first, second):
            assert [await anext(subscriber), await anext(subscriber)] == messages


async def test_a_waiting_subscriber_is_woken() -> None:
    bus = LocalBus()
    async with bus.subscribe(ONE, buffer=5) as messages:
        waiting = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)
        bus.publish(Deleted(session_id=ONE))
        assert await asyncio.wait_for(waiting, 60) == Deleted(session_id=ONE)


async def test_a_slow_subscriber_gets_one_overflow_and_then_news() -> None:
    bus = LocalBus()
    message = Committed(session_id=ONE)
    async with bus.subscribe(ONE, buffer=2) as messages:
        for _ in range(5):
            bus.publish(message)
        assert [await anext(messages) for _ in range(3)] == [message, message, Overflow()]
        bus.publish(Deleted(session_id=ONE))
        assert await anext(messages) == Deleted(session_id=ONE)


async def test_nothing_is_kept_for_those_who_left() -> None:
    bus = LocalBus()
    async with bus.subscribe(ONE, buffer=2):
        pass
    bus.publish(Committed(session_id=ONE))
    async with bus.subscribe(ONE, buffer=2) as messages:
        bus.publish(Deleted(session_id=ONE))
        assert await anext(messages) == Deleted(session_id=ONE)
    assert not bus._subscribers


async def test_wakes_are_merged_and_bounded() -> None:
    bus = LocalBus()
    for session_id in (ONE, TWO, ONE):
        bus.wake(session_id)
    woken = bus.wakes()
    assert [await anext(woken), await anext(woken)] == [ONE, TWO]
    waiting = asyncio.ensure_future(anext(woken))
    await asyncio.sleep(0)
    assert not waiting.done()
    for number in range(WAKES_MAX + 10):
        bus.wake(SessionId(f"sesn_{number}"))
    assert await asyncio.wait_for(waiting, 60) == "sesn_0"
    taken = [await anext(woken) for _ in range(WAKES_MAX - 1)]
    assert taken[-1] == f"sesn_{WAKES_MAX - 1}"
