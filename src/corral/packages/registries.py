"""What package managers are told of registries: the operator's own files in their own formats.

    <packages_config>/pip.conf  npmrc  cargo.toml  gemrc  go.env

Without that directory: what the machine says for everybody, of the managers that look there. What is not
said package managers know themselves: no registry is named here.

Install scripts can read these files, so they hold no credentials: one that looks as if it did is refused.
"""

import logging
import re
from pathlib import Path
from typing import Final

from corral.kernel.limits import PACKAGES_CONFIG_BYTES_MAX

__all__ = ["FILES", "HoldsCredentials", "lay_out", "refuse_credentials"]

log = logging.getLogger(__name__)

FILES: Final = ("cargo.toml", "gemrc", "go.env", "npmrc", "pip.conf")
_OF_THE_MACHINE: Final = {"npmrc": Path("/etc/npmrc"), "pip.conf": Path("/etc/pip.conf")}
_CREDENTIALS: Final = re.compile(
    rb"""://[^/\s"']*@ | ^[^#;\n]*\b(?:_auth|_authToken|_password|password|token|secret)\s*[=:]""",
    re.I | re.M | re.X,
)


class HoldsCredentials(ValueError):
    """`str()` names the file, and nothing of what is in it."""


def refuse_credentials(folder: Path) -> None:
    """Raises HoldsCredentials for the first file; OSError for one that cannot be read."""
    for name in FILES:
        if (path := folder / name).is_file():
            _read(path)


def lay_out(folder: Path | None, into: Path) -> None:
    """Copy the files to a new directory that everybody may read. Raises HoldsCredentials, OSError."""
    into.mkdir(mode=0o755)
    into.chmod(0o755)
    for name in FILES:
        path = folder / name if folder is not None else _OF_THE_MACHINE.get(name)
        if path is None or not path.is_file():
            continue
        try:
            data = _read(path)
        except HoldsCredentials as error:
            if folder is not None:
                raise
            log.warning("%s is not used to install packages: %s", path, error)
            continue
        (into / name).write_bytes(data)
        (into / name).chmod(0o644)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(PACKAGES_CONFIG_BYTES_MAX)
    if _CREDENTIALS.search(data):
        raise HoldsCredentials(f"{path.name} holds credentials, which install scripts could read")
    return data
