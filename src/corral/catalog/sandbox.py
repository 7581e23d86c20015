"""What an environment says of its sandboxes beside the wire's config: who makes them, and how much each may
take.

Ours: hosted environments have no such members. They are kept in the environment's record as `sandbox`,
which no official client sees, and sessions take them along when they are made, as they do the config.
Source: docs/adr/0022-bounds-of-an-environments-sandboxes.md.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final

from corral.catalog.records import Wire
from corral.kernel.clock import rfc3339
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import (
    SANDBOX_DISK_BYTES,
    SANDBOX_MEMORY_BYTES,
    SANDBOX_PROCESSES_MAX,
    TOOL_TIMEOUT_SECONDS_MAX,
)

__all__ = [
    "DEFAULT_BOUNDS",
    "SANDBOX",
    "Bounds",
    "bounds_of",
    "config_of",
    "provider_named",
    "sandbox_view",
    "with_sandbox",
]

SANDBOX: Final = "sandbox"
"""The member of a record, and of the config that a session keeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Of one sandbox. The defaults are those of the server.

    cpus: processors, 0.5 is half of one's time; None: as much as is free, in fair shares. disk_bytes: of
    all that it keeps. command_seconds: the longest that a command may run.
    """

    cpus: float | None = None
    memory_bytes: int = SANDBOX_MEMORY_BYTES
    processes: int = SANDBOX_PROCESSES_MAX
    disk_bytes: int = SANDBOX_DISK_BYTES
    command_seconds: int = int(TOOL_TIMEOUT_SECONDS_MAX)

    @property
    def tmp_bytes(self) -> int:
        """Of /tmp, which is memory."""
        return self.memory_bytes // 4


DEFAULT_BOUNDS: Final = Bounds()
_NAMES: Final = frozenset(field.name for field in fields(Bounds))


def bounds_of(config: Mapping[str, Any]) -> Bounds:
    """config: as a session keeps it."""
    given = config.get(SANDBOX) or {}
    return Bounds(**{name: value for name, value in given.items() if name in _NAMES})


def provider_named(config: Mapping[str, Any]) -> str | None:
    """What is to make its sandboxes; None: whatever the node has. config: as a session keeps it."""
    return (config.get(SANDBOX) or {}).get("provider")


def config_of(environment: Wire) -> Wire:
    """What a session keeps of an environment."""
    config: Wire = environment["config"]
    return config if not environment.get(SANDBOX) else {**config, SANDBOX: environment[SANDBOX]}


def with_sandbox(current: Wire, given: Mapping[str, Any], *, now: datetime) -> Wire:
    """The record with these members, or `current` itself if nothing changes; null takes one away. Raises
    InvalidRequest."""
    if current["archived_at"] is not None:
        raise InvalidRequest(
            f"Environment {current['id']} is archived and cannot be updated",
            error_code="environment_archived",
        )
    if current["config"]["type"] != "cloud":
        raise InvalidRequest(
            f"Environment {current['id']} is {current['config']['type']}: its workers' machines are what"
            " they are"
        )
    merged = {**current.get(SANDBOX, {}), **given}
    after = {name: value for name, value in merged.items() if value is not None}
    if after == current.get(SANDBOX, {}):
        return current
    return {**current, SANDBOX: after, "updated_at": rfc3339(now)}


def sandbox_view(environment: Wire) -> Wire:
    """All members, with the defaults of those that are not set."""
    return {
        "type": "environment_sandbox",
        "environment_id": environment["id"],
        "provider": provider_named(environment),
        **asdict(bounds_of(environment)),
    }
