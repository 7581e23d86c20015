"""A session's workspace as it lies on the host, and where a sandbox sees its parts.

A directory that only the host may change, with one directory per kept place that belongs to the agent:

    workspaces/sesn_1/            ours
      files/                      /workspace
      outputs/  tool-outputs/     /mnt/session/...
      uploads/                    /mnt/session/uploads, read-only: ours, too
      memory/<slug>/              /mnt/memory/<slug>
      notes/                      what the host writes down of it; in no sandbox
      tmp/                        /tmp, where that cannot be memory; not kept
      trust/authorities.pem       /run/corral/authorities.pem, of a session with credentials; ours; not kept
"""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from corral.kernel.errors import InvalidRequest, SandboxUnavailable
from corral.session.call import Recipe

__all__ = [
    "AGENT",
    "HOST_UID",
    "MEMORY",
    "NOTES",
    "PATHS",
    "SCRATCH",
    "TMP",
    "TRUST",
    "UPLOADS",
    "WORKDIR",
    "drops_uid",
    "lay_out",
    "lay_trust",
    "place_of",
    "remove_empty",
    "stores_of",
]

HOST_UID: Final = 65522  # as root: an unprivileged uid that no distribution gives to anybody
WORKDIR: Final = "/workspace"
FILE_SYSTEMS: Final = "/proc/fs"  # of the machine: what they say is long, and costs others their turn
TMP: Final = "/tmp"  # noqa: S108  (a path inside the sandbox, private to it)
AGENT: Final = "/run/corral/agent"
PATHS: Final = {  # what a session keeps: directory of its workspace on the host -> place in the sandbox
    "files": WORKDIR,
    "outputs": "/mnt/session/outputs",
    "tool-outputs": "/mnt/session/tool-outputs",
}
UPLOADS: Final = ("uploads", "/mnt/session/uploads")  # likewise; only the host writes there
MEMORY: Final = ("memory", "/mnt/memory")  # likewise, with a directory for each memory store
NOTES: Final = "notes"
SCRATCH: Final = "tmp"
TRUST: Final = ("trust/authorities.pem", "/run/corral/authorities.pem")  # only the host writes there
_PLACES: Final = frozenset(("outputs", UPLOADS[0], NOTES))
_SLUG: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")  # or a memory store's id


def drops_uid() -> bool:
    """Whether sandboxes get HOST_UID: we are root, and of a user namespace that knows that uid. In one that
    does not, "root" is an ordinary user."""
    ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    is_mapped = any(int(first) <= HOST_UID < int(first) + int(count) for first, _, count in ranges)
    return os.geteuid() == 0 and is_mapped


def lay_out(home: Path, memory: Iterable[str] = (), *, owner: int | None, mode: int) -> None:
    """Make what is missing; give back to the agent what it locked itself out of. Repeat: safe.

    The entries of `home` are real directories: only the host can write in `home`. memory: slugs.
    owner: uid of the agent's directories; None: ours. mode: of `home`.
    """
    home.mkdir(exist_ok=True)
    home.chmod(mode)
    uploads = home / UPLOADS[0]
    uploads.mkdir(exist_ok=True)
    uploads.chmod(0o755)
    if memory:
        (home / MEMORY[0]).mkdir(exist_ok=True)
        (home / MEMORY[0]).chmod(0o755)
    for name in (*PATHS, *(f"{MEMORY[0]}/{slug}" for slug in memory)):
        folder = home / name
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
        if owner is not None:
            os.chown(folder, owner, owner)


def lay_trust(home: Path, bundle: bytes) -> None:
    """Make this what its sandboxes trust, from the next one on."""
    file = home / TRUST[0]
    file.parent.mkdir(mode=0o755, exist_ok=True)
    draft = file.with_name(f"{file.name}.new")
    draft.write_bytes(bundle)
    draft.chmod(0o644)
    draft.rename(file)


def place_of(home: Path, place: str) -> Path:
    """As `Provider.place`."""
    if (place.startswith(f"{MEMORY[0]}/") and _SLUG.fullmatch(place[len(MEMORY[0]) + 1 :])) or (
        place in _PLACES
    ):
        return home / place
    raise InvalidRequest(f"a workspace has no place {place!r}")


def stores_of(recipe: Recipe) -> dict[str, bool]:
    """The slugs of its memory stores, and whether the agent may write there. Raises SandboxUnavailable."""
    found: dict[str, bool] = {}
    for mount in recipe.memory:
        parent, _, slug = mount.path.rpartition("/")
        if parent != MEMORY[1] or not _SLUG.fullmatch(slug):
            raise SandboxUnavailable(f"a memory store cannot be mounted at {mount.path!r}", retryable=False)
        found[slug] = mount.mode == "read_write"
    return found


def remove_empty(home: Path) -> bool:
    """Remove a workspace in which no file was ever made. Returns whether it is gone."""
    memory = home / MEMORY[0]
    stores = list(memory.iterdir()) if memory.is_dir() else []
    ours = [home / name for name in (*PATHS, SCRATCH, UPLOADS[0])]
    for folder in [*ours, *stores, memory, home]:
        with contextlib.suppress(OSError):
            folder.rmdir()
    return not home.exists()
