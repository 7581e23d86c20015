"""What of ours is inside every sandbox: the agent program and a few lines of /etc."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from corral.hands import sandbox_agent
from corral.hands.providers.binary import PythonInside

__all__ = ["install"]

_ETC: Final = {
    "passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:1000:1000:agent:/tmp:/bin/bash\n",
    "group": "root:x:0:\nagent:x:1000:\n",
    "hosts": "127.0.0.1 localhost corral\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def install(state_dir: Path, python: PythonInside) -> Path:
    """The agent program, compiled by the Python that will run it, and a few lines of /etc.

    Compiled, because that is most of a cold start; copied, because our package may be unreadable to others.
    """
    source = Path(sandbox_agent.__file__).parent
    files = {f"agent/sandbox_agent/{path.name}": path.read_text() for path in sorted(source.glob("*.py"))}
    files["agent/__main__.py"] = "import runpy\nrunpy.run_module('sandbox_agent')\n"
    files.update({f"etc/{name}": text for name, text in _ETC.items()})
    digest = hashlib.sha256(repr((files, str(python.path.resolve()))).encode()).hexdigest()[:16]
    installed = state_dir / f"inside-{digest}"
    if installed.is_dir():
        return installed
    fresh = Path(tempfile.mkdtemp(prefix="inside-new-", dir=state_dir))
    for name, text in files.items():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).write_text(text)
    compiler = ["-IS", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(fresh)]
    subprocess.run([python.path, *compiler], check=False, capture_output=True)  # without it: only slower
    for path in [fresh, *fresh.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    try:
        fresh.rename(installed)
    except OSError:  # another process was faster
        shutil.rmtree(fresh)
    return installed
