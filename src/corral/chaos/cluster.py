"""The cluster under test: some nodes, the model they ask, and the database they share or the one has."""

import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

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


@asynccontextmanager
async def cluster(
    kind: ClusterKind,
    *,
    root: Path,
    model_url: str,
    database_url: str | None = None,
    has_small_disk: bool = False,
) -> AsyncIterator[Cluster]:
    """Start one below `root`; at the end its nodes are stopped, and the database if it is ours.

    database_url: a PostgreSQL that somebody else runs, and that nobody kills; its database must be empty.
    has_small_disk: the one node gets a file system of its own, in memory, that can be filled. For root.
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
            database_url = postgres.fresh_database()
        await (await Database.open(database_url, migrate=True)).close()
        settings["CORRAL_BLOB_URL"] = (root / "blobs").as_uri()
        nodes, proxies = {}, {}
        for name, roles in SHARED.items():
            target = urlsplit(database_url)
            assert target.hostname is not None
            proxies[name] = await stack.enter_async_context(Proxy(target.hostname, target.port or 5432))
            place = target.netloc.rpartition("@")[0]
            own = target._replace(netloc=f"{place}@127.0.0.1:{proxies[name].port}").geturl()
            nodes[name] = Node(
                name,
                root / name,
                settings=settings | {"CORRAL_DATABASE_URL": own},
                options=[word for role in roles for word in ("--role", role)],
            )
            stack.push_async_callback(nodes[name].stop)
        yield Cluster(
            kind=kind,
            root=root,
            nodes=nodes,
            roles=SHARED,
            secrets=known,
            postgres=postgres,
            database_url=database_url,
            proxies=proxies,
        )
