"""The egress process of a stage, started before the server: which finds it and makes it its own."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from corral.redteam.stage import Broken
from corral.session.content import Json
from corral.testing.git_host import GitHost

__all__ = ["gate_log", "gateway"]

_SECONDS: Final = 30.0
_HERE: Final = ["127.0.0.1"]
_NAMES: Final[Mapping[str, Json]] = {
    "allowed.test": _HERE,
    "foreign.test": _HERE,
    "inner.test": _HERE,
    "liar.test": _HERE,
    "git.test": _HERE,
    "words.wild.test": _HERE,
    "mixed.test": ["192.0.2.1", *_HERE],
    "metadata.test": ["169.254.169.254"],
}


@asynccontextmanager
async def gateway(
    data_dir: Path, root: Path, *, facts: Mapping[str, Json], liar_port: int, git: GitHost | None
) -> AsyncIterator[int]:
    """Its pid. root: where `asked`, its log and its settings go. Raises Broken."""
    settings = {
        "names": _NAMES,
        "internal": [
            f"allowed.test:{facts['allowed_port']}",
            f"allowed.test:{facts['secure_port']}",
            f"foreign.test:{facts['foreign_port']}",
            f"foreign.test:{facts['foreign_secure_port']}",
            "metadata.test",
            f"*.wild.test:{facts['allowed_port']}",
        ],
        "servers": [f"liar.test:{liar_port}"],
        "asked": str(root / "asked"),
        "repositories": [git.where] if git is not None else [],
        "trusted": [str(root / "authority.pem"), *([str(git.authority)] if git is not None else [])],
    }
    (root / "gate.json").write_text(json.dumps(settings))
    (root / "asked").touch()
    with gate_log(root).open("ab") as log:
        gate = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "corral.redteam.gate", str(data_dir), str(root / "gate.json")),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd=root,
            start_new_session=True,
        )
    try:
        assert gate.stdout
        if await asyncio.wait_for(gate.stdout.readline(), _SECONDS) != b"ready\n":
            raise Broken(f"the egress process did not start: {gate_log(root).read_text()[-600:]}")
        yield gate.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            gate.terminate()
        try:
            await asyncio.wait_for(gate.wait(), _SECONDS)
        except TimeoutError:
            gate.kill()
            await gate.wait()


def gate_log(root: Path) -> Path:
    return root / "gate.log"
