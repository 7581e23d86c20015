"""The engine of containers on this machine, docker or podman, by its command: the same words for both.

A container is a client of ours in the foreground: its pipes are the program's, and it ends with the
program. Beyond it, conmon or a daemon's shim holds the container; so what ends one is a word to the engine,
and what a killed host has left is found by its label.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.hands.providers.binary import CannotWork
from corral.hands.providers.cgroup import Group
from corral.hands.providers.engines import ENGINE_VARIABLES, EngineName
from corral.hands.providers.process import StartedProcess
from corral.kernel.errors import SandboxUnavailable
from corral.kernel.limits import ENGINE_SECONDS_MAX, SANDBOX_BOOT_SECONDS_MAX
from corral.kernel.owned_names import is_orphaned, owned_name

__all__ = ["ContainerProcess", "Engine", "diagnosed", "examined", "find_engine"]

_PREFIX: Final = "corral-"  # of the names of containers; the rest is of `kernel.owned_names`
_LABEL: Final = "corral.state"
_OWN_EXIT_CODES: Final = (125, 126, 127)  # of the engine, as long as no program has started
_CONTROLLERS: Final = ("memory", "pids", "cpu")
_AGAIN_SECONDS: Final = 0.1  # between two attempts to end a container that is only being made


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command of the engine said. code: 0 if it worked."""

    code: int
    said: str
    complaint: str


@dataclass(frozen=True, slots=True)
class Engine:
    """path: of its command. state: names the containers of one state directory among all others."""

    name: EngineName
    path: Path
    state: str

    async def ask(self, *words: str, gives: bytes = b"") -> Answer:
        """Run a command to its end. gives: its stdin. Raises SandboxUnavailable if it hangs."""
        process = await asyncio.create_subprocess_exec(
            str(self.path),
            *words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            cwd="/",
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(ENGINE_SECONDS_MAX):
                said, complaint = await process.communicate(gives)
        except TimeoutError as error:
            raise SandboxUnavailable(f"{self.name} does not answer", detail=" ".join(words[:2])) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return Answer(process.returncode, said.decode(errors="replace"), complaint.decode(errors="replace"))

    async def start(self, words: Sequence[str]) -> "ContainerProcess":
        """Run a program in a new container. words: of `run`: options, the image, arguments.
        Raises SandboxUnavailable."""
        name = _PREFIX + owned_name()
        stderr, stderr_inner = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            process = await asyncio.create_subprocess_exec(
                str(self.path),
                *("run", "--interactive", "--rm", "--name", name, "--label", f"{_LABEL}={self.state}"),
                *words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr_inner,
                env=_environment(),
                cwd="/",
                start_new_session=True,  # a Ctrl-C in the terminal is not meant for it
            )
        except BaseException as error:
            os.close(stderr)
            if isinstance(error, OSError):
                raise SandboxUnavailable(
                    "the machine refuses to start a sandbox", detail=str(error)
                ) from error
            raise
        finally:
            os.close(stderr_inner)
        return ContainerProcess(process, stderr=stderr, engine=self, name=name)

    async def end_orphans(self) -> None:
        """Remove the containers that killed hosts on this state directory have left."""
        wanted = ("--all", "--filter", f"label={_LABEL}={self.state}", "--format", "{{.Names}}")
        found = (await self.ask("ps", *wanted)).said.split()
        stale = [name for name in found if is_orphaned(name.removeprefix(_PREFIX))]
        if stale:
            await self.ask("rm", "--force", "--volumes", *stale)


class ContainerProcess(StartedProcess):
    """A program in a container of its own."""

    def __init__(
        self, process: asyncio.subprocess.Process, *, stderr: int, engine: Engine, name: str
    ) -> None:
        super().__init__(process, stderr=stderr, group=Group([]))
        self._engine, self._name = engine, name
        self._ending: asyncio.Task[None] | None = None

    def kill(self) -> None:
        if self._ending is None:
            self.writer.close()  # what is still to start, or waits for us, ends with that
            self._ending = asyncio.create_task(self._end(), name="container-end")

    def complaint(self) -> str:
        """Programs have this stderr, too, and the engine warns there: it counts only if none started."""
        return super().complaint() if self._process.returncode in _OWN_EXIT_CODES else ""

    async def _end(self) -> None:
        """Until the engine knows it: a kill before that reaches nothing. The client sees it end."""
        with contextlib.suppress(TimeoutError, SandboxUnavailable):
            async with asyncio.timeout(SANDBOX_BOOT_SECONDS_MAX):
                while self._process.returncode is None:
                    if (await self._engine.ask("kill", self._name)).code == 0:
                        return
                    await asyncio.sleep(_AGAIN_SECONDS)

    async def _release(self) -> None:
        if self._ending is not None:
            await self._ending
        if (self._process.returncode or 0) < 0:  # a client that was killed has removed nothing
            with contextlib.suppress(SandboxUnavailable):
                await self._engine.ask("rm", "--force", "--volumes", self._name)


def find_engine(name: EngineName, state: str) -> Engine:
    """Raises CannotWork."""
    found = shutil.which(name)
    if found is None:
        raise CannotWork(f"there is no {name}", remedy=f"for --sandbox {name}, install {name}")
    return Engine(name, Path(found), state)


async def examined(engine: Engine) -> tuple[str, bool]:
    """Its version, and whether it can limit memory, processes and processors. Raises CannotWork."""
    if engine.name == "docker":
        fields = ("ServerVersion", "MemoryLimit", "PidsLimit", "CPUCfsQuota", "SecurityOptions")
        words = ["info", "--format", " ".join(f"{{{{.{field}}}}}" for field in fields)]
    elif os.geteuid() == 0:  # where root's cannot, its containers do not start
        words = ["version", "--format", "{{.Server.Version}} true true true"]
    else:
        words = ["info", "--format", "{{.Version.Version}} {{.Host.CgroupControllers}}"]
    answer = await engine.ask(*words)
    if answer.code != 0:
        raise diagnosed(engine.name, answer.complaint)
    version, _, rest = answer.said.strip().partition(" ")
    if any(option in rest for option in ("name=rootless", "name=userns")):
        raise CannotWork(
            "the docker daemon gives containers other users",
            found=f"it is set so: {rest}",
            remedy="workspaces would be nobody's: use a daemon of root without userns-remap, or podman",
        )
    return version, rest.startswith("true true true") or set(_CONTROLLERS) <= {*rest.strip("[]").split()}


def diagnosed(name: EngineName, complaint: str) -> CannotWork:
    """Why a command of the engine failed."""
    found = complaint.strip()
    if any(sign in found for sign in ("daemon running", "permission denied while trying to connect")):
        return CannotWork(
            f"{name} does not answer",
            found=found,
            remedy="start its daemon; if it is not at its usual place, set DOCKER_HOST; whoever runs Corral"
            " must be allowed to reach it (the group `docker`, which is as good as root)",
        )
    if "subuid" in found or "newuidmap" in found:
        return CannotWork(
            f"{name} has too few uids for containers",
            found=found,
            remedy="install uidmap, and give the user of Corral some: `usermod --add-subuids 100000-165535"
            " --add-subgids 100000-165535 USER`; then `podman system migrate` as that user",
        )
    return CannotWork(
        f"{name} does not start a container",
        found=found,
        remedy=f"mend what it reports, until `{name} run --rm --network none IMAGE true` works",
    )


def _environment() -> dict[str, str]:
    """Of commands of the engine: where it is, how it is set. Nothing of it reaches a container."""
    return {name: os.environ[name] for name in ENGINE_VARIABLES if name in os.environ}
