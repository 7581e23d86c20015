"""Ways out that are not the proxy; and, through it, addresses that nobody is to reach: services of the
machine, of its network, and those that tell a cloud's machines who they are."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.box import Box
from corral.redteam.inside.ends import Won
from corral.redteam.inside.means import Tries, connects, proxied, sends

_HERE = {  # 127.0.0.1, as somebody might write it
    "dotted": "127.0.0.1", "other-loopback": "127.9.9.9", "short": "127.1", "decimal": "2130706433",
    "hex": "0x7f000001", "hex-parts": "0x7f.0x0.0x0.0x1", "octal": "0177.0.0.1",
    "octal-whole": "017700000001", "zeros": "127.000.000.001", "trailing-dot": "127.0.0.1.",
    "this-host": "0.0.0.0", "zero": "0", "six": "[::1]", "six-any": "[::]",
    "mapped": "[::ffff:127.0.0.1]", "mapped-hex": "[::ffff:7f00:1]", "compatible": "[::127.0.0.1]",
    "nat64": "[64:ff9b::7f00:1]", "nat64-local": "[64:ff9b:1::7f00:1]", "6to4": "[2002:7f00:1::]",
    "zone": "[::1%25lo]", "localhost": "localhost", "localhost-dot": "localhost.",
    "shouted": "LOCALHOST", "wide-digits": "\uff11\uff12\uff17.0.0.1", "percent": "%31%32%37.0.0.1",
    "name": "inner.test", "both-names": "mixed.test",
}  # fmt: skip
_METADATA = {
    "dotted": "169.254.169.254", "decimal": "2852039166", "hex": "0xa9fea9fe",
    "octal": "0251.0376.0251.0376", "short": "169.254.43518", "mixed": "0xa9.254.0251.254",
    "trailing-dot": "169.254.169.254.", "mapped": "[::ffff:169.254.169.254]",
    "mapped-hex": "[::ffff:a9fe:a9fe]", "nat64": "[64:ff9b::a9fe:a9fe]", "6to4": "[2002:a9fe:a9fe::]",
    "compatible": "[::a9fe:a9fe]", "six": "[fd00:ec2::254]", "link-local-six": "[fe80::a9fe:a9fe]",
    "containers": "169.254.170.2", "azure": "168.63.129.16", "alibaba": "100.100.100.200",
    "oracle": "192.0.0.192", "name": "metadata.google.internal", "short-name": "metadata",
    "opened-name": "metadata.test", "teredo": "[2001::a9fe:a9fe]",
}  # fmt: skip


def _asks_with_header(host: str) -> Tries:
    """As each cloud wants to be asked."""

    def tries(box: Box) -> None:
        box.judge(
            box.say(
                f"PUT http://{host}/latest/api/token HTTP/1.1\r\nHost: {host}\r\n"
                "Metadata-Flavor: Google\r\nMetadata: true\r\n"
                "X-aws-ec2-metadata-token-ttl-seconds: 60\r\nConnection: close\r\n"
                "Content-Length: 0\r\n\r\n".encode()
            )
        )

    return tries


def _userinfo(box: Box) -> None:
    box.judge(
        box.say(
            f"GET http://allowed.test:{box['allowed_port']}@169.254.169.254/latest HTTP/1.1\r\n"
            f"Host: allowed.test:{box['allowed_port']}\r\nConnection: close\r\n\r\n".encode()
        )
    )


def _other_host_header(box: Box) -> None:
    box.judge(
        box.say(
            f"GET http://allowed.test:{box['allowed_port']}/ HTTP/1.1\r\n"
            "Host: 169.254.169.254\r\nConnection: close\r\n\r\n".encode()
        )
    )


def _routes(box: Box) -> None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.connect(("192.0.2.1", 9))
        raise Won(f"there is a route out, from {end.getsockname()[0]}")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as end:
        end.connect(("2001:db8::1", 9))
        raise Won("there is a route out by IPv6")


def _devices(box: Box) -> None:
    names = [name for _, name in socket.if_nameindex()]
    strange = [name for name in names if name in box["interfaces"] and name != "lo"]
    if strange:
        raise Won(f"devices of the machine: {', '.join(strange)}")
    box.note(f"devices: {', '.join(names) or 'none'}")


def _tables(path: str) -> Tries:
    """Who listens on the machine, by the port of a service of its."""

    def tries(box: Box) -> None:
        with open(path, encoding="ascii", errors="replace") as table:
            said = table.read()
        if f":{int(box['forbidden_port']):04X} " in said:
            raise Won(f"{path} lists a service of the machine")
        box.note(f"{len(said.splitlines()) - 1} sockets, none of the machine's")

    return tries


def _changes_addresses(box: Box) -> None:
    """An address that is not there is taken away, by the kernel's own protocol: who may not, hears so
    first."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as end:
        end.settimeout(2)
        body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 1)
        body += struct.pack("=HH4s", 8, 2, bytes([192, 0, 2, 7]))
        end.send(struct.pack("=IHHII", 16 + len(body), 21, 0x0005, 1, 0) + body)
        answer = end.recv(4096)
    error = -struct.unpack_from("=i", answer, 16)[0]
    if error in (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP):
        raise OSError(error, os.strerror(error))
    raise Won(f"addresses can be changed ({errno.errorcode.get(error, error)})")


