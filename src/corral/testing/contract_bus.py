"""What every bus must do; run these checks on your own.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_contract(check, buses):
        await check(buses)

`Buses` is two ends of one bus: what is said `here` is heard `there`. One of a single process is both.
A bus may lose messages; on a quiet machine, in a test, it does not.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.session.bus import Bus, Committed, Deleted, Message, Overflow, Preview
from corral.session.log import InboxEntry

__all__ = ["CHECKS", "Buses", "Check"]

SECONDS_MAX = 60.0  # a hint that has not come by then was lost
ONE, TWO, END = SessionId("sesn_1"), SessionId("sesn_2"), SessionId("sesn_end")
DELTA = Preview(
    session_id=ONE,
    thread_id=ThreadId("sthr_1"),
    event_id=EventId("sevt_1"),
    event_type="agent.message",
    n=1,
    index=0,
    text="héllo \0 \N{SNOWMAN} \\u2603 \"quoted\" 'and'\n",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Buses:
    """`here` and `there` are connected; nobody else uses them."""

    here: Bus
    there: Bus


Check = Callable[[Buses], Awaitable[None]]


async def check_messages_arrive_in_order(buses: Buses) -> None:
    """Every kind, whole; other sessions' subscribers hear nothing of it."""
    messages: list[Message] = [
        replace(DELTA, n=0, text=""),
        *(replace(DELTA, n=n) for n in range(1, 200)),
        Committed(session_id=ONE),
        Deleted(session_id=ONE),
    ]
    async with (
        buses.there.subscribe(ONE, buffer=300) as first,
        buses.there.subscribe(ONE, buffer=300) as second,
        buses.there.subscribe(TWO, buffer=300) as other,
    ):
        for message in messages:
            buses.here.publish(message)
        assert await _take(first, len(messages)) == messages
        assert await _take(second, len(messages)) == messages
        buses.here.publish(Deleted(session_id=TWO))
        assert await _take(other, 1) == [Deleted(session_id=TWO)]


async def check_a_subscriber_here_hears_it_too(buses: Buses) -> None:
    """At once, and once."""
    entry = InboxEntry(
        arrival=1, event_id=EventId("sevt_1"), type="user.message", thread_id=ThreadId("sthr_1"), body=b"{}"
    )
    messages: list[Message] = [
        Committed(session_id=ONE, entries=(entry,)),
        DELTA,
        Deleted(session_id=ONE),
    ]
    async with (
        buses.here.subscribe(ONE, buffer=10) as here,
        buses.there.subscribe(ONE, buffer=10) as there,
    ):
        for message in messages:
            buses.here.publish(message)
        assert await _take(here, 3) == messages
        assert [type(message) for message in await _take(there, 3)] == [Committed, Preview, Deleted]
        buses.there.publish(Deleted(session_id=ONE))
        assert await _take(here, 1) == [Deleted(session_id=ONE)], "nothing came in between"


async def check_a_commit_says_no_more_than_there_is(buses: Buses) -> None:
    """A bus may send the entries or none of them: "look again"."""
    entry = InboxEntry(
        arrival=7, event_id=EventId("sevt_7"), type="user.message", thread_id=ThreadId("sthr_1"), body=b"{}"
    )
    async with buses.there.subscribe(ONE, buffer=10) as messages:
        buses.here.publish(Committed(session_id=ONE, entries=(entry,)))
        [message] = await _take(messages, 1)
    assert isinstance(message, Committed)
    assert message.session_id == ONE
    assert message.entries in ((), (entry,))


async def check_a_delta_that_is_too_long_may_be_lost_but_nothing_else(buses: Buses) -> None:
    async with buses.there.subscribe(ONE, buffer=10) as messages:
        buses.here.publish(replace(DELTA, n=1, text="x" * 1_000_000))
        buses.here.publish(replace(DELTA, n=2, text="\ud800"))  # half a character
        buses.here.publish(Deleted(session_id=ONE))
        heard = [message async for message in _until(messages, Deleted(session_id=ONE))]
    assert all(isinstance(message, Preview) for message in heard[:-1])


async def check_a_slow_subscriber_hears_that_it_missed_something(buses: Buses) -> None:
    async with (
        buses.there.subscribe(ONE, buffer=2) as slow,
        buses.there.subscribe(ONE, buffer=100) as quick,
    ):
        for n in range(1, 6):
            buses.here.publish(replace(DELTA, n=n))
        await _take(quick, 5)
        first, second, last = await _take(slow, 3)
        assert (first, second) == (replace(DELTA, n=1), replace(DELTA, n=2))
        assert last == Overflow()
        buses.here.publish(Deleted(session_id=ONE))
        assert await _take(slow, 1) == [Deleted(session_id=ONE)]


async def check_wakes_reach_every_node(buses: Buses) -> None:
    for session_id in (ONE, TWO, ONE, END):
        buses.here.wake(session_id)
    ends = [buses.here] if buses.here is buses.there else [buses.here, buses.there]
    for bus in ends:
        woken = bus.wakes()
        taken: list[SessionId] = []
        async with asyncio.timeout(SECONDS_MAX):
            while END not in taken:
                taken.append(await anext(woken))
        assert set(taken) == {ONE, TWO, END}
        assert len(taken) <= 4, "a wake is repeated at most as often as it was given"


async def check_nothing_waits_for_a_reader(buses: Buses) -> None:
    """Far more than any buffer holds, at once: the writer goes on, and later messages arrive."""
    async with buses.there.subscribe(ONE, buffer=10) as messages:
        for n in range(30_000):
            buses.here.publish(replace(DELTA, n=n))
            buses.here.publish(Committed(session_id=ONE))
            buses.here.wake(ONE)
        buses.here.publish(Deleted(session_id=ONE))
        heard = [message async for message in _until(messages, Deleted(session_id=ONE), Overflow())]
    assert len(heard) <= 11


async def _take(messages: AsyncIterator[Message | Overflow], count: int) -> list[Message | Overflow]:
    async with asyncio.timeout(SECONDS_MAX):
        return [await anext(messages) for _ in range(count)]


async def _until(
    messages: AsyncIterator[Message | Overflow], *last: Message | Overflow
) -> AsyncIterator[Message | Overflow]:
    async with asyncio.timeout(SECONDS_MAX):
        async for message in messages:
            yield message
            if message in last:
                return


CHECKS: tuple[Check, ...] = tuple(
    check for name, check in list(globals().items()) if name.startswith("check_")
)
