"""Attempts in real sandboxes: with their walls, they are held; each wall that is taken away lets those
through that it stands against.
"""

import struct
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from corral.hands.providers import launch
from corral.hands.providers.bwrap import BwrapProvider
from corral.redteam.attack import attack
from corral.redteam.bare import BareStage
from corral.redteam.canaries import Canaries
from corral.redteam.inside.attempts import by_name
from corral.redteam.outside import Outside
from corral.redteam.scenarios import SCENARIOS, play

pytestmark = pytest.mark.timeout(600)
Edit = Callable[[list[str], Path], list[str]]
_APART = ("--unshare-ipc", "--unshare-uts", "--unshare-pid", "--unshare-net")


@pytest.fixture
def root() -> Iterator[Path]:
    """Not below pytest's directories: others have to pass through."""
    with tempfile.TemporaryDirectory(prefix="redteam-") as path:
        yield Path(path)


def quiet(_: str) -> None:
    """Nobody watches."""


@asynccontextmanager
async def stage_in(root: Path) -> AsyncIterator[tuple[Outside, BareStage]]:
    root.chmod(0o755)
    state = root / "state"
    state.mkdir(mode=0o711)
    async with Outside.around(root, Canaries()) as outside:
        provider = BwrapProvider(state_dir=state, pool_size=0)
        async with BareStage.around(provider, outside) as stage:
            yield outside, stage


async def verdicts(root: Path, names: Sequence[str]) -> dict[str, str]:
    async with stage_in(root) as (outside, stage):

        def trips() -> dict[str, str]:
            return {**outside.trips(), **stage.trips()}

        findings = await attack(stage, names, trips=trips, show=quiet)
    return {finding.name: finding.verdict for finding in findings}


def without(*words: str) -> Edit:
    return lambda arguments, root: [word for word in arguments if word not in words]


def sharing(*kinds: str) -> Edit:
    """A sandbox that has not got namespaces of its own of these kinds."""

    def edit(arguments: list[str], root: Path) -> list[str]:
        at = arguments.index("--unshare-all")
        kept = [word for word in _APART if word.removeprefix("--unshare-") not in kinds]
        arguments[at : at + 1] = kept
        if "pid" in kinds:
            arguments.remove("--as-pid-1")
            at = arguments.index("--proc")
            arguments[at : at + 2] = ["--bind", "/proc", "/proc"]
        return arguments

    return edit


def binding(word: str) -> Edit:
    """The machine's directory of temporary files, where everything outside lies, is in the sandbox, too."""

    def edit(arguments: list[str], root: Path) -> list[str]:
        at = arguments.index("--chdir")
        arguments[at:at] = [word, str(root), str(root)]
        return arguments

    return edit


def unfiltered() -> bytes:
    return struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)  # every call is allowed


WALLS_TAKEN: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "network": (
        sharing("net"),
        ("network.service",
         "network.datagram", "network.tables", "network.devices",
         "abstract-sockets.outside",
         "namespaces.shares-net"),
    ),
    "processes": (
        sharing("pid"),
        ("proc.sees-victim", "proc.arguments-victim", "proc.arguments", "namespaces.shares-pid"),
    ),
    "ipc": (sharing("ipc"), ("kernel.shared-memory", "namespaces.shares-ipc")),
    "files": (
        binding("--ro-bind"),
        ("files.secret", "files.climbs", "files.follows", "files.lists", "files.tells",
         "unix-sockets.outside",
         "files.everything", "git.file", "git.alternates"),
    ),
    "read-only": (
        binding("--bind"),
        ("files.overwrites", "files.makes", "unix-sockets.own-outside"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("wall", WALLS_TAKEN)
async def test_a_wall_that_is_taken_away_lets_attempts_through(
    wall: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit, names = WALLS_TAKEN[wall]
    arguments = launch.bwrap_arguments

    def edited(*args: object, **kwargs: object) -> list[str]:
        return edit(arguments(*args, **kwargs), root)  # type: ignore[arg-type]

    monkeypatch.setattr(launch, "bwrap_arguments", edited)
    found = await verdicts(root, names)
    assert found == dict.fromkeys(names, "escaped")


async def test_without_a_filter_calls_reach_the_kernel(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.hands.providers.bwrap.seccomp_filter", unfiltered)
    names = [
        "kernel.io-uring-setup", "kernel.kcmp", "keyrings.join", "ptrace.seize-shell", "devices.ciphers",
        "kernel.foreign-architecture", "kernel.personality",
    ]  # fmt: skip
    found = await verdicts(root, names)
    assert {name for name in names if found[name] == "escaped"} >= {"keyrings.join", "ptrace.seize-shell"}
    assert "held" not in {found["kernel.foreign-architecture"], found["kernel.personality"]}


async def test_with_its_walls_nothing_escapes(root: Path) -> None:
    """All that needs no server, and neither much time nor much memory."""
    names = [name for name, attempt in by_name().items() if attempt.seconds <= 8 and not attempt.ends]
    scenarios = [name for name in SCENARIOS if name not in ("archives.members", "archives.names")]
    async with stage_in(root) as (outside, stage):
        findings = await attack(stage, names, trips=lambda: dict(outside.trips()), show=quiet)
        findings += await play(stage, scenarios, show=quiet)
    assert not [finding for finding in findings if finding.verdict == "escaped"]
    untried = [finding for finding in findings if finding.verdict == "untried"]
    assert sum(finding.verdict == "held" for finding in findings) > 250, untried
