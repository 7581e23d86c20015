"""What containers are made of: an image that the engine has, or one of ours with nothing in it."""

import hashlib
import io
import tarfile
from collections.abc import Sequence
from typing import Final

from corral.hands.providers.binary import CannotWork
from corral.hands.providers.engine import Engine, diagnosed

__all__ = ["id_of", "own_image", "require_bash"]

_OWN_IMAGE: Final = "localhost/corral-nothing"
_FOLDERS: Final = ("dev", "etc", "mnt", "opt", "proc", "run", "sys", "tmp", "usr", "var", "workspace")
_SHELL: Final = "/bin/bash"


async def id_of(engine: Engine, image: str) -> str:
    """It stays the same for as long as a host lives, whatever gets its name. Raises CannotWork."""
    found = await engine.ask("image", "inspect", "--format", "{{.Id}}", image)
    if found.code != 0:
        raise CannotWork(
            "the image of sandboxes is not there",
            found=f"{engine.name} has no image {image!r}: {found.complaint.strip()}",
            remedy=f"`{engine.name} pull {image}`, or build or import it; or leave --sandbox-image"
            " (CORRAL_SANDBOX_IMAGE) away: then sandboxes have the programs of this machine",
        )
    return found.said.strip()


async def own_image(engine: Engine, links: Sequence[tuple[str, str]]) -> str:
    """The name of an image of ours with nothing in it but places for mounts, and links: (target, place).
    Raises CannotWork."""
    packed = _nothing(links)
    name = f"{_OWN_IMAGE}:{hashlib.sha256(packed).hexdigest()[:16]}"
    if (await engine.ask("image", "inspect", name)).code != 0:
        made = await engine.ask("import", "-", name, gives=packed)
        if made.code != 0:
            raise diagnosed(engine.name, made.complaint)
    return name


def _nothing(links: Sequence[tuple[str, str]]) -> bytes:
    """A tar of the empty root of a system."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for folder in _FOLDERS:
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(info)
        for target, link in [*links, ("../tmp", "/var/tmp")]:  # noqa: S108  (inside)
            info = tarfile.TarInfo(link.lstrip("/"))
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return packed.getvalue()


async def require_bash(engine: Engine, image: str, options: Sequence[str], name: str) -> None:
    """Nothing else is needed of an image. Raises CannotWork."""
    found = await engine.ask("run", "--rm", *options, "--entrypoint", _SHELL, image, "-c", "true")
    if found.code != 0:
        raise CannotWork(
            "the image of sandboxes has no bash that runs here",
            found=f"{name!r}: {found.complaint.strip()}",
            remedy=f"use an image for this machine's processor, with {_SHELL}",
        )
