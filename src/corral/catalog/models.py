"""Models by name: which provider serves one, what it can do, and what a request costs at list price.

The table is data (`models.toml`, dated, with its source). A provider claims names by pattern; capabilities
and prices belong to single models. A name that no provider claims is the caller's mistake; a model without
a list price works and is unbudgetable.

Money is exact: `Decimal` micro-cents (a millionth of a cent). Prices are per request, because a long prompt
may be dearer than the sum of short ones, so costs are added up, never recomputed from added-up tokens.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any, Literal, Protocol

from corral.kernel.errors import InvalidRequest

MICROCENTS_PER_CENT = 1_000_000
_MICROCENTS_PER_USD = 100 * MICROCENTS_PER_CENT
_DATE_SUFFIX = re.compile(r"-\d{8}$")

Speed = Literal["standard", "fast"]
Thinking = Literal["adaptive", "budget", "none"]


class TokenCounts(Protocol):
    """Tokens of one request, as `brain.ports.Usage` has them."""

    @property
    def input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def cache_read_input_tokens(self) -> int: ...
    @property
    def cache_creation_5m_input_tokens(self) -> int: ...
    @property
    def cache_creation_1h_input_tokens(self) -> int: ...
    @property
    def web_search_requests(self) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """List price. The five rates are USD per million tokens.

    long_prompt_above_tokens: a request with a longer prompt costs `long_prompt_multiplier` times as much.
    fast_multiplier:          of `speed: fast`; None when there is no published figure.
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    long_prompt_above_tokens: int | None = None
    long_prompt_multiplier: Decimal = Decimal(1)
    fast_multiplier: Decimal | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """What is known about one model name.

    thinking:  "adaptive" (the model decides), "budget" (older: a token budget is sent), "none".
    efforts:   levels the model accepts; () if it has no such setting.
    fast_beta: beta header that `speed: fast` needs; only meaningful when "fast" is in `speeds`.
    price:     None: no list price, the model is unbudgetable.
    """

    name: str
    provider: str
    context_window_tokens: int
    max_output_tokens: int
    thinking: Thinking = "none"
    efforts: Sequence[str] = ()
    default_effort: str = "high"
    speeds: Sequence[Speed] = ("standard",)
    fast_beta: str | None = None
    has_inference_geo: bool = False
    has_mid_conversation_system: bool = False
    price: Price | None = None

    def check(
        self, *, effort: str | None = None, speed: str | None = None, inference_geo: str | None = None
    ) -> None:
        """Raise InvalidRequest if the model cannot be configured like this. None means "not given"."""
        if effort is not None and effort not in self.efforts:
            raise InvalidRequest(
                f"model {self.name!r} does not support effort {effort!r}; "
                + (f"it supports {', '.join(self.efforts)}" if self.efforts else "leave it out")
            )
        if speed is not None and speed not in self.speeds:
            raise InvalidRequest(
                f"model {self.name!r} does not support speed {speed!r}; "
                f"it supports {', '.join(self.speeds)}"
            )
        if inference_geo is not None and not self.has_inference_geo:
            raise InvalidRequest(f"model {self.name!r} cannot be pinned to an inference_geo; leave it out")

    def check_mid_conversation_system(self) -> None:
        """Raise InvalidRequest if the model takes no `system.message` in mid-conversation."""
        if not self.has_mid_conversation_system:
            raise InvalidRequest(
                f"model {self.name!r} does not support system.message; put the text into a user.message",
                error_code="model_does_not_support_mid_conversation_system",
            )

    def is_budgetable(self, speed: Speed = "standard") -> bool:
        """Whether a list price exists for this model at this speed."""
        return self.price is not None and (speed == "standard" or self.price.fast_multiplier is not None)


