"""The `postgres` bus: hints between nodes that share a PostgreSQL, by LISTEN and NOTIFY.

Rules of this file:
- Nothing may depend on it. A hint that is lost costs the time until the next sweep or look.
- What happens on this node is told here at once, by the local bus; the rest of the way is a copy.
- One connection sends, without waiting for the disk, as much as is due in one statement; it never has more
  than one on its way, so a busy database gets fewer and larger notifications, not more.
- One connection listens. When it breaks, hints are lost: once it is back, all readers look again.
- NOTIFY and LISTEN are PostgreSQL's own, and not of the store's schema: hence psycopg, not SQLAlchemy.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict

from corral.cluster.node import NodeRole
from corral.kernel.errors import StoreUnavailable
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    BUS_CLOSE_SECONDS,
    BUS_CONNECT_SECONDS,
    BUS_FLUSH_SECONDS,
    BUS_RETRY_SECONDS,
    BUS_RETRY_SECONDS_MAX,
    BUS_SILENT_SECONDS,
)
from corral.kernel.metrics import count
from corral.session.bus import Message, Overflow
from corral.store.bus import LocalBus
from corral.store.bus_outbox import Outbox, Wake, read

__all__ = ["PostgresBus"]

log = logging.getLogger(__name__)

_CHANNEL = "corral_bus"
_NOTIFY = f"SELECT pg_notify('{_CHANNEL}', payload) FROM unnest(%s::text[]) AS payload"  # noqa: S608  # no input
_Connection = AsyncConnection[tuple[Any, ...]]


class PostgresBus:
    """`session.bus.Bus` for many nodes. Make one with `open`."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._local = LocalBus()
        self._outbox = Outbox(node_id)
        self._unsure: list[str] = []  # sent, and the connection broke before it said so
        self._is_due = asyncio.Event()
        self._is_sent = asyncio.Event()
        self._is_sent.set()
        self._came_back = asyncio.Event()
        self._sender, self._listener = _Link("reach"), _Link("hear")
        self._others: Callable[[], Set[NodeRole] | None] = lambda: None

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, node_id: str) -> AsyncIterator["PostgresBus"]:
        """A bus that is connected, or goes on trying: a database that is away is no failure here.

        url:     `postgresql://...`, the store's; any node's bus on the same database is reached.
        node_id: unique among the processes that have a bus.
        Raises StoreUnavailable: the URL cannot be read.
        """
        bus = cls(node_id)
        settings = _settings(url)
        failure: BaseException | None = None
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(bus._sender.keep(bus._send, settings)),
                group.create_task(bus._listener.keep(bus._listen, settings)),
            ]
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(BUS_CONNECT_SECONDS):
                        await bus._sender.has_tried.wait()
                        await bus._listener.has_tried.wait()
                yield bus
                with suppress(TimeoutError):
                    async with asyncio.timeout(BUS_CLOSE_SECONDS):
                        await bus._is_sent.wait()
            except (Exception, asyncio.CancelledError) as error:
                failure = error  # raised below, as it is: a task group would wrap it
            for task in tasks:
                task.cancel()
        if failure is not None:
            raise failure

    @property
    def is_connected(self) -> bool:
        """Whether hints reach other nodes, and theirs us, as far as is known."""
        return self._sender.is_up and self._listener.is_up

    def tell_only(self, others: Callable[[], Set[NodeRole] | None]) -> None:
        """Spare the database what nobody would hear: wakes are for brains, all else for streams.

        others: the roles of the other live nodes, None if they are not known: then everything is sent. It
        is asked for with every hint.
        """
        self._others = others

    async def round_trip(self) -> None:
        """Return when something that we sent has come back: hints reach the others, and theirs us."""
        self._came_back.clear()
        self._outbox.put_echo()
        self._is_sent.clear()
        self._is_due.set()
        await self._came_back.wait()

    # -- the port -------------------------------------------------------------------------------------

    def publish(self, message: Message) -> None:
        self._local.publish(message)
        self._tell(message)

    def wake(self, session_id: SessionId) -> None:
        self._local.wake(session_id)
        self._tell(Wake(session_id))

    def wakes(self) -> AsyncIterator[SessionId]:
        return self._local.wakes()

    def subscribe(
        self, session_id: SessionId, *, buffer: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Message | Overflow]]:
        return self._local.subscribe(session_id, buffer=buffer)

    def look_again(self, session_id: SessionId) -> None:
        self._local.look_again(session_id)

    # -- to and from other nodes ------------------------------------------------------------------------

    def _tell(self, hint: Message | Wake) -> None:
        others = self._others()
        if others is not None and ("brain" if isinstance(hint, Wake) else "api") not in others:
            return
        self._outbox.put(hint)
        self._is_sent.clear()
        self._is_due.set()

    async def _send(self, connection: _Connection) -> None:
        await connection.execute("SET synchronous_commit = off")  # a hint need not survive anything
        unsure, self._unsure = self._unsure, []
        if unsure:  # once more, but only once: the notification itself may be what does not work
            await connection.execute(_NOTIFY, (unsure,))
        self._outbox.shed_previews()
        self._sender.up()
        while True:
            while payloads := self._outbox.take():
                self._unsure = payloads
                await connection.execute(_NOTIFY, (payloads,), prepare=True)
                self._unsure = []
                count("bus_messages", len(payloads), fate="sent")
                await asyncio.sleep(BUS_FLUSH_SECONDS)
            self._is_sent.set()
            self._is_due.clear()
            await self._is_due.wait()

    async def _listen(self, connection: _Connection) -> None:
        await connection.execute(f"LISTEN {_CHANNEL}")
        self._listener.up()
        self._local.all_look_again()
        async for notification in connection.notifies():
            self._hear(notification.payload)

    def _hear(self, payload: str) -> None:
        try:
            node_id, hints = read(payload)
        except ValueError:
            log.warning("the bus heard what no node says; it is ignored")
            return
        if node_id == self._node_id:
            self._came_back.set()
            return
        count("bus_messages", fate="received")
        for hint in hints:
            if isinstance(hint, Wake):
                self._local.wake(hint.session_id)
            else:
                self._local.publish(hint)


