"""The interpreter that comes along into a root file system: the machine's own Python, with every library
that it loads, at a place of ours. So a root may be of another distribution, or have no Python.

    <state>/interpreter-<digest>/bin/python3.11       as on the machine
                                 libraries/           what it loads, and the loader, which looks here
                                 lib/python3.11/      empty: where the standard library is bound

Programs of the agent do not find it: it is in no PATH, and what has a root has the Python of that root.
"""

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from corral.hands.providers.binary import CannotWork, PythonInside

__all__ = ["brought"]

_PLACE: Final = "/run/corral/python"
_ASK: Final = "import json, os, sys; print(json.dumps([sys.base_prefix, os.path.dirname(os.__file__)]))"
_NEEDLESS: Final = (
    "_tkinter",
    "_test",
    "_xxtest",
    "_ctypes_test",
    "nis",
)  # extensions that none of ours loads
_LOADED: Final = re.compile(r"(?:^\s*|=> )(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_LOADER: Final = re.compile(r"ld-\S+")
_SECONDS_MAX: Final = 30.0


def brought(python: PythonInside, state_dir: Path) -> PythonInside:
    """The same interpreter, for sandboxes with other programs than the machine's. Blocks. Repeat: safe,
    also by processes that share state_dir. Raises CannotWork."""
    program = python.path.resolve()
    try:
        prefix, library = map(Path, json.loads(_said([str(python.path), "-IS", "-c", _ASK])))
        inside = library.relative_to(prefix)
        extensions = sorted((library / "lib-dynload").glob("*.so"))
        wanted = [path for path in extensions if not path.name.startswith(_NEEDLESS)]
        # In one process: it says the name of each program, and lines of what that loads.
        said = _said(["ldd", str(program), *map(str, wanted)])
        loaded = {Path(path).name: Path(path) for path in _LOADED.findall(said)}
        loader = next(name for name in loaded if _LOADER.fullmatch(name))
        place = _copied(state_dir, program, loaded, inside)
    except (OSError, subprocess.SubprocessError, ValueError, StopIteration) as error:
        raise CannotWork(
            "no Python can be brought into the root file system for sandboxes",
            found=f"{program}: {error!r}",
            remedy="install the system's own: `apt install python3`",
        ) from error
    libraries = f"{_PLACE}/libraries"
    return PythonInside(
        path=python.path,
        prefix=None,
        brought=(
            (f"{libraries}/{loader}", "--library-path", libraries, f"{_PLACE}/bin/{program.name}"),
            ((place, _PLACE), (library, f"{_PLACE}/{inside}")),
        ),
    )


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS_MAX, check=True)
    return done.stdout


def _copied(state_dir: Path, program: Path, loaded: dict[str, Path], inside: Path) -> Path:
    stamps = [
        (str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in (program, *loaded.values())
    ]
    digest = hashlib.sha256(repr((stamps, inside)).encode()).hexdigest()[:16]
    place = state_dir / f"interpreter-{digest}"
    if place.is_dir():
        return place
    fresh = Path(tempfile.mkdtemp(prefix="interpreter-new-", dir=state_dir))
    for folder in ("bin", "libraries", inside):
        (fresh / folder).mkdir(parents=True)
    shutil.copy(program, fresh / "bin")
    for name, path in loaded.items():
        shutil.copy(path, fresh / "libraries" / name)
    for path in [fresh, *fresh.rglob("*")]:
        path.chmod(0o755)
    try:
        fresh.rename(place)
    except OSError:  # another process was faster
        shutil.rmtree(fresh)
    return place
