"""Which providers ship, by name, the stronger first. Nothing stronger is ever replaced by something weaker
without a word: an operator names the weaker one, or a user is told.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal, get_args

from corral.hands.ports import Provider
from corral.hands.providers.system import System
from corral.hands.way_out import Egress

__all__ = ["DEFAULT", "FALLBACK", "PROVIDERS", "ProviderName", "provider_of"]

ProviderName = Literal["gvisor", "bwrap", "docker", "podman", "landlock"]
PROVIDERS: Final[tuple[ProviderName, ...]] = get_args(ProviderName)
DEFAULT: Final[ProviderName] = "bwrap"
FALLBACK: Final[ProviderName] = "landlock"
"""Where user namespaces are forbidden, only this one needs nothing else."""


def provider_of(
    name: ProviderName,
    *,
    state_dir: Path,
    is_warm: bool = True,
    egress: Egress | None = None,
    root: Path | None = None,
    image: str | None = None,
    choices: Sequence[ProviderName] | None = None,
) -> Provider:
    """state_dir: exists; on the file system of the workspaces. is_warm: it may keep sandboxes ready.
    egress: through which sandboxes get out, of providers that have a network for them. root: a root file
    system with the programs of sandboxes, or image: for engines of containers, who alone look at it; the
    machine's own unless given. choices: more of them, which an environment may name; a host has them, or
    none, and refuses what is not among them. Without any nobody looks at what an environment names."""
    if choices is not None:
        from corral.hands.providers.chosen import ChosenProvider

        def make(which: ProviderName, *, is_warm: bool) -> Provider:
            return provider_of(
                which, state_dir=state_dir, is_warm=is_warm, egress=egress, root=root, image=image
            )

        later: dict[str, Callable[[], Provider]] = {
            other: partial(make, other, is_warm=False) for other in choices if other != name
        }
        return ChosenProvider(make(name, is_warm=is_warm), later)
    pool_size, system = 1 if is_warm else 0, System.at(root)
    match name:
        case "gvisor":
            from corral.hands.providers.gvisor import GvisorProvider

            return GvisorProvider(state_dir=state_dir, pool_size=pool_size, egress=egress, system=system)
        case "bwrap":
            from corral.hands.providers.bwrap import BwrapProvider

            return BwrapProvider(state_dir=state_dir, pool_size=pool_size, egress=egress, system=system)
        case "docker" | "podman":
            from corral.hands.providers.container import ContainerProvider

            return ContainerProvider(
                name, state_dir=state_dir, pool_size=pool_size, egress=egress, system=system, image=image
            )
        case "landlock":
            from corral.hands.providers.landlock import LandlockProvider

            return LandlockProvider(state_dir=state_dir, system=system)
