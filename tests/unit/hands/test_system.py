"""A root file system for sandboxes: what is seen of it, what is refused, and when it is another one."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.hands.providers.binary import CannotWork
from corral.hands.providers.ground import ground
from corral.hands.providers.landlock import LandlockProvider
from corral.hands.providers.system import MACHINE, System


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """As of an image, whose links are its own."""
    root = tmp_path / "root"
    for folder in ("usr/bin", "usr/lib", "etc/ssl", "opt/tool", "opt/corral", "var/lib", "root", "nix"):
        (root / folder).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    shutil.copy(Path("/bin/sh").resolve(), root / "usr/bin/real")
    (root / "usr/bin/bash").symlink_to("/bin/linked")
    (root / "usr/bin/linked").symlink_to("../../../../usr/bin/real")
    (root / "etc/passwd").write_text("ada:x:7:7::/:/bin/sh\n")
    (root / "etc/pip.conf").write_text("[global]\n")
    (root / "etc/localtime").symlink_to("/usr/share/zoneinfo/UTC")
    (root / ".dockerenv").touch()
    return root


def test_all_is_seen_but_what_a_sandbox_has_of_its_own(root: Path) -> None:
    read_only, links = System.at(root).mounts()
    assert {place: str(path.relative_to(root)) for path, place in read_only} == {
        place: place[1:] for place in ("/usr", "/etc/ssl", "/etc/pip.conf", "/opt/tool", "/nix")
    }
    assert links == [("usr/bin", "/bin"), ("/usr/share/zoneinfo/UTC", "/etc/localtime")]
    machine = [place for _, place in MACHINE.mounts()[0]]
    assert "/usr" in machine and "/etc/passwd" not in machine and "/etc/ssl" not in machine


def test_a_good_root_is_taken(root: Path, tmp_path: Path) -> None:
    System.at(root).require(uid=65522, state_dir=tmp_path / "state")
    (tmp_path / "current").symlink_to("root")
    assert System.at(tmp_path / "current").root == root.resolve()


def another_architecture(root: Path) -> None:
    with (root / "usr/bin/real").open("r+b") as file:
        file.seek(18)
        file.write(b"\x08\x00")  # MIPS


def in_a_circle(root: Path) -> None:
    (root / "usr/bin/real").unlink()
    (root / "usr/bin/real").symlink_to("real")


WRONGS: list[tuple[Callable[[Path], object], str]] = [
    (lambda root: shutil.rmtree(root), "there is no root file system"),
    (lambda root: shutil.rmtree(root / "usr"), "there is no root file system"),
    (lambda root: (root / "usr/bin/bash").unlink(), "no bash"),
    (lambda root: (root / "usr/bin/real").unlink(), "no bash"),
    (
        lambda root: (root / "usr/bin/real").symlink_to("real") if (root / "usr/bin/real").unlink() else 0,
        "no",
    ),
    (another_architecture, "another architecture"),
    (lambda root: (root / "etc").chmod(0o757), "can be changed by anybody"),
]


@pytest.mark.parametrize(("spoil", "said"), WRONGS)
def test_what_sandboxes_cannot_have_is_refused(
    root: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(root)
    with pytest.raises(CannotWork) as caught:
        System.at(root).require(uid=None, state_dir=tmp_path / "state")
    assert said in caught.value.what and "/" not in caught.value.what, "anybody may see it"
    assert str(root) in caught.value.found and "CORRAL_SANDBOX_ROOT" in caught.value.remedy


def test_a_root_of_the_sandboxes_own_user_or_with_our_data_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotWork, match="changed"):
        System.at(root).require(uid=os.getuid(), state_dir=tmp_path / "state")
    for other in (root, Path("/")):
        with pytest.raises(CannotWork, match="own data"):
            System.at(other).require(uid=None, state_dir=root / "srv")


async def test_landlock_refuses_any_root(root: Path, tmp_path: Path) -> None:
    provider = LandlockProvider(state_dir=tmp_path, system=System.at(root))
    probe = await provider.probe()
    await provider.aclose()
    assert not probe.is_available and "mounts nothing" in probe.summary and "bwrap" in probe.remedy


def test_another_root_is_another_ground(root: Path, tmp_path: Path) -> None:
    packages = {"pip": ("greet",)}
    first = ground(packages, System.at(root))
    copied = shutil.copytree(root, tmp_path / "copied", symlinks=True)
    assert ground(packages, System.at(copied)) == first != ground(packages), "on another machine, say"
    (copied / "root/secret").touch()
    (copied / "etc/passwd").write_text("")
    assert ground(packages, System.at(copied)) == first, "nobody sees these"
    for change in (
        lambda: (copied / "usr/lib/new").touch(),
        lambda: (copied / "usr/lib/new").write_text("x"),
        lambda: (copied / "usr/lib/new").chmod(0o755),
        lambda: os.utime(copied / "usr/lib/new", (1, 1)),
        lambda: (copied / "usr/lib/link").symlink_to("new"),
    ):
        change()
        os.utime(copied / "usr")  # what is deeper is looked at when a process starts
        before, first = first, ground(packages, System.at(copied))
        assert first != before
    shutil.rmtree(copied)
    with pytest.raises(CannotWork):
        ground(packages, System.at(copied))
