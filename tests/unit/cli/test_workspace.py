"""Files in, files out: what an agent made never reaches beyond the directory."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from corral.cli.outcome import Problem
from corral.cli.workspace import File, apply_changes, changed, difference, pack, read_tree, unpack


def archive(*members: tuple[str, bytes | str, bytes]) -> bytes:
    """A tar of (name, data or link target, type)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data, kind in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if isinstance(data, bytes):
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            else:
                member.linkname = data
                tar.addfile(member)
    return buffer.getvalue()


def test_a_tree_survives_the_round_trip() -> None:
    tree = {"a.txt": File(b"1\n"), "d/e.sh": File(b"#!/bin/sh\n", is_executable=True), "empty": File(b"")}
    assert unpack(pack(tree)) == tree


def test_what_is_no_plain_file_below_is_left_out() -> None:
    tree = unpack(
        archive(
            ("./kept", b"1", tarfile.REGTYPE),
            ("/etc/passwd", b"1", tarfile.REGTYPE),
            ("../outside", b"1", tarfile.REGTYPE),
            ("a/../../outside", b"1", tarfile.REGTYPE),
            ("link", "/etc/passwd", tarfile.SYMTYPE),
            ("hard", "/etc/passwd", tarfile.LNKTYPE),
            ("device", "", tarfile.CHRTYPE),
            (".git/hooks/pre-commit", b"evil", tarfile.REGTYPE),
            ("x/__pycache__/y.pyc", b"1", tarfile.REGTYPE),
        )
    )
    assert set(tree) == {"kept"}


def test_nothing_came_out_and_nonsense_came_out() -> None:
    assert unpack(b"") == {}
    with pytest.raises(Problem, match="damaged"):
        unpack(b"x" * 2000)


def test_a_repository_keeps_what_git_ignores(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name, text in {".gitignore": ".env\n", ".env": "SECRET=1", "main.py": "x"}.items():
        (tmp_path / name).write_text(text)
    assert set(read_tree(tmp_path)) == {".gitignore", "main.py"}


def test_a_plain_directory_goes_in_without_caches_and_links(tmp_path: Path) -> None:
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "x").write_text("1")
    (tmp_path / "run").write_text("1")
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert read_tree(tmp_path) == {"run": File(b"1", is_executable=True)}
    with pytest.raises(Problem, match="no directory"):
        read_tree(tmp_path / "absent")


def test_difference_reads_like_a_patch() -> None:
    before = {"a": File(b"1\n2\n"), "gone": File(b"x\n"), "bin": File(b"\xff"), "nul": File(b"x\n")}
    after = {"a": File(b"1\n3\n"), "new": File(b"y\n"), "bin": File(b"\xfe"), "nul": File(b"x\0\n")}
    assert changed(before, after) == ["a", "bin", "gone", "new", "nul"]
    lines = difference(before, after)
    assert lines[:6] == ["--- a/a", "+++ b/a", "@@ -1,2 +1,2 @@", " 1", "-2", "+3"]
    assert {"binary file bin: 1 -> 1 bytes", "binary file nul: 2 -> 3 bytes"} <= set(lines)
    assert {"--- a/gone", "+++ /dev/null", "--- /dev/null", "+++ b/new"} <= set(lines)


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"1\n2", b"1\n3"), (b"1\n2", b"1\n2\n"), (b"1\n2\n", b"1\n2"), (b"1\n2", b"0\n2"), (b"1", b"1\n2")],
)
def test_a_file_without_a_last_line_end_can_be_patched(before: bytes, after: bytes, tmp_path: Path) -> None:
    lines = difference({"a": File(before)}, {"a": File(after)})
    assert "\\ No newline at end of file" in lines
    (tmp_path / "a").write_bytes(before)
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input="\n".join([*lines, ""]).encode(), check=True)
    assert (tmp_path / "a").read_bytes() == after


def test_apply_writes_adds_and_removes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "gone").write_text("1")
    before = read_tree(tmp_path)
    after = {"a": File(b"2"), "d/e/f": File(b"3", is_executable=True)}
    assert apply_changes(tmp_path, before, after) == ["a", "d/e/f", "gone"]
    assert read_tree(tmp_path) == after


def test_apply_does_not_overwrite_what_changed_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = read_tree(tmp_path)
    (tmp_path / "a").write_text("mine")
    with pytest.raises(Problem, match="'a' changed"):
        apply_changes(tmp_path, before, {"a": File(b"theirs"), "b": File(b"")})
    assert (tmp_path / "a").read_text() == "mine"
    assert not (tmp_path / "b").exists()


def test_apply_never_walks_through_a_link(tmp_path: Path) -> None:
    outside, directory = tmp_path / "outside", tmp_path / "directory"
    outside.mkdir()
    directory.mkdir()
    (directory / "sub").symlink_to(outside)
    with pytest.raises(OSError):
        apply_changes(directory, {}, {"sub/planted": File(b"1")})
    assert not list(outside.iterdir())


def test_only_line_feeds_end_the_lines_of_a_diff() -> None:
    lines = difference({"a": File(b"one\x0ctwo\n")}, {"a": File("one\x0ctwo\u2028three\n".encode())})
    assert [line for line in lines if line[:1] in "+-"][2:] == ["-one\x0ctwo", "+one\x0ctwo\u2028three"]
