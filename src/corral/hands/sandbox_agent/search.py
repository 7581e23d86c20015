"""glob and grep. Semantics and wording: `anthropic.lib.tools.agent_toolset`."""

from __future__ import annotations

import os
import re
import signal
from itertools import islice
from pathlib import Path, PurePosixPath
from types import FrameType

from .files import canonical, is_within, target_of
from .wire import Limits, Place, ToolFailed

_SNIFF_BYTES = 512  # a NUL in them makes the file binary
_SKIPPED = (".git", "node_modules")


def glob(place: Place, pattern: str, path: str | None = None) -> str:
    if os.path.isabs(pattern):
        raise ToolFailed(
            "glob: absolute pattern not permitted; pass a relative pattern (and optionally path)"
        )
    if ".." in PurePosixPath(pattern).parts:
        raise ToolFailed("glob: '..' is not permitted in the pattern")
    root = target_of(place, "glob", path) if path else Path(place.workdir).resolve()
    try:
        found = list(islice(root.glob(pattern), place.limits.walk_entries))
    except (ValueError, OSError, NotImplementedError) as e:
        raise ToolFailed(f"glob: {e}") from e
    matches = [match for match in found if _is_confined(match, root)]
    if not matches:
        return "no matches"
    matches.sort(key=_modified, reverse=True)
    return "\n".join(str(match) for match in matches[: place.limits.glob_results])


def _is_confined(match: Path, root: Path) -> bool:
    """A link met in the middle of a pattern must not carry a result out of the searched directory."""
    try:
        return is_within(canonical(str(match)), root)
    except OSError:
        return False


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def grep(place: Place, pattern: str, path: str | None = None) -> str:
    search = target_of(place, "grep", path) if path else Path(place.workdir).resolve()
    limits = place.limits
    rg = next((p for d in place.env["PATH"].split(":") if os.access(p := d + "/rg", os.X_OK)), None)
    if rg:
        return _ripgrep(rg, pattern, str(search), place)
    try:
        compiled = re.compile(pattern)
    except re.error as e:
        raise ToolFailed(f"grep: invalid regex: {e}") from e

    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise ToolFailed(f"grep: timed out after {limits.grep_cpu_seconds:g}s")

    # CPU time, in this forked child. One endless match never comes back to Python to see the signal;
    # the loop's own deadline kills the child then.
    signal.signal(signal.SIGVTALRM, expire)
    signal.setitimer(signal.ITIMER_VIRTUAL, limits.grep_cpu_seconds)
    hits = _Hits(limits)
    if search.is_file():
        _scan(search, compiled, hits, limits)
    else:
        _walk(search, compiled, hits, limits)
    return "\n".join(hits.lines) or "no matches"


class _Hits:
    def __init__(self, limits: Limits) -> None:
        self.lines: list[str] = []
        self.left = limits.grep_output_bytes
        self._limit = limits.grep_output_bytes

    def add(self, line: str) -> bool:
        """False when the output is full."""
        self.left -= len(line) + 1
        if self.left < 0:
            self.lines.append(f"[output truncated at {self._limit} bytes]")
            return False
        self.lines.append(line)
        return True


def _walk(top: Path, pattern: re.Pattern[str], hits: _Hits, limits: Limits) -> None:
    seen = 0
    for folder, folders, names in os.walk(top):
        folders[:] = [
            d for d in folders if d not in _SKIPPED and not os.path.islink(os.path.join(folder, d))
        ]
        for name in names:
            full = Path(folder) / name
            if full.is_symlink() or not full.is_file():
                continue
            seen += 1
            if seen > limits.walk_entries or not _scan(full, pattern, hits, limits):
                return


def _scan(file: Path, pattern: re.Pattern[str], hits: _Hits, limits: Limits) -> bool:
    try:
        with file.open("rb") as f:
            if b"\x00" in f.read(_SNIFF_BYTES):
                return True
            f.seek(0)
            for number, raw in enumerate(f, 1):
                if len(raw) > limits.grep_line_bytes:
                    continue  # Python's re backtracks: a long line invites a runaway match
                line = raw.decode(errors="replace").rstrip("\r\n")
                if pattern.search(line) and not hits.add(f"{file}:{number}:{line}"):
                    return False
    except OSError:
        pass
    return True


def _ripgrep(rg: str, pattern: str, search: str, place: Place) -> str:
    limit = place.limits.grep_output_bytes
    import subprocess  # only here, in a forked child that found an rg

    done = subprocess.run(
        [rg, "--no-config", "-n", "--no-heading", "-e", pattern, "--", search],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=place.env,
    )
    if done.returncode == 1:
        return "no matches"
    if done.returncode != 0:
        raise ToolFailed(f"grep: rg failed: {done.stderr.decode(errors='replace')}")
    out = done.stdout.decode(errors="replace")
    return out if len(out) <= limit else out[:limit] + f"\n[output truncated at {limit} bytes]"
