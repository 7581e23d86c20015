"""Which hosts a policy allows, against another implementation; what no spelling of an address gets past;
and a proxy that is told anything."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from corral.catalog.audit import Ended
from corral.catalog.networking import NetworkPolicy
from corral.catalog.web.rules import WebRules
from corral.egress.dial import Unreachable, dial
from corral.egress.names import Names
from corral.egress.policy import Gate, OperatorHosts, Refused
from corral.egress.proxy import Proxy
from corral.egress.target import Target
from corral.kernel.addresses import is_public
from corral.kernel.hosts import canonical_host, entry_of, fits, matches
from corral.kernel.ids import SessionId

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LABELS = st.sampled_from(["a", "b", "ab", "example", "com", "evil", "xn--a", "a-b", "1"])
HOSTS = st.lists(LABELS, min_size=1, max_size=5).map(".".join)
PATTERNS = st.tuples(st.booleans(), HOSTS).map(lambda it: f"*.{it[1]}" if it[0] else it[1])


def allowed_by_labels(pattern: str, host: str) -> bool:
    """Another way to say it: labels from the right, one by one."""
    wanted, found = pattern.split(".")[::-1], host.split(".")[::-1]
    if wanted[-1] == "*":
        return len(found) >= len(wanted) and found[: len(wanted) - 1] == wanted[:-1]
    return found == wanted


@given(st.lists(PATTERNS, max_size=6), HOSTS, st.booleans())
@example(["*.example.com"], "example.com", False)
@example(["*.example.com"], "evilexample.com", False)
@example(["example.com"], "example.com.evil", False)
def test_hosts_that_a_policy_allows(patterns: list[str], host: str, shouts: bool) -> None:
    given_ = [pattern.upper() for pattern in patterns] if shouts else patterns
    policy = NetworkPolicy.of({"type": "limited", "allowed_hosts": given_})
    allowed = any(allowed_by_labels(pattern, host) for pattern in patterns)
    assert policy.allows(host) == policy.allows(host, 443) == allowed
    assert WebRules(allowed_hosts=tuple(given_)).allows(host) == allowed, "web tools take them the same way"


@given(
    st.lists(PATTERNS, max_size=2),
    st.frozensets(st.tuples(HOSTS, st.integers(1, 3)), max_size=4),
    HOSTS,
    st.integers(1, 3),
    st.booleans(),
)
def test_endpoints_of_mcp_servers(
    patterns: list[str], endpoints: frozenset[tuple[str, int]], host: str, port: int, opens: bool
) -> None:
    networking = {"type": "limited", "allowed_hosts": patterns, "allow_mcp_servers": opens}
    policy = NetworkPolicy.of(networking, mcp_endpoints=endpoints)
    by_name = any(allowed_by_labels(pattern, host) for pattern in patterns)
    assert policy.allows(host, port) == (by_name or (opens and (host, port) in endpoints))
    assert policy.allows(host) == (by_name or (opens and host in {name for name, _ in endpoints}))
    everything = NetworkPolicy.of({**networking, "type": "unrestricted"}, mcp_endpoints=endpoints)
    assert everything == NetworkPolicy(hosts=None)


@given(PATTERNS, HOSTS, st.integers(1, 65535), st.none() | st.integers(1, 65535))
def test_entries_of_an_operator(pattern: str, host: str, port: int, named: int | None) -> None:
    entry = pattern if named is None else f"{pattern}:{named}"
    is_port = named in (None, port)
    assert fits(entry, host, port, port_unless_named=None) == (is_port and allowed_by_labels(pattern, host))
    assert fits("*", host, port, port_unless_named=None) and matches(host, host)


@given(st.ip_addresses(), st.data())
def test_entries_that_are_addresses_and_networks(
    address: ipaddress.IPv4Address, data: st.DataObject
) -> None:
    length = data.draw(st.integers(0, address.max_prefixlen))
    network = ipaddress.ip_network((address, length), strict=False)
    other = data.draw(st.ip_addresses(v=address.version))
    entry = str(network) if address.version == 4 else f"[{network}]"
    for each in (address, other):
        is_in = each in network
        assert fits(entry, str(each), 443, port_unless_named=None) == is_in
        assert fits(f"{entry}:443", str(each), 443, port_unless_named=None) == is_in
        assert not fits(f"{entry}:443", str(each), 80, port_unless_named=None)
    alone = str(address) if address.version == 4 else f"[{address}]"
    assert fits(alone, str(other), 443, port_unless_named=None) == (other == address)
    assert not fits(entry, "example.com", 443, port_unless_named=None)


@given(st.text(max_size=40))
@example("10.0.0.1/8")
@example("[::1")
@example("a:0")
@example("a:65536")
@example("")
def test_an_entry_is_understood_or_refused(text: str) -> None:
    try:
        pattern, _ = entry_of(text)
    except ValueError as error:
        assert str(error)
    else:
        assert pattern == "*" or not isinstance(pattern, str) or canonical_host(pattern.removeprefix("*."))


@given(st.text(max_size=40))
def test_a_host_has_one_spelling(text: str) -> None:
    host = canonical_host(text)
    if host is not None:
        assert canonical_host(f"[{host}]" if ":" in host else host) == host
        assert host == host.lower() and host.isascii() and not set(host) & set(" \r\n\t/@#?%\\\0")
        assert canonical_host(text.upper()) == host


@given(st.ip_addresses(v=4))
def test_what_stands_for_an_address_is_judged_as_it_is(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    mapped = str(ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed))
    assert is_public(mapped) == is_public(str(address))
    for prefix in ("64:ff9b::", "64:ff9b:1::", "::"):  # NAT64, and what is no longer used
        assert not is_public(str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | number)))
    for six in (0x2002 << 112 | number << 80, 0x20010000 << 96 | number):  # 6to4, Teredo
        assert not is_public(str(ipaddress.IPv6Address(six)))


ANYWHERE = Gate(policy=NetworkPolicy(hosts=None), operator=OperatorHosts())


@pytest.mark.parametrize(
    "spelled",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.0.0.1.",
     "localhost", "LOCALHOST.", "0.0.0.0", "0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
     "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::a9fe:a9fe]", "[2002:7f00:1::]", "169.254.169.254",
     "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "[::ffff:169.254.169.254]", "[fe80::1]",
     "[fd00::1]", "[fec0::1]", "[ff02::1]", "[fd00:ec2::254]", "10.0.0.1", "172.16.0.1",
     "192.168.0.1", "100.64.0.1",
     "192.0.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.88.99.1",
     "[2001:db8::1]", "[100::1]"],
)  # fmt: skip
async def test_no_spelling_of_an_inner_address_is_dialled(spelled: str) -> None:
    """By the resolver of this machine, which knows them all."""
    host = canonical_host(spelled)
    assert host is not None
    with pytest.raises((Refused, Unreachable)) as refused:
        await dial(host, 9, gate=ANYWHERE, resolve=Names().resolve)
    assert "not public" in str(refused.value) or "resolve" in str(refused.value)


async def test_a_name_that_is_inside_and_outside_is_not_followed() -> None:
    async def both(host: str, port: int) -> Sequence[str]:
        return ["93.184.215.14", "10.0.0.1"]

    with pytest.raises(Refused, match="not public"):
        await dial("example.com", 443, gate=ANYWHERE, resolve=both)


async def test_a_name_is_asked_for_once() -> None:
    """What is dialled is what was judged, whatever the name says a moment later."""
    asked: list[str] = []

    async def rebinds(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) > 1 else ["127.0.0.2"]

    with socket.create_server(("127.0.0.2", 0)) as server:
        gate = Gate(policy=NetworkPolicy(hosts=None), operator=OperatorHosts(internal=("example.com",)))
        far = await dial("example.com", server.getsockname()[1], gate=gate, resolve=rebinds)
        assert far.getpeername()[0] == "127.0.0.2" and len(asked) == 1
        far.close()


METADATA = ["169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192"]


def spellings(address: str) -> list[str]:
    """In IPv6, by rules of RFC 4291, 2765, 6052, 3056 and 4380 written down once more."""
    octets = ipaddress.IPv4Address(address).packed
    high, low = octets[:2].hex(), octets[2:].hex()
    first, second, third, fourth = (f"{octet:02x}" for octet in octets)
    return [
        f"::ffff:{address}", f"::{address}", f"::ffff:0:{address}",
        f"64:ff9b::{address}", f"64:ff9b:1::{address}",
        f"64:ff9b:1:{high}:00{third}:{fourth}00:0:0", f"64:ff9b:1:00{first}:00{second}:{third}{fourth}:0:0",
        f"64:ff9b:1:0:00{first}:{second}{third}:{fourth}00:0", f"2002:{high}:{low}::1",
        f"2001:0:{high}:{low}::1",
        "2001:0:4136:e378:8000:63bf:" + ":".join(f"{(0xFFFF - int(part, 16)):04x}" for part in (high, low)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "address",
    ["fe80::1", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "0.0.0.0", "::ffff:0.0.0.0", "224.0.0.1",
     "nonsense", *METADATA, *(spelled for address in METADATA for spelled in spellings(address))],
)  # fmt: skip
def test_no_operator_opens_a_metadata_service(address: str) -> None:
    gate = Gate(policy=NetworkPolicy(hosts=None), operator=OperatorHosts(internal=("*",)))
    with pytest.raises(Refused):
        gate.check_address("inside.test", 80, address)
    gate.check_address("inside.test", 80, "10.0.0.1")


@pytest.mark.parametrize("address", ["203.0.114.7", *spellings("203.0.114.7")])
def test_an_operator_denies_an_address_by_every_name(address: str) -> None:
    operator = OperatorHosts(denied=("203.0.114.7",), internal=("*",))
    with pytest.raises(Refused, match="operator"):
        Gate(policy=NetworkPolicy(hosts=None), operator=operator).check_address("x.test", 443, address)


def test_an_operator_denies_names_and_addresses() -> None:
    denied = ("*.bad.test", "bad.test", "203.0.114.7", "203.0.115.0/24", "[2600:1::/32]", "[2600:2::2]")
    operator = OperatorHosts(denied=denied, internal=("*",))
    gate = Gate(policy=NetworkPolicy(hosts=None), operator=operator)
    for host in ("bad.test", "x.bad.test"):
        with pytest.raises(Refused, match="operator"):
            gate.check_name(host, 443)
    for address in (
        "203.0.114.7",
        "::ffff:203.0.114.7",
        "203.0.115.9",
        "::ffff:203.0.115.9",
        "2600:1::9",
        "2600:2::2",
    ):
        with pytest.raises(Refused, match="operator"):
            gate.check_address("good.test", 443, address)
    for address in ("203.0.114.8", "203.0.116.9", "2600:2::3"):
        gate.check_address("good.test", 443, address)


def test_an_operator_opens_networks_of_his_own() -> None:
    operator = OperatorHosts(internal=("10.1.0.0/16", "[fd00:1::/32]:8443", "10.2.0.1"))
    gate = Gate(policy=NetworkPolicy(hosts=None), operator=operator)
    for port, address in (
        (443, "10.1.2.3"),
        (443, "::ffff:10.1.2.3"),
        (8443, "fd00:1::1"),
        (80, "10.2.0.1"),
    ):
        gate.check_address("inside.test", port, address)
    for port, address in (
        (443, "10.2.0.2"),
        (443, "fd00:1::1"),
        (443, "127.0.0.1"),
        (443, "169.254.169.254"),
    ):
        with pytest.raises(Refused, match="not public"):
            gate.check_address("inside.test", port, address)


# -- the proxy is told anything --------------------------------------------------------------------------


class Notes:
    """`egress.book.Book` of one conversation."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []

    def begin(
        self,
        session_id: str,
        target: Target,
        method: str,
        decision: str,
        *,
        reason: str = "",
        detail: str = "",
    ) -> str:
        self.begun.append((target.host, decision))
        return "audit_1"

    def end(self, ended: Ended) -> None:
        pass


