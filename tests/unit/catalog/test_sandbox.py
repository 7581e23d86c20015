"""What an environment says of its sandboxes: merged, refused, and taken along by sessions."""

from datetime import UTC, datetime

import pytest

from corral.catalog.environments import new_environment
from corral.catalog.sandbox import (
    DEFAULT_BOUNDS,
    bounds_of,
    config_of,
    provider_named,
    sandbox_view,
    with_sandbox,
)
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import EnvironmentId
from corral.kernel.limits import SANDBOX_DISK_BYTES, SANDBOX_MEMORY_BYTES, SANDBOX_TMP_BYTES

NOW, LATER = datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC)


def environment(**given):
    return new_environment({"name": "e", **given}, environment_id=EnvironmentId("env_1"), now=NOW)


def test_defaults_are_the_servers_and_change_nothing() -> None:
    made = environment()
    assert config_of(made) == made["config"], "as sessions have kept it so far"
    assert bounds_of(config_of(made)) == DEFAULT_BOUNDS and provider_named(config_of(made)) is None
    assert DEFAULT_BOUNDS.tmp_bytes == SANDBOX_TMP_BYTES
    shown = sandbox_view(made)
    assert (shown["memory_bytes"], shown["disk_bytes"]) == (SANDBOX_MEMORY_BYTES, SANDBOX_DISK_BYTES)
    assert with_sandbox(made, {}, now=LATER) is made


def test_members_merge_and_null_takes_one_away() -> None:
    made = with_sandbox(environment(), {"cpus": 0.5, "provider": "bwrap"}, now=LATER)
    made = with_sandbox(made, {"memory_bytes": 1 << 30, "provider": None}, now=LATER)
    kept = config_of(made)
    assert kept["sandbox"] == {"cpus": 0.5, "memory_bytes": 1 << 30} and kept["type"] == "cloud"
    assert (bounds_of(kept).cpus, bounds_of(kept).memory_bytes) == (0.5, 1 << 30)
    assert bounds_of(kept).disk_bytes == SANDBOX_DISK_BYTES
    assert made["updated_at"] == "2026-11-21T00:00:00.000000Z"
    assert with_sandbox(made, {"cpus": 0.5}, now=LATER) is made
    assert "sandbox" not in config_of(with_sandbox(made, {"cpus": None, "memory_bytes": None}, now=LATER))


def test_only_sandboxes_of_ours_have_bounds() -> None:
    with pytest.raises(InvalidRequest, match="self_hosted"):
        with_sandbox(environment(config={"type": "self_hosted"}), {"cpus": 1.0}, now=NOW)
    with pytest.raises(InvalidRequest, match="archived"):
        with_sandbox({**environment(), "archived_at": "2026-11-20T00:00:00Z"}, {"cpus": 1.0}, now=NOW)
