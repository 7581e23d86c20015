"""Directories for a while: what killed processes left goes, and nobody waits for that on the event loop."""

import threading
from pathlib import Path

import pytest

from corral.confine.scratch import Scratch
from corral.kernel.disk_trees import remove_tree

_GONE = 2**22 + 1  # no process has it: PID_MAX_LIMIT


async def test_what_killed_processes_left_is_removed_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / f"{_GONE}-0011"
    (left / "deep").mkdir(parents=True)
    threads: list[threading.Thread] = []

    def remove(top: Path) -> None:
        threads.append(threading.current_thread())
        remove_tree(top)

    monkeypatch.setattr("corral.confine.scratch.remove_tree", remove)
    scratch = Scratch(tmp_path, make=Path.mkdir)
    assert scratch.free_bytes() > 0 and not threads, "to look at the disk removes nothing"
    async with scratch.folder() as folder:
        assert folder.is_dir() and not left.exists()
    assert not folder.exists()
    assert len(threads) == 2 and threading.main_thread() not in threads
