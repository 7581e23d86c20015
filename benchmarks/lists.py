"""Lists at 1, 10,000 and 100,000 objects: a page takes as long wherever it lies and however many there are.

Objects are copies of one that was made through the API, a tenth of them archived. Pages are asked for over
HTTP, 20 items each, at random places: their cursors are those of a walk through the whole list.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx2
from sqlalchemy import Engine, Table, insert, select

from benchmarks.figure import Figure, Value, at_most, percentile, value
from benchmarks.stack import Stage, cpu_seconds, stage
from benchmarks.stored import open_store
from corral.kernel.ids import Ids
from corral.store.schema import (
    agent_versions,
    agents,
    environments,
    files,
    memory_stores,
    session_details,
    sessions,
    thread_details,
    threads,
    vaults,
)

COUNTS = (1, 10_000, 100_000)
PAGES = 300  # asked for at each size
PAGE_MS_MAX = 30.0
_BATCH = 2_000


@dataclass(frozen=True, kw_only=True)
class Noun:
    """A list, the tables that an object of it has rows in (its own first), and their column of its id."""

    name: str
    path: str
    tables: Sequence[Table]
    id_column: str
    prefix: str
    beta: str


def _noun(
    name: str, *tables: Table, id_column: str, prefix: str, beta: str = "managed-agents-2026-04-01"
) -> Noun:
    return Noun(
        name=name.replace("_", " "),
        path=f"/v1/{name}",
        tables=tables,
        id_column=id_column,
        prefix=prefix,
        beta=beta,
    )


NOUNS = (
    _noun("agents", agents, agent_versions, id_column="agent_id", prefix="agent"),
    _noun("environments", environments, id_column="environment_id", prefix="env"),
    _noun(
        "sessions",
        *(sessions, session_details, threads, thread_details),
        id_column="session_id",
        prefix="sesn",
    ),
    _noun(
        "memory_stores",
        memory_stores,
        id_column="memory_store_id",
        prefix="memstore",
        beta="agent-memory-2026-07-22",
    ),
    _noun("vaults", vaults, id_column="vault_id", prefix="vlt"),
    _noun("files", files, id_column="file_id", prefix="file"),
)


async def measure(runs: int) -> list[Figure]:
    """`runs` is not looked at: each figure is of many requests."""
    async with stage() as at:
        engine = open_store(f"sqlite:///{at.server.data_dir / 'corral.db'}")
        try:
            rows = {noun: await _template(at, engine, noun) for noun in NOUNS}
            figures = [await _list(at, engine, noun, row) for noun, row in rows.items() if row is not None]
            return [*figures, await _rare(at, engine, rows[NOUNS[2]])]
        finally:
            engine.dispose()


async def _list(at: Stage, engine: Engine, noun: Noun, rows: "_Rows") -> Figure:
    values: list[Value] = []
    there = 1
    for count in COUNTS:
        if count > there:
            await asyncio.to_thread(_copy, engine, noun, rows, count - there)
            there = count
        async with _http(at, noun) as http:
            cursors = await _walk(http, noun.path)
            random.seed(count)
            before = cpu_seconds(at.server.process("server"))
            took = [await _page(http, noun.path, page=random.choice(cursors)) for _ in range(PAGES)]
            used = cpu_seconds(at.server.process("server")) - before
        bar = at_most(PAGE_MS_MAX) if count == COUNTS[-1] else None
        values += [
            value(f"{count:,} {noun.name}, a page, p50", 1000 * percentile(took, 50), "ms"),
            value(f"{count:,} {noun.name}, a page, p95", 1000 * percentile(took, 95), "ms", bar),
            value(f"{count:,} {noun.name}, a page, CPU of the server", 1000 * used / PAGES, "ms"),
        ]
    return Figure(title=f"list {noun.name}", values=values)


async def _rare(at: Stage, engine: Engine, rows: "_Rows | None") -> Figure:
    """What matches a filter is few among many: sessions that run, among those that are idle."""
    assert rows is not None
    noun = NOUNS[2]
    await asyncio.to_thread(_copy, engine, noun, rows, 3, status="running")
    async with _http(at, noun) as http:
        took = [
            await _page(http, noun.path, **{"statuses[]": random.choice(("running", "rescheduling"))})
            for _ in range(PAGES)
        ]
    return Figure(
        title=f"list sessions by status, 3 of {COUNTS[-1]:,}",
        values=[
            value("statuses[], p50", 1000 * percentile(took, 50), "ms"),
            value("statuses[], p95", 1000 * percentile(took, 95), "ms", at_most(PAGE_MS_MAX)),
        ],
    )


def _http(at: Stage, noun: Noun) -> httpx2.AsyncClient:
    headers = {"x-api-key": at.server.api_key, "anthropic-beta": noun.beta}
    return httpx2.AsyncClient(base_url=at.server.url, headers=headers, timeout=60)


async def _page(http: httpx2.AsyncClient, path: str, **query: Any) -> float:
    """Seconds that one page took, its first byte to its last included."""
    started = time.perf_counter()
    answer = await http.get(
        path, params={name: given for name, given in query.items() if given is not None}
    )
    took = time.perf_counter() - started
    assert answer.status_code == 200, answer.text
    return took


async def _walk(http: httpx2.AsyncClient, path: str) -> list[str | None]:
    """The cursors of all pages of 100; None is the first."""
    cursors: list[str | None] = [None]
    while True:
        query = {"limit": 100} | ({} if cursors[-1] is None else {"page": cursors[-1]})
        answer = (await http.get(path, params=query)).json()
        if answer["next_page"] is None:
            return cursors
        cursors.append(answer["next_page"])


# -- what is listed ------------------------------------------------------------------------------------

_Rows = Mapping[Table, Sequence[Mapping[str, Any]]]


async def _template(at: Stage, engine: Engine, noun: Noun) -> _Rows | None:
    """The rows of one object, made through the API. None if this server has no such list."""
    beta = at.client.beta
    match noun.path:
        case "/v1/agents":
            made = at.agent_id
        case "/v1/environments":
            made = at.environment_id
        case "/v1/sessions":
            made = await at.session_id()
        case "/v1/memory_stores":
            made = (await beta.memory_stores.create(name="bench")).id
        case "/v1/vaults":
            made = (await beta.vaults.create(display_name="bench")).id
        case _:
            async with _http(at, noun) as http:
                if (await http.get(noun.path)).status_code == 404:
                    return None
            made = (await beta.files.upload(file=("a.txt", b"a", "text/plain"))).id
    with engine.connect() as connection:
        return {
            table: [
                dict(row._mapping)
                for row in connection.execute(select(table).where(table.c[noun.id_column] == made))
            ]
            for table in noun.tables
        }


def _copy(engine: Engine, noun: Noun, rows: _Rows, count: int, **other: Any) -> None:
    """Store `count` older ones like it; every tenth is archived, unless its row is to be `other`."""
    ids = Ids()
    with engine.connect() as connection:
        own = noun.tables[0]
        oldest = connection.execute(
            select(own.c.created_at).order_by(own.c.created_at).limit(1)
        ).scalar_one()
    for begin in range(0, count, _BATCH):
        some = range(begin, min(begin + _BATCH, count))
        named = [(number, ids.mint(noun.prefix)) for number in some]
        with engine.begin() as connection:
            for table in noun.tables:
                connection.execute(
                    insert(table),
                    [
                        {**row, noun.id_column: new_id, **_aged(table, row, oldest, number, other)}
                        for number, new_id in named
                        for row in rows[table]
                    ],
                )


def _aged(
    table: Table, row: Mapping[str, Any], oldest: Any, number: int, other: Mapping[str, Any]
) -> dict[str, Any]:
    if "archived_at" not in row or table is threads:
        return {"created_at": oldest - timedelta(milliseconds=number + 1)} if "created_at" in row else {}
    at = oldest - timedelta(milliseconds=number + 1)
    return {"created_at": at, **(other or {"archived_at": at if number % 10 == 0 else None})}
