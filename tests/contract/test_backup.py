"""Backup and restore, from each engine into each: what was there is there again, or the store says so."""

import asyncio
import random
import signal
import stat
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import zstandard
from alembic import command
from alembic.config import Config
from sqlalchemy import insert, select, update

from corral.catalog.audit import Begun, Ended
from corral.catalog.credentials import new_credential
from corral.catalog.environment_keys import environment_key
from corral.catalog.environments import new_environment
from corral.catalog.files import FileRecord, Files, new_upload
from corral.catalog.idempotency import Answer, Idempotent, scope
from corral.catalog.keys import as_record
from corral.catalog.memory.ports import Actor, Remove, StoreKey, VersionFilter, Write
from corral.catalog.repositories import SealedToken, TokenPlace
from corral.catalog.skills.attached import AttachedSkill
from corral.catalog.skills.ports import SkillKey, SkillVersion, blob_key
from corral.catalog.vaults import SealedSecret, VaultKey, new_vault
from corral.catalog.workspaces import Workspace
from corral.kernel.errors import Conflict, InvalidRequest, StoreUnavailable
from corral.kernel.ids import (
    DEFAULT_WORKSPACE,
    CredentialId,
    EnvironmentId,
    FileId,
    Ids,
    MemoryStoreId,
    ResourceId,
    SessionId,
    SkillId,
    SkillVersionId,
    VaultId,
    WorkspaceId,
)
from corral.kernel.limits import RESTORE_EPOCH_STEP
from corral.session.events import AgentToolResult
from corral.session.record import SessionRecord
from corral.session.resources import FileCopy, NewResource, Resource
from corral.session.work import Queue
from corral.store import schema
from corral.store.archive import FORMAT, ArchiveWriter, Manifest, verify
from corral.store.audit import Audit
from corral.store.backup import LEFT_OUT, archived_tables, back_up, open_engine, read, rows_of
from corral.store.blobs import LocalBlobs
from corral.store.bus import LocalBus
from corral.store.catalog import Agents, Environments
from corral.store.database import Database
from corral.store.environment_keys import EnvironmentKeys
from corral.store.files import FileRows
from corral.store.keys import ApiKeys
from corral.store.lease import Leases
from corral.store.log import Log
from corral.store.memory.mounts import MemoryMountTable
from corral.store.memory.stores import MemoryStoreTable
from corral.store.memory.versions import MemoryVersionTable
from corral.store.restore import restore
from corral.store.session_resources import Resources
from corral.store.sessions import Sessions
from corral.store.skills.skills import SkillTable
from corral.store.skills.versions import SkillVersionTable
from corral.store.upgrade import MIGRATIONS
from corral.store.upgrade import schema as schema_of
from corral.store.vault_keys import VaultKeys
from corral.store.vaults import Credentials, Vaults
from corral.store.work import WorkTable
from corral.store.work_offer import offer_work
from corral.store.workspaces import Workspaces
from corral.testing.clock import ManualClock
from corral.testing.contract_blobs import chunks
from corral.testing.contract_blobs import read as read_blob
from corral.testing.sessions import Draft, agent_message, custom_tool_use, new_session, user_message

Where = str | Path
NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
ENGINES = ["sqlite", "postgresql"]


