"""Which providers ship, by name, the stronger first. Nothing stronger is ever replaced by something weaker
without a word: an operator names the weaker one, or a user is told.
"""

from pathlib import Path
from typing import Final, Literal, get_args

from corral.hands.ports import Provider
from corral.hands.providers.system import System
from corral.hands.way_out import Egress

__all__ = ["DEFAULT", "FALLBACK", "PROVIDERS", "ProviderName", "provider_of"]

ProviderName = Literal["bwrap", "landlock"]
PROVIDERS: Final[tuple[ProviderName, ...]] = get_args(ProviderName)
DEFAULT: Final[ProviderName] = "bwrap"
FALLBACK: Final[ProviderName] = "landlock"
"""Where user namespaces are forbidden, only this one works."""


def provider_of(
    name: ProviderName,
    *,
    state_dir: Path,
    is_warm: bool = True,
    egress: Egress | None = None,
    root: Path | None = None,
) -> Provider:
    """state_dir: exists; on the file system of the workspaces. is_warm: it may keep sandboxes ready.
    egress: through which sandboxes get out, of providers that have a network for them. root: a root file
    system with the programs of sandboxes; the machine's own unless given."""
    pool_size, system = 1 if is_warm else 0, System.at(root)
    match name:
        case "bwrap":
            from corral.hands.providers.bwrap import BwrapProvider

            return BwrapProvider(state_dir=state_dir, pool_size=pool_size, egress=egress, system=system)
        case "landlock":
            from corral.hands.providers.landlock import LandlockProvider

            return LandlockProvider(state_dir=state_dir, system=system)