class TokenCounter(Protocol):
    async def count_tokens(self, request: Mapping[str, Any]) -> int:
        """Tokens of the prompt of a Messages request, whose model the table knows.

        Raises InvalidRequest: its provider refuses the request, or cannot count; WorldError (retryable).
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class _Provider:
    patterns: Sequence[str]
    default: ModelInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelTable:
    """All known models. Build it with `packaged()` or `from_data`, add to it with `extended`."""

    as_of: str
    runtime_usd_per_hour: Decimal
    web_search_usd_per_1000: Decimal
    us_geo_multiplier: Decimal
    _providers: Sequence[_Provider]
    _models: Mapping[str, ModelInfo]

    @classmethod
    @cache
    def packaged(cls) -> "ModelTable":
        """The table that ships with Corral; read once."""
        return cls.from_data(tomllib.loads(files("corral.catalog").joinpath("models.toml").read_text()))

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "ModelTable":
        """A table from data shaped like `models.toml`. Raises ValueError naming what is wrong."""
        empty = cls(
            as_of=str(data["as_of"]),
            runtime_usd_per_hour=_decimal(data["runtime_usd_per_hour"]),
            web_search_usd_per_1000=_decimal(data["web_search_usd_per_1000"]),
            us_geo_multiplier=_decimal(data["us_geo_multiplier"]),
            _providers=(),
            _models={},
        )
        return empty.extended(data)

    def extended(self, data: Mapping[str, Any]) -> "ModelTable":
        """This table with more `provider`, `model` and `price` entries; theirs win over ours, patterns too.
        A `price` entry (`ids` and the five rates) changes nothing else of its models.

        Raises ValueError, and InvalidRequest for a price of a name that no provider claims.
        """
        _check_keys(data, _TABLE, "models")
        providers = [*(_provider(entry) for entry in data.get("provider", ())), *self._providers]
        table = replace(self, _providers=providers)
        models = dict(self._models)
        for entry in data.get("model", ()):
            for name in entry["ids"]:
                models[name] = _model(name, entry, table._default(name))
        table = replace(table, _models=models)
        for entry in data.get("price", ()):
            for name in entry["ids"]:
                models[name] = _repriced(table.resolve(name), entry)
        return replace(
            table,
            _models=models,
            runtime_usd_per_hour=_decimal(data.get("runtime_usd_per_hour", self.runtime_usd_per_hour)),
            web_search_usd_per_1000=_decimal(
                data.get("web_search_usd_per_1000", self.web_search_usd_per_1000)
            ),
            us_geo_multiplier=_decimal(data.get("us_geo_multiplier", self.us_geo_multiplier)),
        )

    @property
    def priced(self) -> Sequence[ModelInfo]:
        """Models that are listed with a price, by name."""
        return [self._models[name] for name in sorted(self._models) if self._models[name].price is not None]

    @property
    def patterns(self) -> Sequence[str]:
        """Every name pattern a provider claims."""
        return [pattern for provider in self._providers for pattern in provider.patterns]

    @property
    def names(self) -> Sequence[str]:
        """Every name that is known by itself, in the order of the table, and patterns that are names."""
        plain = [pattern for pattern in self.patterns if not set(pattern) & set("*?[")]
        return list(dict.fromkeys([*self._models, *plain]))

    def resolve(self, name: str) -> ModelInfo:
        """The model with this name. Raises InvalidRequest listing the known patterns."""
        known = self._models.get(name) or self._models.get(_DATE_SUFFIX.sub("", name))
        if known is None:
            return self._default(name)
        return known if known.name == name else replace(known, name=name)

    def _default(self, name: str) -> ModelInfo:
        for provider in self._providers:
            if any(fnmatchcase(name, pattern) for pattern in provider.patterns):
                return replace(provider.default, name=name)
        raise InvalidRequest(
            f"no model provider knows {name!r}; names match {', '.join(self.patterns) or 'nothing yet'}"
        )

    # -- money -----------------------------------------------------------------------------------
    def request_cost(
        self,
        model: ModelInfo,
        usage: TokenCounts,
        *,
        speed: Speed = "standard",
        inference_geo: str | None = None,
    ) -> Decimal | None:
        """List cost of one model request in micro-cents; None without a list price.

        Source: API docs, errors-limits; fast and us-geo multipliers apply to tokens, not to searches.
        """
        price = model.price
        if price is None or not model.is_budgetable(speed):
            return None
        prompt = (
            usage.input_tokens
            + usage.cache_read_input_tokens
            + usage.cache_creation_5m_input_tokens
            + usage.cache_creation_1h_input_tokens
        )
        tokens = (
            price.input * usage.input_tokens
            + price.output * usage.output_tokens
            + price.cache_read * usage.cache_read_input_tokens
            + price.cache_write_5m * usage.cache_creation_5m_input_tokens
            + price.cache_write_1h * usage.cache_creation_1h_input_tokens
        )
        if price.long_prompt_above_tokens is not None and prompt > price.long_prompt_above_tokens:
            tokens *= price.long_prompt_multiplier
        if speed == "fast" and price.fast_multiplier is not None:
            tokens *= price.fast_multiplier
        if inference_geo == "us":
            tokens *= self.us_geo_multiplier
        return tokens * _MICROCENTS_PER_USD / 1_000_000 + self.search_cost(usage.web_search_requests)

    def search_cost(self, web_search_requests: int) -> Decimal:
        """List cost of web searches, in micro-cents."""
        return self.web_search_usd_per_1000 / 1000 * web_search_requests * _MICROCENTS_PER_USD

    @property
    def runtime_rate(self) -> Decimal:
        """List price of an hour of running, in micro-cents. Source: API docs, errors-limits."""
        return self.runtime_usd_per_hour * _MICROCENTS_PER_USD


def whole_cents(microcents: Decimal) -> str:
    """The wire's `amount`: cents rounded half up, as a string. Budgets compare the unrounded cost."""
    return str((microcents / MICROCENTS_PER_CENT).quantize(Decimal(1), rounding=ROUND_HALF_UP))


