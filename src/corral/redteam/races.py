"""Links, pipes and directories that an agent swaps while the host starts, packs, reads or unpacks."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from corral.kernel.errors import CorralError
from corral.redteam.inside.ends import Held, Untried, Won
from corral.redteam.stage import Stage
from corral.redteam.traps import WHO, Trap, has_secret, packed, plant
from corral.testing.lab import archive_of, in_chunks, member

__all__ = ["PLAYS"]

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


@contextlib.asynccontextmanager
async def _swapping(stage: Stage, place: str, target: str) -> AsyncIterator[None]:
    """While this lasts, a program makes a directory and a link to `target` of one name by turns."""
    await stage.write(WHO, "swaps.py", _SWAPS)
    await plant(
        stage, f"touch go; setsid python3 -IS swaps.py {place} {target} > /dev/null 2>&1 < /dev/null &"
    )
    try:
        yield
    finally:
        await plant(stage, f"rm -rf go; sleep 0.05; rm -rf {place} {place}.d")


async def _planted_mount_points(stage: Stage) -> None:
    trap = Trap(stage)
    outputs = stage.seen(WHO, "/mnt/session/outputs")
    made = f"for n in {_MOUNT_POINTS}; do ln -s {trap.path} $n 2>/dev/null; done"
    await plant(stage, f"{made}; cd {outputs} && {made}; true")
    for _ in range(2):
        await stage.restart(WHO)
        await plant(stage, "ls")
    removed = f"for n in {_MOUNT_POINTS}; do [ -L $n ] && rm $n; done"
    await plant(stage, f"{removed}; cd {outputs} && {removed}; true")
    trap.look("the sandbox was started again over the links, and nothing was made behind them")


async def _swapped_mount_points(stage: Stage) -> None:
    trap = Trap(stage)
    for place in ("mnt", "session"):
        async with _swapping(stage, place, str(trap.path)):
            await stage.restart(WHO)
            await plant(stage, "ls > /dev/null")
    trap.look("the sandbox was started again while they were swapped")


async def _swapped_while_packed(stage: Stage) -> None:
    folder = Path(str(stage.facts["outside_secret"])).parent
    async with _swapping(stage, "swapped", str(folder)):
        for _ in range(_ROUNDS):
            if has_secret(stage, await packed(stage)):
                raise Won("a file of the machine was packed")
    raise Held(f"packed {_ROUNDS} times while it was swapped, and no file of the machine is in it")


async def _linked_while_packed(stage: Stage) -> None:
    await plant(stage, f"ln -s {stage.facts['outside_secret']} leads-out; ln -s / all")
    try:
        if has_secret(stage, await packed(stage)):
            raise Won("a file of the machine was packed")
    finally:
        await plant(stage, "rm -f leads-out all")
    raise Held("links are packed as links")


async def _linked_outputs(stage: Stage) -> None:
    outputs = stage.seen(WHO, "/mnt/session/outputs")
    await plant(
        stage, f"cd {outputs}; ln -s {stage.facts['outside_secret']} report; ln -s / all; echo x > mine"
    )
    try:
        found = await stage.outputs(WHO)
    finally:
        await plant(stage, f"cd {outputs}; rm -rf report all mine")
    if any(has_secret(stage, content) for _, content in found):
        raise Won("a file of the machine was taken for an output")
    if "mine" not in [name for name, _ in found]:
        raise Untried("the host did not see the outputs")
    raise Held("the host follows no link")


async def _swapped_outputs(stage: Stage) -> None:
    folder = Path(str(stage.facts["outside_secret"])).parent
    outputs = stage.seen(WHO, "/mnt/session/outputs")
    async with _swapping(stage, f"{outputs}/swapped", str(folder)):
        for _ in range(4 * _ROUNDS):
            with contextlib.suppress(CorralError):  # it was gone meanwhile
                if any(has_secret(stage, content) for _, content in await stage.outputs(WHO)):
                    raise Won("a file of the machine was taken for an output")
    raise Held(f"read {4 * _ROUNDS} times while it was swapped")


async def _pipes_in_outputs(stage: Stage) -> None:
    outputs = stage.seen(WHO, "/mnt/session/outputs")
    await plant(stage, f"cd {outputs}; mkfifo pipe; mkdir -p a/b; mkfifo a/b/pipe; ln -s /dev/zero endless")
    try:
        found = await stage.outputs(WHO)
    finally:
        await plant(stage, f"cd {outputs}; rm -rf pipe a endless")
    if [name for name, _ in found if name in ("pipe", "endless")]:
        raise Won("a pipe was taken for an output")
    raise Held("the host opens regular files only")


async def _deep_outputs(stage: Stage) -> None:
    outputs = stage.seen(WHO, "/mnt/session/outputs")
    deep = "import os\\nfor n in range(400):\\n    os.mkdir('d'); os.chdir('d')\\n"
    await plant(stage, f'cd {outputs}; printf "{deep}" | python3 -IS -; touch "$(printf \'a\\nb\')" -- -rf')
    try:
        await stage.outputs(WHO)
    except CorralError as error:
        raise Held(f"refused: {error}") from None
    finally:
        await plant(stage, f"rm -rf {outputs}/d {outputs}/a* {outputs}/-rf")
    raise Held("the host reads as deep as it may")


async def _swapped_while_unpacked(stage: Stage) -> None:
    trap = Trap(stage)
    async with _swapping(stage, "in", str(trap.path)):
        for _ in range(_ROUNDS):
            with contextlib.suppress(CorralError):
                await stage.bring(WHO, in_chunks(archive_of((member("in/planted"), b"x"))))
    trap.look("unpacked while its directory was swapped, and all of it stayed within")


async def _planted_hooks(stage: Stage) -> None:
    """A repository whose programs would write outside, if the host ever ran git in it."""
    trap = Trap(stage)
    command = f"touch {trap.path}/hooked"
    said = await stage.bash(
        WHO,
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
        await packed(stage)
        with contextlib.suppress(CorralError):
            await stage.outputs(WHO)
        await stage.restart(WHO)
    finally:
        await plant(stage, "rm -rf hooked")
    trap.look("nothing on the host runs git in a workspace")


PLAYS: Final = (
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
)
"""(group, name, title, what is played)"""
