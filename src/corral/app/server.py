"""The server process of a node: what its roles need, over one store, behind one listener.

| part        | with role | needs                           | file                               |
| ----------- | --------- | ------------------------------- | ---------------------------------- |
| ground      | any       | the database's URL              | `ground.py`: store, bus, leases    |
| node        | any       | the host of this node, if any   | `node.py`: its row, and the status |
| store       | any       | ground                          | `store.py`: disk and database      |
| operations  | any       | keys                            | /healthz, /readyz, /metrics, ...   |
| api         | api       | stores, hands for workspaces    | `api.py`: operations included      |
| brain       | brain     | log, leases, models, hands      | `brain.py`: loops, and clean-up    |
| hands       | hands     | the socket of this node's host  | `hands.py`: can a sandbox be made  |
| egress      | egress    | the socket of this node's proxy | `egress.py`: does it answer        |
| vault       | egress    | the same, and the store         | `vault.py`: keys that seal secrets |
| credentials | egress    | the same                        | `credentials.py`: of its sessions  |
| audit       | egress    | the same                        | `audit.py`: what went out, kept    |

What a role imports is imported only where it is asked for: the server of a hands node has no brain.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager

import uvicorn
from fastapi import FastAPI

from corral.api.admission import Admission, Machine
from corral.api.connection import Receiver
from corral.api.dependencies import Operations
from corral.api.edge import Edge
from corral.api.operations import create_operations
from corral.app.ground import Ground, open_ground
from corral.app.hands import hands_part, open_keeping, open_local_hands, open_reach
from corral.app.keys import KeysOfThisStart, bootstrap
from corral.app.metrics import Exposition, gauges_of
from corral.app.mounts import open_collector
from corral.app.node import node_part, open_node, status_of
from corral.app.own_files import own_files_part, refuse_own_files
from corral.app.part import Part
from corral.app.readiness import Readiness
from corral.app.store import store_part
from corral.catalog.web.domains import load_suffixes
from corral.config import Config
from corral.kernel.limits import HTTP_KEEPALIVE_SECONDS, READY_PATIENCE_SECONDS, STREAMS_END_SECONDS
from corral.kernel.metrics import install
from corral.orchestrator.node import NodeDuty
from corral.process import Start, report_drained, report_ready, supervisor_gone
from corral.store.backlog import Backlogs
from corral.store.keys import ApiKeys
from corral.store.nodes import Nodes
from corral.store.workspaces import Workspaces

log = logging.getLogger(__name__)


async def serve(start: Start) -> None:
    """Serve until SIGTERM, or until the supervisor is gone; then hand running sessions over."""
    async with AsyncExitStack() as stack:
        ground = await open_ground(start, stack)
        await refuse_own_files(start.config, Nodes(ground.database), node_id=start.node)
        for session_id in ground.orphans:  # any brain may take them, before we are ready ourselves
            ground.bus.wake(session_id)
        keys = KeysOfThisStart(
            ApiKeys(ground.database), local_key=start.local_key, ids=ground.ids, clock=ground.clock
        )
        server = await _open(ground, keys, stack)
        new_key = None
        if "api" in ground.config.roles:
            new_key = await bootstrap(
                keys, preset=ground.config.api_key, ids=ground.ids, clock=ground.clock
            )
        await server.run(new_key)


class _Server:
    """The parts of this process, and their order: ready after all looks, drained before the end."""

    def __init__(
        self, start: Start, api: FastAPI, parts: Sequence[Part], readiness: Readiness, node: NodeDuty
    ) -> None:
        self._start = start
        self._api = api
        self._parts = parts
        self._readiness = readiness
        self._node = node

    async def run(self, new_key: str | None) -> None:
        assert self._start.listen_fd is not None
        http = _Http(_http_config(self._api, self._start.config))
        listener = socket.socket(fileno=self._start.listen_fd)
        await self._node.beat()
        told = _Told()
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(http.serve(sockets=[listener]))
            duties = [group.create_task(duty()) for part in self._parts for duty in part.duties]
            duties.append(group.create_task(self._readiness.run()))
            to_stop = group.create_task(told.to_stop.wait())
            to_end = group.create_task(told.to_end.wait())
            gone = group.create_task(supervisor_gone())
            await self._readiness.until_ready(patience_seconds=READY_PATIENCE_SECONDS)
            report_ready(api_key=new_key)
            duties += [group.create_task(duty()) for part in self._parts for duty in part.later]
            await asyncio.wait({to_stop, gone, serving}, return_when=asyncio.FIRST_COMPLETED)
            log.info("stopping: running sessions are handed over")
            await self._drain()
            if streams := getattr(self._api.state, "streams", None):
                streams.close()
            if self._outlives_the_hands:
                report_drained()
                await asyncio.wait({to_end, gone, serving}, return_when=asyncio.FIRST_COMPLETED)
            http.should_exit = True
            for task in (*duties, to_stop, to_end, gone):
                task.cancel()
        await self._node.leave()

    async def _drain(self) -> None:
        """First the others are told, so that what is handed over does not come back."""
        await self._node.drain()
        async with asyncio.TaskGroup() as group:
            for part in self._parts:
                group.create_task(part.drain())

    @property
    def _outlives_the_hands(self) -> bool:
        """Other nodes watch our host: it is listed, as draining, for as long as its calls may run."""
        config = self._start.config
        return config.is_postgres and "hands" in config.roles


class _Told:
    """The supervisor's SIGTERM: the first says to stop, the next to end."""

    def __init__(self) -> None:
        self.to_stop, self.to_end = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._hear)

    def _hear(self) -> None:
        (self.to_end if self.to_stop.is_set() else self.to_stop).set()


