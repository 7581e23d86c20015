"""Opening a PostgreSQL: only with the schema of this version, which `corral db upgrade` makes."""

import asyncio
import json
import os
import secrets
import sys

import pytest
from sqlalchemy import Connection, insert, text

from corral.catalog.idempotency import Answer, Idempotent, scope
from corral.kernel.errors import Conflict, StoreUnavailable
from corral.kernel.ids import Ids
from corral.kernel.limits import POSTGRES_IDLE_SECONDS
from corral.store.bus import LocalBus
from corral.store.database import Database
from corral.store.lease import Leases
from corral.store.schema import REVISION, tombstones
from corral.store.sessions import Sessions
from corral.testing.clock import ManualClock
from corral.testing.postgres import Postgres
from corral.testing.sessions import new_session

NOW = ManualClock().now()


async def corral_db(url: str, *arguments: str) -> tuple[int, str]:
    """Exit code and everything that `corral db` printed."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "corral.cli", "db", *arguments,
        env=own | {"CORRAL_DATABASE_URL": url},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await process.communicate()
    return process.returncode or 0, printed.decode()


async def test_an_empty_database_is_upgraded_once_by_several_at_once(empty_database_url: str) -> None:
    with pytest.raises(StoreUnavailable, match="corral db upgrade") as caught:
        await Database.open(empty_database_url)
    assert not caught.value.retryable
    code, printed = await corral_db(empty_database_url, "check")
    assert code == 1 and "corral db upgrade" in printed
    upgrades = await asyncio.gather(*(corral_db(empty_database_url, "upgrade") for _ in range(3)))
    assert [code for code, _ in upgrades] == [0, 0, 0], upgrades
    assert sum("before: none" in printed for _, printed in upgrades) == 1
    await (await Database.open(empty_database_url)).close()
    code, printed = await corral_db(empty_database_url, "check", "--json")
    facts = json.loads(printed)
    assert code == 0
    assert (facts["schema"], facts["reachable"], facts["to_do"]) == (REVISION, True, [])
    assert facts["engine"].startswith("PostgreSQL 1")


@pytest.mark.parametrize(
    ("revision", "remedy"), [("0001", "Run `corral db upgrade`"), ("9999", "Upgrade Corral")]
)
async def test_another_schema_is_refused(
    postgres: Postgres, database_url: str, revision: str, remedy: str
) -> None:
    with postgres.connect(database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", [revision])
    with pytest.raises(StoreUnavailable, match=remedy) as caught:
        await Database.open(database_url)
    assert not caught.value.retryable
    code, printed = await corral_db(database_url, "check")
    assert code == 1 and remedy in printed


async def test_a_database_that_cannot_hold_every_character_is_refused(postgres: Postgres) -> None:
    name = f"corral_latin_{secrets.token_hex(4)}"
    with postgres.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    url = postgres.url(name)
    try:
        with pytest.raises(StoreUnavailable, match="encoding LATIN1; Corral needs UTF8") as caught:
            await Database.open(url, migrate=True)
        assert not caught.value.retryable
        code, printed = await corral_db(url, "upgrade")
        assert code == 2 and "ENCODING 'UTF8'" in printed
    finally:
        postgres.drop_database(url)


async def test_an_old_server_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.store.upgrade.POSTGRES_VERSION_MIN", 100)  # any server is old then
    with pytest.raises(StoreUnavailable, match=r"is PostgreSQL \d+; Corral needs 100 or newer") as caught:
        await Database.open(database_url)
    assert not caught.value.retryable
    with pytest.raises(StoreUnavailable, match="needs 100 or newer"):
        await Database.open(database_url, migrate=True)


async def test_a_server_that_is_not_there_is_said_to_be(database_url: str) -> None:
    password = database_url.split(":")[2].split("@")[0]
    nobody = f"postgresql://postgres:{password}@127.0.0.1:9/corral"
    code, printed = await corral_db(nobody, "check")
    assert code == 3 and "refused" in printed and password not in printed
    with pytest.raises(StoreUnavailable) as caught:
        await Database.open(nobody)
    assert caught.value.retryable and password not in str(caught.value)


async def test_what_is_set_on_a_connection(database_url: str) -> None:
    """A stopped process loses its locks; a reader sees one snapshot and writes nothing."""

    def shown(connection: Connection) -> dict[str, str]:
        names = ("idle_in_transaction_session_timeout", "transaction_isolation", "transaction_read_only")
        names += ("synchronous_commit", "application_name")
        return {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in names}

    database = await Database.open(database_url)
    try:
        writes, reads = await database.write(shown), await database.read(shown)
        with pytest.raises(StoreUnavailable, match="read-only"):
            await database.read(
                lambda connection: connection.execute(
                    insert(tombstones), {"session_id": "sesn_1", "deleted_at": NOW}
                )
            )
    finally:
        await database.close()
    assert writes.pop("idle_in_transaction_session_timeout") == f"{POSTGRES_IDLE_SECONDS:.0f}s"
    assert list(writes.values()) == ["read committed", "off", "on", "corral"]
    assert list(reads.values())[1:3] == ["repeatable read", "on"]


async def test_leases_end_by_the_servers_clock(postgres: Postgres, database_url: str) -> None:
    """A node whose clock is wrong grants and judges leases like any other."""
    database = await Database.open(database_url)
    try:
        database.clock = ManualClock()  # a fixed moment, long ago or to come
        ids = Ids()
        record = await Sessions(database, LocalBus(), database.clock).create(new_session(ids, NOW))
        leases = Leases(database)
        assert await leases.claim(owner="brain-1", limit=1, session_ids=[record.session_id])
        with postgres.connect(database_url) as connection:
            [left] = connection.execute(
                "SELECT lease_until / 1e6 - extract(epoch FROM clock_timestamp()) FROM sessions"
            ).fetchone()
        assert 0 < left <= 10
        assert not await leases.claim(owner="brain-2", limit=1, session_ids=[record.session_id])
    finally:
        await database.close()


async def test_one_effect_for_one_key_on_two_nodes(database_url: str) -> None:
    nodes = [await Database.open(database_url) for _ in range(2)]
    try:
        request = Idempotent(
            api_key_id="k", path="/v1/x", key="once", request_sha256=b"s",
            render=lambda result: Answer(status=200, body=str(result).encode()),
        )  # fmt: skip

        async def effect(node: Database, name: str) -> str:
            def body(connection: Connection) -> str:
                connection.execute(insert(tombstones), {"session_id": name, "deleted_at": NOW})
                return name

            with scope(request):
                return await node.write(body)

        tries = [effect(nodes[n % 2], f"sesn_{n}") for n in range(8)]
        results = await asyncio.gather(*tries, return_exceptions=True)
        won = [result for result in results if isinstance(result, str)]
        assert len(won) == 1
        assert all(isinstance(result, Conflict) for result in results if result not in won)
        there = await nodes[0].read(
            lambda connection: list(connection.scalars(text("SELECT session_id FROM tombstones")))
        )
        assert there == won
    finally:
        for node in nodes:
            await node.close()
