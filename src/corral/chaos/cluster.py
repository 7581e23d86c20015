"""The cluster under test: some nodes, the model they ask, and the database they share or the one has."""

import asyncio
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from corral.chaos.network import Network, network
from corral.chaos.node import Node
from corral.chaos.proxy import Proxy
from corral.chaos.residue import SMALL_DISK
from corral.cluster.node import NodeRole
from corral.kernel.ids import CORRAL_KEY_PREFIX
from corral.store.database import Database
from corral.testing.postgres import Postgres

__all__ = ["ALONE", "CLUSTER_KINDS", "SHARED", "Cluster", "ClusterKind", "Secrets", "cluster"]

ClusterKind = Literal["local", "postgres"]
SMALL_DISK_BYTES: Final = 768 * 1024 * 1024  # room for a run, above DISK_FREE_BYTES_MIN
CLUSTER_KINDS: Final = get_args(ClusterKind)
ALONE: Final[Mapping[str, Sequence[NodeRole]]] = {"node": get_args(NodeRole)}
SHARED: Final[Mapping[str, Sequence[NodeRole]]] = {
    "api1": ("api",), "api2": ("api",), "brain1": ("brain",), "brain2": ("brain",),
    "hands1": ("hands", "egress"), "hands2": ("hands", "egress"),
}  # fmt: skip
"""What `corral serve --role` each node is started as."""
APART: Final[Mapping[str, Sequence[NodeRole]]] = {
    "api1": ("api",), "api2": ("api",),
    "a": ("brain", "hands", "egress"), "b": ("brain", "hands", "egress"),
}  # fmt: skip
"""The same where `MACHINES` are apart: what thinks and acts stands on both."""
MACHINES: Final = ("a", "b")
_HANDS_PORT: Final = 8421


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """Made up for this run, and looked for everywhere afterwards."""

    api_key: str = field(default_factory=lambda: f"{CORRAL_KEY_PREFIX}canary_{secrets.token_urlsafe(24)}")
    model_key: str = field(default_factory=lambda: f"sk-canary-{secrets.token_urlsafe(24)}")
    variable: str = field(default_factory=lambda: f"canary-{secrets.token_urlsafe(24)}")


@dataclass(kw_only=True)
class Cluster:
    """`database_url` is None for SQLite, which its one node has in its data directory."""

    kind: ClusterKind
    root: Path
    nodes: Mapping[str, Node]
    roles: Mapping[str, Sequence[NodeRole]]
    secrets: Secrets
    postgres: Postgres | None = None
    database_url: str | None = None
    proxies: Mapping[str, Proxy] = field(default_factory=dict)
    has_small_disk: bool = False
    network: Network | None = None

    def with_role(self, *roles: NodeRole) -> list[Node]:
        return [node for name, node in self.nodes.items() if set(roles) & set(self.roles[name])]

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.with_role("api")]

    @property
    def database_path(self) -> Path:
        return self.nodes["node"].data_dir / "corral.db"


@contextmanager
def _small_disk(path: Path) -> Iterator[None]:
    path.mkdir(mode=0o711, parents=True)
    options = f"size={SMALL_DISK_BYTES},mode=0711"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, SMALL_DISK, path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


async def _stop(nodes: Sequence[Node]) -> None:
    """All at once: who has pressed Ctrl-C waits for it."""
    await asyncio.gather(*(node.stop() for node in nodes))


async def _known_to_others(directory: Path, host: str) -> Mapping[str, str]:
    """Settings of a node with a certificate for this name or address, made as a user would."""
    command = (sys.executable, "-m", "corral.cli", "certs", str(directory), "--host", host)
    making = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    assert await making.wait() == 0
    return {
        "CORRAL_CLUSTER_CA": str(directory / "ca.pem"),
        "CORRAL_CLUSTER_CERT": str(directory / f"{host}.pem"),
        "CORRAL_CLUSTER_KEY": str(directory / f"{host}.key"),
    }


@asynccontextmanager
async def cluster(
    kind: ClusterKind,
    *,
    root: Path,
    model_url: str,
    database_url: str | None = None,
    has_small_disk: bool = False,
    has_network: bool = False,
) -> AsyncIterator[Cluster]:
    """Start one below `root`; at the end its nodes are stopped, and the database if it is ours.

    database_url: a PostgreSQL that somebody else runs, and that nobody kills; its database must be empty.
    has_small_disk: the one node gets a file system of its own, in memory, that can be filled. For root.
    has_network: of many nodes, two are MACHINES in a network of their own (`network.missing` is None).
    """
    known = Secrets()
    settings = {
        "CORRAL_API_KEY": known.api_key,
        "CORRAL_ANTHROPIC_API_KEY": known.model_key,
        "CORRAL_ANTHROPIC_BASE_URL": model_url,
        "SOME_SECRET_OF_THE_OPERATOR": known.variable,
    }
    async with AsyncExitStack() as stack:
        if kind == "local":
            node = Node("node", root / "node", settings=settings)
            if has_small_disk:
                stack.enter_context(_small_disk(node.data_dir))
            stack.push_async_callback(node.stop)
            yield Cluster(
                kind=kind,
                root=root,
                nodes={"node": node},
                roles=ALONE,
                secrets=known,
                has_small_disk=has_small_disk,
            )
            return
        postgres = None
        if database_url is None:
            postgres = stack.enter_context(Postgres.start(below=root, own=True))
            database_url = postgres.empty_database()
        await (await Database.open(database_url, migrate=True)).close()
        settings["CORRAL_BLOB_URL"] = (root / "blobs").as_uri()
        net = stack.enter_context(network(MACHINES)) if has_network else None
        nodes, proxies = {}, {}
        layout = SHARED if net is None else APART
        for name, roles in layout.items():
            target = urlsplit(database_url)
            assert target.hostname is not None
            is_apart = net is not None and name in net.addresses
            us = net.address if net is not None and is_apart else "127.0.0.1"
            proxy = Proxy(target.hostname, target.port or 5432, at=us)
            proxies[name] = await stack.enter_async_context(proxy)
            place = target.netloc.rpartition("@")[0]
            own = {
                "CORRAL_DATABASE_URL": target._replace(netloc=f"{place}@{us}:{proxy.port}").geturl(),
            }
            if net is not None:
                own |= await _known_to_others(root / "certs", net.addresses.get(name, name))
            if net is not None and is_apart:
                model = urlsplit(model_url)
                way = Proxy(model.hostname or "", model.port or 80, at=us)
                await stack.enter_async_context(way)
                own["CORRAL_ANTHROPIC_BASE_URL"] = f"http://{us}:{way.port}"
                own["CORRAL_HANDS_LISTEN"] = f"{net.addresses[name]}:{_HANDS_PORT}"
            nodes[name] = Node(
                name,
                root / name,
                settings=settings | own,
                options=[word for role in roles for word in ("--role", role)],
                prefix=net.inside(name) if net is not None and is_apart else (),
            )
        stack.push_async_callback(_stop, list(nodes.values()))
        yield Cluster(
            kind=kind,
            root=root,
            nodes=nodes,
            roles=layout,
            secrets=known,
            network=net,
            postgres=postgres,
            database_url=database_url,
            proxies=proxies,
        )
