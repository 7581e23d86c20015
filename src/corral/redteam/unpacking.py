"""Archives that the host unpacks: workspaces, and skills that are uploaded."""

import contextlib
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

from corral.kernel.errors import CorralError
from corral.redteam import bombs
from corral.redteam.inside.ends import Held, Untried, Won
from corral.redteam.stage import Stage
from corral.redteam.traps import WHO, Trap, has_secret, plant
from corral.testing.lab import archive_of, in_chunks, member

__all__ = ["PLAYS"]


def _unpacks(*members: tuple[tarfile.TarInfo, bytes]) -> Callable[[Stage], Awaitable[None]]:
    """An archive that is refused, or unpacked within the workspace alone."""

    async def plays(stage: Stage) -> None:
        trap = Trap(stage)
        secret = str(stage.facts["outside_secret"])
        filled = []
        for info, data in members:
            info = tarfile.TarInfo.frombuf(info.tobuf(), tarfile.ENCODING, "surrogateescape")
            info.name = info.name.replace("TRAP", str(trap.path))
            info.linkname = info.linkname.replace("TRAP", str(trap.path)).replace("SECRET", secret)
            filled.append((info, data))
        try:
            await stage.bring(WHO, in_chunks(archive_of(*filled)))
            answer = "it was unpacked within the workspace"
        except CorralError as error:
            answer = f"refused: {error}"
        said = await stage.bash(
            WHO, "cat out through hard dir/* 2>/dev/null; ls -la | head -40", seconds=20
        )
        await plant(stage, "rm -rf out through hard dir planted suid dev pipe")
        if has_secret(stage, said.encode()):
            raise Won("a file of the machine lies in the workspace")
        trap.look(answer[:200])

    return plays


def _is_refused(archive: Callable[[], AsyncIterator[bytes]]) -> Callable[[Stage], Awaitable[None]]:
    """An archive that is larger within than without."""

    async def plays(stage: Stage) -> None:
        before = _disk_bytes(stage.home(WHO))
        try:
            await stage.bring(WHO, archive())
            answer = "it was taken"
        except CorralError as error:
            answer = f"refused: {str(error)[:160]}"
        used = _disk_bytes(stage.home(WHO)) - before
        await plant(stage, "rm -rf bomb*")
        if used > bombs.DISK_BYTES_MAX:
            raise Won(f"{used >> 20} MB were used")
        raise Held(f"{answer}; {used >> 10} KB were used")

    return plays


def _disk_bytes(folder: Path) -> int:
    total = 0
    for each in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += each.lstat().st_blocks * 512
    return total


def _upload_is_refused(name: str) -> Callable[[Stage], Awaitable[None]]:
    """A skill, by the API."""

    async def plays(stage: Stage) -> None:
        upload = getattr(stage, "upload_skill", None)
        if upload is None:
            raise Untried("there is no server here")
        trap = Trap(stage)
        status, said = await upload(bombs.SKILLS[name](str(trap.path)))
        if 200 <= status < 300:
            raise Won("it was taken for a skill")
        if status >= 500:
            raise Won(f"the server failed: {said[:200]}")
        trap.look(f"refused with {status}: {said[:160]}")

    return plays


_LINK, _HARD, _DEVICE, _PIPE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE

PLAYS: Final = (
    (
        "archives",
        "absolute",
        "has a member of an archive unpacked at the root",
        _unpacks((member("TRAP/planted"), b"x")),
    ),
    (
        "archives",
        "upwards",
        "has one unpacked above the workspace",
        _unpacks((member("../../../../../../../../TRAP/planted"), b"x")),
    ),
    (
        "archives",
        "through-link",
        "has one unpacked through a link before it",
        _unpacks((member("out", _LINK, link="TRAP"), b""), (member("out/planted"), b"x")),
    ),
    (
        "archives",
        "through-two-links",
        "has one unpacked through a link to a link",
        _unpacks(
            (member("dir", _LINK, link="."), b""),
            (member("dir/out", _LINK, link="TRAP"), b""),
            (member("dir/out/planted"), b"x"),
        ),
    ),
    (
        "archives",
        "link-to-secret",
        "has a link to a file of the machine unpacked",
        _unpacks((member("out", _LINK, link="SECRET"), b"")),
    ),
    (
        "archives",
        "hard-link",
        "has a second name of a file of the machine unpacked",
        _unpacks((member("hard", _HARD, link="SECRET"), b"")),
    ),
    (
        "archives",
        "hard-link-through",
        "has one unpacked through a link",
        _unpacks((member("out", _LINK, link="SECRET"), b""), (member("hard", _HARD, link="out"), b"")),
    ),
    ("archives", "device", "has a device unpacked", _unpacks((member("dev", _DEVICE), b""))),
    ("archives", "pipe", "has a pipe unpacked", _unpacks((member("pipe", _PIPE), b""))),
    (
        "archives",
        "setuid",
        "has a program with the setuid bit unpacked",
        _unpacks((member("suid", mode=0o6755), b"x")),
    ),
    (
        "archives",
        "overwrites-link",
        "has a file unpacked over a link",
        _unpacks((member("out", _LINK, link="TRAP/planted"), b""), (member("out"), b"x")),
    ),
    (
        "archives",
        "hole",
        "has a file of a terabyte unpacked, most of it a hole",
        _is_refused(bombs.hole),
    ),
    (
        "archives",
        "members",
        "has more members unpacked than a file system has room for",
        _is_refused(bombs.members),
    ),
    (
        "archives",
        "names",
        "has a name unpacked that is longer than memory",
        _is_refused(bombs.long_name),
    ),
    ("archives", "cut", "has an archive unpacked that ends in the middle", _is_refused(bombs.cut)),
    *(
        ("archives", f"skill-{name}", f"uploads a skill that is {what}", _upload_is_refused(name))
        for name, what in (
            ("bomb", "a thousand times as large unpacked"),
            ("nested", "an archive in an archive"),
            ("upwards", "to be unpacked above its directory"),
            ("absolute", "to be unpacked at the root"),
            ("link", "a link to a file of the machine"),
            ("overlap", "one file under many names"),
            ("lies", "longer than it says"),
        )
    ),
)
"""(group, name, title, what is played)"""
