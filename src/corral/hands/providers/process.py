"""A program started within walls: its pipes, and the certainty that all of it is gone afterwards.

Of bwrap: killing the init of a process namespace kills everything in it; its pidfd becomes readable only
when all of that is over. So the init is what is killed and waited for, not bwrap's outer process.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from corral.catalog.sandbox import DEFAULT_BOUNDS, Bounds
from corral.hands.providers.cgroup import Cgroups, Group
from corral.kernel.errors import SandboxUnavailable
from corral.kernel.limits import SANDBOX_BOOT_SECONDS_MAX, SANDBOX_STDERR_BYTES

__all__ = ["BwrapProcess", "StartedProcess", "starting_in"]

_INFO_BYTES_MAX = 4096
_NAMED = re.compile(rb'"child-pid": (\d+)\D')  # bwrap says this and more in several writes
_CHUNK_BYTES = 64 * 1024


@contextlib.contextmanager
def starting_in(cgroups: Cgroups, bounds: Bounds = DEFAULT_BOUNDS) -> Iterator[Group]:
    """A control group for what is started meanwhile; it goes if that fails. Raises SandboxUnavailable."""
    group = Group([])
    try:
        group = cgroups.create(bounds)
        yield group
    except BaseException as error:
        group.remove()
        if isinstance(error, OSError):
            raise SandboxUnavailable("the machine refuses to start a sandbox", detail=str(error)) from error
        raise


class StartedProcess:
    """`walls.Process`, but for how it is killed."""

    def __init__(self, process: asyncio.subprocess.Process, *, stderr: int, group: Group) -> None:
        assert process.stdin and process.stdout
        self.writer, self.reader = process.stdin, process.stdout
        self._process, self._stderr, self._group = process, stderr, group
        self._closing: asyncio.Task[None] | None = None

    def kill(self) -> None:
        raise NotImplementedError

    def booted(self) -> None:
        return

    def complaint(self) -> str:
        """What was printed to stderr when it failed."""
        with contextlib.suppress(OSError):
            return os.read(self._stderr, SANDBOX_STDERR_BYTES).decode(errors="replace").strip()
        return ""

    async def said(self, *, bytes_max: int) -> bytes:
        """All that it prints, up to a bound; what is more may be left unread."""
        said = bytearray()
        while (chunk := await self.reader.read(_CHUNK_BYTES)) and len(said) <= bytes_max:
            said += chunk
        return bytes(said[:bytes_max])

    async def exit_code(self) -> int:
        """Wait for the end, throwing away what is still printed.

        asyncio reports an exit only after the end of output, and a full pipe that nobody reads has none.
        """
        with contextlib.suppress(OSError):
            while await self.reader.read(_CHUNK_BYTES):
                pass
        return await self._process.wait()

    async def close(self) -> None:
        """Shared by all who ask, and finished even if one of them is cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="sandbox-close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self.kill()
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()
        try:
            async with asyncio.timeout(SANDBOX_BOOT_SECONDS_MAX):
                await self.exit_code()
        except TimeoutError:
            self._kill_group()
            await self.exit_code()
        await self._release()
        os.close(self._stderr)
        self._group.remove()

    async def _release(self) -> None:
        """It has ended: let go of what was held of it."""

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


class BwrapProcess(StartedProcess):
    """A sandbox made by bwrap."""

    def __init__(
        self, process: asyncio.subprocess.Process, *, info: int, stderr: int, group: Group
    ) -> None:
        super().__init__(process, stderr=stderr, group=group)
        self._info = info
        self._said = b""  # by bwrap, on `info`
        self._has_said_all = False
        self._init: int | None = None  # pidfd of the init inside
        self._is_doomed = False  # to be killed as soon as the init is known

    @classmethod
    async def start(
        cls,
        command: Callable[[int, int, Sequence[Path]], Sequence[str]],
        *,
        seccomp: bytes,
        cgroups: Cgroups,
        gives: Sequence[int] = (),
        bounds: Bounds = DEFAULT_BOUNDS,
    ) -> "BwrapProcess":
        """Start `command(seccomp_fd, info_fd, procs_files)`; procs_files: of a control group of its own.
        gives: descriptors that the program inside gets, under the same numbers.

        Raises SandboxUnavailable."""
        with starting_in(cgroups, bounds) as group:
            return await cls._start(command, seccomp=seccomp, group=group, gives=gives)

    @classmethod
    async def _start(
        cls,
        command: Callable[[int, int, Sequence[Path]], Sequence[str]],
        *,
        seccomp: bytes,
        group: Group,
        gives: Sequence[int],
    ) -> "BwrapProcess":
        info, info_inner = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        stderr, stderr_inner = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        rules = os.memfd_create("seccomp")
        try:
            os.write(rules, seccomp)
            os.lseek(rules, 0, os.SEEK_SET)
            process = await asyncio.create_subprocess_exec(
                *command(rules, info_inner, group.procs_files),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr_inner,
                pass_fds=(rules, info_inner, *gives),
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                cwd="/",
                start_new_session=True,  # a Ctrl-C in the terminal is not meant for it
            )
        except BaseException:
            os.close(info)
            os.close(stderr)
            raise
        finally:
            for fd in (info_inner, stderr_inner, rules):
                os.close(fd)
        return cls(process, info=info, stderr=stderr, group=group)

    def find_init(self) -> None:
        """Take hold of the init inside; bwrap has named it before the program runs."""
        if self._init is not None or self._info < 0:
            return
        with contextlib.suppress(BlockingIOError):
            while said := os.read(self._info, _INFO_BYTES_MAX):
                self._said += said
            self._has_said_all = True
        if named := _NAMED.search(self._said):
            with contextlib.suppress(OSError):
                self._init = os.pidfd_open(int(named[1]))

    def booted(self) -> None:
        self.find_init()

    def kill(self) -> None:
        """Kill the init inside; bwrap outside then reaps it and ends. Repeat: safe.

        Killed together, the init would be left to whoever is process 1 here, which in a container may
        never reap it. And killed before it has named the init, bwrap would leave it behind for ever: the
        init waits for a word of bwrap and dies with nobody yet. So a boot is killed once it is named.
        """
        if self._info < 0 or self._is_doomed:
            return
        self.find_init()
        if self._init is None:
            self._is_doomed = True
            asyncio.get_running_loop().add_reader(self._info, self._kill_named)
        else:
            self._kill_init(self._init)

    def _kill_named(self) -> None:
        """bwrap named its init, or ended without one. It may only have begun to: then the rest wakes us."""
        self.find_init()
        if self._init is None and not self._has_said_all:
            return
        asyncio.get_running_loop().remove_reader(self._info)
        if self._init is not None:
            self._kill_init(self._init)
        else:
            # bwrap, and an init that it has not released: that one has not left its group yet
            self._kill_group()

    def _kill_init(self, init: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(init, signal.SIGKILL)

    async def _release(self) -> None:
        if self._init is not None:
            await _until_readable(self._init)
            os.close(self._init)
        asyncio.get_running_loop().remove_reader(self._info)
        os.close(self._info)
        self._info = -1


async def _until_readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        async with asyncio.timeout(SANDBOX_BOOT_SECONDS_MAX):
            await readable.wait()
    finally:
        loop.remove_reader(fd)
