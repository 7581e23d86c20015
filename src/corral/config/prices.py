"""Prices that the operator entered: a small file in the data directory, written by `corral models price`.

It adds to the table of `models` in the settings, and wins over it. Servers read it when they start; each
node has its own, so where nodes share a database it is copied, or the settings hold the prices.
"""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from corral.catalog.models import ModelTable
from corral.config.settings import SettingsError
from corral.kernel.errors import CorralError

__all__ = ["RATES", "prices_path", "read_prices", "with_prices", "write_prices"]

RATES: Final = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")

_HEAD: Final = """# Written by `corral models price`. USD per million tokens; read when a server starts.
"""

Prices = Mapping[str, Mapping[str, str]]
"""Rates by model name."""


def prices_path(data_dir: Path) -> Path:
    return data_dir / "prices.toml"


def read_prices(data_dir: Path) -> dict[str, dict[str, str]]:
    """{} if there is no file. Raises SettingsError naming it."""
    path = prices_path(data_dir)
    try:
        data = tomllib.loads(path.read_text())
        entries = data.get("price", [])
        return {
            name: {rate: str(entry[rate]) for rate in RATES} for entry in entries for name in entry["ids"]
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{path} cannot be used: {error}") from error


def write_prices(data_dir: Path, prices: Prices) -> Path:
    """Replace the file as a whole; whoever reads meanwhile sees the old one or the new one."""
    path = prices_path(data_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [_HEAD]
    for name, rates in sorted(prices.items()):
        lines.append(f"[[price]]\nids = [{json.dumps(name)}]\n")
        lines += [f"{rate} = {json.dumps(rates[rate])}\n" for rate in RATES]
        lines.append("\n")
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text("".join(lines))
    partial.replace(path)
    return path


def with_prices(models: Mapping[str, object], data_dir: Path) -> Mapping[str, object]:
    """The table of the settings with the prices of that directory. Raises SettingsError."""
    prices = read_prices(data_dir)
    if not prices:
        return models
    given = models.get("price", ())
    assert isinstance(given, Sequence)  # it was checked when the settings were read
    all_of_it = {**models, "price": [*given, *({"ids": [name], **rates} for name, rates in prices.items())]}
    try:
        ModelTable.packaged().extended(all_of_it)
    except (ValueError, CorralError) as error:
        raise SettingsError(f"{prices_path(data_dir)}: {error}") from error
    return all_of_it
