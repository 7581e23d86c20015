"""Giving a data directory to the users that the settings name: once, when it is not theirs yet.

    <data_dir>, and all below it     `user`
    <data_dir>/egress/private        `egress_user`, mode 0700

Rules of this file:
- The tree is hostile ground: agents wrote parts of it, and so may have whoever it belonged to. It is walked
  by descriptors and through no link; a file of root's with two names may be a file of the machine, and is
  refused.
- Only known owners lose their files: root, the sandboxes of root's hands, and who the directory belonged
  to. Nothing that is egress's becomes `user`'s, wherever it was moved to.
- The top changes hands last: killed before, it is done again.
"""

import contextlib
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final

from corral.daemon import private_path
from corral.hands.providers.home import HOST_UID
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import HANDS_STOP_SECONDS
from corral.process import Role
from corral.supervisor.adopt import end, lock_holder
from corral.supervisor.datadir import lock_data_dir
from corral.supervisor.users import User, Users

__all__ = ["take_over"]

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ROLES: Final[tuple[Role, ...]] = ("hands", "egress")


def take_over(data_dir: Path, users: Users) -> None:
    """Make it theirs; it is made if missing. Repeat: safe, and nothing is done again.

    What still works there for other users is ended. Raises InvalidRequest: it cannot be done; Conflict:
    somebody serves it.
    """
    if users.user is None:
        _refuse_others(data_dir)
        return
    if _is_theirs(data_dir, users):
        return
    try:
        with contextlib.ExitStack() as stack:
            with users.acting_as_owner(data_dir):  # whose lock may be a link to a file of the machine
                stack.enter_context(lock_data_dir(data_dir))
            for role in _ROLES:
                with users.acting_as_owner(private_path(data_dir, role)):
                    if (pid := lock_holder(data_dir, role)) is not None:
                        end(pid, HANDS_STOP_SECONDS)
            _give(data_dir, users.user, users.egress)
    except RecursionError as error:
        raise InvalidRequest(
            f"directories in {str(data_dir)!r} lie too deep in each other: remove them"
        ) from error
    except OSError as error:
        raise InvalidRequest(
            f"the data directory {str(data_dir)!r} cannot be given to {users.user}: {error.strerror};"
            " chown it by hand, or choose another --data-dir"
        ) from error


def _refuse_others(data_dir: Path) -> None:
    """Raises InvalidRequest if the settings once named users, and do not now."""
    with contextlib.suppress(OSError):
        private = private_path(data_dir, "egress").stat().st_uid
        if private not in (os.geteuid(), data_dir.stat().st_uid):
            raise InvalidRequest(
                f"the data directory {str(data_dir)!r} is of two users: start as root with user and"
                " egress_user (CORRAL_USER, CORRAL_EGRESS_USER) set as before"
            )


def _is_theirs(data_dir: Path, users: Users) -> bool:
    try:
        if data_dir.lstat().st_uid != users.user.uid:  # type: ignore[union-attr]
            return False
        return users.egress is None or private_path(data_dir, "egress").lstat().st_uid == users.egress.uid
    except FileNotFoundError:
        return False


def _give(data_dir: Path, user: User, egress: User | None) -> None:
    top = os.open(data_dir, _FOLDER)
    try:
        before = os.fstat(top)
        if egress is not None:
            folder = _made(top, "egress", user, mode=0o711)
            try:
                private = _made(folder, "private", user, mode=0o700)
            finally:
                os.close(folder)
            try:
                owners = {0, user.uid, before.st_uid, os.fstat(private).st_uid}
                _walk(private, egress, owners, "egress/private")
                os.fchmod(private, 0o700)
                os.fchown(private, egress.uid, egress.gid)
            finally:
                os.close(private)
        if before.st_uid != user.uid:
            _walk(top, user, {0, HOST_UID, before.st_uid, user.uid}, "", egress=egress)
            os.fchmod(top, stat.S_IMODE(before.st_mode) | 0o711)
            os.fchown(top, user.uid, user.gid)
    finally:
        os.close(top)


def _made(parent: int, name: str, user: User, *, mode: int) -> int:
    """A directory of that name, made for `user` if missing; a descriptor of it."""
    is_new = True
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        is_new = False
    found = os.open(name, _FOLDER, dir_fd=parent)
    os.fchmod(found, mode)
    if is_new:
        os.fchown(found, user.uid, user.gid)
    return found


def _walk(
    folder: int, to: User, owners: Collection[int], where: str, *, egress: User | None = None
) -> None:
    """Give away what is in the folder, deepest first. egress: whose private directory is passed by. Raises
    InvalidRequest."""
    for path, folders, files, fd in os.fwalk(".", topdown=False, follow_symlinks=False, dir_fd=folder):
        for name in (*folders, *files):
            place = os.path.normpath(f"{where}/{path}/{name}").lstrip("/")
            if egress is not None and f"{place}/".startswith("egress/private/"):
                continue
            found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            try:
                _give_one(found, to, owners, place)
            finally:
                os.close(found)


def _give_one(found: int, to: User, owners: Collection[int], place: str) -> None:
    known = os.fstat(found)
    if known.st_uid == to.uid:
        return
    if known.st_uid not in owners:
        raise InvalidRequest(
            f"{place!r} in the data directory belongs to uid {known.st_uid}, whom nobody named: chown or"
            " remove it"
        )
    if known.st_uid == 0 and known.st_nlink > 1 and not stat.S_ISDIR(known.st_mode):
        raise InvalidRequest(
            f"{place!r} in the data directory is a file of root's with {known.st_nlink} names, maybe one"
            " elsewhere: remove it, or copy it"
        )
    os.chown(f"/proc/self/fd/{found}", to.uid, to.gid)  # what we hold, whatever has its name by now
