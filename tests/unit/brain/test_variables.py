"""Placeholders of a session's sandboxes, and credentials whose hosts the environment does not allow."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from corral.brain.variables import Variables
from corral.catalog.records import Wire
from corral.kernel.ids import SessionId
from corral.session.mounts import MountFailed
from tests.unit.brain.scene import Scene


def variable(credential_id: str, name: str, *hosts: str) -> dict[str, Any]:
    networking = {"type": "limited", "allowed_hosts": list(hosts)} if hosts else {"type": "unrestricted"}
    auth = {"type": "environment_variable", "secret_name": name, "networking": networking}
    return {"id": credential_id, "vault_id": "vlt_1", "auth": auth}


async def test_each_unreachable_credential_is_said_once_and_its_placeholder_is_there() -> None:
    """Beside those that can be used: nothing is kept from the session for it."""
    records = [
        variable("vcrd_1", "A", "a.test", "b.test"),
        variable("vcrd_2", "B", "*.b.test"),
        variable("vcrd_3", "C", "c.test"),
        variable("vcrd_4", "A", "nowhere.test"),  # of a later vault, so of no use
        variable("vcrd_5", "D"),
        {
            "id": "vcrd_6",
            "vault_id": "vlt_1",
            "auth": {"type": "static_bearer", "mcp_server_url": "https://m"},
        },
    ]

    async def of_session(session_id: SessionId) -> Sequence[Wire]:
        return records

    variables, state = Variables(of_session), Scene().state
    limited = {"type": "limited", "allowed_hosts": ["a.test", "c.test"]}
    state = replace(state, vault_ids=["vlt_1"], environment={"type": "cloud", "networking": limited})
    said = []
    for _ in range(2):
        with pytest.raises(MountFailed) as failed:
            await variables.of(state)
        said.append(failed.value.error)
        state = replace(state, failed_mounts=state.failed_mounts | {failed.value.mount_id})
    assert [(each["type"], each["credential_id"], each["vault_id"]) for each in said] == [
        ("credential_host_unreachable_error", "vcrd_1", "vlt_1"),
        ("credential_host_unreachable_error", "vcrd_2", "vlt_1"),
    ]
    assert "b.test" in str(said[0]["message"]) and "a.test" not in str(said[0]["message"])
    assert set(await variables.of(state)) == {"A", "B", "C", "D"}


async def test_without_vaults_nobody_is_asked() -> None:
    async def of_session(session_id: SessionId) -> Sequence[Wire]:
        raise AssertionError("asked")

    assert await Variables(of_session).of(Scene().state) == {}
