"""The real API over a real socket: uvicorn in a thread, SQLite in a temporary directory, no brain.

`Server.run` executes a coroutine in the server's loop, so that a test can do what a brain would do.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import anthropic
import httpx2
import pytest
import uvicorn

from corral.api.application import create_api
from corral.api.connection import Connection
from corral.api.dependencies import Check, Dependencies
from corral.app.validation import Validation
from corral.brain.models.counting import RoutedCounter
from corral.catalog.files import Files
from corral.catalog.keys import as_record, new_secret
from corral.catalog.models import ModelTable
from corral.catalog.vaults import VaultKey
from corral.hands.client import HandsClient
from corral.kernel.clock import SystemClock
from corral.kernel.ids import Ids, SessionId
from corral.orchestrator.sandboxes import Desk, OneHost
from corral.session.events import Event, parse
from corral.session.lease import Claim
from corral.session.log import Append, Derived, NewEvent
from corral.store.audit import Audit
from corral.store.blobs import LocalBlobs
from corral.store.bus import LocalBus
from corral.store.catalog import Agents, Environments
from corral.store.checkpoints import Checkpoints
from corral.store.database import Database
from corral.store.environment_keys import EnvironmentKeys
from corral.store.files import FileRows
from corral.store.idempotency import Idempotency
from corral.store.keys import ApiKeys
from corral.store.kill import Kills
from corral.store.log import Log
from corral.store.memory.memories import MemoryTable
from corral.store.memory.stores import MemoryStoreTable
from corral.store.memory.versions import MemoryVersionTable
from corral.store.session_resources import Resources
from corral.store.sessions import Sessions
from corral.store.skills.skills import SkillTable
from corral.store.skills.versions import SkillVersionTable
from corral.store.tokens import Tokens
from corral.store.vault_keys import VaultKeys
from corral.store.vaults import Credentials, Vaults
from corral.store.work import WorkTable
from corral.store.workspaces import Workspaces
from corral.vault.ring import FileKeys, KeyRing
from tests.served import WAIT_SECONDS

Result = TypeVar("Result")


async def _status() -> dict[str, object]:
    return {"role": "server", "pid": 1}


async def _metrics() -> bytes:
    return b""


class Server:
    """One running server. `deps` are its ports; `readiness` is what `/readyz` reports."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self.readiness = {"store": Check(status="ok")}
        self.key = new_secret()
        self._thread = threading.Thread(target=self._main, name="server")

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(WAIT_SECONDS)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive(), "the server did not stop"

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_SECONDS)

    def call(self, function: Any, *args: Any) -> Any:
        async def call() -> Any:
            return function(*args)

        return self.run(call())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self.http_server.server_state.connections)

    def client(self, **options: Any) -> anthropic.Anthropic:
        """The official SDK, unmodified; no retries, so that a test sees the first answer."""
        return anthropic.Anthropic(
            **{"base_url": self.url, "api_key": self.key, "max_retries": 0, **options}
        )

    def async_client(self, **options: Any) -> anthropic.AsyncAnthropic:
        options = {"base_url": self.url, "api_key": self.key, "max_retries": 0, **options}
        return anthropic.AsyncAnthropic(**options)

    def http(self, **headers: str) -> httpx2.Client:
        """A plain HTTP client, for what the SDK hides."""
        return httpx2.Client(
            base_url=self.url, headers={"x-api-key": self.key, **headers}, timeout=WAIT_SECONDS
        )

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as failure:
            self._failure = failure
            self._started.set()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        clock, ids, bus = SystemClock(), Ids(), LocalBus()
        database = await Database.open(self._directory / "corral.db")
        hands = HandsClient(self._directory / "no-hands.sock", token="none")
        keys = ApiKeys(database)
        await keys.add(as_record(self.key, name="test", ids=ids, now=clock.now()))
        self.database = database
        self.blobs = blobs = await LocalBlobs.open(self._directory / "blobs")
        self.vault_keys = self._directory / "vault.keys"
        key_id, public_key = KeyRing(FileKeys(self.vault_keys)).newer_than(None, now=clock.now())
        await VaultKeys(database).add_first(VaultKey(key_id=key_id, public_key=public_key), now=clock.now())
        self.deps = Dependencies(
            log=Log(database, bus),
            sessions=Sessions(database, bus, clock),
            agents=Agents(database),
            environments=Environments(database),
            environment_keys=EnvironmentKeys(database),
            work=WorkTable(database),
            vaults=Vaults(database),
            credentials=Credentials(database),
            vault_keys=VaultKeys(database),
            validation=Validation(self._directory, Tokens(database)),
            api_keys=keys,
            workspace_records=Workspaces(database),
            files=Files(FileRows(database, bytes_max=2**30), blobs, ids=ids, clock=clock),
            resources=Resources(database, clock),
            memory_stores=MemoryStoreTable(database),
            memories=MemoryTable(database, ids),
            memory_versions=MemoryVersionTable(database),
            skills=SkillTable(database),
            skill_versions=SkillVersionTable(database),
            blobs=await LocalBlobs.open(self._directory / "blobs"),
            idempotency=Idempotency(database),
            kills=Kills(database, bus),
            bus=bus,
            models=ModelTable.packaged(),
            token_counter=RoutedCounter(ModelTable.packaged(), {}),
            ids=ids,
            clock=clock,
            workspaces=hands,
            audit=Audit(database),
            sandboxes=Desk(
                OneHost(hands), checkpoints=Checkpoints(database), checkpointer=None, placements=None
            ),
            readiness=lambda: self.readiness,
            status=_status,
            metrics=_metrics,
        )
        self.api = create_api(self.deps)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self.api, lifespan="off", http=Connection, ws="none", log_config=None, access_log=False
        )
        self.http_server = server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        self._started.set()
        await self._stopping.wait()
        self.api.state.streams.close()
        server.should_exit = True
        await serving
        await hands.aclose()
        await database.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def client(server: Server) -> Iterator[anthropic.Anthropic]:
    with server.client() as made:
        yield made


