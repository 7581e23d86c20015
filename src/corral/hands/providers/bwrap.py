"""`bwrap`: namespaces, a system call filter, a dropped uid, no network device. The default provider.

A workspace on the host is a directory that only the host may change, with one directory per kept place
(`launch.PATHS`) that belongs to the agent:

    workspaces/sesn_1/            ours
      files/                      /workspace
      outputs/  tool-outputs/     /mnt/session/...
      uploads/                    /mnt/session/uploads, read-only: ours, too
      memory/<slug>/              /mnt/memory/<slug>
      notes/                      what the host writes down of it; in no sandbox

The warm pool holds booted sandboxes on workspaces of their own, made in the same way. Handing one out is a
rename of its workspace onto the session's, which must still be empty: mounts follow the directory, and the
kernel refuses the rename if there is anything to lose. A session that already has files, or memory stores,
gets a cold one.
"""

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from corral.hands.ports import Capabilities, Probe, Sandbox, SandboxLost
from corral.hands.providers.binary import CannotWork, diagnose, find_bwrap, find_python
from corral.hands.providers.cgroup import Cgroups, Group
from corral.hands.providers.inside import install
from corral.hands.providers.launch import (
    AGENT,
    HOST_UID,
    MEMORY,
    PATHS,
    UPLOADS,
    WORKDIR,
    Blueprint,
    drops_uid,
    environment,
    launch_command,
)
from corral.hands.providers.leftovers import clear_stages, clear_state, end_orphans, remove_empty
from corral.hands.providers.process import BwrapProcess
from corral.hands.providers.seccomp import seccomp_filter
from corral.hands.sandbox import AgentSandbox, start_message
from corral.kernel.errors import InvalidRequest, SandboxUnavailable, WorldError
from corral.kernel.limits import WORKSPACE_ARCHIVE_BYTES_MAX, WORKSPACE_ARCHIVE_MEMBERS_MAX
from corral.session.call import Recipe

__all__ = ["BwrapProvider"]

_ROOTS: Final = ("/mnt/session", "/mnt/memory", "/tmp")  # noqa: S108  what file tools reach beside /workspace
_CHUNK_BYTES: Final = 256 * 1024
_REASON_BYTES_MAX: Final = 4096
_SIGNALLED: Final = 128  # an exit code above: what ran inside was killed
_NOTES: Final = "notes"
_PLACES: Final = frozenset(("outputs", UPLOADS[0], _NOTES))
_SLUG: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")  # or a memory store's id
_KEPT: Final = " ".join(place.lstrip("/") for place in PATHS.values())  # below /


