"""How a sandbox gets out: the listening socket that was made in its network, and the egress process to
which it is brought.

    sandbox agent --socket pair--> provider --WayOut--> doors.sock of egress (`corral.egress.doors`)

Where the agent cannot be given one end of a pair, it connects to a socket in a directory that it sees and
that is gone before anything else runs in there. And where sockets inside are those of a kernel of its own,
the directory stays: the agent listens in there, and carries each connection to the socket in it.

What goes out through it is the egress process's affair: here no byte of it is seen. The connection on which
the socket was brought is what keeps the door open, so it closes with the sandbox, and with this host.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from corral.daemon import asked, doors_path, made_token
from corral.hands.ports import SandboxLost
from corral.kernel.errors import SandboxUnavailable
from corral.kernel.limits import (
    EGRESS_PORT,
    EGRESS_RETRY_SECONDS,
    EGRESS_RETRY_SECONDS_MAX,
    HANDS_CONNECT_SECONDS,
)
from corral.kernel.owned_names import owned_name
from corral.session.call import Recipe
from corral.session.content import Json

__all__ = [
    "DOOR",
    "DOORS",
    "Egress",
    "Expected",
    "WayOut",
    "expected_way_out",
    "opens_registries",
    "trusting",
]

DOOR: Final = "/run/corral/door"  # where a sandbox sees the directory with the socket
DOORS: Final = "door-"  # of the names of those directories on the host

_log = logging.getLogger(__name__)
_SOCKET: Final = "way"
_BACKLOG: Final = 1024  # of connections that wait while the egress process is away, or busy
_PROXY: Final = f"http://127.0.0.1:{EGRESS_PORT}"
_NOT_PROXIED: Final = "localhost,127.0.0.1,::1"
_ANSWER_BYTES_MAX: Final = 4096
_NOTHING_ALLOWED: Final[Mapping[str, Json]] = {"type": "limited"}

_ENVIRONMENT: Final[Mapping[str, str]] = {  # by which programs in a sandbox find their way out
    **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), _PROXY),
    **dict.fromkeys(("ALL_PROXY", "all_proxy"), _PROXY),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), _NOT_PROXIED),
    "NODE_USE_ENV_PROXY": "1",  # its fetch looks at the others only then
}
_TRUST: Final = (  # where programs look that have a bundle of their own, or none
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT",
    "NODE_EXTRA_CA_CERTS", "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE", "DENO_CERT", "BUNDLE_SSL_CA_CERT",
)  # fmt: skip
_SYSTEM_BUNDLES: Final = (  # Debian and many others; Fedora; SUSE; Alpine
    "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)  # fmt: skip


def trusting(bundle: str) -> dict[str, str]:
    """The variables by which programs find a bundle of authorities (PEM) at that path."""
    return dict.fromkeys(_TRUST, bundle)


def opens_registries(recipe: Recipe) -> bool:
    """Whether its sandboxes reach where package managers fetch from."""
    return _networking(recipe).get("allow_package_managers") is True


def _networking(recipe: Recipe) -> Mapping[str, Json]:
    """Nothing is allowed where nothing is said."""
    networking = recipe.environment.get("networking")
    return networking if isinstance(networking, Mapping) else _NOTHING_ALLOWED


class Expected:
    """A way out of a sandbox that is being booted, if it is to have one.

    gives: what the agent inside gets: one end of a socket pair. door: or a directory that it sees at DOOR.
    told: the words of its start message: that descriptor or the socket in there, the port to listen on, and
    whether it carries what comes there. environment: of its programs.
    """

    def __init__(
        self,
        egress: "Egress | None" = None,
        ours: socket.socket | None = None,
        *,
        theirs: int | None = None,
        door: Path | None = None,
        held: contextlib.ExitStack | None = None,
    ) -> None:
        """held: what is to stay as long as the sandbox, which carries; else it hands its socket out."""
        self._egress = egress
        self._ours = ours
        self._held = held
        self.gives = () if theirs is None else (theirs,)
        self.door = door
        way = f"{DOOR}/{_SOCKET}" if theirs is None else theirs
        told: dict[str, Json] = {"way": way, "port": EGRESS_PORT, "carries": held is not None}
        self.told = None if egress is None else told
        self.environment = {} if egress is None else _ENVIRONMENT

    def taken(self) -> "WayOut | None":
        """Once the agent is ready: it has sent its listening socket by then, if it is to.

        Raises SandboxLost if it sent none, or something else.
        """
        if self._egress is None or self._ours is None:
            return None
        if self._held is not None:
            return WayOut(self._ours, self._egress, held=self._held.pop_all())
        try:
            with contextlib.ExitStack() as opened:
                ours = self._ours
                if self.door is not None:
                    ours = opened.enter_context(self._ours.accept()[0])
                    ours.setblocking(False)
                _, descriptors, _, _ = socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise SandboxLost("the sandbox handed no socket out", detail=repr(error)) from error
        if not descriptors:
            raise SandboxLost("the sandbox handed no socket out")
        listening = socket.socket(fileno=descriptors[0])
        listening.setblocking(False)
        return WayOut(listening, self._egress)


@contextmanager
def expected_way_out(
    egress: "Egress | None", *, doors: Path | None = None, carries: bool = False, owner: int | None = None
) -> Iterator[Expected]:
    """egress: None for a sandbox without a way out. doors: where a directory is made for the agent's
    socket, if it cannot be given one. carries: its sockets are none of the machine's, so it carries what
    goes out; owner: under this uid, if it is not ours."""
    if egress is None:
        yield Expected()
    elif doors is None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            yield Expected(egress, ours, theirs=theirs.fileno())
    else:
        with contextlib.ExitStack() as held:
            door = doors / f"{DOORS}{owned_name()}"
            door.mkdir(mode=0o711)
            held.callback(shutil.rmtree, door, ignore_errors=True)
            ours = held.enter_context(_listening(door, backlog=_BACKLOG if carries else 1))
            if carries:
                _reserve(door / _SOCKET, owner)
            yield Expected(egress, ours, door=door, held=held if carries else None)


def _listening(door: Path, *, backlog: int) -> socket.socket:
    """On a socket in this directory, for one who comes under any uid: who sees the directory may."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.setblocking(False)
    folder = os.open(door, os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path = f"/proc/self/fd/{folder}/{_SOCKET}"  # the whole one may be too long for a socket
        listening.bind(path)
        Path(path).chmod(0o666)
        listening.listen(backlog)
    except BaseException:
        listening.close()
        raise
    finally:
        os.close(folder)
    return listening


def _reserve(path: Path, owner: int | None) -> None:
    """A door that stays is not for everybody on the machine."""
    path.chmod(0o600)
    if owner is not None:
        os.chown(path, owner, owner)


class Egress:
    """The egress process of a data directory, which may be away: its supervisor starts it again."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    async def bundle(self, session_id: str) -> bytes:
        """The authorities (PEM) that the programs of a session are to trust: this machine's, and the
        session's. Raises as `authority`."""
        own = (await self.authority(session_id)).encode()
        found = next((path for path in map(Path, _SYSTEM_BUNDLES) if path.is_file()), None)
        return (found.read_bytes() + b"\n" if found else b"") + own

    async def authority(self, session_id: str) -> str:
        """The authority (PEM) by which the egress process opens TLS for this session. It is waited for a
        while: its supervisor starts it again. Raises SandboxUnavailable.
        """
        said = json.dumps({"session_id": session_id}).encode()
        try:
            async with asyncio.timeout(HANDS_CONNECT_SECONDS):
                while True:
                    try:
                        status, answer = await asked(
                            self._data_dir,
                            "egress",
                            "authority/certificate",
                            said,
                            seconds=HANDS_CONNECT_SECONDS,
                        )
                        if status == 200:
                            return str(answer["certificate"])
                    except (OSError, ValueError):
                        pass
                    await asyncio.sleep(EGRESS_RETRY_SECONDS)
        except TimeoutError:
            raise SandboxUnavailable(
                "the session's credentials cannot be used now: the egress process does not answer"
            ) from None

    async def brought(self, listening: socket.socket, grant: Mapping[str, Json]) -> socket.socket:
        """Bring it a door; the door is open until the connection that is returned ends. listening: or one
        end of a connection, for a door of that one.

        Raises OSError, TimeoutError, ValueError: it says what is wrong.
        """
        loop = asyncio.get_running_loop()
        said = json.dumps({"token": made_token(self._data_dir, "egress"), **grant}).encode() + b"\n"
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        control.setblocking(False)
        try:
            async with asyncio.timeout(HANDS_CONNECT_SECONDS):
                await loop.sock_connect(control, str(doors_path(self._data_dir)))
                socket.send_fds(control, [said[:1]], [listening.fileno()])
                await loop.sock_sendall(control, said[1:])
                answer = b""
                while not answer.endswith(b"\n") and len(answer) < _ANSWER_BYTES_MAX:
                    chunk = await loop.sock_recv(control, _ANSWER_BYTES_MAX)
                    if not chunk:
                        raise ConnectionResetError
                    answer += chunk
            if json.loads(answer) != {"open": True}:
                raise ValueError(answer.decode(errors="replace").strip())
        except BaseException:
            control.close()
            raise
        return control


class WayOut:
    """Of one sandbox. Owns the listening socket, and what is held with it."""

    def __init__(
        self, listening: socket.socket, egress: Egress, *, held: contextlib.ExitStack | None = None
    ) -> None:
        self._listening = listening
        self._held = held or contextlib.ExitStack()
        self._egress = egress
        self._keeping: asyncio.Task[None] | None = None

    def open(self, session_id: str, recipe: Recipe, *, package_hosts: Sequence[str] = ()) -> None:
        """From now on the sandbox is this session's, and may go where its environment allows. Once only.
        package_hosts: where its package managers fetch from.

        Returns at once: what the sandbox asks for meanwhile waits in the socket.
        """
        assert self._keeping is None
        networking = _networking(recipe)
        grant: dict[str, Json] = {
            "session_id": session_id,
            "networking": networking,
            "package_hosts": list(package_hosts),
            "mcp_endpoints": list(recipe.mcp_endpoints),
            "trusts": recipe.trusts,
        }
        self._keeping = asyncio.create_task(self._keep(grant), name="way-out")

    async def close(self) -> None:
        """Close the door, and with it every connection that went through. Repeat: safe."""
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
        self._listening.close()
        self._held.close()

    async def _keep(self, grant: Mapping[str, Json]) -> None:
        """Bring the door to each egress process that comes."""
        loop = asyncio.get_running_loop()
        patience, told = EGRESS_RETRY_SECONDS, ""
        while True:
            try:
                control = await self._egress.brought(self._listening, grant)
            except (OSError, TimeoutError):
                pass
            except ValueError as error:
                if str(error) != told:
                    told = str(error)
                    _log.warning("the egress process opens no door: %s", told)
            else:
                patience = EGRESS_RETRY_SECONDS
                with control, contextlib.suppress(OSError):
                    await loop.sock_recv(control, 1)
            await asyncio.sleep(patience)
            patience = min(2 * patience, EGRESS_RETRY_SECONDS_MAX)
