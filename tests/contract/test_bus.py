"""The bus contract on the local bus, and on two nodes' buses over one PostgreSQL."""

import asyncio
import re
import socket
import traceback
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from corral.cluster.node import NodeRole
from corral.kernel.errors import StoreUnavailable
from corral.kernel.ids import SessionId
from corral.session.bus import Committed, Deleted
from corral.store.bus import LocalBus
from corral.store.bus_postgres import PostgresBus
from corral.testing.contract_bus import CHECKS, DELTA, END, ONE, SECONDS_MAX, Buses, Check
from corral.testing.lab import until
from corral.testing.postgres import Postgres


@pytest.fixture
async def local() -> Buses:
    bus = LocalBus()
    return Buses(here=bus, there=bus)


@pytest.fixture
async def across(empty_database_url: str) -> AsyncIterator[Buses]:
    async with (
        PostgresBus.open(empty_database_url, node_id="node_1") as here,
        PostgresBus.open(empty_database_url, node_id="node_2") as there,
    ):
        for bus in (here, there):  # whoever could not be reached in time is reached later
            await until(lambda bus=bus: bus.is_connected)
        yield Buses(here=here, there=there)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_local(check: Check, local: Buses) -> None:
    await check(local)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_postgres(check: Check, across: Buses) -> None:
    await check(across)


# -- what only the postgres bus can do --------------------------------------------------------------------


async def test_a_cut_connection_comes_back_and_readers_look_again(
    across: Buses, postgres: Postgres, empty_database_url: str
) -> None:
    async with across.there.subscribe(ONE, buffer=100) as messages:
        for _ in range(2):
            _cut(postgres, empty_database_url)
            async with asyncio.timeout(SECONDS_MAX):
                assert await anext(messages) == Committed(session_id=ONE), "what was lost is looked up"
            across.here.publish(Deleted(session_id=ONE))  # it does not know yet that it was cut off
            async with asyncio.timeout(SECONDS_MAX):
                assert await anext(messages) == Deleted(session_id=ONE)


async def test_a_stopping_node_sends_its_last_hints(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.store.bus_postgres.BUS_CLOSE_SECONDS", SECONDS_MAX)  # on a busy machine
    async with PostgresBus.open(empty_database_url, node_id="node_2") as there:
        async with PostgresBus.open(empty_database_url, node_id="node_1") as here:
            for n in range(2000):
                here.publish(replace(DELTA, n=n))
            here.wake(ONE)
        async with asyncio.timeout(SECONDS_MAX):
            assert await anext(there.wakes()) == ONE


async def test_a_busy_node_sends_few_notifications(
    across: Buses, postgres: Postgres, empty_database_url: str
) -> None:
    """300 sessions, each with several commits and wakes, in one or two round trips of a few payloads."""
    with postgres.connect(empty_database_url) as connection:
        connection.execute("LISTEN corral_bus")
        async with across.there.subscribe(ONE, buffer=10) as messages:
            for _ in range(5):
                for number in range(300):
                    session_id = SessionId(f"sesn_{number:032}")
                    across.here.publish(Committed(session_id=session_id))
                    across.here.wake(session_id)
            across.here.publish(Deleted(session_id=ONE))
            async with asyncio.timeout(SECONDS_MAX):
                await anext(messages)
        sent: list[str] = []
        for notification in connection.notifies(timeout=SECONDS_MAX):
            sent.append(notification.payload)
            if '["d"' in notification.payload:
                break
    assert sum(payload.count("sesn_0") for payload in sent) == 600
    assert len(sent) <= 10
    assert all(len(payload.encode()) < 8000 for payload in sent)


async def test_nobody_is_told_what_is_of_no_use_to_him(
    across: Buses, postgres: Postgres, empty_database_url: str
) -> None:
    here, roles = across.here, set[NodeRole]()
    assert isinstance(here, PostgresBus)
    with postgres.connect(empty_database_url) as connection:
        connection.execute("LISTEN corral_bus")
        here.tell_only(lambda: roles)
        for heard in ((), ("api",), ("brain", "hands"), ("api", "brain")):
            roles.clear()
            roles.update(heard)
            for hint in (Committed(session_id=ONE), Deleted(session_id=ONE), DELTA):
                here.publish(hint)
            here.wake(ONE)
            await here.round_trip()
        here.tell_only(lambda: None)
        here.wake(END)
        await here.round_trip()
        sent = ""
        for notification in connection.notifies(timeout=SECONDS_MAX):
            sent += notification.payload
            if sent.count('["e"') == 5:
                break
    kinds = Counter(re.findall(r'\["(\w)"', sent))
    assert kinds == {"c": 2, "d": 2, "p": 2, "w": 3, "e": 5}


async def test_words_of_strangers_are_ignored(
    across: Buses, postgres: Postgres, empty_database_url: str
) -> None:
    async with across.there.subscribe(ONE, buffer=10) as messages:
        with postgres.connect(empty_database_url) as connection:
            for payload in (
                "",
                "{",
                "[1]",
                "{}",
                '["n", ["c"], ["c", 1], ["new", 1, 2], [], 5, ["p", "x"]]',
            ):
                connection.execute("SELECT pg_notify('corral_bus', %s)", [payload])
            connection.execute("""SELECT pg_notify('corral_bus', '["node_9", ["d", "sesn_1"]]')""")
        async with asyncio.timeout(SECONDS_MAX):
            assert await anext(messages) == Deleted(session_id=ONE)


async def test_without_a_database_it_is_a_local_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.store.bus_postgres.BUS_CONNECT_SECONDS", 3600.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody else listens there either
        url = f"postgresql://u:p@127.0.0.1:{taken.getsockname()[1]}/db"
        async with asyncio.timeout(SECONDS_MAX), PostgresBus.open(url, node_id="node_1") as bus:
            assert not bus.is_connected, "nobody waits for what was refused"
            async with bus.subscribe(ONE, buffer=10) as messages:
                bus.publish(Deleted(session_id=ONE))
                assert await anext(messages) == Deleted(session_id=ONE)


async def test_an_error_inside_is_raised_as_it_is(empty_database_url: str) -> None:
    with pytest.raises(StoreUnavailable, match="mine"):
        async with PostgresBus.open(empty_database_url, node_id="node_1"):
            raise StoreUnavailable("mine")


async def test_a_url_that_cannot_be_read_is_not_repeated() -> None:
    url = "postgresql://u:canary@h/db?canary=1"
    with pytest.raises(StoreUnavailable) as refused:
        async with PostgresBus.open(url, node_id="node_1"):
            pass
    assert "canary" not in "".join(traceback.format_exception(refused.value))


def _cut(postgres: Postgres, url: str) -> None:
    """End every connection of the buses, from the server's side."""
    with postgres.connect(url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'corral bus'"
        )
