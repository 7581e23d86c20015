"""Two nodes on one database, and files that only one of them has."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from corral.app import own_files
from corral.app.own_files import own_files_part, refuse_own_files
from corral.cluster.node import Node, SeenNode
from corral.config import Config, Secret
from corral.kernel.errors import InvalidRequest
from corral.orchestrator.node import NodeDuty

OTHER = Node(
    node_id="node_2",
    owner="node_2.inc",
    machine="m",
    version="1",
    roles=("hands",),
    url="http://box:1",
    pid=1,
)
OURS = replace(OTHER, node_id="node_1", owner="node_1.inc", roles=("api", "brain", "hands", "egress"))


class Listed:
    """A list of nodes that says what it was told."""

    def __init__(self, *seen: SeenNode) -> None:
        self.seen = seen

    async def beat(self, node: Node) -> None: ...

    async def all(self) -> Sequence[SeenNode]:
        return self.seen

    async def leave(self, node_id: str, *, owner: str) -> None: ...


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(data_dir=tmp_path, database_url=Secret("postgresql://db/corral"))


async def test_a_newcomer_with_files_of_its_own_is_refused_beside_others(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_files, "NODE_BEAT_SECONDS", 0.01)
    monkeypatch.setattr(own_files, "NODE_LOST_SECONDS", 0.05)
    there = Listed(SeenNode(node=OTHER, age_seconds=0.5))
    with pytest.raises(InvalidRequest, match=r"\(http://box:1\).*set CORRAL_BLOB_URL="):
        await refuse_own_files(config, there, node_id="node_1")
    await refuse_own_files(replace(config, blob_url="s3://b"), there, node_id="node_1")
    await refuse_own_files(replace(config, database_url=None), there, node_id="node_1")


@pytest.mark.parametrize(
    "seen",
    [
        (),
        (SeenNode(node=OTHER, age_seconds=60.0),),
        (SeenNode(node=replace(OTHER, roles=("egress",)), age_seconds=0.5),),
        (SeenNode(node=OTHER, age_seconds=0.5), SeenNode(node=OURS, age_seconds=3.0)),
    ],
    ids=["alone", "the other is lost", "the other has no files", "listed already"],
)
async def test_who_is_alone_or_was_there_starts_at_once(
    config: Config, seen: tuple[SeenNode, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_files, "NODE_BEAT_SECONDS", 60.0)
    async with asyncio.timeout(30):
        await refuse_own_files(config, Listed(*seen), node_id="node_1")


async def test_who_was_alone_warns_when_another_comes(config: Config) -> None:
    nodes = Listed(SeenNode(node=OURS, age_seconds=0.0))

    async def describe() -> Node:
        return OURS

    duty = NodeDuty(nodes, describe)
    look = own_files_part(config, duty, node_id="node_1").looks_elsewhere["files"]
    await duty.beat()
    assert (await look()).status == "ok"
    nodes.seen = (*nodes.seen, SeenNode(node=OTHER, age_seconds=0.0))
    await duty.beat()
    found = await look()
    assert found.status == "warning"
    assert "set CORRAL_BLOB_URL=" in (found.reason or "")
    assert "http://box:1" not in (found.reason or ""), "anybody may read it"
