"""How a container is asked for."""

from pathlib import Path, PurePosixPath

import pytest

from corral.hands.providers.container import ContainerWalls
from corral.hands.providers.engine import find_engine
from corral.kernel.errors import SandboxUnavailable


def places(binds: list[str]) -> dict[str, bool]:
    """Where it sees something, and whether it may write there."""
    return {
        bind.split("target=")[1].split(",")[0].rstrip('"'): not bind.endswith("readonly") for bind in binds
    }


def test_no_mount_point_lies_in_a_tree_that_an_agent_can_write(tmp_path: Path) -> None:
    walls = ContainerWalls("docker", tmp_path)
    found = places(walls._binds(tmp_path / "sesn_1", {"law": False, "notes": True}))
    assert not found["/mnt/session/uploads"] and not found["/mnt/memory/law"]
    writable = {PurePosixPath(place) for place, may_write in found.items() if may_write}
    assert writable == {
        *map(PurePosixPath, ("/workspace", "/mnt/session/outputs", "/mnt/session/tool-outputs")),
        PurePosixPath("/mnt/memory/notes"),
    }
    for place in map(PurePosixPath, found):
        assert not writable & set(place.parents)


def test_a_path_with_a_comma_stays_one_path(tmp_path: Path) -> None:
    walls = ContainerWalls("podman", tmp_path)
    uploads = walls._binds(tmp_path / "a,target=", {})[0]
    assert (
        uploads == f'type=bind,"source={tmp_path}/a,target=/uploads",target=/mnt/session/uploads,readonly'
    )


def test_an_engine_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable) as caught:
        find_engine("podman", "state")
    assert "install podman" in str(caught.value)
