"""Attempts in two parts: what the agent plants, and what the host then does with it. Whether it worked is
seen on the host alone.
"""

import asyncio
import contextlib
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.kernel.errors import CorralError
from corral.redteam import bombs, servers
from corral.redteam.attack import Finding, Verdict
from corral.redteam.inside.ends import Held, Untried, Won
from corral.redteam.stage import Stage
from corral.testing.lab import archive_of, in_chunks, member

__all__ = ["SCENARIOS", "Scenario", "play"]

_WHO: Final = "limited"
_SECONDS: Final = 60.0  # for what the host does; longer is a host that was held up
_ROUNDS: Final = 4
_MOUNT_POINTS: Final = (
    "mnt tmp proc dev usr etc run var session outputs tool-outputs uploads skills workspace memory"
)
_SWAPS: Final = """
import os, sys, time
place, target, until = sys.argv[1], sys.argv[2], time.monotonic() + 15
while time.monotonic() < until and os.path.exists("go"):
    try:
        os.mkdir(place); open(place + "/a", "w").close(); os.rename(place, place + ".d")
        os.symlink(target, place); os.unlink(place)
        os.rename(place + ".d", place); os.unlink(place + "/a"); os.rmdir(place)
    except OSError:
        time.sleep(0.001)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """title: after "it". plays: raises Held, Won or Untried."""

    title: str
    plays: Callable[[Stage], Awaitable[None]]


async def play(stage: Stage, names: Sequence[str], *, show: Callable[[str], None]) -> list[Finding]:
    findings = []
    for number, name in enumerate(names, start=1):
        scenario = SCENARIOS[name]
        verdict: Verdict = "untried"
        try:
            async with asyncio.timeout(_SECONDS):
                await scenario.plays(stage)
            why = "it ended without a word"
        except Won as won:
            verdict, why = "escaped", str(won)
        except Held as held:
            verdict, why = "held", str(held)
        except TimeoutError:
            verdict, why = "escaped", f"the host was held up for {_SECONDS:.0f} s"
        except (Untried, CorralError) as untried:
            why = str(untried)
        findings.append(Finding(name=name, title=scenario.title, verdict=verdict, why=why))
        if number % 8 == 0 or number == len(names):
            show(f"{number}/{len(names)} scenarios")
    return findings


# -- what the host sees afterwards -------------------------------------------------------------------------


class _Trap:
    """A directory of the machine that everybody may write, and nobody has a reason to."""

    def __init__(self, stage: Stage) -> None:
        self.path = Path(str(stage.facts["outside"])).parent / "trap"
        self.path.mkdir(exist_ok=True)
        self.path.chmod(0o777)

    def look(self, what: str) -> None:
        """Raises Won, Held."""
        found = sorted(each.name for each in self.path.iterdir())
        if found:
            raise Won(f"{found[0]} was made on the machine")
        raise Held(what)


async def _packed(stage: Stage) -> bytes:
    data = bytearray()
    async for chunk in stage.export(_WHO):
        data += chunk
    return bytes(data)


def _has_secret(stage: Stage, content: bytes) -> bool:
    return Path(str(stage.facts["outside_secret"])).read_bytes() in content


async def _plant(stage: Stage, command: str) -> None:
    await stage.bash(_WHO, command, seconds=30)


@contextlib.asynccontextmanager
async def _swapping(stage: Stage, place: str, target: str) -> AsyncIterator[None]:
    """While this lasts, a program makes a directory and a link to `target` of one name by turns."""
    await stage.write(_WHO, "swaps.py", _SWAPS)
    await _plant(
        stage, f"touch go; setsid python3 -IS swaps.py {place} {target} > /dev/null 2>&1 < /dev/null &"
    )
    try:
        yield
    finally:
        await _plant(stage, f"rm -rf go; sleep 0.05; rm -rf {place} {place}.d")


# -- links and mount points -----------------------------------------------------------------------------


async def _planted_mount_points(stage: Stage) -> None:
    trap = _Trap(stage)
    outputs = stage.seen(_WHO, "/mnt/session/outputs")
    made = f"for n in {_MOUNT_POINTS}; do ln -s {trap.path} $n 2>/dev/null; done"
    await _plant(stage, f"{made}; cd {outputs} && {made}; true")
    for _ in range(2):
        await stage.restart(_WHO)
        await _plant(stage, "ls")
    removed = f"for n in {_MOUNT_POINTS}; do [ -L $n ] && rm $n; done"
    await _plant(stage, f"{removed}; cd {outputs} && {removed}; true")
    trap.look("the sandbox was started again over the links, and nothing was made behind them")


async def _swapped_mount_points(stage: Stage) -> None:
    trap = _Trap(stage)
    for place in ("mnt", "session"):
        async with _swapping(stage, place, str(trap.path)):
            await stage.restart(_WHO)
            await _plant(stage, "ls > /dev/null")
    trap.look("the sandbox was started again while they were swapped")


async def _swapped_while_packed(stage: Stage) -> None:
    folder = Path(str(stage.facts["outside_secret"])).parent
    async with _swapping(stage, "swapped", str(folder)):
        for _ in range(_ROUNDS):
            if _has_secret(stage, await _packed(stage)):
                raise Won("a file of the machine was packed")
    raise Held(f"packed {_ROUNDS} times while it was swapped, and no file of the machine is in it")


async def _linked_while_packed(stage: Stage) -> None:
    await _plant(stage, f"ln -s {stage.facts['outside_secret']} leads-out; ln -s / all")
    try:
        if _has_secret(stage, await _packed(stage)):
            raise Won("a file of the machine was packed")
    finally:
        await _plant(stage, "rm -f leads-out all")
    raise Held("links are packed as links")


async def _linked_outputs(stage: Stage) -> None:
    outputs = stage.seen(_WHO, "/mnt/session/outputs")
    await _plant(
        stage, f"cd {outputs}; ln -s {stage.facts['outside_secret']} report; ln -s / all; echo x > mine"
    )
    try:
        found = await stage.outputs(_WHO)
    finally:
        await _plant(stage, f"cd {outputs}; rm -rf report all mine")
    if any(_has_secret(stage, content) for _, content in found):
        raise Won("a file of the machine was taken for an output")
    if "mine" not in [name for name, _ in found]:
        raise Untried("the host did not see the outputs")
    raise Held("the host follows no link")


async def _swapped_outputs(stage: Stage) -> None:
    folder = Path(str(stage.facts["outside_secret"])).parent
    outputs = stage.seen(_WHO, "/mnt/session/outputs")
    async with _swapping(stage, f"{outputs}/swapped", str(folder)):
        for _ in range(4 * _ROUNDS):
            with contextlib.suppress(CorralError):  # it was gone meanwhile
                if any(_has_secret(stage, content) for _, content in await stage.outputs(_WHO)):
                    raise Won("a file of the machine was taken for an output")
    raise Held(f"read {4 * _ROUNDS} times while it was swapped")


async def _pipes_in_outputs(stage: Stage) -> None:
    outputs = stage.seen(_WHO, "/mnt/session/outputs")
    await _plant(
        stage, f"cd {outputs}; mkfifo pipe; mkdir -p a/b; mkfifo a/b/pipe; ln -s /dev/zero endless"
    )
    try:
        found = await stage.outputs(_WHO)
    finally:
        await _plant(stage, f"cd {outputs}; rm -rf pipe a endless")
    if [name for name, _ in found if name in ("pipe", "endless")]:
        raise Won("a pipe was taken for an output")
    raise Held("the host opens regular files only")


async def _deep_outputs(stage: Stage) -> None:
    outputs = stage.seen(_WHO, "/mnt/session/outputs")
    deep = "import os\\nfor n in range(400):\\n    os.mkdir('d'); os.chdir('d')\\n"
    await _plant(
        stage, f'cd {outputs}; printf "{deep}" | python3 -IS -; touch "$(printf \'a\\nb\')" -- -rf'
    )
    try:
        await stage.outputs(_WHO)
    except CorralError as error:
        raise Held(f"refused: {error}") from None
    finally:
        await _plant(stage, f"rm -rf {outputs}/d {outputs}/a* {outputs}/-rf")
    raise Held("the host reads as deep as it may")


async def _swapped_while_unpacked(stage: Stage) -> None:
    trap = _Trap(stage)
    async with _swapping(stage, "in", str(trap.path)):
        for _ in range(_ROUNDS):
            with contextlib.suppress(CorralError):
                await stage.bring(_WHO, in_chunks(archive_of((member("in/planted"), b"x"))))
    trap.look("unpacked while its directory was swapped, and all of it stayed within")


async def _planted_hooks(stage: Stage) -> None:
    """A repository whose programs would write outside, if the host ever ran git in it."""
    trap = _Trap(stage)
    command = f"touch {trap.path}/hooked"
    said = await stage.bash(
        _WHO,
        "git init -q hooked 2>&1 && cd hooked && "
        f"for h in pre-commit post-checkout post-index-change reference-transaction; do "
        f"printf '#!/bin/sh\\n{command}\\n' > .git/hooks/$h; chmod +x .git/hooks/$h; done; "
        f"git config core.fsmonitor '{command}; false'; git config core.pager '{command}'; "
        "git config filter.x.smudge false; echo '* filter=x' > .gitattributes; echo planted",
        seconds=30,
    )
    if "planted" not in said:
        raise Untried(f"no repository could be made: {said[-100:]}")
    try:
        await _packed(stage)
        with contextlib.suppress(CorralError):
            await stage.outputs(_WHO)
        await stage.restart(_WHO)
    finally:
        await _plant(stage, "rm -rf hooked")
    trap.look("nothing on the host runs git in a workspace")


# -- archives --------------------------------------------------------------------------------------------


def _unpacks(*members: tuple[tarfile.TarInfo, bytes]) -> Callable[[Stage], Awaitable[None]]:
    """An archive that is refused, or unpacked within the workspace alone."""

    async def plays(stage: Stage) -> None:
        trap = _Trap(stage)
        secret = str(stage.facts["outside_secret"])
        filled = []
        for info, data in members:
            info = tarfile.TarInfo.frombuf(info.tobuf(), tarfile.ENCODING, "surrogateescape")
            info.name = info.name.replace("TRAP", str(trap.path))
            info.linkname = info.linkname.replace("TRAP", str(trap.path)).replace("SECRET", secret)
            filled.append((info, data))
        try:
            await stage.bring(_WHO, in_chunks(archive_of(*filled)))
            answer = "it was unpacked within the workspace"
        except CorralError as error:
            answer = f"refused: {error}"
        said = await stage.bash(
            _WHO, "cat out through hard dir/* 2>/dev/null; ls -la | head -40", seconds=20
        )
        await _plant(stage, "rm -rf out through hard dir planted suid dev pipe")
        if _has_secret(stage, said.encode()):
            raise Won("a file of the machine lies in the workspace")
        trap.look(answer[:200])

    return plays


def _is_refused(archive: Callable[[], AsyncIterator[bytes]]) -> Callable[[Stage], Awaitable[None]]:
    """An archive that is larger within than without."""

    async def plays(stage: Stage) -> None:
        before = _disk_bytes(stage.home(_WHO))
        try:
            await stage.bring(_WHO, archive())
            answer = "it was taken"
        except CorralError as error:
            answer = f"refused: {str(error)[:160]}"
        used = _disk_bytes(stage.home(_WHO)) - before
        await _plant(stage, "rm -rf bomb*")
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
        trap = _Trap(stage)
        status, said = await upload(bombs.SKILLS[name](str(trap.path)))
        if 200 <= status < 300:
            raise Won("it was taken for a skill")
        if status >= 500:
            raise Won(f"the server failed: {said[:200]}")
        trap.look(f"refused with {status}: {said[:160]}")

    return plays


_LINK, _HARD, _DEVICE, _PIPE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE

SCENARIOS: Final[dict[str, Scenario]] = {
    f"mcp.{name}": Scenario(title=title, plays=plays) for name, (title, plays) in servers.PLAYS.items()
} | {
    f"{group}.{name}": Scenario(title=title, plays=plays)
    for group, name, title, plays in (
        (
            "races",
            "mount-points",
            "leaves links where the next sandbox makes mount points",
            _planted_mount_points,
        ),
        (
            "races",
            "swapped-mount-points",
            "swaps them while the next sandbox is started",
            _swapped_mount_points,
        ),
        ("races", "packed-links", "has links packed with the workspace", _linked_while_packed),
        (
            "races",
            "swapped-while-packed",
            "swaps a directory for a link while the host packs it",
            _swapped_while_packed,
        ),
        (
            "races",
            "swapped-while-unpacked",
            "swaps it while the host unpacks below it",
            _swapped_while_unpacked,
        ),
        ("races", "linked-outputs", "puts out links to files of the machine", _linked_outputs),
        (
            "races",
            "swapped-outputs",
            "swaps a directory of outputs for a link while the host reads",
            _swapped_outputs,
        ),
        ("races", "pipes", "puts out pipes, for the host to wait at", _pipes_in_outputs),
        ("races", "depths", "puts out a tree that is deeper than any path", _deep_outputs),
        ("git", "hooks", "leaves programs that git would run on the host", _planted_hooks),
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
}
