"""Whoever may write where the supervisor looks cannot keep it waiting."""

import io
import os
from pathlib import Path

import pytest

from corral.supervisor.files import opened, read
from corral.supervisor.logs import LogFile


def test_a_pipe_a_link_and_a_directory_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10)
    assert read(tmp_path / "file", 4) == b"xxxx"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "directory").mkdir()
    for name in ("pipe", "link", "directory", "none"):
        with pytest.raises(OSError, match=name):
            read(tmp_path / name, 4)
        with pytest.raises(OSError, match=name):
            opened(tmp_path / name, os.O_WRONLY)


def test_a_pipe_instead_of_a_log_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    path, shown = tmp_path / "logs" / "hands.log", io.StringIO()
    os.mkfifo(path)
    log = LogFile(path)
    log.show(shown)
    with os.fdopen(log.open(), "wb") as file:
        file.write(b"a line\n")
    log.show(shown)
    assert shown.getvalue() == "a line\n" and path.is_file()