class _Link:
    """One connection, replaced for ever. `up` is called by the work that it is for."""

    def __init__(self, does: str) -> None:
        self.is_up = False
        self.has_tried = asyncio.Event()
        self._does = does
        self._wait = BUS_RETRY_SECONDS
        self._up_at = 0.0

    def up(self) -> None:
        self.is_up, self._up_at = True, time.monotonic()
        self.has_tried.set()

    async def keep(self, work: Callable[[_Connection], Awaitable[None]], settings: dict[str, Any]) -> None:
        """Do `work` on a connection, and on another when that breaks."""
        while True:
            try:
                connection = await AsyncConnection.connect(**settings, autocommit=True)
                try:
                    await work(connection)
                finally:
                    await connection.close()
            except (psycopg.Error, OSError) as error:
                if self.is_up or not self.has_tried.is_set():
                    log.warning("the bus does not %s other nodes for now: %s", self._does, _reason(error))
            if self.is_up and time.monotonic() - self._up_at > BUS_RETRY_SECONDS_MAX:
                self._wait = BUS_RETRY_SECONDS  # it was well; one that flaps is asked ever more rarely
            self.is_up = False
            self.has_tried.set()
            # Jitter: all nodes lose a server at the same moment.
            await asyncio.sleep(random.uniform(self._wait / 2, self._wait))
            self._wait = min(self._wait * 2, BUS_RETRY_SECONDS_MAX)


def _settings(url: str) -> dict[str, Any]:
    """What to connect with. Raises StoreUnavailable, which does not repeat the URL: it has a password."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        raise StoreUnavailable("The database URL cannot be read.", retryable=False) from None
    return {
        "application_name": "corral bus",
        "connect_timeout": int(BUS_CONNECT_SECONDS),
        "keepalives_idle": int(BUS_SILENT_SECONDS / 2),  # seconds
        "keepalives_interval": 1,
        "keepalives_count": int(BUS_SILENT_SECONDS / 2),
        "tcp_user_timeout": int(BUS_SILENT_SECONDS * 1000),
        **given,
        "client_encoding": "utf8",
    }


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
