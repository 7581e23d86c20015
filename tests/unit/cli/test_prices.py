"""`corral models price`: what is entered is what a server reads, and nothing else changes."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from corral.catalog.models import ModelTable
from corral.cli.main import main
from corral.cli.outcome import Exit
from corral.config import SettingsError, load
from corral.config.prices import prices_path

PROVIDER = '[[models.provider]]\nname = "anthropic"\npatterns = ["gpt-*"]\n'


def price(directory: Path, *arguments: str) -> int:
    return main(["models", "price", *arguments, "--data-dir", str(directory)])


def table(directory: Path) -> ModelTable:
    config = load({"data_dir": directory}, environ={"HOME": str(directory)}, directory=directory)
    return ModelTable.packaged().extended(config.models)


def test_a_price_is_entered_shown_and_taken_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = table(tmp_path).resolve("claude-opus-5")
    assert price(tmp_path, "set", "claude-next-9", "--input", "3", "--output", "15e0") == 0
    assert price(tmp_path, "set", "claude-opus-5", "--input", "0", "--output", "0") == 0
    entered = table(tmp_path).resolve("claude-next-9").price
    assert entered is not None
    assert (entered.input, entered.output, entered.cache_write_1h) == (Decimal(3), Decimal(15), Decimal(3))
    free = table(tmp_path).resolve("claude-opus-5")
    assert free.price is not None and before.price is not None
    assert free.price.output == 0, "0 is a price"
    assert free.is_budgetable("fast") and free.price.fast_multiplier == before.price.fast_multiplier
    assert (free.speeds, free.context_window_tokens) == (before.speeds, before.context_window_tokens)

    capsys.readouterr()
    assert price(tmp_path, "list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["models"]["claude-next-9"]["output"] == "15"
    assert listed["models"]["claude-next-9"]["from"] == str(prices_path(tmp_path))
    assert listed["models"]["claude-sonnet-5"]["from"] == f"list, {listed['as_of']}"
    assert price(tmp_path, "list") == 0
    assert "an hour of running: 0.08 USD" in capsys.readouterr().out

    assert price(tmp_path, "remove", "claude-opus-5") == 0
    assert table(tmp_path).resolve("claude-opus-5") == before
    assert price(tmp_path, "remove", "claude-opus-5") == Exit.USAGE


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody-5", "--input=1", "--output=1"), "no model provider knows 'nobody-5'"),
        (("claude-x", "--input=-1", "--output=1"), "'-1' is not a price"),
        (("claude-x", "--input=NaN", "--output=1"), "'NaN' is not a price"),
        (("claude-x", "--input=dear", "--output=1"), "'dear' is not a number"),
    ],
)
def test_a_wrong_price_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert price(tmp_path, "set", *arguments) == Exit.USAGE
    assert said in capsys.readouterr().err
    assert not prices_path(tmp_path).exists()


def test_the_file_wins_over_the_settings_and_knows_their_providers(tmp_path: Path) -> None:
    settings = (
        PROVIDER
        + '[[models.price]]\nids = ["gpt-9"]\n'
        + "".join(
            f"{rate} = 1\n"
            for rate in ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
        )
    )
    (tmp_path / "corral.toml").write_text(settings)
    assert table(tmp_path).resolve("gpt-9").price is not None
    prices_path(tmp_path).write_text(settings.partition("[[models.price]]")[2].join(("[[price]]", "")))
    prices_path(tmp_path).write_text(prices_path(tmp_path).read_text().replace("output = 1", "output = 7"))
    found = table(tmp_path).resolve("gpt-9").price
    assert found is not None and found.output == 7


def test_a_broken_file_stops_the_start(tmp_path: Path) -> None:
    for broken in ("[[price]", '[[price]]\nids = ["claude-x"]\n', "price = 3"):
        prices_path(tmp_path).write_text(broken)
        with pytest.raises(SettingsError, match=r"prices\.toml"):
            table(tmp_path)