@pytest.fixture
def http(server: Server) -> Iterator[httpx2.Client]:
    with server.http() as made:
        yield made


@pytest.fixture
def agent_id(client: anthropic.Anthropic) -> str:
    return client.beta.agents.create(name="Ada", model="claude-opus-5-5").id


@pytest.fixture
def environment_id(client: anthropic.Anthropic) -> str:
    return client.beta.environments.create(name="default").id


@pytest.fixture
def session_id(client: anthropic.Anthropic, agent_id: str, environment_id: str) -> str:
    return client.beta.sessions.create(agent=agent_id, environment_id=environment_id).id


# -- what a brain would do ----------------------------------------------------------------------------


async def take_inbox(deps: Dependencies, session_id: str, *more: Event) -> None:
    """Process everything that is queued, as a brain does, then append `more`; the session stays idle."""
    snapshot = await deps.log.snapshot(SessionId(session_id))
    record = snapshot.record
    inputs = [(entry.arrival, parse(entry.body)) for entry in snapshot.inbox]
    at = max([deps.clock.now(), *(event.processed_at for event in snapshot.events)])
    new: list[NewEvent] = []
    for arrival, event in [*inputs, *((None, event) for event in more)]:
        at += timedelta(microseconds=1)
        new.append(
            NewEvent(event=event, thread_id=record.primary_thread_id, processed_at=at, arrival=arrival)
        )
    derived = Derived(
        status="idle",
        usage=record.usage,
        active_seconds=record.active_seconds,
        running_since=None,
        blocked_on=(),
        needs_brain=False,
        threads=record.threads,
    )
    await deps.log.append(
        Append(
            session_id=record.session_id,
            lease=Claim(session_id=record.session_id, owner="test", epoch=record.epoch + 1),
            seen_seq=record.last_seq,
            seen_arrival=record.last_arrival,
            events=new,
            consumes=[event.id for _, event in inputs],
            derived=derived,
            releases=True,
        )
    )


class Frames:
    """The frames of an open stream, one by one: (id, event), comments as text."""

    def __init__(self, response: httpx2.Response) -> None:
        self._lines = response.iter_lines()

    def __iter__(self) -> "Frames":
        return self

    def __next__(self) -> Any:
        frame: dict[str, str] = {}
        for line in self._lines:
            if line.startswith(":"):
                return line
            if not line and frame:
                assert frame["event"] == "message"
                return frame.get("id"), json.loads(frame["data"])
            if line:
                name, _, value = line.partition(": ")
                frame[name] = value
        raise StopIteration

    def take(self, count: int) -> list[Any]:
        return [next(self) for _ in range(count)]


@contextmanager
def frames(http: httpx2.Client, path: str, *, after: str | None = None) -> Iterator[Frames]:
    """An open stream, past its `: connected`."""
    headers = {} if after is None else {"last-event-id": after}
    with http.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        opened = Frames(response)
        assert next(opened) == ": connected"
        yield opened


def eventually(check: Any, *, seconds: float = WAIT_SECONDS) -> None:
    """Wait until `check()` is true."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)
