"""Who may be named, who may name them, and what they have to be able to read."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.config import Config
from corral.kernel.errors import InvalidRequest
from corral.supervisor.users import User, Users
from tests.contract.ordinary_user import python_of_all

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
USER, EGRESS = 65_413, 65_414


def users_of(user: str, egress: str, data_dir: Path = Path("/nowhere")) -> Users:
    return Users.of(Config(data_dir=data_dir, user=user, egress_user=egress))


def test_without_settings_nothing_changes() -> None:
    users = Users.of(Config(data_dir=Path("/nowhere")))
    before = os.getresuid(), os.getresgid(), os.getgroups()
    users.step_down()
    with users.as_root(), users.acting_as("egress"):
        assert (os.getresuid(), os.getresgid(), os.getgroups()) == before
    assert not users and users.identity("server") == {} and users.control_groups("hands") == ()
    assert users.environment("hands", {"XDG_DATA_HOME": "/x"}) == {"XDG_DATA_HOME": "/x"}


@pytest.mark.parametrize(
    ("user", "egress", "said"),
    [
        ("nobody-has-this-name", "1", "user: there is no user 'nobody-has-this-name'"),
        ("root", "65414", "user: 'root' is root"),
        ("0", "65414", "user: '0' is root"),
        ("65414", "65414", "are the same"),
        ("4294967295", "65414", "user: .* below 4294967295, not '4294967295'"),
        ("65413", "99999999999999999999", "egress_user: .* not '99999999999999999999'"),
    ],
)
def test_who_cannot_be_named(user: str, egress: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        users_of(user, egress)


def test_only_root_can_start_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InvalidRequest, match=r"only root .*CORRAL_USER, CORRAL_EGRESS_USER"):
        users_of(str(USER), str(EGRESS))


@as_root
def test_a_supervisor_acts_as_its_user(tmp_path: Path) -> None:
    """In a process of its own: it gives up its groups."""
    program = f"""
import os
from corral.supervisor.users import User, Users
users = Users(User("", "u", {USER}, {USER}, "/"), User("", "e", {EGRESS}, {EGRESS}, "/"))
users.step_down()
print(os.getresuid(), os.getresgid(), os.getgroups())
with users.acting_as("egress"):
    print(os.getresuid(), os.getresgid())
    with users.as_root():
        print(os.getresuid(), os.getresgid())
    print(os.getresuid())
print(os.getresuid())
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    user, egress = (0, USER, 0), (0, EGRESS, 0)
    assert said.stdout.splitlines() == [
        f"{user} {user} []",
        f"{egress} {egress}",
        f"{(0, 0, 0)} {(0, 0, 0)}",
        str(egress),
        str(user),
    ]


@as_root
def test_who_acts_as_a_user_signals_its_processes_alone() -> None:
    """By its real user, which stays root's, it could signal whatever is root's."""
    program = f"""
import os, signal, subprocess, sys
from corral.supervisor.adopt import end
from corral.supervisor.users import User, Users, signalled
users = Users(User("", "u", {USER}, {USER}, "/"), User("", "e", {EGRESS}, {EGRESS}, "/"))
def full():
    raise BlockingIOError("Resource temporarily unavailable")

sleep = ["sleep", "600"]
of_root = subprocess.Popen(sleep)
others, theirs, ended = (subprocess.Popen(sleep, user=uid) for uid in ({EGRESS}, {USER}, {USER}))
try:
    users.step_down()
    for each in (of_root, others):
        end(each.pid, 30.0)
        assert not signalled(lambda: os.kill(each.pid, signal.SIGKILL)) and each.poll() is None
    assert not signalled(lambda: os.kill(1 << 40, signal.SIGKILL))
    fork, os.fork = os.fork, full
    assert not signalled(lambda: os.kill(theirs.pid, signal.SIGKILL)) and theirs.poll() is None
    os.fork = fork
    end(ended.pid, 30.0)
    assert signalled(lambda: os.kill(theirs.pid, signal.SIGKILL))
    assert (ended.wait(30), theirs.wait(30)) == (-signal.SIGTERM, -signal.SIGKILL)
    assert (os.getresuid(), os.getresgid()) == ((0, {USER}, 0), (0, {USER}, 0))
finally:
    os.seteuid(0)
    for each in (of_root, others, theirs, ended):
        each.kill()
        each.wait()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@as_root
def test_who_acts_as_the_owner_of_a_file(open_dir: Path) -> None:
    """Root does; anybody else goes on as who it is."""
    (open_dir / "theirs").touch()
    os.chown(open_dir / "theirs", EGRESS, EGRESS)
    program = f"""
import os
from pathlib import Path
from corral.supervisor.users import Users
for name in ("theirs", "missing"):
    with Users().acting_as_owner(Path({str(open_dir)!r}, name)):
        print(os.geteuid(), end=" ")
print(os.geteuid())
"""
    python, path = python_of_all()
    for uid, seen in ((0, f"{EGRESS} 0 0"), (USER, f"{USER} {USER} {USER}")):
        said = subprocess.run(
            [python, "-c", program],
            user=uid,
            group=uid,
            extra_groups=[],
            env={"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.split() == seen.split()


@as_root
def test_groups_of_root_open_nothing(open_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What root's group may read its users may not, though root has that group."""
    monkeypatch.setattr("corral.supervisor.users._program", lambda: [Path("/bin/sh")])
    (open_dir / "key.pem").touch(mode=0o640)
    users = users_of(str(USER), str(EGRESS))
    groups = os.getgroups()
    os.setgroups([0])
    try:
        with pytest.raises(InvalidRequest, match="tls_key"):
            users.refuse_unreachable(Config(data_dir=open_dir / "d", tls_key=open_dir / "key.pem"))
    finally:
        os.setgroups(groups)


