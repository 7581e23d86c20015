"""Layers of packages on a host: what is bound of one, and which are kept."""

import os
from pathlib import Path

import pytest

from corral.catalog.packages import PLACE
from corral.hands.providers.binary import PythonInside
from corral.hands.providers.bwrap import BwrapProvider
from corral.hands.providers.launch import environment
from corral.hands.providers.layers import Layer, LayerShelf
from corral.kernel.disk_trees import sync_disk
from corral.kernel.errors import InvalidRequest, SandboxUnavailable
from corral.session.call import Mount, Recipe

ONE, TWO, THREE = ("1" * 64, "2" * 64, "3" * 64)
PYTHON = PythonInside(path=Path("/usr/bin/python3"), prefix=None)


def test_what_a_sandbox_finds_of_a_layer(tmp_path: Path) -> None:
    for folder in ("apt/usr/bin", "apt/etc/ave", "apt/var/lib/ave", "npm/bin", "pip/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "apt/etc/ave.conf").write_text("")
    layer = Layer.at(tmp_path)
    assert layer.overlay is not None and layer.overlay.upper == tmp_path / "apt/usr"
    assert [place for _, place in layer.files] == ["/etc/ave", "/etc/ave.conf", "/var/lib/ave"]
    env = environment(PYTHON, layer)
    assert env["PATH"].startswith("/opt/corral/packages/pip/bin:/opt/corral/packages/npm/bin:/usr/local")
    assert env["NODE_PATH"] == "/opt/corral/packages/npm/lib/node_modules"
    assert "NODE_PATH" not in environment(PYTHON)


@pytest.mark.parametrize("link", ["apt", "apt/usr", "apt/etc", "apt/var", "apt/etc/shadow", "pip"])
def test_nothing_is_bound_through_a_link_that_a_package_left(tmp_path: Path, link: str) -> None:
    """On the host it would lead anywhere."""
    top, outside = tmp_path / "layer", tmp_path / "outside"
    (outside / "lib" / "secret").mkdir(parents=True)
    (top / link).parent.mkdir(parents=True)
    (top / link).symlink_to(outside)
    layer = Layer.at(top)
    assert layer.overlay is None and layer.files == () and "pip" not in layer.folders
    with pytest.raises(SandboxUnavailable):
        Layer.at(top / link)


async def test_the_longest_unused_layers_go_but_none_in_use(tmp_path: Path) -> None:
    in_use: set[str] = set()
    shelf = LayerShelf(tmp_path / "layers", in_use=lambda: in_use, count_max=1)

    async def bring(digest: str) -> bool:
        async with shelf.bring(digest) as fresh:
            if fresh is not None:
                fresh.mkdir()
        return fresh is not None

    assert await bring(ONE) and not await bring(ONE)
    os.utime(shelf.path(ONE), (0, 0))
    in_use.add(ONE)
    assert await bring(TWO) and shelf.path(ONE).exists(), "a sandbox uses it"
    os.utime(shelf.path(ONE), (0, 0))
    in_use.clear()
    assert await bring(THREE) and not shelf.has(ONE) and shelf.has(TWO), "one was asked for just now"
    with pytest.raises(RuntimeError, match="broken"):
        async with shelf.bring(ONE) as fresh:
            assert fresh is not None
            fresh.mkdir()
            raise RuntimeError("broken")
    assert sorted(path.name for path in (tmp_path / "layers").iterdir()) == [TWO, THREE]
    with pytest.raises(InvalidRequest):
        shelf.path("../x")


async def test_a_layer_takes_its_name_once_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, seen = LayerShelf(tmp_path / "layers", in_use=set), []

    def sync(folder: Path) -> None:
        seen.append(sorted(path.name.partition("-")[0] for path in folder.iterdir()))
        sync_disk(folder)
        if len(seen) == 2:
            raise OSError("the disk is broken")

    monkeypatch.setattr("corral.hands.providers.layers.sync_disk", sync)
    async with shelf.bring(ONE) as fresh:
        assert fresh is not None
        fresh.mkdir()
    assert seen == [[".new"]] and shelf.has(ONE)
    with pytest.raises(OSError, match="broken"):
        async with shelf.bring(TWO) as fresh:
            assert fresh is not None
            fresh.mkdir()
    assert not shelf.has(TWO) and len(list((tmp_path / "layers").iterdir())) == 1


async def test_packages_that_were_installed_on_another_ground_are_refused(tmp_path: Path) -> None:
    """Half of them would not work, and nobody would know why."""
    provider = BwrapProvider(state_dir=tmp_path, pool_size=0)
    environment = {"type": "cloud", "packages": {"pip": ["greet"]}}
    layer = Mount(mount_id="packages", kind="packages", path=PLACE, digest=ONE, mode="read_only")
    for mounts, why in (((layer,), "differs from this one's"), ((), "not installed")):
        recipe = Recipe(environment=environment, mounts=mounts)
        with pytest.raises(SandboxUnavailable, match=why):
            await provider.create(session_id="sesn_1", workspace=tmp_path / "w", recipe=recipe)
    await provider.aclose()