@dataclass
class Store:
    """A store with its blobs, open as a server has it."""

    where: Where
    database: Database
    blobs: LocalBlobs
    ids: Ids
    clock: ManualClock

    def __post_init__(self) -> None:
        bus = LocalBus()
        self.log = Log(self.database, bus)
        self.sessions = Sessions(self.database, bus, self.clock)
        self.leases = Leases(self.database)

    async def session(self) -> SessionRecord:
        return await self.sessions.create(new_session(self.ids, self.clock.now()))

    async def say(self, session_id: Any, words: str) -> None:
        await self.log.accept(session_id, [user_message(self.ids, words)], now=self.clock.now())

    async def turn(self, record: SessionRecord, *, rounds: int, ends: bool) -> None:
        """A turn with a waiting message, taken, and some more events; it holds its lease unless it ends."""
        await self.say(record.session_id, "work")
        [lease] = await self.leases.claim(owner="node.brain", limit=1, session_ids=[record.session_id])
        for number in range(rounds):
            self.clock.advance(1)
            seen = await self.log.snapshot(record.session_id)
            draft = Draft(seen=seen, lease=lease, now=self.clock.now())
            result = AgentToolResult(
                id=self.ids.event(),
                type=AgentToolResult.TYPE,
                tool_use_id=self.ids.event(),
                content=[],
                is_error=False,
            )
            is_last = ends and number == rounds - 1
            await self.log.append(
                draft.append(
                    [agent_message(self.ids, f"{number} 🐂 \0"), custom_tool_use(self.ids), result],
                    takes=seen.inbox,
                    status="idle" if is_last else "running",
                    needs_brain=not is_last,
                    releases=is_last,
                )
            )

    async def checkpoint(self, record: SessionRecord, data: bytes, *, name: str = "1") -> str:
        key = f"checkpoints/{record.session_id}/{name}"
        blob = await self.blobs.put(key, chunks(data))
        row = {
            "session_id": record.session_id, "blob_key": key, "size_bytes": blob.size_bytes,
            "sha256": blob.sha256, "host_id": "host_a", "taken_at": self.clock.now(),
        }  # fmt: skip
        of_session = schema.checkpoints.c.session_id == record.session_id

        def body(connection: Any) -> None:
            if connection.execute(select(schema.checkpoints).where(of_session)).first() is None:
                connection.execute(insert(schema.checkpoints), row)
            else:
                connection.execute(update(schema.checkpoints).where(of_session).values(**row))

        await self.database.write(body)
        return key

    async def place(self, record: SessionRecord, host_id: str) -> None:
        row = {"session_id": record.session_id, "host_id": host_id, "placed_at": self.clock.now()}
        await self.database.write(lambda connection: connection.execute(insert(schema.placements), row))


