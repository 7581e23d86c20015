"""Packages as a mount."""

import threading
from pathlib import Path

import pytest

from corral.catalog.hosts import HostList
from corral.hands.providers.binary import CannotWork
from corral.hands.providers.layers import LayerShelf
from corral.kernel.ids import DEFAULT_WORKSPACE, SessionId, WorkspaceId
from corral.packages.installer import Installer
from corral.packages.layers import Layers
from corral.packages.source import PackageSource
from corral.session.mounts import Attached, MountFailed
from corral.store.blobs import LocalBlobs

SESSION = SessionId("sesn_1")


async def _default(session_id: SessionId) -> WorkspaceId:
    return DEFAULT_WORKSPACE


async def test_a_machine_without_python_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def no_ground(*_: object) -> str:
        threads.append(threading.current_thread())
        raise CannotWork("no Python 3", remedy="install it")

    monkeypatch.setattr("corral.packages.source.ground", no_ground)
    installer = Installer(tmp_path / "packages", hosts=HostList(), egress=None)
    layers = Layers(installer, await LocalBlobs.open(tmp_path / "blobs"))
    source = PackageSource(layers, workspace=_default)
    (mount,) = await source.mounts(
        Attached(session_id=SESSION, environment={"packages": {"pip": ["greet"]}})
    )
    assert len(threads) == 1 and threading.main_thread() not in threads, (
        "a runtime may hang when it is asked"
    )
    shelf = LayerShelf(tmp_path / "layers", in_use=set)
    assert not shelf.has(mount.digest), "a host says that it is missing"
    with pytest.raises(MountFailed, match="no Python 3"):
        await anext(source.open(SESSION, mount))