ATTEMPTS = {
    "network": [
        Attempt(
            "service",
            "connects to a service on the machine's loopback",
            connects("127.0.0.1", "{forbidden_port}"),
            watches=("forbidden",),
        ),
        Attempt(
            "service-6",
            "connects to it by IPv6",
            connects("::1", "{forbidden_port}"),
            watches=("forbidden",),
        ),
        Attempt(
            "address",
            "connects to the machine's own address",
            connects("{address}", "{forbidden_port}"),
            watches=("forbidden",),
        ),
        Attempt("gateway", "connects to the machine's gateway", connects("{gateway}", "80")),
        Attempt("internet", "connects to somewhere", connects("192.0.2.1", "443")),
        Attempt(
            "metadata",
            "connects to where clouds tell machines who they are",
            connects("169.254.169.254", "80"),
        ),
        Attempt(
            "datagram",
            "sends a datagram to the machine",
            sends("127.0.0.1", "{datagram_port}"),
            watches=("datagram",),
        ),
        Attempt("datagram-out", "sends a datagram to somewhere", sends("192.0.2.1", "53")),
        Attempt(
            "broadcast",
            "sends one to everybody",
            sends("255.255.255.255", "{datagram_port}"),
            watches=("datagram",),
        ),
        Attempt("multicast", "sends one to a group", sends("224.0.0.251", "5353")),
        Attempt("route", "finds a route out", _routes),
        Attempt("devices", "finds the machine's network devices", _devices, "network"),
        Attempt("tables", "lists who listens on the machine", _tables("/proc/net/tcp"), "network"),
        Attempt("tables-6", "lists who listens by IPv6", _tables("/proc/net/tcp6"), "network"),
        Attempt("new-address", "changes the addresses it has", _changes_addresses, is_of_kernel=True),
        *(
            Attempt(
                f"here-{name}",
                f"asks the proxy for the machine itself as {host}",
                proxied(host, "{forbidden_port}"),
                networking="unrestricted",
                watches=("forbidden",),
            )
            for name, host in _HERE.items()
        ),
        *(
            Attempt(
                f"private-{name}",
                f"asks the proxy for {host}",
                proxied(host, "80"),
                networking="unrestricted",
            )
            for name, host in (
                ("ten", "10.0.0.1"),
                ("192", "192.168.0.1"),
                ("172", "172.16.0.1"),
                ("shared", "100.64.0.1"),
                ("multicast", "224.0.0.1"),
                ("broadcast", "255.255.255.255"),
                ("unique-local", "[fc00::1]"),
                ("test-net", "192.0.2.1"),
                ("benchmark", "198.18.0.1"),
            )
        ),
    ],
    "metadata": [
        *(
            Attempt(
                name,
                f"asks the proxy for a metadata service as {host}",
                proxied(host, "80", path="/latest/meta-data/"),
                networking="unrestricted",
            )
            for name, host in _METADATA.items()
        ),
        Attempt(
            "header",
            "asks as each cloud wants to be asked",
            _asks_with_header("169.254.169.254"),
            networking="unrestricted",
        ),
        Attempt("userinfo", "hides it behind a name that is allowed", _userinfo, networking="unrestricted"),
        Attempt(
            "host-header",
            "names it in the Host header alone",
            _other_host_header,
            networking="unrestricted",
        ),
    ],
}
