"""Names, capabilities and money."""

import tomllib
from decimal import Decimal

import pytest

from corral.brain.ports import Usage
from corral.catalog.models import MICROCENTS_PER_CENT, ModelTable, whole_cents
from corral.kernel.errors import InvalidRequest

TABLE = ModelTable.packaged()


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("claude-opus-5-5", "anthropic"),
        ("claude-opus-4-5-20251101", "anthropic"),
        ("claude-something-new", "anthropic"),
        ("local", "local"),
        ("local:phi", "local"),
        ("local/phi", "local"),
        ("replay", "replay"),
        ("replay:my-run", "replay"),
    ],
)
def test_provider_by_name(name, provider):
    info = TABLE.resolve(name)
    assert (info.name, info.provider) == (name, provider)


@pytest.mark.parametrize("name", ["gpt-5", "claude", "locally", "replayed", "", "x:local", "Claude-opus-5"])
def test_an_unknown_name_is_told_what_is_known(name):
    with pytest.raises(InvalidRequest, match=r"claude-\*, local, .*replay"):
        TABLE.resolve(name)


def test_a_newer_sibling_inherits_no_price():
    assert TABLE.resolve("claude-opus-5-9").price is None
    assert TABLE.resolve("claude-opus-5").price != TABLE.resolve("claude-opus-5-5").price
    assert TABLE.resolve("claude-haiku-4-5-20251001").price == TABLE.resolve("claude-haiku-4-5").price


@pytest.mark.parametrize(
    ("name", "setting", "is_fine"),
    [
        ("claude-opus-5-5", {"effort": "xhigh", "speed": "fast", "inference_geo": "us"}, True),
        ("claude-sonnet-5-5", {"speed": "fast"}, False),
        ("claude-opus-4-6", {"effort": "xhigh"}, False),
        ("claude-opus-4-6", {"effort": "max"}, True),
        ("claude-haiku-4-5", {"effort": "low"}, False),
        ("claude-haiku-4-5", {"inference_geo": "us"}, False),
        ("claude-haiku-4-5", {"speed": "standard"}, True),
        ("local", {"effort": "high"}, False),
    ],
)
def test_what_a_model_supports(name, setting, is_fine):
    info = TABLE.resolve(name)
    if is_fine:
        info.check(**setting)
    else:
        with pytest.raises(InvalidRequest, match=f"{name}"):
            info.check(**setting)


def cost(name, usage, **how):
    return TABLE.request_cost(TABLE.resolve(name), usage, **how)


def usd(amount: str) -> Decimal:
    return Decimal(amount) * 100 * MICROCENTS_PER_CENT


MILLION = 1_000_000


@pytest.mark.parametrize(
    ("name", "usage", "how", "expected"),
    [
        ("claude-opus-5-5", Usage(input_tokens=MILLION), {}, "4"),
        ("claude-opus-5-5", Usage(output_tokens=MILLION), {}, "20"),
        ("claude-opus-5-5", Usage(cache_read_input_tokens=MILLION), {}, "0.20"),
        ("claude-opus-5-5", Usage(cache_creation_5m_input_tokens=MILLION), {}, "5"),
        ("claude-opus-5-5", Usage(cache_creation_1h_input_tokens=MILLION), {}, "8"),
        ("claude-opus-5-5", Usage(input_tokens=MILLION), {"inference_geo": "us"}, "4.4"),
        ("claude-opus-5-5", Usage(input_tokens=MILLION), {"inference_geo": "global"}, "4"),
        ("claude-opus-5", Usage(output_tokens=MILLION), {"speed": "fast"}, "50"),
        ("claude-opus-5", Usage(web_search_requests=3), {"speed": "fast", "inference_geo": "us"}, "0.03"),
        ("claude-haiku-5-5", Usage(input_tokens=100_000), {}, "0.01"),
        ("claude-haiku-5-5", Usage(input_tokens=1, cache_read_input_tokens=100_000), {}, "0.0050005"),
        ("claude-haiku-5-5", Usage(cache_creation_5m_input_tokens=1), {}, "0.000000125"),
        ("local", Usage(input_tokens=MILLION, output_tokens=MILLION), {}, "0"),
    ],
)
def test_list_cost_is_exact(name, usage, how, expected):
    assert cost(name, usage, **how) == usd(expected)


def test_no_list_price_is_no_cost_but_not_zero():
    assert cost("claude-something-new", Usage(input_tokens=1)) is None
    assert not TABLE.resolve("claude-something-new").is_budgetable()
    assert cost("claude-opus-5-5", Usage(input_tokens=1), speed="fast") is None
    assert not TABLE.resolve("claude-opus-5-5").is_budgetable("fast")


def test_running_time_and_rounding():
    assert TABLE.runtime_rate == usd("0.08")
    assert [
        whole_cents(Decimal(cents) * MICROCENTS_PER_CENT) for cents in ("0", "0.49", "0.5", "12.5")
    ] == [
        "0",
        "0",
        "1",
        "13",
    ]


def test_an_operator_adds_models_and_rates():
    table = TABLE.extended(
        tomllib.loads("""
            runtime_usd_per_hour = 0
            [[provider]]
            name = "anthropic"
            patterns = ["proxy/*"]
            [[model]]
            ids = ["proxy/x", "claude-opus-5-9"]
            price = { input = 0.1, output = 0.2, cache_read = 0, cache_write_5m = 0, cache_write_1h = 0 }
        """)
    )
    usage = Usage(input_tokens=MILLION, output_tokens=MILLION)
    for name in ("proxy/x", "claude-opus-5-9"):
        assert table.request_cost(table.resolve(name), usage) == usd("0.3")
    assert table.runtime_rate == 0
    assert table.resolve("claude-opus-5") == TABLE.resolve("claude-opus-5")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"model": [{"ids": ["claude-x"], "colour": 1}]}, "colour"),
        ({"model": [{"ids": ["claude-x"], "price": {"input": "1"}}]}, "'output' is missing"),
        ({"model": [{"ids": ["claude-x"], "price": {"inputs": "1"}}]}, "inputs"),
        ({"provider": [{"name": "p", "patterns": [], "url": "x"}]}, "url"),
    ],
)
def test_a_mistake_in_the_data_is_named(data, complaint):
    with pytest.raises(ValueError, match=complaint):
        TABLE.extended(data)


def test_the_packaged_data_is_complete():
    for name in ("claude-fable-5-1", "claude-sonnet-5", "claude-opus-4-8", "claude-haiku-5-5"):
        info = TABLE.resolve(name)
        assert info.price is not None
        assert info.price.input < info.price.cache_write_5m < info.price.cache_write_1h < info.price.output
        assert info.price.cache_read < info.price.input
        assert info.default_effort in info.efforts
