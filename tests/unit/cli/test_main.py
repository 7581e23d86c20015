"""The command line before any command."""

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
