"""The process around a hands host: lock, token, socket, adoption, an orderly end.

Below `<data_dir>/hands` (mode 0711: a sandbox's own uid passes through to its workspace):

    callers/, private/     mode 0700; token and socket, and lock, as `corral.daemon` makes them
        host_id            made once; a journal that was lost is a new journal of the same host
        journal.sqlite     see journal.py
    workspaces/            one directory per session
"""

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from corral.daemon import listening, made_once, made_token, owned, socket_path
from corral.hands.host import HandsHost
from corral.hands.journal import Journal
from corral.hands.news import NEWS_LOST
from corral.hands.ports import Connector, Provider, Web
from corral.hands.rpc import Adoption, app
from corral.hands.tls import ClusterTls, listening_tcp, server_context
from corral.kernel.ids import Ids, SessionId
from corral.kernel.limits import HANDS_DRAIN_SECONDS, HANDS_UNADOPTED_SECONDS, SANDBOXES_MAX

__all__ = ["lose_workspaces", "serve_hands"]


async def serve_hands(
    *,
    data_dir: Path,
    provider: Callable[[Path], Provider],
    web: Callable[[Path], Web] | None = None,
    mcp: Callable[[], Connector] | None = None,
    unadopted_seconds: float = HANDS_UNADOPTED_SECONDS,
    on_ready: Callable[[], None] = lambda: None,
    sandboxes_max: int = SANDBOXES_MAX,
    listen: str | None = None,
    tls: ClusterTls | None = None,
) -> None:
    """Be the hands host of `data_dir` until SIGTERM, SIGINT, or nobody has adopted it for too long.

    provider, web: called once the lock is held, with the state directory (`<data_dir>/hands`); mcp, too.
    on_ready: called when the socket accepts.
    listen:   `host:port` where nodes of other machines reach it too; needs `tls`.
    Raises: Conflict if another host holds the lock; InvalidRequest if the socket path is too long, the
    address cannot be listened on, or the certificate cannot be read.
    """
    state_dir = data_dir / "hands"
    with owned(data_dir, "hands") as private:
        state_dir.chmod(0o711)
        token = made_token(data_dir, "hands")
        host_id = made_once(private / "host_id", lambda: Ids().mint("host"))
        with (
            listening(socket_path(data_dir, "hands")) as listener,
            listening_tcp(listen) if listen else contextlib.nullcontext() as tcp_listener,
        ):
            tls_context = server_context(tls) if tls and tcp_listener else None
            journal = Journal(private / "journal.sqlite")
            try:
                async with HandsHost(
                    provider(state_dir),
                    journal=journal,
                    host_id=host_id,
                    state_dir=state_dir,
                    sandboxes_max=sandboxes_max,
                    web=web(state_dir) if web else None,
                    mcp=mcp() if mcp else None,
                ) as host:
                    adoption = Adoption()
                    servers = [(_server(app(host, token=token, adoption=adoption)), listener)]
                    if tls_context and tcp_listener:
                        far = app(host, token=None, adoption=adoption)
                        servers.append((_server(far, tls_context), tcp_listener))
                    await _serve(
                        host, servers, adoption, unadopted_seconds=unadopted_seconds, on_ready=on_ready
                    )
            finally:
                await journal.aclose()


async def lose_workspaces(data_dir: Path, session_ids: Sequence[SessionId]) -> None:
    """Of these sessions, those whose files are not in `data_dir` are told so at their next call: by a host
    that nobody places sessions on, nothing else tells it. Repeat: safe.

    Raises: Conflict if the host runs; HandsUnavailable if its journal cannot be written.
    """
    workspaces = data_dir / "hands" / "workspaces"
    lost = [session_id for session_id in session_ids if not (workspaces / session_id).exists()]
    if not lost:
        return
    with owned(data_dir, "hands") as private:
        journal = Journal(private / "journal.sqlite")
        try:
            await journal.held.lose(lost, news=NEWS_LOST)
        finally:
            await journal.aclose()


def _server(application: Starlette, tls: ssl.SSLContext | None = None) -> "_Server":
    config = uvicorn.Config(
        application,
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=3600,  # the client owns its connections
        timeout_graceful_shutdown=int(HANDS_DRAIN_SECONDS),
    )
    config.load()
    config.ssl = tls  # ours, which asks for a certificate; uvicorn would make a laxer one from files
    return _Server(config)


async def _serve(
    host: HandsHost,
    servers: Sequence[tuple["_Server", socket.socket]],
    adoption: Adoption,
    *,
    unadopted_seconds: float,
    on_ready: Callable[[], None],
) -> None:
    loop, told_to_end = asyncio.get_running_loop(), asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, told_to_end.set)
    async with asyncio.TaskGroup() as tasks:
        serving = [tasks.create_task(server.serve(sockets=[listener])) for server, listener in servers]
        ends = [
            tasks.create_task(told_to_end.wait()),
            tasks.create_task(adoption.lost_for(unadopted_seconds)),
        ]
        on_ready()
        await asyncio.wait([*serving, *ends], return_when=asyncio.FIRST_COMPLETED)
        await host.stop()  # each running call gets its result, and its reply over the open connections
        adoption.end()
        for server, _ in servers:
            server.should_exit = True
        for end in ends:
            end.cancel()


class _Server(uvicorn.Server):
    """Signals are ours: the host must stop before its server does."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
