"""How much disk a workspace takes, whatever its agent has made of it."""

import os
import subprocess
from pathlib import Path

from corral.hands.workspace import Workspaces
from corral.kernel.ids import SessionId
from tests.unit.hands_host.local_host import LocalProvider


def open_folders() -> int:
    """Descriptors of directories: those of files and sockets may be other threads', and come and go."""
    return sum(each.is_dir() for each in Path("/proc/self/fd").iterdir())


def test_a_tree_deeper_than_any_stack_is_counted_as_far_as_it_is_looked_at(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path, provider=LocalProvider())
    near, deep = SessionId("sesn_near"), SessionId("sesn_deep")
    for session_id in (near, deep):
        (tmp_path / session_id / "d").mkdir(parents=True)
        (tmp_path / session_id / "d" / "file").write_bytes(bytes(100_000))
        (tmp_path / session_id / "link").symlink_to("/")
    folder = os.open(tmp_path / deep, os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir("deep", dir_fd=folder)
        inner = os.open("deep", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    before = open_folders()
    try:
        sizes = workspaces.disk_bytes([near, deep, SessionId("sesn_none")])
    finally:  # what cleans up after tests recurses, too
        subprocess.run(["rm", "-rf", tmp_path / deep], check=True)
    assert sizes[SessionId("sesn_none")] == 0
    assert 100_000 <= sizes[near] < 200_000 and sizes[near] <= sizes[deep] < 10_000_000
    assert open_folders() == before
