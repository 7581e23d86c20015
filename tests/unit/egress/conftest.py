import pytest

from corral.egress import wishes
from tests.gateway import SECONDS


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine nobody is refused because a look at the store takes its time, and what is known is
    fresh for as long as a test goes on, unless it says otherwise."""
    monkeypatch.setattr(wishes, "CREDENTIALS_WAIT_SECONDS", SECONDS)
    monkeypatch.setattr(wishes, "CREDENTIALS_FRESH_SECONDS", 600.0)
