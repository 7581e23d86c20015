"""Killing sessions: an operator's stop, through the inbox of each, so that it survives every crash.

A kill is a `user.interrupt` with `private = {"kill": {"reason": ...}}`. Whichever brain has the session
applies it: model call aborted, tools killed, queued inputs dropped, the reason in the log. Source:
docs/DIVERGENCES.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from corral.kernel.ids import SessionId, WorkspaceId


@dataclass(frozen=True, kw_only=True, slots=True)
class KillTarget:
    """One session, or all of an agent, or (neither given) all there are. workspace_id: None means any."""

    workspace_id: WorkspaceId | None
    session_id: SessionId | None = None
    agent_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Killed:
    """The sessions told to stop; `after`: where to go on, None if there are no more."""

    session_ids: Sequence[SessionId]
    after: SessionId | None


class KillStore(Protocol):
    async def kill(
        self, target: KillTarget, *, reason: str, now: datetime, after: SessionId | None, before: datetime
    ) -> Killed:
        """Tell up to KILL_BATCH_MAX sessions, by id after `after`, created until `before`, to stop.

        Sessions that do nothing and wait for nothing are left alone. Atomic for each session.
        Repeat: a session that is to stop already is not told again.
        Raises NotFound for an unknown session_id.
        """