async def _open(ground: Ground, keys: KeysOfThisStart, stack: AsyncExitStack) -> _Server:
    """The parts that this node's roles ask for."""
    config = ground.config
    roles = frozenset(config.roles)

    def sessions() -> int:
        return sum(part.sessions() for part in parts)

    def unreachable() -> Mapping[str, str]:
        return reach.unreachable() if roles & {"api", "brain"} else {}

    keeping = await open_keeping(ground, stack)
    local = open_local_hands(ground, stack) if "hands" in roles else None
    node = open_node(ground, local, sessions)
    if ground.shared_bus is not None:
        ground.shared_bus.tell_only(node.roles_elsewhere)
    parts = [node_part(node, is_shared=config.is_postgres), store_part(ground, node)]
    parts.append(own_files_part(config, node, node_id=ground.start.node))
    if local is not None:
        collector = open_collector(ground, local, keeping.blobs)
        parts.append(hands_part(keeping, local, ground.clock, collector=collector))
    if "egress" in roles:
        from corral.app.audit import audit_part
        from corral.app.credentials import credentials_part
        from corral.app.egress import egress_part
        from corral.app.tokens import tokens_part
        from corral.app.validation import validation_part
        from corral.app.vault import vault_part
        from corral.store.audit import Audit
        from corral.store.session_credentials import SessionCredentials
        from corral.store.tokens import Tokens
        from corral.store.vault_keys import VaultKeys

        parts.append(egress_part(config.data_dir))
        vault_keys = VaultKeys(ground.database)
        parts.append(vault_part(config.data_dir, vault_keys, ground.clock))
        parts.append(credentials_part(config.data_dir, SessionCredentials(ground.database)))
        parts.append(tokens_part(config.data_dir, Tokens(ground.database), vault_keys, ground.clock))
        if config.is_postgres:
            parts.append(validation_part(ground))
        audit = Audit(ground.database)
        parts.append(audit_part(config.data_dir, audit, ground.clock, days=config.audit_days))
    if roles & {"api", "brain"}:
        from corral.store.log import Log

        reach = open_reach(ground, keeping, node, local, stack)
        event_log = Log(ground.database, ground.bus)
    if "brain" in roles:
        from corral.app.brain import brain_part, open_worker

        worker, anthropic = open_worker(
            ground,
            event_log=event_log,
            brains=node.brains,
            hands=reach.hands,
            blobs=keeping.blobs,
            stack=stack,
        )
        parts.append(brain_part(ground, worker, anthropic, reach, blobs=keeping.blobs))

    backlogs = Backlogs(ground.database)
    readiness = Readiness(
        {name: look for part in parts for name, look in part.looks.items()},
        {name: look for part in parts for name, look in part.looks_elsewhere.items()},
    )
    exposition = Exposition(gauges_of(ground, node, parts, readiness, backlogs))
    install(exposition.recorder)
    # What a PostgreSQL stores is not on our disk.
    data_dir = None if config.is_postgres else config.data_dir
    admission = Admission(Machine(data_dir=data_dir, writes_queued=lambda: ground.database.writes_queued))
    parts.append(Part(duties=[admission.watch], later=[load_suffixes]))
    operations = Operations(
        api_keys=keys,
        workspace_records=Workspaces(ground.database),
        ids=ground.ids,
        clock=ground.clock,
        readiness=readiness.results,
        status=status_of(ground, node, backlogs, sessions, unreachable=unreachable),
        metrics=exposition.text,
        allowed_hosts=_allowed_hosts(config),
        admission=admission,
        edge=Edge(
            strict_headers=config.strict_headers,
            reads_per_minute=config.rate_limit_reads or 0,
            writes_per_minute=config.rate_limit_writes or 0,
            cors_origins=frozenset(config.cors_origins),
        ),
    )
    if "api" in roles:
        from corral.app.api import open_api

        api = open_api(
            ground,
            operations,
            event_log=event_log,
            reach=reach,
            blobs=keeping.blobs,
            stack=stack,
        )
        parts.append(Part(gauges=lambda: {"streams_open": api.state.streams.open_count}))
        parts.append(Part(duties=[api.state.streams.run, api.state.authenticator.note_uses]))
    else:
        api = create_operations(operations)
    return _Server(ground.start, api, parts, readiness, node)


class _Http(uvicorn.Server):
    """Signals are ours: the brain drains before the listener closes."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _http_config(api: FastAPI, config: Config) -> uvicorn.Config:
    return uvicorn.Config(
        api,
        lifespan="off",
        ws="none",
        http=Receiver,  # type: ignore[arg-type]  # asyncio takes a protocol of either kind
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=HTTP_KEEPALIVE_SECONDS,
        timeout_graceful_shutdown=STREAMS_END_SECONDS,
        ssl_certfile=config.tls_cert,
        ssl_keyfile=config.tls_key,
    )


def _allowed_hosts(config: Config) -> frozenset[str]:
    """Names under which clients reach us beyond loopback: any, once the operator bound beyond it."""
    return frozenset() if config.is_loopback else frozenset({"*"})