class Places:
    """Makes empty places for stores."""

    def __init__(self, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        self._tmp_path, self._request, self._count = tmp_path, request, 0
        self._dropped: list[str] = []

    def new(self, engine: str) -> Where:
        self._count += 1
        if engine == "sqlite":
            return self._tmp_path / f"data-{self._count}" / "corral.db"
        url = self._request.getfixturevalue("postgres").empty_database()
        self._dropped.append(url)
        return str(url)

    def drop(self) -> None:
        for url in self._dropped:
            self._request.getfixturevalue("postgres").drop_database(url)

    async def blobs(self) -> LocalBlobs:
        self._count += 1
        return await LocalBlobs.open(self._tmp_path / f"blobs-{self._count}")

    @asynccontextmanager
    async def open(self, where: Where, blobs: LocalBlobs | None = None) -> AsyncIterator[Store]:
        if isinstance(where, Path):
            where.parent.mkdir(exist_ok=True)
        clock = ManualClock()
        database = await Database.open(where, clock=clock, migrate=True)
        try:
            yield Store(where, database, blobs or await self.blobs(), Ids(), clock)
        finally:
            await database.close()


@pytest.fixture
def places(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    places = Places(tmp_path, request)
    yield places
    places.drop()


async def remember(store: Store) -> None:
    """A memory store with a changed, a redacted and a deleted memory, and what a deleted one left."""
    tables, actor = MemoryStoreTable(store.database), Actor("session_actor", "sesn_1")
    keys = []
    for name in ("kept", "deleted"):
        body = {"id": f"memstore_{name}", "created_at": "2026-01-01T00:00:00Z", "archived_at": None}
        await tables.create(DEFAULT_WORKSPACE, body)
        keys.append(StoreKey(DEFAULT_WORKSPACE, MemoryStoreId(body["id"])))
        writes = [
            Write("/ä/\U0001f402", b"one"),
            Write("/b", b"1"),
            Write("/ä/\U0001f402", b"two"),
            Remove("/b"),
        ]
        await MemoryMountTable(store.database, store.ids).apply(keys[-1], writes, actor=actor)
    versions = MemoryVersionTable(store.database)
    page = await versions.page(keys[0], only=VersionFilter(), limit=9, cursor=None, has_content=True)
    await versions.redact(keys[0], page.items[-1].memory_version_id, actor=actor)
    await tables.delete(keys[1])


async def fill(store: Store) -> dict[str, SessionRecord]:
    """Something in every table, and sessions in each state that a restore must get right."""
    await Agents(store.database).create(
        {"id": "agent_1", "version": 1, "created_at": "2026-01-01T00:00:00Z", "name": "ä\n"},
        workspace_id=DEFAULT_WORKSPACE,
    )
    workspace = Workspace(workspace_id=WorkspaceId("wrkspc_1"), name="w", created_at=NOW)
    await Workspaces(store.database).create(workspace)
    await Environments(store.database).create(
        {"id": "env_1", "created_at": "2026-01-01T00:00:00Z"}, workspace_id=workspace.workspace_id
    )
    await ApiKeys(store.database).add(
        as_record("corral_secret_of_a_test", name="k", ids=store.ids, now=NOW)
    )
    await keep_a_secret(store)
    await offer_some_work(store)
    asked = Begun(
        entry_id="audit_1", session_id=SessionId("sesn_gone"), created_at=NOW, host="example.com", port=443,
        method="CONNECT", decision="allowed",
    )  # fmt: skip
    await Audit(store.database).add([asked], [Ended(entry_id="audit_1", sent_bytes=1, seconds=0.25)])
    records = {name: await store.session() for name in ("idle", "working", "waiting", "lost", "deleted")}
    await store.turn(records["idle"], rounds=3, ends=True)
    await store.turn(records["working"], rounds=2, ends=False)
    await store.say(records["waiting"].session_id, "and a picture " + "x" * 100_000)
    said = (store.say(records["lost"].session_id, f"message {number}") for number in range(450))
    await asyncio.gather(*said)  # more than two pages
    for name in ("idle", "working"):
        await store.checkpoint(records[name], random.Random(name).randbytes(4_500_000))
        await store.place(records[name], "host_gone")
    await keep_files(store, records["idle"])
    await keep_a_skill(store)
    await store.place(records["waiting"], "host_here")
    await store.sessions.delete(records["deleted"].session_id)
    await remember(store)
    remembers = Resource(body={"type": "memory_store", "memory_store_id": "memstore_kept"})
    await store.sessions.create(replace(new_session(store.ids, NOW), resources=(remembers,)))
    keyed = Idempotent(
        api_key_id="k", path="/v1/x", key="once", request_sha256=b"\0\xff" * 16,
        render=lambda _: Answer(status=200, body=b"{}"),
    )  # fmt: skip
    with scope(keyed):
        await store.say(records["lost"].session_id, "once")
    return records


async def keep_files(store: Store, record: SessionRecord, content: bytes = b"kept" * 500_000) -> FileRecord:
    """One that a session has a copy of, and an upload on its way."""
    files = Files(FileRows(store.database), store.blobs, ids=store.ids, clock=store.clock)
    received = await files.receive(chunks(content))
    source = new_upload(
        file_id=FileId(store.ids.mint("file")), workspace_id=DEFAULT_WORKSPACE, filename="ä.csv",
        mime_type=None, size_bytes=received.size_bytes, sha256=received.sha256,
        blob_key=received.blob_key, expires_in_seconds=None, now=NOW,
    )  # fmt: skip
    await files.table.add(source)
    copy = FileCopy(source.file_id, FileId(store.ids.mint("file")))
    resource = Resource(body={"id": "sesrsc_1", "type": "file", "file_id": copy.to_id})
    new = NewResource(resource=resource, copies=[copy])
    await Resources(store.database, store.clock).add(record.session_id, new, lambda _: None)
    await files.table.expect(f"files/{store.ids.mint('blob')}")
    return source


async def keep_a_skill(store: Store) -> None:
    """One that a session has, and an upload that nobody finished."""
    skills, versions = SkillTable(store.database), SkillVersionTable(store.database)
    at = SkillKey(DEFAULT_WORKSPACE, SkillId(store.ids.mint("skill")))
    content = b"skill" * 1000
    version = SkillVersion(
        skill_version_id=(version_id := SkillVersionId(store.ids.mint("skillver"))), skill_id=at.skill_id,
        name="s", description="d", directory="s", files=1, size_bytes=len(content),
        sha256=sha256(content).hexdigest(), blob_key=blob_key(version_id), created_at=NOW,
    )  # fmt: skip
    await versions.reserve(at, version)
    await store.blobs.put(version.blob_key, chunks(content))
    await skills.create(at, version, source="custom", display_name="S")
    kept = AttachedSkill(type="custom", version=version).kept
    await store.sessions.create(replace(new_session(store.ids, NOW), skills=[kept]))
    lost = SkillVersionId(store.ids.mint("skillver"))
    await versions.reserve(at, replace(version, skill_version_id=lost, blob_key=blob_key(lost)))


async def offer_some_work(store: Store) -> None:
    """To the workers of a self-hosted environment, of whom one has claimed it."""
    environment_id, at = EnvironmentId("env_2"), {"workspace_id": DEFAULT_WORKSPACE}
    environment = new_environment(
        {"name": "e", "config": {"type": "self_hosted"}}, environment_id=environment_id, now=NOW
    )
    await Environments(store.database).create(environment, **at)
    key = environment_key(
        "of no use", environment_id=environment_id, name="k", ids=store.ids, now=NOW, **at
    )
    await EnvironmentKeys(store.database).add(key)
    record = replace(
        new_session(store.ids, NOW, environment_id=environment_id), environment=environment["config"]
    )
    session_id = (await store.sessions.create(record)).session_id
    await store.database.write(
        lambda connection: offer_work(connection, session_id, now_us=store.database.now_us(connection))
    )
    queue = Queue(DEFAULT_WORKSPACE, environment_id)
    assert await WorkTable(store.database).claim(queue, reclaim_seconds=5.0) is not None


async def keep_a_secret(store: Store) -> None:
    key = VaultKey(key_id="vkey_1", public_key=b"\xff" * 32)
    await VaultKeys(store.database).add_first(key, now=NOW)
    workspace = {"workspace_id": DEFAULT_WORKSPACE}
    vault = new_vault({"display_name": "v"}, vault_id=VaultId("vlt_1"), now=NOW)
    await Vaults(store.database).create(vault, **workspace)
    auth = {"type": "static_bearer", "mcp_server_url": "https://mcp.test"}
    credential = new_credential(
        {"auth": auth}, vault_id=VaultId("vlt_1"), credential_id=CredentialId("vcrd_1"), now=NOW
    )
    sealed = SealedSecret(name="token", key_id=key.key_id, sealed=b"\0\xff")
    await Credentials(store.database).create(credential, [sealed], **workspace)
    place = TokenPlace(
        workspace_id=DEFAULT_WORKSPACE, resource_id=ResourceId("sesrsc_1"), url="https://git.test/a/b"
    )
    token = SealedToken(place=place, key_id=key.key_id, sealed=b"\0\xfe")
    await store.sessions.create(new_session(store.ids, NOW), tokens=[token])


def contents(where: Where) -> dict[str, list[dict[str, Any]]]:
    """Every row of every archived table, as stored."""
    engine = open_engine(where, writes=False)
    try:
        return read(
            engine, lambda connection: {t.name: list(rows_of(connection, t)) for t in archived_tables()}
        )
    finally:
        engine.dispose()


def expected(before: dict[str, list[dict[str, Any]]], *, hosts: tuple[str, ...] = ()) -> Any:
    """What a restore makes of it: the rows, less what was alive."""
    after = {name: [dict(row) for row in rows] for name, rows in before.items()}
    for row in after["sessions"]:
        row.update(owner=None, lease_until=0, epoch=row["epoch"] + RESTORE_EPOCH_STEP)
    after["placements"] = [row for row in after["placements"] if row["host_id"] in hosts]
    return after


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("source", ENGINES)
async def test_every_row_and_blob_comes_back(
    source: str, target: str, places: Places, tmp_path: Path
) -> None:
    path = tmp_path / "backup.tar.zst"
    async with places.open(places.new(source)) as store:
        records = await fill(store)
        before = contents(store.where)
        assert not [name for name, rows in before.items() if not rows], "the test fills every table"
        manifest = await back_up(store.where, store.blobs, path, now=NOW)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (manifest.engine, manifest.blobs, manifest.blobs_missing) == (source, 4, 0)
        assert {name: table.rows for name, table in manifest.tables.items()} == {
            name: len(rows) for name, rows in before.items()
        }
    where, blobs = places.new(target), await places.blobs()
    acted: list[SessionId] = []

    async def before_live(session_ids: Sequence[SessionId]) -> None:
        with pytest.raises(StoreUnavailable):
            async with places.open(where, blobs):
                """Not yet."""
        acted.extend(session_ids)

    restored = await restore(path, where, blobs, known_hosts=["host_here"], before_live=before_live)
    results = [row for row in before["events"] if row["type"] == "agent.tool_result"]
    assert results and sorted(acted) == sorted({row["session_id"] for row in results})
    assert (restored.blobs, restored.unplaced, restored.missing) == (4, 2, ())
    assert contents(where) == expected(before, hosts=("host_here",))
    versions = [row for row in before["skill_versions"] if row["blob_key"] is not None]
    assert versions
    for row in (*before["checkpoints"], *before["files"], *versions):
        assert sha256(await read_blob(blobs, row["blob_key"])).hexdigest() == row["sha256"]

    async with places.open(where, blobs) as again:
        # Whoever was at work, or had been told something, is found by the sweep, under a higher epoch.
        claimed = {lease.session_id: lease for lease in await again.leases.claim(owner="n.b", limit=10)}
        at_work = {records[name].session_id for name in ("working", "waiting", "lost")}
        assert set(claimed) == at_work
        assert all(lease.epoch > RESTORE_EPOCH_STEP for lease in claimed.values())
        session_id = records["working"].session_id
        seen = await again.log.snapshot(session_id)
        draft = Draft(seen=seen, lease=claimed[session_id], now=again.clock.now())
        await again.log.append(draft.append([agent_message(again.ids)], status="idle", needs_brain=False))
        assert (await again.log.snapshot(session_id)).record.last_seq == seen.record.last_seq + 1


def test_every_table_is_archived_or_left_out_for_a_reason() -> None:
    assert {table.name for table in archived_tables()} | set(LEFT_OUT) == set(schema.metadata.tables)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_backup_is_of_one_moment_while_the_log_grows(
    engine: str, places: Places, tmp_path: Path
) -> None:
    path = tmp_path / "backup.tar.zst"
    async with places.open(places.new(engine)) as store:
        records = [await store.session() for _ in range(8)]
        is_over = asyncio.Event()
        turns: asyncio.Queue[None] = asyncio.Queue()

        async def talk(record: SessionRecord) -> None:
            while not is_over.is_set():
                await store.turn(record, rounds=4, ends=True)
                turns.put_nowait(None)

        async with asyncio.TaskGroup() as group:
            for record in records:
                group.create_task(talk(record))
            for _ in range(40):
                await turns.get()
            loop, rows = asyncio.get_running_loop(), 0

            def told(doing: str, more_bytes: int) -> None:
                nonlocal rows
                rows += 1
                if rows <= 5:  # whole turns are stored between one row of the copy and the next
                    asyncio.run_coroutine_threadsafe(turns.get(), loop).result(20)

            await back_up(store.where, store.blobs, path, now=NOW, told=told)
            is_over.set()
    where = places.new("sqlite")
    await restore(path, where, await places.blobs())
    found = contents(where)
    assert len(found["sessions"]) == 8
    for row in found["sessions"]:
        seqs = [event["seq"] for event in found["events"] if event["session_id"] == row["session_id"]]
        assert seqs == list(range(1, row["last_seq"] + 1)), "the log is as long as its session says"
        waiting = [entry["arrival"] for entry in found["inbox"] if entry["session_id"] == row["session_id"]]
        taken = [
            event["arrival"]
            for event in found["events"]
            if event["session_id"] == row["session_id"] and event["arrival"] is not None
        ]
        assert sorted(taken + waiting) == list(range(1, row["last_arrival"] + 1)), "each input is somewhere"


class Moving(LocalBlobs):
    """Between the snapshot and a blob's turn a checkpoint is replaced, as a running server does."""

    store: Store
    moves: list[Any]

    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Any:
        async def after_the_move() -> AsyncIterator[bytes]:
            if self.moves:
                await self.moves.pop(0)()
            async for chunk in LocalBlobs.get(self, key, start=start, end=end):
                yield chunk

        return after_the_move()


async def test_checkpoints_that_move_during_a_backup(places: Places, tmp_path: Path) -> None:
    path = tmp_path / "backup.tar.zst"
    blobs = Moving(tmp_path / "moving")
    await Moving.open(tmp_path / "moving")
    async with places.open(places.new("sqlite"), blobs) as store:
        names = ("replaced", "deleted", "lost", "damaged", "kept")
        records = {name: await store.session() for name in names}
        keys = {name: await store.checkpoint(record, name.encode()) for name, record in records.items()}

        async def move() -> None:
            await store.checkpoint(records["replaced"], b"newer", name="2")
            await store.sessions.delete(records["deleted"].session_id)
            of_deleted = schema.checkpoints.c.session_id == records["deleted"].session_id
            await store.database.write(
                lambda connection: connection.execute(schema.checkpoints.delete().where(of_deleted))
            )
            for name in ("replaced", "deleted", "lost"):
                await blobs.delete(keys[name])
            await blobs.put(keys["damaged"], chunks(b"something else"))

        blobs.moves = [move]
        manifest = await back_up(store.where, blobs, path, now=NOW)
        assert (manifest.blobs, manifest.blobs_replaced, manifest.blobs_missing) == (2, 1, 3)
    where, target = places.new("sqlite"), await places.blobs()
    restored = await restore(path, where, target)
    reasons = {end.session_id: end.reason for end in restored.missing}
    assert set(reasons) == {records[name].session_id for name in ("deleted", "lost", "damaged")}
    assert "deleted while" in reasons[records["deleted"].session_id]
    kept = {row["session_id"]: row["blob_key"] for row in contents(where)["checkpoints"]}
    newer = f"checkpoints/{records['replaced'].session_id}/2"
    assert kept == {records["kept"].session_id: keys["kept"], records["replaced"].session_id: newer}
    assert await read_blob(target, newer) == b"newer"
    assert {blob.key async for blob in target.keys("")} == set(kept.values())


async def test_a_file_whose_bytes_are_lost(places: Places, tmp_path: Path) -> None:
    path = tmp_path / "backup.tar.zst"
    async with places.open(places.new("sqlite")) as store:
        record = await store.session()
        kept, lost = await keep_files(store, record, b"kept"), await keep_files(store, record, b"lost")
        await store.blobs.delete(lost.blob_key)
        manifest = await back_up(store.where, store.blobs, path, now=NOW)
        assert (manifest.blobs, manifest.blobs_missing) == (1, 1)
    where, blobs = places.new("sqlite"), await places.blobs()
    restored = await restore(path, where, blobs)
    assert [end.key for end in restored.missing] == [lost.blob_key]
    async with places.open(where, blobs) as again:
        files = Files(FileRows(again.database), blobs, ids=again.ids, clock=again.clock)
        found = await files.table.read(DEFAULT_WORKSPACE, kept.file_id)
        assert [chunk async for chunk in files.read(found)] == [b"kept"]
        gone = await files.table.read(DEFAULT_WORKSPACE, lost.file_id)
        assert (gone.size_bytes, gone.blob_key) == (4, None)
    assert [row["bytes"] for row in contents(where)["file_usage"]] == [4]


# -- damage --------------------------------------------------------------------------------------------


@pytest.fixture
async def archive(places: Places, tmp_path: Path) -> Path:
    path = tmp_path / "backup.tar.zst"
    async with places.open(places.new("sqlite")) as store:
        await fill(store)
        await back_up(store.where, store.blobs, path, now=NOW)
    return path


async def test_a_flipped_byte_is_refused_and_changes_nothing(
    archive: Path, places: Places, tmp_path: Path
) -> None:
    verify(archive)
    whole = archive.read_bytes()
    damaged = tmp_path / "damaged.tar.zst"
    where, blobs = places.new("sqlite"), await places.blobs()
    for position in (0, 4, 20, 400, len(whole) // 2, len(whole) - 2000, len(whole) - 2):
        data = bytearray(whole)
        data[position] ^= 0x20
        damaged.write_bytes(data)
        with pytest.raises(InvalidRequest, match=r"damaged\.tar\.zst.*(cannot be read|cannot be restored)"):
            await restore(damaged, where, blobs)
    for length in (0, 10, len(whole) // 2, len(whole) - 1000):
        damaged.write_bytes(whole[:length])
        with pytest.raises(InvalidRequest, match=r"damaged, cut short|cannot be restored"):
            verify(damaged)
    assert isinstance(where, Path) and not where.exists()
    assert [blob.key async for blob in blobs.keys("")] == []


def unpacked(path: Path) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()


def repacked(path: Path, old: bytes, new: bytes) -> Path:
    """The archive with other bytes in it, and no checksum of the packing to give it away."""
    assert len(old) == len(new)
    plain = unpacked(path)
    assert old in plain
    other = path.with_name("other.tar.zst")
    other.write_bytes(zstandard.ZstdCompressor().compress(plain.replace(old, new, 1)))
    return other


def written(path: Path, *members: tuple[str, bytes]) -> Path:
    """An archive with a good beginning and then these."""
    with ArchiveWriter(path) as archive:
        manifest = Manifest(format=FORMAT, corral="0", schema="0", engine="sqlite", taken_at="now")
        archive.add_header(manifest)
        for name, data in members:
            archive.add(name, data)
        archive.finish(manifest)
    return path


@pytest.mark.parametrize(
    "member",
    [("tables/x", b""), ("tables/a/b/c", b""), ("blobs/k/end", b"[]"), ("manifest.json", b"[]")],
    ids=lambda member: member[0],
)
def test_what_nobody_would_write_is_refused(tmp_path: Path, member: tuple[str, bytes]) -> None:
    with pytest.raises(InvalidRequest, match="cannot be restored"):
        verify(written(tmp_path / "odd.tar.zst", member))


async def test_an_archive_of_other_tables_is_refused(places: Places, tmp_path: Path) -> None:
    with ArchiveWriter(path := tmp_path / "odd.tar.zst") as archive:
        manifest = Manifest(
            format=FORMAT, corral="0", schema=schema.REVISION, engine="sqlite", taken_at="now",
            blobs_sha256=sha256().hexdigest(),
        )  # fmt: skip
        archive.add_header(manifest)
        manifest.tables["others"] = archive.add_rows("others", iter([b"{}\n"]))
        archive.finish(manifest)
    where = places.new("sqlite")
    with pytest.raises(InvalidRequest, match="others"):
        await restore(path, where, await places.blobs())
    assert isinstance(where, Path) and not where.exists()


def test_what_is_wrong_is_named(archive: Path) -> None:
    plain = unpacked(archive)
    blob_at = plain.index(b"/00000001", plain.index(b"checkpoints/")) + 2000
    cases = [
        (b'"event_id":"sevt_01', b'"event_id":"sevt_02', "table '(events|inbox)' is not what the manifest"),
        (plain[blob_at : blob_at + 20], bytes(20), "blob 'checkpoints/.*' is not what its end says"),
        (b'"format": 1', b'"format": 9', "has format 9.*Use that version"),
        (b"manifest.json\0", b"manifast.json\0", "never finished: there is no manifest|cannot be read"),
    ]
    for old, new, message in cases:
        with pytest.raises(InvalidRequest, match=message):
            verify(repacked(archive, old, new))


async def test_only_an_empty_store_is_restored_into(archive: Path, places: Places) -> None:
    async with places.open(places.new("sqlite")) as store:
        await ApiKeys(store.database).add(as_record("corral_x_y_z", name="k", ids=store.ids, now=NOW))
        before = contents(store.where)
        with pytest.raises(Conflict, match="not empty: there are api_keys"):
            await restore(archive, store.where, store.blobs)
        assert contents(store.where) == before
        await store.session()  # and it serves on


async def test_a_store_of_another_version_is_not_upgraded_on_the_way(archive: Path, places: Places) -> None:
    where = places.new("sqlite")
    assert isinstance(where, Path)
    where.parent.mkdir()
    engine = open_engine(where, writes=True)
    with engine.connect() as connection, connection.begin():
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, "0001")
    with pytest.raises(Conflict, match="schema 0001"):
        await restore(archive, where, await places.blobs())
    assert schema_of(engine).revision == "0001"
    engine.dispose()


async def test_nothing_is_replaced_by_a_backup(places: Places, tmp_path: Path) -> None:
    async with places.open(places.new("sqlite")) as store:
        (tmp_path / "there").write_text("mine")
        with pytest.raises(InvalidRequest, match="is there already"):
            await back_up(store.where, store.blobs, tmp_path / "there", now=NOW)
        with pytest.raises(InvalidRequest, match="cannot be written"):
            await back_up(store.where, store.blobs, tmp_path / "no" / "where", now=NOW)
    with pytest.raises(InvalidRequest, match="there is no database"):
        await back_up(tmp_path / "no.db", await places.blobs(), tmp_path / "new", now=NOW)
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob("*.partial"))


RESTORING = """
import asyncio, sys
from pathlib import Path
from corral.store.blobs import LocalBlobs
from corral.store.restore import restore

class Stuck(LocalBlobs):
    async def put(self, key, data):
        print("loading", flush=True)
        await asyncio.Event().wait()

where = Path(sys.argv[2]) if sys.argv[2].startswith("/") else sys.argv[2]
asyncio.run(restore(Path(sys.argv[1]), where, Stuck(Path(sys.argv[3]))))
"""


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_killed_restore_leaves_a_store_that_nobody_serves(
    engine: str, archive: Path, places: Places, tmp_path: Path
) -> None:
    where, blobs = places.new(engine), await places.blobs()
    restoring = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RESTORING, archive, str(where), tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert restoring.stdout is not None
    try:
        assert await asyncio.wait_for(restoring.stdout.readline(), 60) == b"loading\n"
    finally:
        restoring.send_signal(signal.SIGKILL)
        await restoring.wait()
    for migrate in (None, True):
        with pytest.raises(StoreUnavailable, match=r"not whole.*corral restore") as caught:
            await Database.open(where, migrate=migrate)
        assert not caught.value.retryable
    with pytest.raises(StoreUnavailable, match="not whole"):
        await back_up(where, blobs, tmp_path / "of-half.tar.zst", now=NOW)
    restored = await restore(archive, where, blobs)
    assert restored.blobs == 4
    async with places.open(where, blobs) as store:
        assert await store.leases.claim(owner="n.b", limit=1)
