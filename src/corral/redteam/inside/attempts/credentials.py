"""Credentials that the session was granted: used where they may be, learnt nowhere."""

from __future__ import annotations

from corral.redteam.inside.attempt import Attempt

ATTEMPTS: dict[str, list[Attempt]] = {}
