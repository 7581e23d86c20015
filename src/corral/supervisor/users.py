"""Which user each process runs as, when root starts them: `--user` the server and the hands,
`--egress-user` the egress process, so that nobody but that one can read the vault's keys.

Rules of this file:
- The supervisor stays root, to start the next process; and acts as `user` but for that moment. Everything
  below the data directory is that user's to change, so nothing there may be opened, written or signalled
  with more rights than its own.
- Users are compared by number. Groups say nothing: they may have other members, so what two processes
  share they share otherwise (`corral.daemon`).
- Without these settings everything is a no-op, and everybody is who started us.
"""

import contextlib
import importlib.util
import os
import pwd
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from corral.config import SETTINGS, Config
from corral.kernel.errors import InvalidRequest
from corral.process import Role

__all__ = ["User", "Users", "signalled"]

_EGRESS_FILES: Final = frozenset(("egress_ca", "mcp_ca", "repository_ca", "vault_key_file"))  # it goes by
_EGRESS_ALONE: Final = "vault_key_file"
_IDS: Final = 2**32 - 1  # the last number says "nobody is changed", to chown and its like
_OURS: Final = "corral"
_THEIRS: Final = ("uvicorn", "h11")  # of what we are installed with


@dataclass(frozen=True, slots=True)
class User:
    """`setting`: which of them named it, and `name`: how."""

    setting: str
    name: str
    uid: int
    gid: int
    home: str

    @classmethod
    def named(cls, setting: str, name: str) -> "User":
        """By name or number; a number needs no entry, and is its group's number then. Raises InvalidRequest
        if there is none, or it is root."""
        try:
            entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
            found = cls(setting, name, entry.pw_uid, entry.pw_gid, entry.pw_dir)
        except KeyError:
            if not name.isdecimal():
                raise InvalidRequest(
                    f"{setting}: there is no user {name!r} on this machine; make one, as with"
                    f" `useradd --system {name}`, or give a number"
                ) from None
            if int(name) >= _IDS:
                raise InvalidRequest(f"{setting}: users have numbers below {_IDS}, not {name!r}") from None
            found = cls(setting, name, int(name), int(name), "/")
        if 0 in (found.uid, found.gid):
            raise InvalidRequest(f"{setting}: {name!r} is root, or of its group: name an ordinary user")
        return found

    def __str__(self) -> str:
        return f"{self.name!r} ({self.setting})"


class Users:
    """Of one supervisor, which has one thread. False if no settings name any."""

    def __init__(self, user: User | None = None, egress: User | None = None) -> None:
        self.user = user
        self.egress = egress

    @classmethod
    def of(cls, config: Config) -> "Users":
        """Raises InvalidRequest: there is no such user, or we are not root."""
        if config.user is None:
            return cls()
        user = User.named("user", config.user)
        egress = User.named("egress_user", config.egress_user) if config.egress_user else None
        if egress is not None and egress.uid == user.uid:
            raise InvalidRequest(
                f"user and egress_user are the same ({config.user!r}, {config.egress_user!r}): who can read"
                " the vault's keys must be another"
            )
        if os.geteuid() != 0:
            raise InvalidRequest(
                f"only root can start processes as {config.user!r}: start Corral as root, or unset user and"
                " egress_user (CORRAL_USER, CORRAL_EGRESS_USER), and all of it runs as who starts it"
            )
        return cls(user, egress)

    def __bool__(self) -> bool:
        return self.user is not None

    def of_role(self, role: Role) -> User | None:
        return self.egress if role == "egress" else self.user

    # -- who we are -----------------------------------------------------------------------------------
    def step_down(self) -> None:
        """From here on we act as `user`, and go back for a moment only. Raises InvalidRequest."""
        if self.user is not None:
            _become(self.user.uid, self.user.gid)

    @contextlib.contextmanager
    def acting_as(self, role: Role) -> Iterator[None]:
        """What is a role's is touched with no more rights than its process has."""
        with self._as(self.of_role(role)):
            yield

    @contextlib.contextmanager
    def acting_as_owner(self, path: Path) -> Iterator[None]:
        """Likewise, before it is theirs; as we are if nothing is there, or we are not root."""
        owner = None
        with contextlib.suppress(FileNotFoundError):
            known = path.lstat()
            owner = User("", "", known.st_uid, known.st_gid, "/")
        with self._as(owner if os.geteuid() == 0 else None):
            yield

    @contextlib.contextmanager
    def as_root(self) -> Iterator[None]:
        """To start a process, and nothing else."""
        with self._as(_ROOT if self.user else None):
            yield

    @contextlib.contextmanager
    def _as(self, user: User | None) -> Iterator[None]:
        if user is None:
            yield
            return
        before = os.geteuid(), os.getegid()
        _become(user.uid, user.gid)
        try:
            yield
        finally:
            _become(*before)

    # -- who they are ---------------------------------------------------------------------------------
    def identity(self, role: Role) -> Mapping[str, Any]:
        """Of the process of a role, for Popen. Not its directory: what lies there could be imported."""
        user = self.of_role(role)
        return {"user": user.uid, "group": user.gid, "extra_groups": [], "cwd": "/"} if user else {}

    def environment(self, role: Role, inherited: Mapping[str, str]) -> dict[str, str]:
        """Its own home, not root's."""
        user = self.of_role(role)
        if user is None:
            return dict(inherited)
        kept = {name: value for name, value in inherited.items() if not name.startswith("XDG_")}
        return {**kept, "HOME": user.home, "USER": user.name}

    def control_groups(self, role: Role) -> Sequence[Path]:
        """For root: prepare what hands need to bound their sandboxes. Files that its pid is written to."""
        if role != "hands" or self.user is None:
            return ()
        from corral.hands.providers.cgroup import delegate  # here: a supervisor without users needs none

        return delegate(self.user.uid, self.user.gid)

    # -- what they can reach --------------------------------------------------------------------------
    def refuse_unreachable(self, config: Config) -> None:
        """What every process needs to read, and nobody may write. Raises InvalidRequest."""
        program = list(_program())
        files = {
            name: path
            for name in SETTINGS
            if name != "data_dir" and isinstance(path := getattr(config, name), Path)
        }
        for user in filter(None, (self.user, self.egress)):
            with self._as(user):
                if closed := _closed(config.data_dir.parent, mode=os.X_OK):
                    raise InvalidRequest(
                        f"{user} cannot get into {str(closed)!r}, so not to the data directory: choose"
                        " another --data-dir, as below /var/lib, or open that one to passers-by (chmod o+x)"
                    )
                for path in program:
                    _refuse_program(user, path)
                for name, path in files.items():
                    _refuse_file(user, name, path, is_egress=user is self.egress)


