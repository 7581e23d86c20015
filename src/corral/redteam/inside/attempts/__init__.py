"""All attempts, a module for each kind of wall. A module has ATTEMPTS: group -> its attempts."""

from __future__ import annotations

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.attempts import (
    answers,
    files,
    hosts,
    identity,
    kernel,
    limits,
    names,
    neighbours,
    network,
    placeholders,
    processes,
    repositories,
    server,
    smuggling,
    sockets,
    tools,
    tracing,
)

_MODULES = (
    processes, tracing, identity, kernel, files, neighbours, server, network,
    names, smuggling, hosts, placeholders, answers, sockets, tools,
    repositories, limits,
)  # fmt: skip


def groups() -> dict[str, list[Attempt]]:
    found: dict[str, list[Attempt]] = {}
    for module in _MODULES:
        for group, attempts in module.ATTEMPTS.items():
            found.setdefault(group, []).extend(attempts)
    return found


def by_name() -> dict[str, Attempt]:
    """By "group.name"."""
    return {
        f"{group}.{attempt.name}": attempt for group, attempts in groups().items() for attempt in attempts
    }
