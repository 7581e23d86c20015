"""What a server process imports for its roles: a hands node has no brain, and nobody the SDK."""

import subprocess
import sys

import pytest

_PROGRAM = """
import sys
from corral.app.prepare import prepare
prepare(sys.argv[1:])
watched = {"corral.brain", "corral.api.application", "anthropic", "corral.orchestrator.worker"}
print(*(watched & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("roles", "imported"),
    [
        (["hands"], set()),
        (["egress"], set()),
        (["api"], {"corral.api.application"}),
        (["brain"], {"corral.brain", "corral.orchestrator.worker"}),
    ],
)
def test_a_role_imports_what_it_needs(roles: list[str], imported: set[str]) -> None:
    out = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *roles], capture_output=True, text=True, check=True
    ).stdout
    assert set(out.split()) == imported


def test_a_spare_has_nothing_left_to_import() -> None:
    """What the server's roles import late is in the list of `prepare`."""
    program = (
        "import sys; from corral.app.prepare import prepare; prepare(['api', 'brain', 'hands', 'egress']);"
        "before = set(sys.modules);"
        "import corral.app.server, corral.app.brain, corral.app.api, corral.app.egress, corral.store.log;"
        "import corral.brain.models.anthropic, corral.store.bus_postgres;"
        "print(*(set(sys.modules) - before))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.split() == []


def test_a_spare_reaches_hands_without_further_imports() -> None:
    """An HTTP client imports its transport when it is made, and that when it first connects."""
    program = """
import asyncio, sys
from pathlib import Path
from corral.app.prepare import prepare
prepare(["brain"])
before = set(sys.modules)
from corral.hands.client import HandsClient
from corral.kernel.errors import HandsUnavailable

async def ask() -> None:
    client = HandsClient(Path("/nowhere/hands.sock"), token="t")
    try:
        await client.health()
    except HandsUnavailable:
        await client.aclose()
    else:
        raise AssertionError("somebody answered")

asyncio.run(ask())
print(*sorted(set(sys.modules) - before))
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.split() == []
