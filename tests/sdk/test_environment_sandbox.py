"""/corral/v1/environments/{id}/sandbox: what operators say of sandboxes, and no official client sees."""

from typing import Any

import pytest

from corral.kernel.ids import SessionId


@pytest.fixture
def path(client: Any) -> str:
    made = client.beta.environments.create(name="bounded")
    return f"/corral/v1/environments/{made.id}/sandbox"


def test_bounds_reach_sessions_and_not_the_wire(server: Any, client: Any, path: str) -> None:
    environment_id = path.split("/")[4]
    before = client.beta.environments.retrieve(environment_id).to_dict()
    with server.http() as http:
        shown = http.get(path).json()
        assert shown["provider"] is None and shown["cpus"] is None and shown["processes"] == 512
        changed = http.post(path, json={"cpus": 2, "memory_bytes": 1 << 30}).json()
        assert changed == {**shown, "cpus": 2, "memory_bytes": 1 << 30} == http.get(path).json()
    after = client.beta.environments.update(environment_id, description="changed").to_dict()
    assert set(after) == set(before) and after["config"] == before["config"]
    agent = client.beta.agents.create(name="a", model="replay")
    session = client.beta.sessions.create(agent=agent.id, environment_id=environment_id)
    record = server.run(server.deps.sessions.read(SessionId(session.id)))
    assert record.environment["sandbox"] == {"cpus": 2, "memory_bytes": 1 << 30}
    assert "sandbox" not in session.to_dict()


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"cpus": 0.01}, "cpus"),
        ({"memory_bytes": 1024}, "memory_bytes"),
        ({"processes": 3}, "processes"),
        ({"disk_bytes": "1GiB"}, "disk_bytes"),
        ({"command_seconds": 4000}, "command_seconds"),
        ({"provider": "../bwrap"}, "provider"),
        ({"network": True}, "network"),
    ],
)
def test_what_cannot_be_is_refused_by_name(server: Any, path: str, asked: Any, named: str) -> None:
    with server.http() as http:
        refused = http.post(path, json=asked)
    assert refused.status_code == 400 and named in refused.json()["error"]["message"]
