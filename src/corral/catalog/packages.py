"""Packages of environments: pure rules. What one list of them installs is a *layer*.

A layer is a directory with one folder per package manager. Equal lists on equal ground make the same layer:
its digest names it wherever it is kept. In a sandbox it lies read-only at PLACE.

Source: API docs, environments "packages"; docs/DIVERGENCES.md "Packages".
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

__all__ = ["MOUNT_ID", "PACKAGE_MANAGERS", "PLACE", "Wanted", "layer_digest", "wanted"]

PACKAGE_MANAGERS: Final = ("apt", "cargo", "gem", "go", "npm", "pip")
"""In the order in which they install."""

PLACE: Final = "/opt/corral/packages"
MOUNT_ID: Final = "packages"  # of a session's layer: it has one

Wanted: TypeAlias = Mapping[str, tuple[str, ...]]
"""By package manager, in the order in which they install: what each is asked for, in the order given."""


def wanted(environment: Mapping[str, Any]) -> Wanted:
    """environment: a config as stored. Managers without packages are left out."""
    packages = environment.get("packages") or {}
    return {name: tuple(packages[name]) for name in PACKAGE_MANAGERS if packages.get(name)}


def layer_digest(packages: Wanted, *, ground: str) -> str:
    """Lower-case hex. ground: what the packages are installed on (`hands.providers.ground`)."""
    return hashlib.sha256(json.dumps([ground, list(packages.items())]).encode()).hexdigest()