_ROOT: Final = User("", "root", 0, 0, "/root")


def signalled(send: Callable[[], None]) -> bool:
    """Whether `send` could signal a process, with the rights of who we act as.

    Those of our real user count as well, which stays root: so unless we are who we act as, another process
    sends, which is that user for good.
    """
    if os.getuid() == os.geteuid():
        try:
            send()
        except (OSError, OverflowError):  # it is gone, or another's; or there is no such number
            return False
        return True
    try:
        child = os.fork()
    except OSError:  # the machine is full: whoever must end something tries again
        return False
    if child == 0:
        try:
            uid, gid = os.geteuid(), os.getegid()
            os.seteuid(0)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            send()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _become(uid: int, gid: int) -> None:
    """For root alone. Without the groups that it has. Raises InvalidRequest."""
    try:
        os.seteuid(0)  # who may change the others
        os.setgroups([])
        os.setegid(gid)
        os.seteuid(uid)
    except OSError as error:
        raise InvalidRequest(
            f"root cannot become uid {uid} here ({error.strerror}): it needs CAP_SETUID and CAP_SETGID"
        ) from error


def _program() -> Iterable[Path]:
    """What shows whether all that we run from can be read."""
    yield Path(sys.executable).resolve()
    yield Path(sys.executable)
    yield Path(os.__file__)
    for name in (_OURS, *_THEIRS):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin)


def _refuse_program(user: User, path: Path) -> None:
    if closed := _closed(path):
        raise InvalidRequest(
            f"{user} cannot read {str(closed)!r}, and Corral runs from below it: install it where every"
            " user can read it, as below /opt"
        )
    for own in (path, *path.absolute().parents, *path.resolve().parents):
        if _can_change(own):
            raise InvalidRequest(
                f"{user} could change {str(own)!r}, and root runs what is there: give the installation to"
                " root, as with `chown -R root:root`"
            )


def _can_change(path: Path) -> bool:
    """Whether who we act as can, and give its name to something else; not what others have where all may
    write, as in /tmp."""
    if not os.access(path, os.W_OK, effective_ids=True):
        return False
    known = path.stat()
    is_sticky = stat.S_ISDIR(known.st_mode) and known.st_mode & stat.S_ISVTX
    return not is_sticky or known.st_uid == os.geteuid()


def _refuse_file(user: User, name: str, path: Path, *, is_egress: bool) -> None:
    """name: of the setting that names it."""
    closed = _closed(path)
    if closed and (name in _EGRESS_FILES if is_egress else name != _EGRESS_ALONE):
        raise InvalidRequest(f"{name}: {user} cannot read {str(closed)!r}, and its process needs to")
    if name == _EGRESS_ALONE and not is_egress and not closed and path.exists():
        raise InvalidRequest(
            f"{name}: {user} can read {str(path)!r}, which is for egress_user alone: chown it to that one,"
            " and chmod 600"
        )
    if name in _EGRESS_FILES and not is_egress:
        for own in (path, *path.absolute().parents, *path.resolve().parents):
            if _can_change(own):
                raise InvalidRequest(
                    f"{name}: {user} could change {str(own)!r}, and egress_user goes by it: give it to"
                    " root, as with `chown root:root`"
                )


def _closed(path: Path, *, mode: int = os.R_OK) -> Path | None:
    """The first part of the path that stops who we act as; None if nothing does, or nothing is there."""
    for part in (*reversed(path.absolute().parents), path):
        try:
            part.stat()
        except FileNotFoundError:
            return None
        except PermissionError:
            return part
        if not os.access(part, mode if part is path else os.X_OK, effective_ids=True):
            return part
    return None
