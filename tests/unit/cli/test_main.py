"""The command line before any command."""

from pathlib import Path

import pytest

from corral.cli.main import main
from corral.cli.outcome import Exit


@pytest.mark.parametrize(
    "arguments",
    [["serve", "--data-dir", ""], ["doctor", "--json", "--data-dir="], ["status", "--data-dir="]],
)
def test_an_empty_value_is_no_directory(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == Exit.USAGE
    assert "--data-dir: a value is needed" in capsys.readouterr().err


def test_what_follows_two_dashes_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "install", "--", "--x="]) == Exit.USAGE
    assert "'--x=' cannot be installed" in capsys.readouterr().err


def test_a_backup_names_its_store_and_refuses_a_directory_that_it_would_not_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corral.db").touch()
    monkeypatch.setenv("CORRAL_DATABASE_URL", "postgresql://corral:canary@db.example/there")
    assert main(["backup", str(tmp_path / "out"), "--data-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "PostgreSQL there at db.example" in said and "Leave --data-dir out" in said
    assert "canary" not in said
    monkeypatch.delenv("CORRAL_DATABASE_URL")
    main(["backup", str(tmp_path / "out"), "--data-dir", str(tmp_path)])
    assert f"copying the SQLite file {tmp_path}/corral.db" in capsys.readouterr().err
