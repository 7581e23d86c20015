"""What of ours goes with sandboxes: with an agent's, its program, a few lines of /etc, and the keeper of
those that have no namespaces.
"""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Final

from corral.hands import keeper, sandbox_agent
from corral.hands.providers.binary import PythonInside

__all__ = ["INSIDE_UID", "copied", "install"]

INSIDE_UID: Final = 1000  # of the agent, where uids inside are others than outside
_ETC: Final = {
    "passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:{uid}:{gid}:agent:/tmp:/bin/bash\n",
    "group": "root:x:0:\nagent:x:{gid}:\n",
    "hosts": "127.0.0.1 localhost corral\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def install(
    state_dir: Path,
    python: PythonInside,
    *,
    uid: int = INSIDE_UID,
    gid: int = INSIDE_UID,
    more: Mapping[str, bytes] | None = None,
) -> Path:
    """The programs `agent/` and `keeper/`, and a few lines of /etc, `etc/`: `copied`. uid, gid: of the
    agent inside. more: files beside them."""
    files = _program("agent", sandbox_agent) | _program("keeper", keeper)
    files |= {f"etc/{name}": text.format(uid=uid, gid=gid).encode() for name, text in _ETC.items()}
    return copied(state_dir, python, files | dict(more or {}))


def copied(root: Path, python: PythonInside, files: Mapping[str, bytes]) -> Path:
    """A directory below root with these files, by their paths in it; their Python is compiled by the one
    that will run it.

    Compiled, because that is most of a cold start; copied, because our package may be unreadable to others.
    Repeat: safe, also by processes that share root: the directory's name says what is in it.
    """
    digest = hashlib.sha256(repr((files, str(python.path.resolve()))).encode()).hexdigest()[:16]
    place = root / f"inside-{digest}"
    if place.is_dir():
        return place
    fresh = Path(tempfile.mkdtemp(prefix="inside-new-", dir=root))
    for name, content in files.items():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).write_bytes(content)
    compiler = ["-IS", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(fresh)]
    subprocess.run([python.path, *compiler], check=False, capture_output=True)  # without it: only slower
    for path in [fresh, *fresh.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    try:
        fresh.rename(place)
    except OSError:  # another process was faster
        shutil.rmtree(fresh)
    return place


def _program(name: str, package: ModuleType) -> dict[str, bytes]:
    """The files of a directory that Python runs."""
    assert package.__file__
    module = package.__name__.rpartition(".")[2]
    sources = sorted(Path(package.__file__).parent.glob("*.py"))
    files = {f"{name}/{module}/{path.name}": path.read_bytes() for path in sources}
    return files | {f"{name}/__main__.py": f"import runpy\nrunpy.run_module({module!r})\n".encode()}
