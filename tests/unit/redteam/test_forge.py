"""A token that strayed is seen."""

from pathlib import Path

import pytest

from corral.redteam.canaries import Canaries
from corral.redteam.forge import MOUNTED, forge, moves, strays
from corral.testing.git_host import basic


def test_what_is_sent_to_another_repository_strayed(tmp_path: Path) -> None:
    canaries = Canaries()
    with forge(tmp_path, canaries) as host:
        assert host is not None, "tests have git"
        token = canaries.planted["git"]
        for name in MOUNTED:
            host.authorizations.append((name, basic(token)))
        assert strays(host, token) == []
        host.authorizations.append(("ada/other", basic("another")))
        assert strays(host, token) == []
        for path, header in (("ada/other", basic(token)), ("api/v3/user", f"Bearer {token}")):
            host.authorizations.append((path, header))
        assert strays(host, token) == ["ada/other", "api/v3/user"]
        moves(host, "https://foreign.test:1")
        assert host.moved == {"ada/moving": "https://foreign.test:1/ada/moving"}


def test_without_git_there_is_no_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    canaries = Canaries()
    with forge(tmp_path, canaries) as host:
        assert host is None and not canaries.planted
