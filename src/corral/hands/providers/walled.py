"""A provider whose sandboxes are processes on this machine, whatever their walls are made of (`walls`): the
sandbox agent inside, and a warm pool. What goes in and out of workspaces: `workspaces`.

How a workspace lies on the host: `home`. The warm pool holds booted sandboxes on workspaces of their own,
made in the same way. Handing one out is a rename of its workspace onto the session's, which must still be
empty: mounts follow the directory, and the kernel refuses the rename if there is anything to lose. A
session that already has files, memory stores or packages gets a cold one.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from corral.catalog.packages import layer_digest, wanted
from corral.catalog.sandbox import DEFAULT_BOUNDS, Bounds, bounds_of
from corral.hands.ports import Capabilities, Probe, Sandbox, SandboxLost
from corral.hands.providers.binary import CannotWork
from corral.hands.providers.disk import DiskBounds
from corral.hands.providers.ground import ground
from corral.hands.providers.home import (
    AGENT,
    MEMORY,
    PATHS,
    TMP,
    TRUST,
    UPLOADS,
    WORKDIR,
    lay_out,
    lay_trust,
    place_of,
    remove_empty,
    stores_of,
)
from corral.hands.providers.inside import INSIDE_UID
from corral.hands.providers.launch import environment
from corral.hands.providers.layers import Layer, LayerShelf
from corral.hands.providers.registries import Registries
from corral.hands.providers.seccomp import seccomp_filter
from corral.hands.providers.system import MACHINE, System
from corral.hands.providers.walls import Process, Walls
from corral.hands.providers.workspaces import Workspaces
from corral.hands.sandbox import AgentSandbox, start_message
from corral.hands.way_out import Egress, expected_way_out, opens_registries, trusting
from corral.kernel.errors import SandboxUnavailable, WorldError
from corral.kernel.limits import (
    LAYER_BYTES_MAX,
    LAYER_ENTRIES_MAX,
)
from corral.kernel.owned_names import owned_name
from corral.session.call import Recipe
from corral.session.content import Json

__all__ = ["WalledProvider"]

log = logging.getLogger(__name__)

_LAYER: Final = Path("files", "layer")  # of a workspace that was made to unpack packages in


class WalledProvider:
    """`hands.ports.Provider`. One per hands host; `aclose` ends all it started."""

    def __init__(
        self,
        walls: Walls,
        *,
        tending: Walls | None = None,
        state_dir: Path,
        pool_size: int = 1,
        egress: Egress | None = None,
        system: System = MACHINE,
    ) -> None:
        """`state_dir`: exists; on the file system of the workspaces, else the pool stays unused. egress:
        through which sandboxes get out; without one they do not. tending: of the programs that pack, unpack
        and empty workspaces, where those of sandboxes may lack what these need; on the same places. system:
        what packages are installed on."""
        self.name = walls.name
        self._walls, self._tending = walls, tending or walls
        self._workspaces = Workspaces(self._tending)
        self._system = system
        self._state_dir = state_dir.resolve()
        self._pool_size = pool_size if walls.can_be_renamed else 0
        self._egress = egress if walls.capabilities.holds("network") else None
        self._registries = Registries(self._asking)
        self._living: dict[AgentSandbox, str | None] = {}  # and the digest of its packages
        self._disks = DiskBounds()
        self._shelf = LayerShelf(self._state_dir / "layers", in_use=self._layers_in_use)
        self._pool: list[tuple[Path, AgentSandbox]] = []
        self._pool_dir = self._state_dir / f"pool-{owned_name()}"
        self._filling: asyncio.Task[None] | None = None
        self._is_closed = self._has_booted = False

    @property
    def capabilities(self) -> Capabilities:
        return self._walls.capabilities

    # -- sandboxes ----------------------------------------------------------------------------------

    async def create(self, *, session_id: str, workspace: Path, recipe: Recipe) -> Sandbox:
        memory, digest = stores_of(recipe), await self._layer_of(recipe)
        bounds = bounds_of(recipe.environment)
        full = await self._disks.full(workspace, bounds)
        if self._is_closed:
            raise SandboxUnavailable("the provider is closed", retryable=False)
        trusts = recipe.trusts and self._egress is not None
        is_plain = not memory and digest is None and not recipe.trusts and full is None
        while self._pool and is_plain and bounds == DEFAULT_BOUNDS:
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
            self._disks.watch(warm, workspace, bounds)
            return await self._let_out(warm, session_id, recipe)
        if trusts:
            assert self._egress is not None
            self._lay_out(workspace, memory)
            lay_trust(workspace, await self._egress.bundle(session_id))
        boot = partial(
            self._boot, workspace, memory, digest, variables=recipe.variables, bounds=bounds, full=full
        )
        try:
            sandbox = await boot()
        except CannotWork as error:
            if not self._has_booted:
                raise
            # An engine that was started anew, a moment without memory: nothing has run in it yet.
            log.warning("a sandbox of %s did not start, will try once more: %s", self.name, error.found)
            sandbox = await boot()
        self._fill_pool()
        self._disks.watch(sandbox, workspace, bounds)
        return await self._let_out(sandbox, session_id, recipe)

    async def probe(self) -> Probe:
        """Boot a throw-away sandbox over planted links, try every escape, find python3 and bash in it."""
        started = time.monotonic()
        home = self._state_dir / f"probe-{owned_name()}"
        canary = home / "canary"
        try:
            await self._walls.set_up()
            self._lay_out(home)
            canary.mkdir()
            self._plant_links(home / "files", canary)
            sandbox = await self._boot(home)
            try:
                leaks = await self._check(sandbox)
            finally:
                await sandbox.destroy()
            if any(canary.iterdir()):
                leaks.append("a planted link led out")
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
        summary, detail = self._walls.description()
        if leaks:
            return Probe(
                is_available=False,
                summary="the sandbox leaks",
                detail=f"the sandbox of {detail} leaks: {', '.join(leaks)}",
                remedy=f"install a newer {self.name}, or choose another sandbox",
            )
        self._fill_pool()
        took = f"escapes denied; {(time.monotonic() - started) * 1000:.0f} ms"
        return Probe(is_available=True, summary=summary, detail=f"{detail}, {took}")

    async def _check(self, sandbox: AgentSandbox) -> list[str]:
        """The escapes that worked and are not gaps that the capabilities name."""
        hidden = [str(path) for path in self._walls.absent()]
        absent = hidden if self.capabilities.holds("names") else []
        leaks = await sandbox.check(absent=absent, closed=hidden, stranger=os.getpid())
        known = {leak for leak, wall in _LEAKS.items() if not self.capabilities.holds(wall)}
        return [leak for leak in leaks if leak not in known]

    async def aclose(self) -> None:
        self._is_closed = True
        if self._filling:
            await self._filling  # a boot that is cut off half-way would have no owner
        await self._disks.aclose()
        await asyncio.gather(*(sandbox.destroy() for sandbox in list(self._living)))
        for home, _ in self._pool:
            remove_empty(home)
        self._pool.clear()
        with contextlib.suppress(OSError):
            self._pool_dir.rmdir()
        self._walls.close()
        self._tending.close()

    async def _boot(
        self,
        home: Path,
        memory: Mapping[str, bool] | None = None,
        digest: str | None = None,
        *,
        variables: Mapping[str, str] | None = None,
        bounds: Bounds = DEFAULT_BOUNDS,
        full: str | None = None,
    ) -> AgentSandbox:
        """A cold start on a workspace. digest: of its packages. variables: of its programs, unless we have
        one of that name. full: for one call that may only delete, and is told why. Raises
        SandboxUnavailable with a remedy."""
        await self._walls.set_up()
        memory = memory or {}
        self._lay_out(home, memory)
        await self._walls.freshen(home)

        def seen(path: str) -> str:
            return self._walls.seen(home, path)

        python = self._walls.python
        layer = None if digest is None else Layer.at(self._shelf.path(digest) / _LAYER)
        documented = [*PATHS.values(), UPLOADS[1], *(f"{MEMORY[1]}/{slug}" for slug in memory), TMP]
        moved = {path: here for path in documented if (here := seen(path)) != path}
        roots = ["/mnt/session", MEMORY[1], TMP] if not moved else [seen(path) for path in documented]
        doors = None if self._walls.takes_descriptors else self._state_dir
        rights: dict[str, Json] | None = None
        if self._walls.has_own_kernel:
            has_bound = self.capabilities.holds("memory")
            rights = {
                "user": INSIDE_UID,
                "system_calls": seccomp_filter().hex(),
                "address_bytes": None if has_bound else bounds.memory_bytes,
            }
        with expected_way_out(
            self._egress, doors=doors, carries=self._walls.has_own_kernel, owner=self._walls.owner(home)
        ) as way:
            agent = [*python.command, "-IS", seen(AGENT)]
            process = await self._walls.start(
                home, agent, memory, layer, gives=way.gives, door=way.door, bounds=bounds
            )
            sandbox = AgentSandbox(process, bounds=bounds, full=full)
            self._living = {other: used for other, used in self._living.items() if other.is_alive}
            self._living[sandbox] = digest
            try:
                await sandbox.start(
                    start_message(
                        env={
                            **(variables or {}),
                            **environment(python, layer),
                            **({"HOME": seen(TMP), "TMPDIR": seen(TMP)} if moved else {}),
                            **way.environment,
                            **(trusting(seen(TRUST[1])) if (home / TRUST[0]).exists() else {}),
                        },
                        workdir=seen(WORKDIR),
                        roots=roots,
                        spill=seen(PATHS["tool-outputs"]),
                        moved=moved,
                        bounds=bounds,
                        processes=self._walls.processes_max(bounds),
                        is_full=full is not None,
                        way_out=way.told,
                        rights=rights,
                    )
                )
                process.booted()
                self._has_booted = True
                sandbox.way_out = way.taken()
            except SandboxLost as e:
                process.kill()
                await process.exit_code()
                complaint = process.complaint() or str(e)
                await sandbox.destroy()
                raise self._walls.diagnose(complaint) from e
            finally:
                if not sandbox.is_alive:
                    await sandbox.destroy()
        return sandbox

    async def _let_out(self, sandbox: AgentSandbox, session_id: str, recipe: Recipe) -> AgentSandbox:
        """From now on it is this session's. Raises SandboxUnavailable."""
        if sandbox.way_out is not None:
            try:
                hosts = await self._registries.hosts() if opens_registries(recipe) else ()
            except BaseException:
                await sandbox.destroy()
                raise
            sandbox.way_out.open(session_id, recipe, package_hosts=hosts)
        return sandbox

    @contextlib.asynccontextmanager
    async def _asking(self) -> AsyncIterator[Process]:
        """The program that says where package managers fetch from, in a sandbox that nobody has used."""
        home = self._state_dir / f"probe-{os.getpid()}-{secrets.token_hex(4)}"
        await self._walls.set_up()
        self._lay_out(home)
        agent = self._walls.seen(home, AGENT)
        try:
            asking = await self._walls.start(
                home, [*self._walls.python.command, "-IS", agent, "registries"], {}
            )
            try:
                yield asking
            finally:
                await asking.close()
        finally:
            await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)

    # -- packages -----------------------------------------------------------------------------------

    def has_layer(self, digest: str) -> bool:
        return self._shelf.has(digest)

    async def put_layer(self, digest: str, archive: AsyncIterator[bytes]) -> None:
        self._require_layers()
        async with self._shelf.bring(digest) as fresh:
            if fresh is not None:  # it is unpacked as the files of a workspace are
                await self._workspaces.take_in(
                    fresh,
                    archive,
                    bytes_max=LAYER_BYTES_MAX,
                    members_max=LAYER_ENTRIES_MAX,
                    below=_LAYER.name,
                )

    async def _layer_of(self, recipe: Recipe) -> str | None:
        """The digest of its packages. Raises SandboxUnavailable."""
        mount, packages = recipe.packages, wanted(recipe.environment)
        if mount is None and not packages:
            return None
        self._require_layers()
        if mount is None:
            raise SandboxUnavailable("the packages of the environment are not installed", retryable=False)
        below = await asyncio.to_thread(ground, packages, self._system)
        if mount.digest != layer_digest(packages, ground=below):
            raise SandboxUnavailable(
                "the packages of the environment were installed on a machine whose system, Python or Node"
                " differs from this one's; machines with brains and machines with sandboxes need the same",
                retryable=False,
            )
        return mount.digest

    def _require_layers(self) -> None:
        if not self._walls.has_layers:
            raise SandboxUnavailable(
                f"sandboxes of {self.name} cannot have packages; use an environment without, or another"
                " kind of sandbox",
                retryable=False,
            )

    def _layers_in_use(self) -> set[str]:
        living = list(self._living.items())  # at once: a thread asks while sandboxes come
        return {digest for sandbox, digest in living if digest and sandbox.is_alive}

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
        return place_of(workspace, place)

    def seen(self, workspace: Path, path: str) -> str:
        return self._walls.seen(workspace, path)

    async def prepare_memory(self, workspace: Path, slug: str) -> int | None:
        self.place(workspace, f"{MEMORY[0]}/{slug}")
        self._lay_out(workspace, (slug,))
        return self._walls.owner(workspace)

    async def import_archive(
        self, workspace: Path, archive: AsyncIterator[bytes], *, below: str | None = None
    ) -> None:
        await self._workspaces.take_in(workspace, archive, below=below)

    async def export_archive(self, workspace: Path) -> AsyncIterator[bytes]:
        async for chunk in self._workspaces.export(workspace):
            yield chunk

    async def pack(self, workspace: Path) -> AsyncIterator[bytes]:
        async for chunk in self._workspaces.pack(workspace):
            yield chunk

    async def unpack(self, workspace: Path, archive: AsyncIterator[bytes]) -> None:
        await self._workspaces.unpack(workspace, archive)

    async def remove_workspace(self, workspace: Path) -> None:
        self._disks.forget(workspace)
        await self._workspaces.remove(workspace)

    def _lay_out(self, home: Path, memory: Iterable[str] = ()) -> None:
        lay_out(home, memory, owner=self._walls.owner(home), mode=self._walls.home_mode)

    def _plant_links(self, files: Path, canary: Path) -> None:
        """What a hostile agent would leave for the next start: a link for each mount point's first step."""
        for place in ("mnt", "tmp", "proc", "dev", "usr", "etc", "run", "session", "outputs"):
            (files / place).symlink_to(canary)


_LEAKS: Final = {  # what the agent's check says, and the wall that does not hold then
    "foreign processes in /proc": "processes",
    "signal to a foreign process": "signals",
    "capabilities in reach": "user",
    "root inside": "user",  # of a user namespace, where root is an ordinary user
}
