"""What a program writes is watched while it runs."""

import asyncio
from pathlib import Path

import pytest

from corral.confine.watch import DiskWatch


class Program:
    """One that runs until it is killed."""

    def __init__(self) -> None:
        self.killed = asyncio.Event()

    def kill(self) -> None:
        self.killed.set()


@pytest.mark.parametrize("trouble", ["too_large", "no_room"])
async def test_a_program_that_writes_too_much_is_ended(tmp_path: Path, trouble: str) -> None:
    has_room, program = True, Program()
    watch = DiskWatch(tmp_path, bytes_max=100_000, entries_max=10, has_room=lambda: has_room)
    async with asyncio.timeout(60), watch.over(program):
        assert not program.killed.is_set()
        if trouble == "too_large":
            (tmp_path / "pack").write_bytes(bytes(200_000))
        else:
            has_room = False
        await program.killed.wait()
    assert watch.trouble == trouble


async def test_what_was_written_last_counts_too(tmp_path: Path) -> None:
    watch = DiskWatch(tmp_path, bytes_max=100_000, entries_max=10, has_room=lambda: True)
    async with watch.over(Program()):
        for number in range(11):
            (tmp_path / f"{number}").touch()
    assert watch.trouble == "too_large"
    watch = DiskWatch(tmp_path, bytes_max=100_000, entries_max=11, has_room=lambda: True)
    async with watch.over(Program()):
        pass
    assert watch.trouble is None
