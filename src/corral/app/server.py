"""The server process: API, brain and clean-up over one embedded store."""

import asyncio
import logging
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import uvicorn

from corral import __version__
from corral.api.application import create_api
from corral.api.dependencies import Check, Dependencies
from corral.app.keys import KeysOfThisStart, bootstrap
from corral.app.readiness import Readiness
from corral.brain.dispatch import Dispatch
from corral.brain.loop import Gear
from corral.brain.models.anthropic import BASE_URL, AnthropicModel
from corral.brain.models.local import LocalModel
from corral.brain.models.local_install import models_dir
from corral.brain.models.replay import ReplayModel
from corral.brain.models.routing import RoutedModel
from corral.catalog.models import ModelTable
from corral.config import Config
from corral.daemon import socket_path, token_path
from corral.hands.client import HandsClient
from corral.kernel.clock import SystemClock
from corral.kernel.ids import Ids, SessionId
from corral.kernel.limits import (
    DISK_FREE_BYTES_MIN,
    READY_PATIENCE_SECONDS,
    STREAMS_END_SECONDS,
    SWEEP_STALE_SECONDS,
)
from corral.orchestrator.cleanup import clean_up
from corral.orchestrator.worker import Worker
from corral.process import Start, report_ready, supervisor_gone
from corral.session.lease import Lease
from corral.store.bus import LocalBus
from corral.store.catalog import Agents, Environments
from corral.store.cleanup import Cleanup
from corral.store.database import Database
from corral.store.idempotency import Idempotency
from corral.store.keys import ApiKeys
from corral.store.lease import Leases
from corral.store.log import Log
from corral.store.sessions import Sessions

log = logging.getLogger(__name__)


async def serve(start: Start) -> None:
    """Serve until SIGTERM, or until the supervisor is gone; then hand running sessions over."""
    config, clock, ids, bus = start.config, SystemClock(), Ids(), LocalBus()
    owner = f"{start.node}.{start.incarnation}"
    models = ModelTable.packaged().extended(config.models)
    async with AsyncExitStack() as stack:
        database = await Database.open(config.data_dir / "corral.db")
        stack.push_async_callback(database.close)
        leases, event_log, cleanup = Leases(database), Log(database, bus), Cleanup(database)
        # Only one supervisor holds the data directory: whatever ran here before us is dead.
        await leases.end(owner_prefix=f"{start.node}.", except_owner=owner)
        keys = KeysOfThisStart(ApiKeys(database), local_key=start.local_key, ids=ids, clock=clock)
        new_key = await bootstrap(keys, preset=config.api_key, ids=ids, clock=clock)

        hands = HandsClient(
            socket_path(config.data_dir, "hands"), token=token_path(config.data_dir, "hands").read_text()
        )
        stack.push_async_callback(hands.aclose)
        anthropic = AnthropicModel(
            api_key=config.anthropic_api_key.reveal() if config.anthropic_api_key else None,
            base_url=config.anthropic_base_url or BASE_URL,
            models=models,
        )
        model = RoutedModel(
            models,
            {
                "anthropic": anthropic,
                "local": LocalModel(
                    directory=config.models_dir or models_dir(os.environ), path=config.local_model_path
                ),
                "replay": ReplayModel(directory=config.recordings_dir),
            },
        )
        stack.push_async_callback(model.aclose)
        dispatch = Dispatch(hands)
        stack.push_async_callback(dispatch.aclose)

        async def claim(session_id: SessionId) -> Lease | None:
            claimed = await leases.claim(owner=owner, limit=1, session_ids=[session_id])
            return claimed[0] if claimed else None

        gear = Gear(
            owner=owner,
            claim=claim,
            log=event_log,
            bus=bus,
            model=model,
            models=models,
            dispatch=dispatch,
            clock=clock,
            ids=ids,
        )
        worker = Worker(gear, leases=leases, bus=bus)
        readiness = Readiness(
            {
                "store": lambda: _store_check(database, config.data_dir),
                "brain": lambda: _brain_check(worker),
                "hands": lambda: _hands_check(hands),
                "model": lambda: _model_check(anthropic),
            }
        )
        api = create_api(
            Dependencies(
                log=event_log,
                sessions=Sessions(database, bus, clock),
                agents=Agents(database),
                environments=Environments(database),
                api_keys=keys,
                idempotency=Idempotency(database),
                bus=bus,
                models=models,
                ids=ids,
                clock=clock,
                workspaces=hands,
                readiness=readiness.results,
                status=lambda: {
                    "role": "server",
                    "pid": os.getpid(),
                    "version": __version__,
                    "running_sessions": worker.running_sessions,
                },
                allowed_hosts=_allowed_hosts(config),
            )
        )
        http = _Http(_http_config(api, config))
        listener = socket.socket(fileno=start.listen_fd)

        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(http.serve(sockets=[listener]))
            duties = [
                group.create_task(worker.run()),
                group.create_task(readiness.run()),
                group.create_task(clean_up(cleanup, hands)),
            ]
            gone = group.create_task(supervisor_gone())
            told = group.create_task(stop.wait())
            await readiness.until_ready(patience_seconds=READY_PATIENCE_SECONDS)
            report_ready(api_key=new_key)
            duties.append(group.create_task(anthropic.warm()))  # a second of imports, not before readiness
            await asyncio.wait({gone, told, serving}, return_when=asyncio.FIRST_COMPLETED)
            log.info("stopping: running sessions are handed over")
            await worker.drain()
            api.state.streams.close()
            http.should_exit = True
            for duty in (*duties, gone, told):
                duty.cancel()


class _Http(uvicorn.Server):
    """Signals are ours: the brain drains before the listener closes."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _http_config(api: object, config: Config) -> uvicorn.Config:
    return uvicorn.Config(
        api,  # type: ignore[arg-type]  # an ASGI application
        lifespan="off",
        ws="none",
        http="httptools",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=STREAMS_END_SECONDS,
        ssl_certfile=config.tls_cert,
        ssl_keyfile=config.tls_key,
    )


def _allowed_hosts(config: Config) -> frozenset[str]:
    """Names under which clients reach us beyond loopback: any, once the operator bound beyond it."""
    return frozenset() if config.is_loopback else frozenset({"*"})


# -- readiness -----------------------------------------------------------------------------------------


async def _store_check(database: Database, data_dir: Path) -> Check:
    await database.write(lambda connection: None)
    free = shutil.disk_usage(data_dir).free
    if free < DISK_FREE_BYTES_MIN:
        return Check(status="failed", reason=f"only {free >> 20} MiB are free in {str(data_dir)!r}")
    return Check(status="ok")


async def _brain_check(worker: Worker) -> Check:
    age = await worker.sweep_age_seconds()
    if age > SWEEP_STALE_SECONDS:
        return Check(status="failed", reason=f"the brain has not looked for work for {age:.0f} s")
    return Check(status="ok")


async def _hands_check(hands: HandsClient) -> Check:
    probe = await hands.probe()
    if not probe.is_available:
        return Check(status="failed", reason=f"{probe.detail}. {probe.remedy}".strip())
    return Check(status="ok")


async def _model_check(anthropic: AnthropicModel) -> Check:
    if anthropic.problem is not None:
        return Check(status="warning", reason=anthropic.problem)
    return Check(status="ok")
