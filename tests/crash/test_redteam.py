"""A share of `corral redteam` on a whole server; and that it sees what gets through, and what leaks.

What needs no server is in tests/contract/test_redteam.py.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from corral.redteam.attack import attack
from corral.redteam.canaries import KINDS, Canaries
from corral.redteam.outside import Outside
from corral.redteam.run import chosen, run
from corral.redteam.search import searched
from corral.redteam.served import ServedStage

pytestmark = pytest.mark.timeout(300)
GROUPS = ("environments", "signals", "neighbours", "journal", "store", "dns", "hosts", "redirects", "tls")


def quiet(_: str) -> None:
    """Nobody watches."""


async def test_nothing_escapes_or_leaks_where_a_server_stands() -> None:
    names = [name for name in chosen(None) if name.partition(".")[0] in GROUPS or ".skill-" in name]
    report = await run("bwrap", names, show=quiet)
    assert not report.problem, report.problem
    assert report.has_held, (report.escaped, report.hits)
    assert not [finding for finding in report.findings if finding.verdict == "untried"]
    assert report.canaries > 15 and report.searches > 1_000
    assert not report.unsearched or os.geteuid() != 0  # what is hardened shows itself to root alone


async def test_a_door_that_stands_open_and_a_secret_that_leaks_are_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hosts that are foreign to a session are allowed to it; a log has the model's key, in disguise."""
    monkeypatch.setattr("corral.redteam.served.ALLOWED", ("allowed.test", "foreign.test", "*.tunnel.test"))
    names = ["hosts.foreign", "hosts.tunnel-to-foreign", "redirects.followed", "dns.proxied", "hosts.file"]
    with tempfile.TemporaryDirectory(prefix="redteam-") as path:
        root = Path(path)
        root.chmod(0o755)
        canaries = Canaries()
        async with Outside.around(root, canaries) as outside, ServedStage.around("bwrap", outside) as stage:

            def trips() -> dict[str, str]:
                return {**outside.trips(), **stage.trips()}

            found = {
                each.name: each.verdict for each in await attack(stage, names, trips=trips, show=quiet)
            }
            assert found.pop("hosts.file") == "held"
            assert found == dict.fromkeys(names[:-1], "escaped")
            leaked = base64.b64encode(b"key: " + canaries.planted["model"].encode())
            (stage.node.data_dir / "a.log").write_bytes(leaked)
            (stage.home("limited") / "files" / "b").write_text(canaries.planted["neighbour"])
            search = await searched(stage, canaries)
    assert sorted(search.hits) == sorted(
        [(KINDS["model"], "file a.log"), (KINDS["neighbour"], "files of session limited")]
    )


def test_the_command_says_what_came_of_it(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "corral.cli", "redteam", "--sandbox", "bwrap"),
            *("--only", "keyrings", "--json", str(report)),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "keyrings" in done.stdout and "0 hits" in done.stdout
    [said] = json.loads(report.read_text())
    assert said["has_held"] and said["counts"] == {"held": 8} and said["kind"] == "bwrap"


def test_the_command_lists_and_refuses() -> None:
    def said(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "corral.cli", "redteam", *words],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    code, listed = said("--list", "--only", "races")
    assert code == 0 and listed.count("\n") == len(chosen("races"))
    code, refused = said("--only", "nonsense")
    assert code == 2 and "nonsense" in refused and "smuggling" in refused
    code, refused = said("--sandbox", "paper")
    assert code == 2 and "paper" in refused
