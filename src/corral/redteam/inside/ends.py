"""How an attempt ends."""

from __future__ import annotations


class Won(Exception):
    """It got somewhere. The message is the evidence."""


class Held(Exception):
    """It was tried in earnest, and this is what stopped it."""


class Untried(Exception):
    """It could not be tried, because of this."""