def test_a_process_has_its_users_home() -> None:
    users = Users(User("user", "u", USER, USER, "/home/u"), User("egress_user", "e", EGRESS, EGRESS, "/e"))
    root = {"HOME": "/root", "USER": "root", "XDG_CACHE_HOME": "/root/.cache", "PATH": "/bin"}
    assert users.environment("egress", root) == {"HOME": "/e", "USER": "e", "PATH": "/bin"}
    assert users.identity("hands") == {"user": USER, "group": USER, "extra_groups": [], "cwd": "/"}


@as_root
class TestWhatTheyCanReach:
    @pytest.fixture
    def refused(self, open_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        """What is said of a configuration."""
        users = users_of(str(USER), str(EGRESS))
        monkeypatch.setattr("corral.supervisor.users._program", lambda: [Path("/bin/sh")])

        def refused(data_dir: Path = open_dir / "d", **settings: Path) -> str:
            with pytest.raises(InvalidRequest) as said:
                users.refuse_unreachable(Config(data_dir=data_dir, **settings))  # type: ignore[arg-type]
            assert os.geteuid() == 0
            return str(said.value)

        users.refuse_unreachable(Config(data_dir=open_dir / "d"))
        return refused

    def test_files_of_settings(self, refused: Callable[..., str], open_dir: Path) -> None:
        key = open_dir / "key.pem"
        key.touch(mode=0o600)
        assert refused(tls_key=key).startswith(f"tls_key: '{USER}' (user) cannot read '{key}'")
        assert refused(egress_ca=key).startswith(f"egress_ca: '{USER}' (user)")
        os.chown(key, 0, USER)
        key.chmod(0o440)
        assert refused(egress_ca=key).startswith(f"egress_ca: '{EGRESS}' (egress_user)")

    @pytest.mark.parametrize("name", ["egress_ca", "mcp_ca", "repository_ca", "vault_key_file"])
    @pytest.mark.parametrize("whose", ["file", "folder"])
    def test_what_egress_goes_by_is_not_the_servers_to_change(
        self, refused: Callable[..., str], open_dir: Path, name: str, whose: str
    ) -> None:
        folder = open_dir / "settings"
        folder.mkdir()
        file, read_by_all = folder / "file", 0 if name == "vault_key_file" else 0o044
        file.touch()
        os.chown(file, EGRESS, EGRESS)
        file.chmod(0o600 | read_by_all)
        changed = folder if whose == "folder" else file
        changed.chmod(changed.stat().st_mode | 0o002)
        assert f"{name}: '{USER}' (user) could change '{changed}'" in refused(**{name: file})

    def test_keys_of_the_vault(self, refused: Callable[..., str], open_dir: Path) -> None:
        keys = open_dir / "vault.keys"
        keys.touch(mode=0o600)
        assert "(egress_user) cannot read" in refused(vault_key_file=keys)
        os.chown(keys, USER, USER)
        assert "for egress_user alone" in refused(vault_key_file=keys)
        os.chown(keys, EGRESS, EGRESS)
        users_of(str(USER), str(EGRESS)).refuse_unreachable(
            Config(data_dir=open_dir / "d", vault_key_file=keys)
        )

    @pytest.mark.usefixtures("refused")
    def test_keys_of_the_vault_in_a_directory_of_egress(self, open_dir: Path) -> None:
        keys = open_dir / "keys"
        keys.mkdir(mode=0o700)
        (keys / "vault.keys").touch(mode=0o600)
        for path in (keys, keys / "vault.keys"):
            os.chown(path, EGRESS, EGRESS)
        users_of(str(USER), str(EGRESS)).refuse_unreachable(
            Config(data_dir=open_dir / "d", vault_key_file=keys / "vault.keys")
        )

    def test_the_way_to_the_data_directory(self, refused: Callable[..., str], open_dir: Path) -> None:
        (open_dir / "closed").mkdir(mode=0o700)
        assert f"cannot get into '{open_dir / 'closed'}'" in refused(open_dir / "closed" / "d")

    @pytest.mark.parametrize("mode", [0o700, 0o777])
    def test_the_installation(
        self, refused: Callable[..., str], open_dir: Path, monkeypatch: pytest.MonkeyPatch, mode: int
    ) -> None:
        (open_dir / "lib").mkdir()
        (open_dir / "lib" / "corral.py").touch()
        (open_dir / "lib").chmod(mode)
        program = open_dir / "lib" / "corral.py"
        monkeypatch.setattr("corral.supervisor.users._program", lambda: [program])
        said = "could change" if mode == 0o777 else "cannot read"
        assert f"{said} '{program.parent}'" in refused()

    def test_an_installation_that_can_be_replaced(
        self, refused: Callable[..., str], open_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = open_dir / "lib" / "corral" / "__init__.py"
        program.parent.mkdir(parents=True)
        program.touch()
        (open_dir / "link").symlink_to(open_dir / "lib")
        monkeypatch.setattr(
            "corral.supervisor.users._program", lambda: [open_dir / "link" / "corral" / "__init__.py"]
        )
        users_of(str(USER), str(EGRESS)).refuse_unreachable(Config(data_dir=open_dir / "d"))
        os.chown(open_dir / "lib", USER, USER)
        assert f"could change '{open_dir / 'l'}" in refused()
