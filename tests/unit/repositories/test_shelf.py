"""Mirrors on disk, which gits in sandboxes have written."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from corral.catalog.repositories import Holder, Repository, repository_url
from corral.kernel.disk_trees import remove_tree
from corral.kernel.ids import SessionId, WorkspaceId
from corral.repositories.shelf import Shelf, ShelfBounds

BOUNDS = ShelfBounds(bytes_max=10**9, count_max=1, seconds=3600.0)
ENGINE, OTHER = (
    Repository(url=repository_url(f"https://github.com/ada/{name}")) for name in ("engine", "other")
)


def shelf_at(root: Path) -> Shelf:
    return Shelf(root, make=Path.mkdir, bounds=BOUNDS)


def deepen(top: Path, levels: int) -> None:
    here = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("a", dir_fd=here)
        inner = os.open("a", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


async def test_mirrors_deeper_than_python_recurses_are_measured_replaced_and_removed(
    tmp_path: Path,
) -> None:
    shelf = shelf_at(tmp_path)
    try:
        async with shelf.held(ENGINE, shared=False) as place:
            for levels in (1_050, 1):  # the second replaces the first
                async with place.fresh() as fresh:
                    new = fresh / "repository.git"
                    new.mkdir()
                    deepen(new, levels)
                    place.replace(new)
            deepen(place.mirror / "a", 1_050)
            assert place.size_bytes() > 0
            assert [path.name for path in place.mirror.parent.glob("old-*")] == []
        async with shelf.held(OTHER, shared=False) as other:
            assert shelf.tidy(keep=other.key) == {other.key}
        assert not place.mirror.parent.exists()
        assert list((tmp_path / "scratch").iterdir()) == []
    finally:
        remove_tree(tmp_path)


def test_what_a_token_fetched_is_in_a_place_of_its_own(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path)

    def held_by(workspace: str, session: str) -> Repository:
        holder = Holder(workspace_id=WorkspaceId(workspace), session_id=SessionId(session))
        return replace(ENGINE, holder=holder)

    keys = [
        shelf.key(each) for each in (ENGINE, held_by("a", "one"), held_by("a", "two"), held_by("b", "one"))
    ]
    assert keys[1] == keys[2] and len(set(keys)) == 3


async def test_a_new_mirror_that_is_a_link_takes_no_name(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    shelf = shelf_at(tmp_path / "shelf")
    async with shelf.held(ENGINE, shared=False) as place:
        async with place.fresh() as fresh:
            (fresh / "repository.git").mkdir()
            place.replace(fresh / "repository.git")
        async with place.fresh() as fresh:
            (fresh / "repository.git").symlink_to(outside)
            with pytest.raises(NotADirectoryError):
                place.replace(fresh / "repository.git")
        assert place.has_mirror
    assert (outside / "kept").exists()
