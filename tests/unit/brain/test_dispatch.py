"""Looking for a host that stays away."""

import asyncio

from corral.brain import dispatch
from corral.brain.dispatch import Dispatch
from corral.kernel.errors import HandsUnavailable


class Away:
    """Hands of which no host is to be found; the only method that is asked here."""

    def __init__(self) -> None:
        self.asked = 0

    async def placement(self, session_id):
        self.asked += 1
        raise HandsUnavailable("no host")


async def test_a_host_that_stays_away_is_looked_for_ever_less(monkeypatch):
    monkeypatch.setattr(dispatch, "HANDS_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(dispatch, "HANDS_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(dispatch, "HANDS_RETRY_SECONDS_MAX", 0.2)
    hands = Away()
    async with asyncio.timeout(60):
        assert await Dispatch(hands).placement("sesn_1", patience_seconds=0.5) is None
    assert 2 <= hands.asked <= 10, "without longer pauses it is fifty"
