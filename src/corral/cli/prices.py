"""`corral models price`: what models cost here, and how the operator says so."""

import json
from decimal import Decimal

from corral.catalog.models import ModelTable
from corral.cli.outcome import Exit, Problem
from corral.cli.render import print_table
from corral.config import Config
from corral.config.prices import RATES, prices_path, read_prices, write_prices
from corral.kernel.errors import InvalidRequest

__all__ = ["remove_price", "set_price", "show_prices"]

_LATER = "servers read it when they start; other nodes have a file of their own"


def show_prices(config: Config, *, as_json: bool) -> None:
    """What a request costs at list price, and whose price it is."""
    table, entered = ModelTable.packaged().extended(config.models), read_prices(config.data_dir)
    listed = {model.name: model.price for model in ModelTable.packaged().priced}

    def origin(name: str) -> str:
        if name in entered:
            return str(prices_path(config.data_dir))
        return f"list, {table.as_of}" if listed.get(name) == prices[name] else "settings"

    prices = {model.name: model.price for model in table.priced}
    rows = {
        name: {rate: str(getattr(price, rate)) for rate in RATES} | {"from": origin(name)}
        for name, price in prices.items()
    }
    if as_json:
        print(
            json.dumps(
                {
                    "as_of": table.as_of,
                    "unit": "USD per million tokens",
                    "models": rows,
                    "runtime_usd_per_hour": str(table.runtime_usd_per_hour),
                    "web_search_usd_per_1000": str(table.web_search_usd_per_1000),
                }
            )
        )
        return
    print_table(("model", *RATES, "from"), [(name, *row.values()) for name, row in rows.items()])
    print("USD per million tokens; a model that is not listed has no price, so a budget cannot hold it")
    print(
        f"an hour of running: {table.runtime_usd_per_hour} USD; 1,000 web searches:"
        f" {table.web_search_usd_per_1000} USD"
    )


def set_price(
    config: Config,
    name: str,
    *,
    input: str,
    output: str,
    cache_read: str | None = None,
    cache_write_5m: str | None = None,
    cache_write_1h: str | None = None,
) -> None:
    """Enter a model's price. Cached tokens cost as much as others unless said. Raises Problem."""
    given = (input, output, cache_read or input, cache_write_5m or input, cache_write_1h or input)
    rates = dict(zip(RATES, given, strict=True))
    try:
        ModelTable.packaged().extended(config.models).extended({"price": [{"ids": [name], **rates}]})
    except (ValueError, InvalidRequest) as wrong:
        raise Problem(str(wrong), exit=Exit.USAGE) from None
    rates = {rate: f"{Decimal(value):f}" for rate, value in rates.items()}
    path = write_prices(config.data_dir, read_prices(config.data_dir) | {name: rates})
    print(f"{path}\n{name}: {input} / {output} USD per million tokens; {_LATER}")


def remove_price(config: Config, name: str) -> None:
    """Back to the list's price, or to none. Raises Problem."""
    prices = read_prices(config.data_dir)
    if name not in prices:
        raise Problem(f"{prices_path(config.data_dir)} has no price for {name!r}", exit=Exit.USAGE)
    del prices[name]
    print(f"{write_prices(config.data_dir, prices)}\n{name}: removed; {_LATER}")
