"""Whose a data directory becomes, and what is left alone. On real files, so as root."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.daemon import private_path
from corral.hands.providers.home import HOST_UID
from corral.kernel.errors import InvalidRequest
from corral.supervisor.takeover import take_over
from corral.supervisor.users import User, Users

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")

USER, EGRESS, STRANGER = 65_410, 65_411, 65_412
USERS = Users(User("user", "u", USER, USER, "/"), User("egress_user", "e", EGRESS, EGRESS, "/"))


@pytest.fixture
def data_dir(open_dir: Path) -> Iterator[Path]:
    """As root's server leaves it: with a session's workspace, and keys."""
    data_dir = open_dir / "d"
    workspace = data_dir / "hands" / "workspaces" / "sesn_1" / "files"
    workspace.mkdir(parents=True)
    private = private_path(data_dir, "egress")
    private.mkdir(parents=True, mode=0o700)
    (data_dir / "corral.db").touch()
    (private / "vault.keys").touch()
    (workspace / "made").touch()
    for path in (workspace, workspace / "made"):
        os.chown(path, HOST_UID, HOST_UID)
    data_dir.chmod(0o700)
    return data_dir


def owner(path: Path) -> int:
    return path.lstat().st_uid


def test_each_gets_its_own(data_dir: Path) -> None:
    take_over(data_dir, USERS)
    private = private_path(data_dir, "egress")
    for path in (data_dir, *data_dir.rglob("*")):
        assert owner(path) == (EGRESS if path.is_relative_to(private) else USER), path
    assert private.stat().st_mode & 0o777 == 0o700
    assert data_dir.stat().st_mode & 0o777 == private.parent.stat().st_mode & 0o777 == 0o711

    (data_dir / "later").touch()
    take_over(data_dir, USERS)
    assert owner(data_dir / "later") == 0, "what is theirs is not walked again"


def test_a_new_one_is_made(tmp_path: Path) -> None:
    take_over(tmp_path / "new" / "d", USERS)
    assert owner(tmp_path / "new") == 0
    assert owner(tmp_path / "new" / "d") == USER
    assert owner(private_path(tmp_path / "new" / "d", "egress")) == EGRESS


def test_of_a_service_that_had_one_user_egress_gets_its_part(data_dir: Path) -> None:
    for path in (data_dir, *data_dir.rglob("*")):
        os.chown(path, USER, USER)
    take_over(data_dir, USERS)
    private = private_path(data_dir, "egress")
    assert owner(private) == owner(private / "vault.keys") == EGRESS
    assert owner(private.parent) == owner(data_dir) == USER


def test_links_lead_nowhere(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    workspace = data_dir / "hands" / "workspaces" / "sesn_1" / "files"
    (workspace / "folder").symlink_to(tmp_path / "outside")
    (workspace / "file").symlink_to(tmp_path / "outside" / "file")
    take_over(data_dir, USERS)
    assert owner(workspace / "folder") == owner(workspace / "file") == USER
    assert owner(tmp_path / "outside") == owner(tmp_path / "outside" / "file") == 0


@pytest.mark.parametrize("place", ["hands/workspaces/sesn_1/files", "egress/private"])
def test_a_file_of_roots_with_another_name_is_refused(data_dir: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "shadow").touch()
    os.link(tmp_path / "shadow", data_dir / place / "mine")
    with pytest.raises(InvalidRequest, match=f"'{place}/mine' .* 2 names"):
        take_over(data_dir, USERS)
    assert owner(tmp_path / "shadow") == 0
    assert owner(data_dir) == 0, "so that it is tried again"
    (data_dir / place / "mine").unlink()
    take_over(data_dir, USERS)
    assert owner(data_dir) == USER


def test_links_within_a_workspace_are_fine(data_dir: Path) -> None:
    made = data_dir / "hands" / "workspaces" / "sesn_1" / "files" / "made"
    os.link(made, made.with_name("again"))
    take_over(data_dir, USERS)
    assert owner(made) == USER


def test_strangers_keep_what_is_theirs(data_dir: Path) -> None:
    (data_dir / "theirs").touch()
    os.chown(data_dir / "theirs", STRANGER, STRANGER)
    with pytest.raises(InvalidRequest, match=f"'theirs' .* uid {STRANGER}"):
        take_over(data_dir, USERS)
    assert owner(data_dir / "theirs") == STRANGER


def test_nothing_of_egress_becomes_the_servers(data_dir: Path) -> None:
    """Who owns the directory above can move it, and be named anew."""
    take_over(data_dir, USERS)
    private = private_path(data_dir, "egress")
    private.rename(data_dir / "moved")
    take_over(data_dir, USERS)  # egress gets a new one
    assert owner(private) == owner(data_dir / "moved" / "vault.keys") == EGRESS
    next_user = Users(User("user", "n", STRANGER, STRANGER, "/"), USERS.egress)
    with pytest.raises(InvalidRequest, match=f"uid {EGRESS}"):
        take_over(data_dir, next_user)
    assert owner(data_dir / "moved" / "vault.keys") == EGRESS


def test_a_link_in_the_place_of_the_private_directory_is_refused(data_dir: Path, tmp_path: Path) -> None:
    private = private_path(data_dir, "egress")
    private.rename(tmp_path / "elsewhere")
    private.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidRequest, match="cannot be given"):
        take_over(data_dir, USERS)
    assert owner(tmp_path / "elsewhere") == 0


def test_a_link_in_the_place_of_the_lock_is_followed_with_its_owners_rights(open_dir: Path) -> None:
    (open_dir / "machines").write_text("kept")
    data_dir = open_dir / "d"
    data_dir.mkdir()
    (data_dir / "lock").symlink_to(open_dir / "machines")
    os.chown(data_dir, USER, USER)
    with pytest.raises(InvalidRequest, match="Permission denied"):
        take_over(data_dir, USERS)
    assert (open_dir / "machines").read_text() == "kept"


def test_without_users_it_is_not_taken_back(data_dir: Path) -> None:
    take_over(data_dir, Users())
    assert owner(data_dir) == 0
    take_over(data_dir, USERS)
    with pytest.raises(InvalidRequest, match="CORRAL_EGRESS_USER"):
        take_over(data_dir, Users())
