"""What package managers are told of registries: the operator's own files in their own formats.

    <packages_config>/pip.conf  npmrc  cargo.toml  gemrc  go.env
                      apt/sources.list, sources.list.d/ and so on, as in /etc/apt

Without that directory: what the machine says for everybody, of the managers that look there. What is not
said package managers know themselves: no registry is named here.

Install scripts can read these files, so they hold no credentials: one that looks as if it did is refused.
"""

import errno
import logging
import re
from pathlib import Path
from typing import Final

from corral.catalog.hosts import HostList
from corral.kernel.limits import PACKAGES_CONFIG_BYTES_MAX

__all__ = ["FILES", "HoldsCredentials", "lay_out", "masked", "refuse_credentials"]

log = logging.getLogger(__name__)

FILES: Final = ("cargo.toml", "gemrc", "go.env", "npmrc", "pip.conf")
_OF_THE_MACHINE: Final = {
    "apt": Path("/etc/apt"),
    "npmrc": Path("/etc/npmrc"),
    "pip.conf": Path("/etc/pip.conf"),
}
# Of apt's directory: its credentials are elsewhere, and its options are for the machine itself.
_APT: Final = ("sources.list", "trusted.gpg", "preferences")
_APT_FOLDERS: Final = ("keyrings", "preferences.d", "sources.list.d", "trusted.gpg.d")
_CREDENTIALS: Final = re.compile(
    rb"""://[^/\s"']*@ | ^[^#;\n]*\b(?:_auth|_authToken|\w*(?:password|token|secret|api_?key))\s*[=:]""",
    re.I | re.M | re.X,
)


_HOST: Final = re.compile(r"//([A-Za-z0-9][A-Za-z0-9.-]*)")


class HoldsCredentials(ValueError):
    """`str()` names the file, and nothing of what is in it."""


def refuse_credentials(folder: Path) -> None:
    """Raises HoldsCredentials for the first file; OSError for one that cannot be read."""
    for path in [*(folder / name for name in FILES), *_of_apt(folder / "apt")]:
        if path.is_file():
            _read(path)


def lay_out(folder: Path | None, into: Path) -> None:
    """Copy the files to a new directory that everybody may read. Raises HoldsCredentials, OSError."""
    places = {name: folder / name for name in ("apt", *FILES)} if folder else dict(_OF_THE_MACHINE)
    of_apt = places.pop("apt")
    places |= {f"apt/{path.relative_to(of_apt)}": path for path in _of_apt(of_apt)}
    apt = into / "apt"
    for each in (into, apt, *(apt / name for name in ("apt.conf.d", *_APT_FOLDERS))):
        each.mkdir(mode=0o755)
        each.chmod(0o755)
    for name, path in places.items():
        if not path.is_file():
            continue
        try:
            data = _read(path)
        except (HoldsCredentials, OSError) as error:
            if folder is not None:
                raise
            log.warning("%s is not used to install packages: %s", path, error)
            continue
        (into / name).write_bytes(data)
        (into / name).chmod(0o644)


def masked(words: str, *, config: Path, hosts: HostList) -> str:
    """Words of a package manager without the hosts that the operator has named: in files as `lay_out`
    leaves them, and where packages may come from. Users may be strangers."""
    named = {entry.partition(":")[0] for entry in (*hosts.public, *hosts.private)} - {"*"}
    for path in [*(config / name for name in FILES), *_of_apt(config / "apt")]:
        if path.is_file():
            named.update(_HOST.findall(path.read_text(errors="replace")))
    for name in sorted(named, key=len, reverse=True):
        host = re.escape(name) if not name.startswith("*.") else rf"(?:[\w-]+\.)+{re.escape(name[2:])}"
        words = re.sub(rf"(?<![\w.-]){host}(?::\d+)?(?![\w-]|\.\w)", "[registry]", words, flags=re.I)
    return words


def _of_apt(folder: Path) -> list[Path]:
    found = [path for name in _APT_FOLDERS for path in sorted((folder / name).glob("*"))]
    return [*(folder / name for name in _APT), *found]


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(PACKAGES_CONFIG_BYTES_MAX + 1)
    if len(data) > PACKAGES_CONFIG_BYTES_MAX:
        raise OSError(errno.EFBIG, f"it has more than {PACKAGES_CONFIG_BYTES_MAX} bytes", str(path))
    if _CREDENTIALS.search(data):
        raise HoldsCredentials(f"{path.name} holds credentials, which install scripts could read")
    return data
