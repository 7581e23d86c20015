"""What a host notes of mounts, and what travels of it."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from corral.hands.mounted import Mounted
from corral.kernel.ids import SessionId
from corral.kernel.limits import MOUNTS_PER_RECIPE_MAX
from corral.session.call import Mount
from corral.testing.lab import in_chunks

SESSION = SessionId("sesn_1")


class Places:
    """As much of a provider as notes need."""

    def place(self, home: Path, place: str) -> Path:
        return home / place


def mounted(home: Path, *, copies: Sequence[Mount] = ()) -> Mounted:
    """`copies`: as each of them was noted when it came."""
    home.mkdir()
    provider: Any = Places()
    made = Mounted(lambda _: home, provider)
    if copies:
        made.note(SESSION, copies[0])
        (path,) = (home / "notes").iterdir()
        (of_one,) = json.loads(path.read_text()).values()
        notes = {each.mount_id: {**of_one, "path": each.path} for each in copies}
        path.write_text(json.dumps(notes))
    return made


def copy(number: int) -> Mount:
    """Of a repository; one that was attached and detached again and again."""
    path = f"/workspace/{'ä' * 500}{number}"
    return Mount(mount_id=f"sesrsc_{number}", kind="repository", path=path, digest="1", mode="copy")


async def nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def test_what_is_packed_of_notes_can_be_unpacked_however_many_there_were(tmp_path: Path) -> None:
    copies = [copy(number) for number in range(700)]
    here, there = mounted(tmp_path / "here", copies=copies), mounted(tmp_path / "there")
    packed = b"".join([chunk async for chunk in here.packed(SESSION, nothing())])
    assert 1024 * MOUNTS_PER_RECIPE_MAX * 0.9 < len(packed) < 1024 * MOUNTS_PER_RECIPE_MAX + 2048
    assert not [chunk async for chunk in there.unpacked(SESSION, in_chunks(packed, 70_000))]
    assert there.missing(SESSION, copies[-400:]) == []
    assert copies[0].mount_id in there.missing(SESSION, copies)


async def test_copies_of_what_was_detached_are_forgotten_before_they_are_too_many(tmp_path: Path) -> None:
    copies = [copy(number) for number in range(400)]
    here = mounted(tmp_path / "here", copies=copies)
    here.require(SESSION, copies[:5])
    assert here.missing(SESSION, copies) == [each.mount_id for each in copies[5:]]
    for each in copies[:20]:
        here.note(SESSION, each)
    here.require(SESSION, copies[:5])
    assert here.missing(SESSION, copies[:20]) == []  # these few harm nobody
