"""`corral db`: the schema of the database, looked at and upgraded."""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from corral.cli.outcome import Exit, Problem
from corral.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

__all__ = ["check", "upgrade"]


def check(config: Config, *, as_json: bool) -> Exit:
    """Say what the database is; FAILED when something is to be done. Raises Problem: it is out of reach."""
    from corral.store.engine import sqlite_engine, target
    from corral.store.schema import REVISION
    from corral.store.upgrade import Schema, schema, weakness

    where = target(_where(config))
    remedies: list[str] = []
    found: Schema | None = None
    if isinstance(where, Path):
        place = str(where)
        if where.exists():  # looking must not make it
            with _reached(sqlite_engine(where, writes=False)) as engine:
                found = schema(engine)
            if found.revision is not None and found.revision > REVISION:  # an older one upgrades by itself
                remedies += [found.remedy or ""]
    else:
        place = f"{where.database} at {where.host or where.query.get('host', 'localhost')}"
        with _reached(_postgres(config)) as engine:
            found = schema(engine)
            remedies += [each for each in (found.remedy, weakness(engine)) if each is not None]
    facts = {
        "engine": found.server if found else "SQLite",
        "database": place,
        "reachable": found is not None,
        "schema": found.revision if found else None,
        "schema_of_this_version": REVISION,
        "to_do": remedies,
    }
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        shown = facts["schema"] or "none yet"
        print(f"engine    {facts['engine']}")
        print(f"database  {place}{'' if found else ' (not there yet: `corral serve` makes it)'}")
        print(f"schema    {shown}{', as this version needs' if shown == REVISION else ''}")
        print("\n".join(remedies) if remedies else "nothing to do")
    return Exit.FAILED if remedies else Exit.DONE


def upgrade(config: Config) -> Exit:
    """Create or upgrade the schema. Raises Problem: out of reach; StoreUnavailable: a newer schema."""
    from corral.store.engine import target
    from corral.store.schema import REVISION
    from corral.store.upgrade import upgrade as upgrade_schema

    where = target(_where(config))
    if isinstance(where, Path):
        print(f"{where} is SQLite: `corral serve` upgrades it when it starts. Nothing to do.")
        return Exit.DONE
    with _reached(_postgres(config)) as engine:
        before = upgrade_schema(engine)
    if before == REVISION:
        print(f"The schema is {REVISION}, as this version needs. Nothing to do.")
    else:
        print(f"The schema is now {REVISION} (before: {before or 'none'}).")
    return Exit.DONE


def _where(config: Config) -> str | Path:
    return config.database_url.reveal() if config.database_url else config.data_dir / "corral.db"


def _postgres(config: Config) -> "Engine":
    from sqlalchemy import URL

    from corral.store.engine import postgres_engine, target

    url = target(_where(config))
    assert isinstance(url, URL)
    return postgres_engine(url, writes=True, connections=1)


@contextmanager
def _reached(engine: "Engine") -> "Iterator[Engine]":
    from sqlalchemy.exc import DBAPIError

    try:
        yield engine
    except DBAPIError as error:
        reason = str(error.orig).strip().partition("\n")[0]  # names host and user, never the password
        raise Problem(f"the database failed: {reason}", exit=Exit.NO_SERVER) from error
    finally:
        engine.dispose()
