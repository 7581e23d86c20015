"""A tool call as brain and hands speak of it, and the place where it may run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.session.content import Json

INTERRUPTED: Final = "Tool execution was interrupted before completion. Please retry."
"""The result of a call that an interrupt ended, whoever ended it. Source: docs/DIVERGENCES.md."""


class NeverStarted(Exception):
    """`Hands.attach`: this journal has never seen the call; running it is safe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where a call was sent: the hands host, and the journal it kept at that time.

    Logged with the intent, before dispatch. The same journal without the call means "never started";
    another journal means "outcome unknown". Source: docs/ARCHITECTURE.md.
    """

    host_id: str
    journal_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What a sandbox of this session is made from. Equal recipes make equal sandboxes.

    `environment` is the session's environment config as stored ({"type": "cloud", ...}).
    """

    environment: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """One call. `call_id` is the id of its tool-use event and names the call for ever."""

    session_id: SessionId
    thread_id: ThreadId
    call_id: EventId
    name: str
    input: Mapping[str, Json]
    recipe: Recipe
    placement: Placement