class BwrapProvider:
    """`hands.ports.Provider`. One per hands host; `aclose` ends all it started."""

    name = "bwrap"

    def __init__(self, *, state_dir: Path, pool_size: int = 1) -> None:
        """`state_dir`: exists; on the file system of the workspaces, else the pool stays unused."""
        self._state_dir = state_dir.resolve()
        self._pool_size = pool_size
        self._drops_uid = drops_uid()
        self._cgroups = Cgroups()
        self.capabilities = Capabilities(
            isolation="namespaces, seccomp, unprivileged uid, no network device",
            memory_limit=self._cgroups.limits_memory,
        )
        self._setting_up = asyncio.Lock()
        self._blueprint: Blueprint | None = None
        self._seccomp = b""
        self._living: set[AgentSandbox] = set()
        self._pool: list[tuple[Path, AgentSandbox]] = []
        self._pool_dir = self._state_dir / f"pool-{os.getpid()}-{secrets.token_hex(4)}"
        self._filling: asyncio.Task[None] | None = None
        self._is_closed = False

    # -- sandboxes ----------------------------------------------------------------------------------

    async def create(self, *, session_id: str, workspace: Path, recipe: Recipe) -> Sandbox:
        packages = recipe.environment.get("packages") or {}
        if any(wanted for key, wanted in packages.items() if key != "type"):
            raise SandboxUnavailable("this provider cannot install packages yet", retryable=False)
        if self._is_closed:
            raise SandboxUnavailable("the provider is closed", retryable=False)
        memory = _stores(recipe)
        while self._pool and not memory:
            home, warm = self._pool.pop()
            if not warm.is_alive:
                await self._discard(home, warm)
                continue
            try:
                home.rename(workspace)
            except OSError:  # not empty, or another file system
                self._pool.append((home, warm))
                break
            self._fill_pool()
            return warm
        sandbox = await self._boot(workspace, memory)
        self._fill_pool()
        return sandbox

    async def probe(self) -> Probe:
        """Boot a throw-away sandbox over planted links, try every escape, find python3 and bash in it."""
        started = time.monotonic()
        home = self._state_dir / f"probe-{os.getpid()}-{secrets.token_hex(4)}"
        canary = home / "canary"
        try:
            blueprint = await self._set_up()
            self._lay_out(home)
            canary.mkdir()
            self._plant_links(home / "files", canary)
            sandbox = await self._boot(home)
            try:
                leaks = await sandbox.check([str(path) for path in self._hidden(blueprint)])
            finally:
                await sandbox.destroy()
            if any(canary.iterdir()):
                leaks = f"a planted link made bwrap {blueprint.bwrap.version} write on the host, {leaks}"
        except SandboxLost as e:
            return Probe(
                is_available=False,
                summary=e.message,
                detail=str(e),
                remedy="look at the log of the hands host",
            )
        except CannotWork as e:
            return Probe(is_available=False, summary=e.what, detail=e.found, remedy=e.remedy)
        except SandboxUnavailable as e:
            return Probe(
                is_available=False,
                summary=e.message,
                detail=str(e),
                remedy="see what the machine is short of",
            )
        finally:
            await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)  # no agent ever wrote there
        if leaks != "sealed":
            return Probe(
                is_available=False,
                summary="the sandbox leaks",
                detail=f"the sandbox leaks: {leaks}",
                remedy="install a newer bubblewrap",
            )
        self._fill_pool()
        version = ".".join(map(str, blueprint.bwrap.version))
        limits = (
            "memory and process limits" if self.capabilities.memory_limit else "limits per process only"
        )
        return Probe(
            is_available=True,
            summary=f"bwrap {version}, {limits}",
            detail=f"bwrap {version} ({blueprint.bwrap.path}), {limits}, "
            f"escapes denied; {(time.monotonic() - started) * 1000:.0f} ms",
        )

    async def aclose(self) -> None:
        self._is_closed = True
        if self._filling:
            await self._filling  # a boot that is cut off half-way would have no owner
        await asyncio.gather(*(sandbox.destroy() for sandbox in list(self._living)))
        for home, _ in self._pool:
            remove_empty(home)
        self._pool.clear()
        with contextlib.suppress(OSError):
            self._pool_dir.rmdir()
        if self._blueprint and self._blueprint.stage:
            with contextlib.suppress(OSError):
                self._blueprint.stage.rmdir()

    async def _boot(self, home: Path, memory: Mapping[str, bool] | None = None) -> AgentSandbox:
        """A cold start on a workspace. Raises SandboxUnavailable with a remedy."""
        blueprint = await self._set_up()
        self._lay_out(home, memory or ())
        process = await self._start(home, [str(blueprint.python.path), "-IS", AGENT], memory)
        sandbox = AgentSandbox(process)
        self._living = {other for other in self._living if other.is_alive} | {sandbox}
        try:
            await sandbox.start(
                start_message(
                    env=environment(blueprint.python),
                    workdir=WORKDIR,
                    roots=_ROOTS,
                    spill=PATHS["tool-outputs"],
                )
            )
            process.find_init()
        except SandboxLost as e:
            process.kill()
            await process.exit_code()
            raise diagnose(process.complaint() or str(e), blueprint.bwrap.path) from e
        finally:
            if not sandbox.is_alive:
                await sandbox.destroy()
        return sandbox

    async def _start(
        self, home: Path, program: Sequence[str], memory: Mapping[str, bool] | None = None
    ) -> BwrapProcess:
        blueprint = await self._set_up()
        group = Group([])
        try:
            group = self._cgroups.create()
            return await BwrapProcess.start(
                lambda seccomp_fd, info_fd: launch_command(
                    blueprint,
                    home=home,
                    program=program,
                    seccomp_fd=seccomp_fd,
                    info_fd=info_fd,
                    procs_files=group.procs_files,
                    memory=memory,
                ),
                seccomp=self._seccomp,
                group=group,
            )
        except BaseException as e:
            group.remove()
            if isinstance(e, OSError):
                raise SandboxUnavailable("the machine refuses to start a sandbox", detail=str(e)) from e
            raise

    # -- the warm pool ------------------------------------------------------------------------------

    def _fill_pool(self) -> None:
        if not self._is_closed and (self._filling is None or self._filling.done()):
            self._filling = asyncio.create_task(self._fill(), name="sandbox-pool")

    async def _fill(self) -> None:
        self._pool_dir.mkdir(mode=0o711, exist_ok=True)
        while len(self._pool) < self._pool_size and not self._is_closed:
            home = self._pool_dir / secrets.token_hex(8)
            try:
                warm = await self._boot(home)
            except (WorldError, OSError):  # who needs a sandbox now will get the error, with its remedy
                remove_empty(home)
                return
            self._pool.append((home, warm))

    async def _discard(self, home: Path, sandbox: AgentSandbox) -> None:
        await sandbox.destroy()
        remove_empty(home)

    # -- workspaces ---------------------------------------------------------------------------------

    async def prepare_workspace(self, workspace: Path) -> None:
        workspace.mkdir(mode=0o711, exist_ok=True)

    def place(self, workspace: Path, place: str) -> Path:
        if (place.startswith(f"{MEMORY[0]}/") and _SLUG.fullmatch(place[len(MEMORY[0]) + 1 :])) or (
            place in _PLACES
        ):
            return workspace / place
        raise InvalidRequest(f"a workspace has no place {place!r}")

    async def prepare_memory(self, workspace: Path, slug: str) -> int | None:
        self.place(workspace, f"{MEMORY[0]}/{slug}")
        self._lay_out(workspace, (slug,))
        return HOST_UID if self._drops_uid else None

    async def import_archive(
        self, workspace: Path, archive: AsyncIterator[bytes], *, below: str | None = None
    ) -> None:
        blueprint = await self._set_up()
        self._lay_out(workspace)
        words = [str(WORKSPACE_ARCHIVE_BYTES_MAX), str(WORKSPACE_ARCHIVE_MEMBERS_MAX)]
        if below is not None:
            words.append(below)
        process = await self._start(
            workspace, [str(blueprint.python.path), "-IS", AGENT, "import", WORKDIR, *words]
        )
        try:
            await self._feed(process, archive, complaint="the archive was refused")
        finally:
            await process.close()

    async def export_archive(self, workspace: Path) -> AsyncIterator[bytes]:
        async for chunk in self._packed(workspace, f"-C {WORKDIR} ."):
            yield chunk

    async def pack(self, workspace: Path) -> AsyncIterator[bytes]:
        async for chunk in self._packed(workspace, f"-C / {_KEPT}"):
            yield chunk

    async def unpack(self, workspace: Path, archive: AsyncIterator[bytes]) -> None:
        # By tar, in a sandbox: what a tool of the agent could make, links to anywhere, is made again.
        await self._set_up()
        self._lay_out(workspace)
        process = await self._start(workspace, ["/bin/sh", "-c", "exec tar -C / -xpf - 2>&1"])
        try:
            await self._feed(process, archive, complaint="the checkpoint is broken")
        finally:
            await process.close()

    async def _feed(self, process: BwrapProcess, archive: AsyncIterator[bytes], *, complaint: str) -> None:
        """Give an archive to a program that says what is wrong with it. Raises InvalidRequest if it does,
        SandboxUnavailable if it did not live to do so: a good archive must not be given up for broken."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it says why below
            async for chunk in archive:
                if process.writer.is_closing():  # uvloop would raise RuntimeError, asyncio say nothing
                    break
                process.writer.write(chunk)
                await process.writer.drain()
            if not process.writer.is_closing():
                process.writer.write_eof()
        reason = await process.reader.read(_REASON_BYTES_MAX)
        if (code := await process.exit_code()) != 0:
            self._raise_if_not_started(process)
            if code < 0 or code > _SIGNALLED:
                raise SandboxUnavailable(
                    f"the sandbox was killed while an archive was unpacked in it ({code})"
                )
            raise InvalidRequest(f"{complaint}: {reason.decode(errors='replace').strip()}")

    async def _packed(self, workspace: Path, what: str) -> AsyncIterator[bytes]:
        await self._set_up()
        self._lay_out(workspace)
        pack = f"exec tar --ignore-failed-read -cf - {what} 2>/dev/null"
        process = await self._start(workspace, ["/bin/sh", "-c", pack])
        try:
            while chunk := await process.reader.read(_CHUNK_BYTES):
                yield chunk
            if await process.exit_code() not in (0, 1):  # 1: a file changed under tar; below 0: killed
                self._raise_if_not_started(process)
                raise SandboxUnavailable("the workspace could not be packed")
        finally:
            await process.close()

    def _raise_if_not_started(self, process: BwrapProcess) -> None:
        """Programs inside print nothing to stderr: what is there, bwrap said."""
        if complaint := process.complaint():
            assert self._blueprint
            raise diagnose(complaint, self._blueprint.bwrap.path)

    async def remove_workspace(self, workspace: Path) -> None:
        for ours in (UPLOADS[0], _NOTES):  # no agent ever wrote there
            await asyncio.to_thread(shutil.rmtree, workspace / ours, ignore_errors=True)
        if not workspace.exists() or remove_empty(workspace):
            return
        await self._set_up()
        stores = workspace / MEMORY[0]
        memory = {store.name: True for store in stores.iterdir()} if stores.is_dir() else {}
        self._lay_out(workspace, memory)
        places = " ".join([*PATHS.values(), *(f"{MEMORY[1]}/{slug}" for slug in memory)])
        clear = f"(chmod -R u+rwX {places}; find {places} -mindepth 1 -delete) 2>/dev/null"
        process = await self._start(workspace, ["/bin/sh", "-c", clear], memory)
        try:
            await process.exit_code()
            self._raise_if_not_started(process)
        finally:
            await process.close()
        if not remove_empty(workspace):
            raise SandboxUnavailable("a workspace could not be emptied", detail=str(workspace))

    def _lay_out(self, home: Path, memory: Iterable[str] = ()) -> None:
        """Make what is missing; give back to the agent what it locked itself out of. Repeat: safe.

        The entries of `home` are real directories: only the host can write in `home`.
        """
        home.mkdir(mode=0o711, exist_ok=True)
        uploads = home / UPLOADS[0]
        uploads.mkdir(exist_ok=True)
        uploads.chmod(0o755)
        if memory:
            (home / MEMORY[0]).mkdir(exist_ok=True)
            (home / MEMORY[0]).chmod(0o711)
        for name in (*PATHS, *(f"{MEMORY[0]}/{slug}" for slug in memory)):
            folder = home / name
            folder.mkdir(exist_ok=True)
            folder.chmod(0o700)
            if self._drops_uid:
                os.chown(folder, HOST_UID, HOST_UID)

    def _plant_links(self, files: Path, canary: Path) -> None:
        """What a hostile agent would leave for the next start: a link for each mount point's first step."""
        for place in ("mnt", "tmp", "proc", "dev", "usr", "etc", "run", "session", "outputs"):
            (files / place).symlink_to(canary)

    # -- set-up, once -------------------------------------------------------------------------------

    async def _set_up(self) -> Blueprint:
        async with self._setting_up:
            if self._blueprint is None:
                self._seccomp = seccomp_filter()
                self._blueprint = await asyncio.to_thread(self._make_blueprint)
            return self._blueprint

    def _make_blueprint(self) -> Blueprint:
        clear_state(self._state_dir)
        marks = [str(self._state_dir)]
        bwrap, python = find_bwrap(HOST_UID if self._drops_uid else None), find_python()
        stage = None
        if self._drops_uid:
            where = Path("/run") if os.access("/run", os.W_OK) else Path(tempfile.gettempdir())
            marks += clear_stages(where)
            stage = Path(tempfile.mkdtemp(prefix=f"corral-stage-{os.getpid()}-", dir=where))
            stage.chmod(0o711)
        end_orphans(marks)
        return Blueprint(bwrap=bwrap, python=python, inside=install(self._state_dir, python), stage=stage)

    def _hidden(self, blueprint: Blueprint) -> list[Path]:
        """Host paths that must not exist inside, unless the Python that we bind lies below one."""
        hidden = [self._state_dir, *map(Path, ("/etc/shadow", "/sys", "/home", "/root"))]
        prefix = blueprint.python.prefix or Path("/usr")
        return [path for path in hidden if not prefix.is_relative_to(path)]


def _stores(recipe: Recipe) -> dict[str, bool]:
    """The slugs of its memory stores, and whether the agent may write there. Raises SandboxUnavailable."""
    found: dict[str, bool] = {}
    for mount in recipe.memory:
        parent, _, slug = mount.path.rpartition("/")
        if parent != MEMORY[1] or not _SLUG.fullmatch(slug):
            raise SandboxUnavailable(f"a memory store cannot be mounted at {mount.path!r}", retryable=False)
        found[slug] = mount.mode == "read_write"
    return found
