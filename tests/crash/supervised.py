"""What the supervisor's tests supervise: `supervised.py ROLE` starts and reports like our own processes.

Hands and egress are the real ones (hands without any sandbox); the server answers every request with the
facts that a test wants to see. With the role `supervisor` it is the real supervisor of these.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from corral import process
from corral.egress.process import serve_egress
from corral.hands.ports import Capabilities, Probe, Sandbox
from corral.hands.process import serve_hands
from corral.kernel.errors import SandboxUnavailable
from corral.session.call import Recipe
from corral.supervisor import __main__ as supervisor_main
from corral.supervisor import supervise

UNADOPTED_SECONDS = 60.0  # a busy machine takes a while to start the next supervisor
ALONE_SECONDS = 4.0  # where a test waits for the end: with a file `alone` in the data directory
SILENT_SECONDS = 1.0  # asked more often than in earnest
prepared: list[str] = []


class NoSandboxes:
    """A provider of a machine that can make none."""

    name = "none"
    capabilities = Capabilities(isolation="none")

    async def probe(self) -> Probe:
        return Probe(is_available=False, summary="no sandboxes here")

    async def create(self, *, session_id: str, workspace: Path, recipe: Recipe) -> Sandbox:
        raise SandboxUnavailable("no sandboxes here")

    async def prepare_workspace(self, workspace: Path) -> None:
        workspace.mkdir(parents=True, exist_ok=True)

    async def import_archive(self, workspace: Path, archive: AsyncIterator[bytes]) -> None:
        raise SandboxUnavailable("no sandboxes here")

    def export_archive(self, workspace: Path) -> AsyncIterator[bytes]:
        raise SandboxUnavailable("no sandboxes here")

    pack = export_archive
    unpack = import_archive

    async def remove_workspace(self, workspace: Path) -> None:
        return

    async def aclose(self) -> None:
        return


async def server(start: process.Start) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    assert start.listen_fd is not None
    listener = socket.socket(fileno=start.listen_fd)
    facts = {
        "pid": os.getpid(),
        "node": start.node,
        "incarnation": start.incarnation,
        "has_model_key": start.config.anthropic_api_key is not None,
        "environment": dict(os.environ),
        "argv": Path("/proc/self/cmdline").read_text(),
        "has_local_key": start.local_key is not None,
        "prepared": prepared,
    }

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps(facts).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, sock=listener)
    process.report_ready(api_key="corral_shown_once")
    waiting = [asyncio.ensure_future(ended.wait()), asyncio.ensure_future(process.supervisor_gone())]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    listening.close()
    (start.config.data_dir / "drained").touch()


async def egress(start: process.Start) -> None:
    await serve_egress(
        data_dir=start.config.data_dir,
        unadopted_seconds=unadopted_seconds(start.config.data_dir),
        on_ready=process.report_ready,
    )


def unadopted_seconds(data_dir: Path) -> float:
    return ALONE_SECONDS if (data_dir / "alone").exists() else UNADOPTED_SECONDS


async def hands(start: process.Start) -> None:
    if (start.config.data_dir / "hands.dies").exists():
        raise SystemExit(7)
    marker = start.config.data_dir / "hands.fails"
    if marker.exists():
        raise SandboxUnavailable(marker.read_text())
    await serve_hands(
        data_dir=start.config.data_dir,
        provider=lambda state_dir: NoSandboxes(),
        unadopted_seconds=unadopted_seconds(start.config.data_dir),
        on_ready=process.report_ready,
    )


def prepare(roles: Sequence[str]) -> None:
    """What a spare imports would be here."""
    prepared.extend(roles)


def main(role: str) -> int:
    if role == "supervisor":
        if drain_seconds := os.environ.get("TEST_DRAIN_SECONDS"):
            supervise.SERVER_DRAIN_SECONDS = float(drain_seconds)
        return supervisor_main.main(
            lambda role: [sys.executable, __file__, role], silent_seconds=SILENT_SECONDS
        )
    serve = {"server": server, "hands": hands, "egress": egress}[role]
    return process.run(role, serve, prepare=prepare)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
