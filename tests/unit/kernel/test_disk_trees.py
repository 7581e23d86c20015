"""Trees that somebody else has made."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.kernel.disk_trees import disk_bytes, is_larger, is_real_directory, remove_tree, sync_disk

LEVELS = 1_500  # more than Python recurses, and than fit into a path


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    top = tmp_path / "tree"
    top.mkdir()
    yield top
    remove_tree(top)  # pytest would fail to


def deepen(top: Path, levels: int = LEVELS) -> None:
    """One directory in another, and 4 KB in the last."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("deep", dir_fd=here)
        inner = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    file = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here)
    os.write(file, bytes(4096))
    os.close(file)
    os.close(here)


def test_a_tree_deeper_than_anything_is_measured_and_removed(tree: Path) -> None:
    deepen(tree)
    (tree / "beside").write_bytes(bytes(4096))
    assert disk_bytes(tree) >= 8192
    assert disk_bytes(tree, entries_max=10) <= disk_bytes(tree)
    remove_tree(tree)
    assert not tree.exists()
    remove_tree(tree)
    assert disk_bytes(tree) == 0


def test_all_of_a_wide_tree_is_counted(tree: Path) -> None:
    expected = 0
    for name in ("a/b/c", "a/d/e", "f/g", "h"):
        file = tree / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(10_000))
    for path in tree.rglob("*"):
        expected += path.lstat().st_blocks * 512
    assert disk_bytes(tree) == expected > 40_000
    remove_tree(tree)
    assert not tree.exists()


def test_links_are_never_followed(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(bytes(100_000))
    (tree / "link").symlink_to(outside)
    (tree / "inner").mkdir()
    (tree / "inner" / "link").symlink_to(outside)
    assert disk_bytes(tree) < 50_000
    assert is_real_directory(tree) and not is_real_directory(tree / "link")
    assert not is_real_directory(tree / "nothing") and not is_real_directory(outside / "kept")
    remove_tree(tree / "link")
    remove_tree(tree)
    assert not tree.exists() and (outside / "kept").exists()


def test_a_tree_is_larger_by_what_it_takes_or_by_what_is_in_it(tree: Path) -> None:
    deepen(tree, levels=3)
    size = disk_bytes(tree)
    assert size >= 4096
    assert not is_larger(tree, bytes_max=size, entries_max=4)
    assert is_larger(tree, bytes_max=size - 1, entries_max=4)
    assert is_larger(tree, bytes_max=size, entries_max=3)
    assert not is_larger(tree / "nothing", bytes_max=0, entries_max=0)


def test_what_is_no_directory_is_not_synced(tmp_path: Path) -> None:
    sync_disk(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_disk(tmp_path / "gone")
