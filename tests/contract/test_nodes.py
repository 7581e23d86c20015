"""The list of nodes on a database; rows that another version wrote."""

import pytest
from sqlalchemy import Connection, insert

from corral.store.nodes import Nodes
from corral.store.schema import nodes
from corral.testing.contract_nodes import CHECKS, Check, some_node
from tests.opened import Opened


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(check: Check, opened: Opened) -> None:
    await check(Nodes(opened.database), opened.stores.clock)


async def test_a_row_of_another_version_is_read(opened: Opened) -> None:
    """A later version says more, and has roles that we do not know; an earlier one said less."""
    later = {
        "machine": "m",
        "version": "0.2.0",
        "roles": ["brain", "oracle"],
        "url": "http://later",
        "pid": 1,
        "weather": "fine",
        "host": {"host_id": "h", "journal_id": "j", "address": "a", "capacity": 1, "gpus": 8},
    }
    unreadable = {"said": "nothing of use"}
    hostless = {**later, "host": {"gpus": 8}}

    database = opened.database

    def write(connection: Connection) -> None:
        for node_id, body in (("node_a", later), ("node_b", unreadable), ("node_c", hostless)):
            row = {"node_id": node_id, "owner": f"{node_id}.i", "body": body}
            connection.execute(insert(nodes), {**row, "beat_at": database.now_us(connection)})

    await database.write(write)
    found = {seen.node.node_id: seen.node for seen in await Nodes(database).all()}
    assert set(found) == {"node_a", "node_c"}
    assert found["node_a"].roles == ("brain", "oracle")
    assert found["node_a"].version == "0.2.0"
    assert found["node_a"].host is not None and found["node_a"].host.sandboxes == 0
    assert found["node_c"].host is None
    await Nodes(database).beat(some_node())  # and ours stands beside them
    assert len(await Nodes(database).all()) == 3
