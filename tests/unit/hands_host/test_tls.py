"""Mutual TLS between nodes: who may talk to a hands host from another machine, and who may not."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from corral.cli.certs import make_certs
from corral.cli.outcome import Problem
from corral.daemon import socket_path, token_path
from corral.hands import wire
from corral.hands.address import client_of, unix_address
from corral.hands.client import HandsClient
from corral.hands.ports import Provider
from corral.hands.process import serve_hands
from corral.hands.tls import ClusterTls, client_context
from corral.kernel.errors import HandsUnavailable, InvalidRequest
from corral.session.call import Recipe, ToolCall

SESSION = "sesn_1"


def certs(directory: Path, *hosts: str) -> ClusterTls:
    make_certs(directory, hosts)
    return ClusterTls(
        ca=directory / "ca.pem", cert=directory / f"{hosts[0]}.pem", key=directory / f"{hosts[0]}.key"
    )


@pytest.fixture
async def listening_host(tmp_path: Path, provider: Provider) -> AsyncIterator[tuple[str, ClusterTls]]:
    """A host on loopback TCP: its address and the TLS files of its cluster."""
    tls = certs(tmp_path / "certs", "127.0.0.1", "hands.example")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ready = asyncio.Event()
    serving = asyncio.create_task(
        serve_hands(
            data_dir=tmp_path,
            provider=lambda _: provider,
            on_ready=ready.set,
            listen=address,
            tls=tls,
        )
    )
    try:
        done, _ = await asyncio.wait(
            [serving, waiting := asyncio.ensure_future(ready.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        assert waiting in done
        yield f"https://{address}", tls
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_a_node_of_the_cluster_calls_over_tls_without_a_token(listening_host):
    address, tls = listening_host
    client = HandsClient.over_tls(address, tls=client_context(tls))
    try:
        placement = await client.placement(SESSION)
        call = ToolCall(
            session_id=SESSION, thread_id="sthr_1", call_id="c1", name="bash",
            input={"command": "echo over tls"}, recipe=Recipe(), placement=placement,
        )  # fmt: skip
        assert (await client.execute(call, epoch=1)).content[0]["text"] == "over tls\n"
        with pytest.raises(HandsUnavailable):  # a supervisor is on this machine
            [_ async for _ in client.adopt()]
    finally:
        await client.aclose()


async def health(address: str, context: ssl.SSLContext, **options: object) -> int:
    async with httpx2.AsyncClient(verify=context, trust_env=False) as http:
        return (await http.get(f"{address}{wire.PREFIX}/health", **options)).status_code


async def test_whoever_shows_no_certificate_or_one_of_another_authority_is_refused(
    listening_host, tmp_path
):
    address, tls = listening_host
    assert await health(address, client_context(tls)) == 200
    bare = ssl.create_default_context(cafile=tls.ca)
    other = certs(tmp_path / "other", "127.0.0.1")
    foreign = ssl.create_default_context(cafile=tls.ca)
    foreign.load_cert_chain(other.cert, other.key)
    token = token_path(tmp_path, "hands").read_text()
    for context in (bare, foreign):
        with pytest.raises(httpx2.TransportError):
            await health(address, context)
        with pytest.raises(httpx2.TransportError):  # a token is no proof here
            await health(address, context, headers={"authorization": f"Bearer {token}"})


async def test_a_host_of_another_authority_or_of_another_name_is_not_trusted(listening_host, tmp_path):
    address, tls = listening_host
    other = certs(tmp_path / "other", "127.0.0.1")
    stranger = ClusterTls(ca=other.ca, cert=tls.cert, key=tls.key)
    for wrong, context in (
        (address, client_context(stranger)),
        (address.replace("127.0.0.1", "localhost"), client_context(tls)),
    ):
        client = HandsClient.over_tls(wrong, tls=context)
        with pytest.raises(HandsUnavailable):
            await client.health()
        await client.aclose()


async def refused(address, tls) -> HandsUnavailable:
    client = HandsClient.over_tls(address, tls=client_context(tls))
    try:
        with pytest.raises(HandsUnavailable) as caught:
            await client.health()
        return caught.value
    finally:
        await client.aclose()


async def test_a_certificate_that_names_another_address_says_which_is_missing(listening_host):
    address, tls = listening_host
    error = await refused(address.replace("127.0.0.1", "localhost"), tls)
    assert not error.retryable
    assert "the certificate does not name localhost: make one with `corral certs DIR --host" in str(error)
    assert "localhost" not in error.message, "what anybody may read"


async def test_a_certificate_of_another_authority_is_said_to_be_one(listening_host, tmp_path):
    address, _ = listening_host
    error = await refused(address, certs(tmp_path / "other", "127.0.0.1"))
    assert not error.retryable
    assert "CORRAL_CLUSTER_CA" in error.message


async def test_the_socket_still_asks_for_the_token(listening_host, tmp_path):
    wrong = HandsClient(socket_path(tmp_path, "hands"), token="wrong")
    with pytest.raises(HandsUnavailable):
        await wrong.health()
    await wrong.aclose()
    address = unix_address(socket_path(tmp_path, "hands"))
    right = client_of(address, is_same_machine=True, tls=None)
    assert (await right.health())["role"] == "hands"
    await right.aclose()


def test_an_address_without_a_way_to_it_says_what_to_do(tmp_path):
    with pytest.raises(HandsUnavailable, match="CORRAL_HANDS_LISTEN"):
        client_of("unix:///nowhere/hands.sock", is_same_machine=False, tls=None)
    with pytest.raises(HandsUnavailable, match="CORRAL_CLUSTER_CA"):
        client_of("https://10.0.0.7:8421", is_same_machine=True, tls=None)


@pytest.mark.parametrize(
    "address",
    ["http://10.0.0.7:8421", "ftp://10.0.0.7", "//10.0.0.7:8421", "https://user:word@10.0.0.7:8421", "https:///x",
     "https://10.0.0.7:8421/other?path", "https://[", "", "unix://host/hands.sock", "unix:hands.sock"],
)  # fmt: skip
def test_an_address_of_another_kind_is_not_gone_to(tmp_path, address):
    """It stands in the database: whoever writes there must not get calls in the clear."""
    tls = client_context(certs(tmp_path, "x"))
    with pytest.raises(HandsUnavailable, match="cannot be used"):
        client_of(address, is_same_machine=True, tls=tls)


def test_only_the_token_of_a_hands_host_is_read(tmp_path):
    (tmp_path / "token").write_text("of something else")
    with pytest.raises(HandsUnavailable, match="cannot be used"):
        client_of(f"unix://{tmp_path}/egress.sock", is_same_machine=True, tls=None)


# -- corral certs ------------------------------------------------------------------------------------


def test_the_authority_is_made_once_and_its_key_is_private(tmp_path):
    made = make_certs(tmp_path / "certs", ["a.example", "10.0.0.7"])
    assert [path.name for path in made] == ["ca.pem", "ca.key", "a.example.pem", "a.example.key"]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in made if path.suffix == ".key")
    authority = (tmp_path / "certs" / "ca.pem").read_bytes()
    assert [path.name for path in make_certs(tmp_path / "certs", ["b"])] == ["b.pem", "b.key"]
    assert (tmp_path / "certs" / "ca.pem").read_bytes() == authority
    client_context(
        ClusterTls(
            ca=tmp_path / "certs" / "ca.pem", cert=tmp_path / "certs" / "b.pem",
            key=tmp_path / "certs" / "b.key",
        )
    )  # fmt: skip


def test_certificates_of_different_clusters_do_not_mix(tmp_path):
    a, b = certs(tmp_path / "a", "x"), certs(tmp_path / "b", "x")
    with pytest.raises(InvalidRequest):
        client_context(ClusterTls(ca=a.ca, cert=a.cert, key=b.key))


@pytest.mark.parametrize("hosts", [[], ["../x"], ["ca"], ["a" * 64 + ".example"]])
def test_a_host_that_cannot_be_one_is_refused(tmp_path, hosts):
    with pytest.raises(Problem):
        make_certs(tmp_path, hosts)
    assert not list(tmp_path.rglob("x*"))


def test_half_an_authority_is_not_overwritten(tmp_path):
    make_certs(tmp_path, ["a"])
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(Problem, match="only one"):
        make_certs(tmp_path, ["a"])