TOKENS = st.sampled_from(
    [b"GET ", b"POST ", b"CONNECT ", b"http://", b"https://", b"ok.test", b"evil.test", b":443", b":80",
     b"/", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"Host: ", b"\r\n", b"\r\n\r\n", b"\n",
     b"Content-Length: 5\r\n",
     b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"hello", b"Connection: Upgrade\r\n",
     b"Upgrade: websocket\r\n", b"\x16\x03\x01\x00\x05hello", b"@", b"[::1]", b"\x00", b" ", b"#", b"%2e",
     b"X: y\r\n", b"\xff\xfe", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)  # fmt: skip
SAID = st.lists(st.lists(TOKENS | st.binary(max_size=8), max_size=10).map(b"".join), max_size=4)


@given(SAID)
@settings(
    max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@example([b"CONNECT ok.test:443 HTTP/1.1\r\nHost: ok.test\r\n\r\n", b"\x16\x03\x01\x00\x05hello"])
@example([b"GET http://evil.test/ HTTP/1.1\r\nHost: ok.test\r\n\r\n"])
@example([b"GET http://ok.test@evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n"])
@example(
    [b"CONNECT ok.test:80 HTTP/1.1\r\nHost: ok.test\r\n\r\n", b"GET http://evil.test/ HTTP/1.1\r\n\r\n"]
)
def test_whatever_it_is_told(caplog: pytest.LogCaptureFixture, said: list[bytes]) -> None:
    """It reaches no host but the one that is allowed, always comes to an end, and never breaks."""
    caplog.clear()
    asked, notes = asyncio.run(conversation(said))
    assert asked <= {"ok.test"}
    assert {host for host, decision in notes.begun if decision == "allowed"} <= asked
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def conversation(said: list[bytes]) -> tuple[set[str], Notes]:
    asked: set[str] = set()
    echoed: set[bytes] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            echoed.add(data)
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    far_port = server.sockets[0].getsockname()[1]

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.add(host)
        return ["127.0.0.1"] if port == far_port else []

    gate = Gate(policy=NetworkPolicy(hosts=("ok.test",)), operator=OperatorHosts(internal=("*",)))
    notes = Notes()
    proxy = Proxy(SessionId("sesn_1"), gate, book=notes, resolve=resolve)
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    loop = asyncio.get_running_loop()
    serving = loop.create_task(proxy.serve(far))

    async def listen() -> None:
        try:
            while await loop.sock_recv(near, 65536):
                pass
        except OSError:
            pass

    listening = loop.create_task(listen())
    try:
        for data in said:
            await loop.sock_sendall(near, data.replace(b":443", b":%d" % far_port))
            await asyncio.sleep(0)
        near.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it has ended the conversation
    await asyncio.wait_for(serving, 30)
    await asyncio.wait_for(listening, 30)
    near.close()
    server.close()
    return asked, notes
