"""Whether figures stay flat as a store fills: the same three, among 1x, 10x and 100x stored sessions."""

from collections.abc import AsyncIterator

from benchmarks import long_session, many
from benchmarks.figure import Figure, value
from benchmarks.postgres import crossing
from benchmarks.stack import Conversation, Stage, stage
from benchmarks.stored import copy_sessions, open_store
from benchmarks.upstream import prompt
from corral.testing.postgres import Postgres, missing

BASE, FACTORS = 1_000, (1, 10, 100)
NODES = (("api", "brain", "hands", "egress"), ("api",))


async def measure(runs: int) -> list[Figure]:
    found: dict[str, list[float]] = {}
    notes = []
    async with stage() as at:
        async for title in _growing(at, f"sqlite:///{at.server.data_dir / 'corral.db'}"):
            _note(found, await many.among(at, title=title), "p95", "send → message, p95, 2,000 streams")
            _note(
                found, await long_session.among(at, runs, title=title), "median", "wake of 100,000 events"
            )
    if reason := missing():
        notes.append(f"across nodes: not measured: {reason}")
    else:
        with Postgres.start() as postgres:
            url = postgres.fresh_database()
            async with stage(database_url=url, nodes=NODES) as at:
                async for title in _growing(at, url):
                    _note(found, await crossing(at, title=title), "p50", "append on A → client of B, p50")
    return [
        Figure(
            title="the same among "
            + ", ".join(f"{BASE * factor:,}" for factor in FACTORS)
            + " stored sessions",
            values=[
                value(f"{name}, {factor}x", measured, "ms")
                for name, series in found.items()
                for factor, measured in zip(FACTORS, series, strict=True)
            ],
            notes=notes,
        )
    ]


async def _growing(at: Stage, url: str) -> AsyncIterator[str]:
    template_id = await at.session_id()
    async with Conversation(at, session_id=template_id) as conversation:
        await conversation.turn(prompt("template", calls=1))
    engine = open_store(url)
    stored = 0
    for factor in FACTORS:
        copy_sessions(engine, template_id, BASE * factor - stored)
        stored = BASE * factor
        yield f", among {stored:,} sessions"
    engine.dispose()


def _note(found: dict[str, list[float]], figure: Figure, name: str, shown: str) -> None:
    found.setdefault(shown, []).append(next(v.judged for v in figure.values if v.name.startswith(name)))
