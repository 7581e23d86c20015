"""Whether this machine can run the egress process, which every request of a sandbox leaves through."""

import http.client
import json
import select
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import cast

from corral.cli.finding import Finding
from corral.config import Config
from corral.kernel.limits import READY_SECONDS_MAX
from corral.process import Start
from corral.supervisor.adopt import request
from corral.supervisor.child import our_program
from corral.supervisor.datadir import read_state

__all__ = ["examine_egress"]


def examine_egress(config: Config) -> Finding:
    """Asks the one that runs; if Corral does not, one is started in a directory of its own, and ended."""
    state = read_state(config.data_dir) or {}
    processes = cast(list[dict[str, object]], state.get("processes", []))
    if any(each["role"] == "egress" for each in processes):
        return _answering(config.data_dir, remedy="see the log of `corral serve`")
    with tempfile.TemporaryDirectory(prefix="corral-") as directory:
        start = Start(role="egress", config=replace(config.without_secrets(), data_dir=Path(directory)))
        with subprocess.Popen(
            our_program("egress"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            try:
                return _started(process, start, Path(directory))
            finally:
                process.kill()


def _started(process: "subprocess.Popen[bytes]", start: Start, data_dir: Path) -> Finding:
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(start.encode())
    process.stdin.flush()
    ready, _, _ = select.select([process.stdout], [], [], READY_SECONDS_MAX)
    line = process.stdout.readline() if ready else b""
    if b'"ready"' in line:
        return _answering(data_dir, remedy="`corral serve` says more in its log")
    process.kill()
    said = json.loads(line).get("failed") if line else process.stderr.read().decode(errors="replace")
    detail = f"it does not start: {str(said).strip()[-500:] or 'nothing was said'}"
    return Finding(
        name="egress", state="failed", detail=detail, remedy="sandboxes have no network without it"
    )


def _answering(data_dir: Path, *, remedy: str) -> Finding:
    try:
        request(data_dir, "egress", "health")
    except (OSError, http.client.HTTPException, ValueError) as error:
        detail = f"the egress process does not answer ({type(error).__name__})"
        return Finding(name="egress", state="failed", detail=detail, remedy=remedy)
    return Finding(
        name="egress", state="ok", detail="starts and answers: sandboxes reach the network by it"
    )
