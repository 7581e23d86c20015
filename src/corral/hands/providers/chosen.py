"""Several providers on one host: an environment may name one of those that the operator offers.

Workspaces lie alike for all of them (`home`), so what a session has kept does not depend on who made its
sandboxes. Without a choice, before the first sandbox, and for layers, it is the node's own.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from corral.catalog.sandbox import provider_named
from corral.hands.ports import Capabilities, Probe, Provider, Sandbox
from corral.kernel.errors import SandboxUnavailable
from corral.session.call import Recipe

__all__ = ["ChosenProvider"]


class ChosenProvider:
    """`hands.ports.Provider`."""

    def __init__(self, own: Provider, others: Mapping[str, Callable[[], Provider]]) -> None:
        """own: the node's. others: by name, made when an environment first asks for one."""
        self.name = own.name
        self._own = own
        self._others = others
        self._made: dict[str, Provider] = {own.name: own}
        self._makers: dict[Path, Provider] = {}  # of the workspaces that had a sandbox; else it is our own

    @property
    def capabilities(self) -> Capabilities:
        return self._own.capabilities

    async def probe(self) -> Probe:
        return await self._own.probe()

    async def create(self, *, session_id: str, workspace: Path, recipe: Recipe) -> Sandbox:
        maker = self._maker(provider_named(recipe.environment) or self.name)
        sandbox = await maker.create(session_id=session_id, workspace=workspace, recipe=recipe)
        self._makers[workspace] = maker
        return sandbox

    def _maker(self, name: str) -> Provider:
        if name not in self._made:
            if name not in self._others:
                raise SandboxUnavailable(
                    f"the environment asks for sandboxes of {name!r}, which this host does not make",
                    detail="its operator may offer them: CORRAL_SANDBOX_CHOICES",
                    retryable=False,
                )
            self._made[name] = self._others[name]()
        return self._made[name]

    def _of(self, workspace: Path) -> Provider:
        return self._makers.get(workspace, self._own)

    async def prepare_workspace(self, workspace: Path) -> None:
        await self._of(workspace).prepare_workspace(workspace)

    def place(self, workspace: Path, place: str) -> Path:
        return self._of(workspace).place(workspace, place)

    def seen(self, workspace: Path, path: str) -> str:
        return self._of(workspace).seen(workspace, path)

    async def prepare_memory(self, workspace: Path, slug: str) -> int | None:
        return await self._of(workspace).prepare_memory(workspace, slug)

    def has_layer(self, digest: str) -> bool:
        return self._own.has_layer(digest)

    async def put_layer(self, digest: str, archive: AsyncIterator[bytes]) -> None:
        await self._own.put_layer(digest, archive)

    async def import_archive(
        self, workspace: Path, archive: AsyncIterator[bytes], *, below: str | None = None
    ) -> None:
        await self._of(workspace).import_archive(workspace, archive, below=below)

    def export_archive(self, workspace: Path) -> AsyncIterator[bytes]:
        return self._of(workspace).export_archive(workspace)

    def pack(self, workspace: Path) -> AsyncIterator[bytes]:
        return self._of(workspace).pack(workspace)

    async def unpack(self, workspace: Path, archive: AsyncIterator[bytes]) -> None:
        await self._of(workspace).unpack(workspace, archive)

    async def remove_workspace(self, workspace: Path) -> None:
        await self._of(workspace).remove_workspace(workspace)
        self._makers.pop(workspace, None)

    async def aclose(self) -> None:
        for provider in self._made.values():
            await provider.aclose()
