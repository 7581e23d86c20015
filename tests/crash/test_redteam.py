"""A share of `corral redteam` on a whole server; and that it sees what gets through, and what leaks.

What needs no server is in tests/contract/test_redteam.py.
"""

import base64
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from corral.cli.outcome import Problem
from corral.cli.redteam import Asked, redteam
from corral.redteam.attack import attack
from corral.redteam.canaries import KINDS, Canaries
from corral.redteam.outside import Outside
from corral.redteam.run import chosen
from corral.redteam.search import searched
from corral.redteam.served import ServedStage

pytestmark = pytest.mark.timeout(300)
GROUPS = (
    "environments", "signals", "neighbours", "journal", "store", "dns", "hosts", "redirects", "tls",
    "archives.skill-bomb", "archives.skill-upwards", "placeholder", "pinning", "reflection.secret-pieces",
)  # fmt: skip


def quiet(_: str) -> None:
    """Nobody watches."""


def test_nothing_escapes_or_leaks_where_a_server_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    only = ",".join(GROUPS)
    code = redteam(Asked(sandbox="bwrap", only=only, lists=False, json_file=report))
    shown = capsys.readouterr().out
    assert code == 0, shown
    assert "neighbours" in shown and " 0 hits" in shown
    [said] = json.loads(report.read_text())
    assert said["has_held"] and said["kind"] == "bwrap" and not said["problem"], shown
    assert said["counts"] == {"held": len(chosen(only))}, shown
    assert said["canaries"] > 15 and said["searches"] > 1_000
    assert not said["unsearched"] or os.geteuid() != 0  # what is hardened shows itself to root alone


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
        [
            (KINDS["model"], "file a.log"),
            (KINDS["neighbour"], "files of session limited"),
            (KINDS["neighbour"], "checkpoint of session limited"),
        ]
    )


def test_the_command_lists_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    asked = Asked(sandbox="all", only="races,tls.nameless", lists=True, json_file=None)
    assert redteam(asked) == 0
    assert capsys.readouterr().out.count("\n") == len(chosen("races")) + 1
    with pytest.raises(Problem, match=r"nonsense.*smuggling") as refused:
        redteam(replace(asked, only="races,nonsense"))
    assert refused.value.exit == 2
    with pytest.raises(Problem, match="paper"):
        redteam(replace(asked, sandbox="paper", lists=False))
