"""Other sandboxes of the same host: their files, processes, sockets, and the way out that is theirs."""

from __future__ import annotations

import contextlib
import os
import socket

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.box import Box
from corral.redteam.inside.ends import Won
from corral.redteam.inside.means import Tries, connects, lists, makes, opens_for_writing, reads, tells


def _takes_the_proxy(host: str) -> Tries:
    """Listens where programs in here expect the proxy."""

    def tries(box: Box) -> None:
        box.proxy().close()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as end:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                end.setsockopt(socket.SOL_SOCKET, option, 1)
            end.bind((host, int(box["proxy_port"])))
            end.listen()
            raise Won("it listens in the proxy's place")

    return tries


def _finds_tickets(box: Box) -> None:
    """Anything that looks like a pass: in the environment, below /run, in descriptors. Modules of the
    interpreter that is brought along are none."""
    found = []
    for name, value in os.environ.items():
        if name == box.told.get("variable"):
            continue  # a placeholder, of which `placeholders` sees what it is worth
        if any(word in name.lower() for word in ("token", "ticket", "secret", "key")) or "@" in value:
            found.append(name)
    for folder, _, names in os.walk("/run"):
        named = [name for name in names if "token" in name or "ticket" in name]
        found += [os.path.join(folder, name) for name in named if not name.endswith((".py", ".pyc"))]
    if found:
        raise Won(", ".join(found[:5]))
    box.note("there is none to steal")


def _claims_session(box: Box) -> None:
    """Says to the proxy that it is another session."""
    answer = box.say(
        f"GET http://foreign.test:{box['foreign_port']}/as-neighbour HTTP/1.1\r\n"
        f"Host: foreign.test:{box['foreign_port']}\r\nConnection: close\r\n"
        f"Proxy-Authorization: Bearer {box['neighbour_session']}\r\n"
        f"X-Corral-Session: {box['neighbour_session']}\r\n\r\n".encode()
    )
    box.judge(answer)


def _processes(box: Box) -> None:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if box["neighbour_mark"].encode() in box.read(f"/proc/{name}/cmdline"):
                    raise Won(f"its process is {name}")
    box.note("none of its processes is listed")


ATTEMPTS = {
    "neighbours": [
        Attempt("file", "reads a file of another sandbox", reads("{neighbour_secret}")),
        Attempt(
            "through-proc",
            "reads it through the hands host",
            reads("/proc/{hands_pid}/root{neighbour_secret}"),
        ),
        Attempt(
            "writes",
            "opens it for writing",
            opens_for_writing("{neighbour_secret}"),
            watches=("neighbour-files",),
        ),
        Attempt(
            "makes",
            "makes a file next to it",
            makes("{neighbour_files}/redteam-made"),
            watches=("neighbour-files",),
        ),
        Attempt(
            "outputs",
            "makes a file among its outputs",
            makes("{neighbour_home}/outputs/redteam-made"),
            watches=("neighbour-files",),
        ),
        Attempt(
            "uploads",
            "makes a file among its uploads",
            makes("{neighbour_home}/uploads/redteam-made"),
            watches=("neighbour-files",),
        ),
        Attempt("lists", "lists its workspace", lists("{neighbour_files}")),
        Attempt("lists-all", "lists the workspaces of the host", lists("{workspaces}")),
        Attempt("tells", "tells that it is there", tells("{neighbour_home}"), "names"),
        Attempt("processes", "finds its processes", _processes, "processes"),
        Attempt("port", "connects to a port that it listens on", connects("127.0.0.1", "{neighbour_port}")),
        Attempt("tickets", "finds a pass that would be worth something elsewhere", _finds_tickets),
        Attempt("claims", "says that it is another session", _claims_session, watches=("foreign",)),
        Attempt("takes-proxy", "listens in the proxy's place", _takes_the_proxy("127.0.0.1")),
        Attempt(
            "takes-proxy-everywhere", "listens in its place at every address", _takes_the_proxy("0.0.0.0")
        ),
    ],
}
