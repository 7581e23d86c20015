from pathlib import Path

import pytest

from corral.hands.providers.binary import Bwrap, PythonInside, diagnose
from corral.hands.providers.home import PATHS
from corral.hands.providers.launch import Blueprint, _refuse_traps, _staged, launch_command


def command(
    tmp_path: Path, *, options: frozenset[str], stage: Path | None, prefix: Path | None = None
) -> list[str]:
    (tmp_path / "inside" / "etc").mkdir(parents=True)
    (tmp_path / "inside" / "etc" / "passwd").touch()
    blueprint = Blueprint(
        bwrap=Bwrap(
            path=Path("/usr/bin/bwrap"), version=(0, 9), options=options, roots=(Path("/usr/bin"),)
        ),
        python=PythonInside(path=Path("/usr/bin/python3"), prefix=prefix),
        inside=tmp_path / "inside",
        stage=stage,
    )
    home = tmp_path / "sesn_1"
    home.mkdir()
    return launch_command(blueprint, home=home, program=["true"], seccomp_fd=5, info_fd=6, procs_files=[])


def test_no_mount_point_lies_in_a_tree_the_agent_writes() -> None:
    places = list(PATHS.values())
    _refuse_traps(["/usr", *places], places)
    for trap in ("/workspace/skills", "/mnt/session/outputs/a/b"):
        with pytest.raises(AssertionError, match="mount point"):
            _refuse_traps([trap], places)
    for one in places:
        for other in places:
            assert Path(one) not in Path(other).parents


def test_a_prefix_below_the_workspace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="mount point"):
        command(tmp_path, options=frozenset(), stage=None, prefix=Path("/workspace/python"))


def test_options_are_used_only_where_bwrap_has_them(tmp_path: Path) -> None:
    old = command(tmp_path / "old", options=frozenset(), stage=None)
    new = command(
        tmp_path / "new", options=frozenset({"--disable-userns", "--size", "--perms"}), stage=None
    )
    for option in ("--disable-userns", "--size", "--perms"):
        assert option not in old and option in new
    assert old[0] == "/usr/bin/bwrap"
    assert old.index("--seccomp") < old.index("--")


def test_as_root_the_uid_is_dropped_before_bwrap(tmp_path: Path) -> None:
    """pytest's directories are closed to others: they are staged in a private mount namespace."""
    staged = command(tmp_path, options=frozenset(), stage=tmp_path / "stage")
    assert staged[:4] == ["unshare", "--mount", "--propagation", "private"]
    script = staged[-1]
    assert (
        script.index("mount --bind")
        < script.index("setpriv --reuid=65522")
        < script.index("/usr/bin/bwrap")
    )
    assert f"--bind {tmp_path}/stage/0/sesn_1/files /workspace" in script


def test_directories_of_one_name_are_staged_apart(tmp_path: Path) -> None:
    """As two `site-packages` are; what lies side by side stays so."""
    folders = [tmp_path / "a" / "same", tmp_path / "b" / "same", tmp_path / "b" / "beside"]
    for folder in folders:
        folder.mkdir(parents=True)
    tmp_path.chmod(0o700)
    blueprint = Blueprint(
        bwrap=Bwrap(path=Path("/usr/bin/bwrap"), version=(0, 9), options=frozenset(), roots=()),
        python=PythonInside(path=Path("/usr/bin/python3"), prefix=None),
        inside=folders[0],
        stage=tmp_path / "stage",
    )
    one, two, beside = (_staged(blueprint, folders)[folder] for folder in folders)
    assert one != two and one.name == two.name and two.parent == beside.parent


@pytest.mark.parametrize(
    ("switches", "stderr", "expected"),
    [
        ({"apparmor_restrict_unprivileged_userns": "1"}, "bwrap: setting up uid map: Permission denied",
         "/etc/apparmor.d/corral-bwrap"),
        ({"unprivileged_userns_clone": "0"}, "bwrap: No permissions to create a new namespace",
         "sysctl -w kernel.unprivileged_userns_clone=1"),
        ({"max_user_namespaces": "0"}, "bwrap: Creating new namespace failed", "user.max_user_namespaces="),
        ({}, "bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "systempaths=unconfined"),
        ({}, "bwrap: No permissions to create a new namespace", "seccomp=unconfined"),
        ({}, "bwrap: Can't find source path /root/x: Permission denied", "readable to other users"),
        ({}, "bwrap: something else", "mend what it reports"),
    ],
)  # fmt: skip
def test_each_refusal_has_its_remedy(
    switches: dict[str, str], stderr: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "corral.hands.providers.binary._switch", lambda path: switches.get(path.rsplit("/", 1)[1], "1?")
    )
    error = diagnose(stderr, Path("/usr/bin/bwrap"))
    assert expected in error.remedy and error.found == stderr
    assert "/" not in error.message, "it may be shown to anybody"
    assert stderr in str(error) and error.remedy in str(error), "the log says it all"