# -- reading the data ------------------------------------------------------------------------------
_CAPABILITIES = {
    "context_window",
    "max_output",
    "thinking",
    "efforts",
    "default_effort",
    "inference_geo",
    "mid_conversation_system",
    "price",
    "long_prompt",
    "fast",
}
_TABLE = {
    "as_of",
    "source",
    "runtime_usd_per_hour",
    "web_search_usd_per_1000",
    "us_geo_multiplier",
    "provider",
    "model",
    "price",
}
_RATES = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")


def _decimal(value: object) -> Decimal:
    try:
        figure = Decimal(str(value))  # through text: a TOML float 0.1 means 0.1
    except InvalidOperation:
        raise ValueError(f"{value!r} is not a number") from None
    if not figure.is_finite() or figure < 0:
        raise ValueError(f"{value!r} is not a price: it must be 0 or more")
    return figure


def _check_keys(entry: Mapping[str, Any], allowed: Iterable[str], what: str) -> None:
    unknown = sorted(set(entry) - set(allowed))
    if unknown:
        raise ValueError(f"{what}: unknown key {unknown[0]!r}; known are {', '.join(sorted(allowed))}")


def _provider(entry: Mapping[str, Any]) -> _Provider:
    _check_keys(entry, {*_CAPABILITIES, "name", "patterns"}, f"provider {entry.get('name')!r}")
    blank = ModelInfo(
        name="", provider=entry["name"], context_window_tokens=200_000, max_output_tokens=32_000
    )
    return _Provider(patterns=tuple(entry["patterns"]), default=_info(entry, blank))


def _model(name: str, entry: Mapping[str, Any], default: ModelInfo) -> ModelInfo:
    _check_keys(entry, {*_CAPABILITIES, "ids"}, f"model {name!r}")
    return replace(_info(entry, default), name=name)


def _info(entry: Mapping[str, Any], default: ModelInfo) -> ModelInfo:
    """`default` with what the entry says."""
    fast = entry.get("fast")
    return replace(
        default,
        context_window_tokens=entry.get("context_window", default.context_window_tokens),
        max_output_tokens=entry.get("max_output", default.max_output_tokens),
        thinking=entry.get("thinking", default.thinking),
        efforts=tuple(entry.get("efforts", default.efforts)),
        default_effort=entry.get("default_effort", default.default_effort),
        has_inference_geo=entry.get("inference_geo", default.has_inference_geo),
        has_mid_conversation_system=entry.get(
            "mid_conversation_system", default.has_mid_conversation_system
        ),
        speeds=("standard",) if fast is None else ("standard", "fast"),
        fast_beta=None if fast is None else fast.get("beta"),
        price=_price(entry) if "price" in entry else default.price,
    )


def _repriced(model: ModelInfo, entry: Mapping[str, Any]) -> ModelInfo:
    """With these rates; what multiplies them stays."""
    rates = {name: rate for name, rate in entry.items() if name != "ids"}
    price = _price({"price": rates})
    if model.price is not None:
        price = replace(model.price, **{rate: getattr(price, rate) for rate in _RATES})
    return replace(model, price=price)


def _price(entry: Mapping[str, Any]) -> Price:
    rates = entry["price"]
    _check_keys(rates, _RATES, "price")
    missing = [rate for rate in _RATES if rate not in rates]
    if missing:
        raise ValueError(f"price: {missing[0]!r} is missing")
    long_prompt, fast = entry.get("long_prompt", {}), entry.get("fast", {})
    return Price(
        **{rate: _decimal(rates[rate]) for rate in _RATES},
        long_prompt_above_tokens=long_prompt.get("above_tokens"),
        long_prompt_multiplier=_decimal(long_prompt.get("multiplier", 1)),
        fast_multiplier=_decimal(fast["multiplier"]) if "multiplier" in fast else None,
    )
