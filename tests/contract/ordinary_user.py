"""What root's tests run again as an ordinary user: no root, no cgroups, the other half of the code."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

__all__ = [
    "NO_NAMESPACES",
    "ORDINARY_UID",
    "contract_as_ordinary_user",
    "python_of_all",
    "run_as_ordinary_user",
]

# The kernel counts processes by user, so tests side by side are users of their own.
ORDINARY_UID = 65_400 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ROOT = Path(__file__).parents[2]
_PYTHON = "/usr/bin/python3"  # the one that other users can reach
_FORBID = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
NO_NAMESPACES = ("unshare", "-Ur", "sh", "-c", _FORBID, "sh")
"""A command in front of another, which then can make no user namespaces, as in a container."""


def python_of_all() -> tuple[str, str]:
    """An interpreter that every user can run, and the PYTHONPATH by which it is this environment. Skips
    where there is none, or nobody to become another user."""
    if os.geteuid() != 0:
        pytest.skip("the tests already run as an ordinary user")
    if Path(_PYTHON).resolve().name != f"python3.{sys.version_info.minor}":
        pytest.skip(f"{_PYTHON} cannot use the packages of this environment")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    return _PYTHON, ":".join([f"{_ROOT}/src", *packages])


async def run_as_ordinary_user(
    *python: str, prefix: Sequence[str] = (), environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """The exit code of Python with these arguments, and what it said. Its home is new and goes; "{home}" in
    an argument is that. Skips where that cannot be done."""
    interpreter, path = python_of_all()
    home = Path("/var/tmp") / f"corral-test-{os.getpid()}"
    home.mkdir()
    os.chown(home, ORDINARY_UID, ORDINARY_UID)
    process = await asyncio.create_subprocess_exec(
        "setpriv", f"--reuid={ORDINARY_UID}", f"--regid={ORDINARY_UID}", "--clear-groups", "--", *prefix,
        interpreter, *(word.replace("{home}", str(home)) for word in python),
        cwd=_ROOT,
        env={"PATH": "/usr/sbin:/usr/bin:/bin", "PYTHONPATH": path,
             "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(home), **(environment or {})},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        said = (await process.communicate())[0].decode()
    finally:
        shutil.rmtree(home)
    assert process.returncode is not None
    return process.returncode, said


async def contract_as_ordinary_user(
    node: str, *options: str, prefix: Sequence[str] = (), environment: dict[str, str] | None = None
) -> None:
    """node: of pytest."""
    pytest_words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp={home}/t", *options, node)
    code, said = await run_as_ordinary_user(*pytest_words, prefix=prefix, environment=environment)
    assert code == 0, said[-4000:]
