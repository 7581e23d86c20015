"""What is refused before memory or disk run out, and what never is."""

from pathlib import Path
from typing import Any

import pytest

from corral.api.admission import Admission, Machine, memory_free_bytes, starts_work
from corral.api.errors import error_response
from corral.kernel import limits
from corral.kernel.errors import Overloaded, RateLimited, StoreUnavailable


def scope(method: str, path: str) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path}


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/sessions", True),
        ("POST", "/v1/agents", True),
        ("POST", "/v1/sessions/sesn_1", True),
        ("PUT", "/corral/v1/sessions/sesn_1/workspace", True),
        ("POST", "/v1/sessions/sesn_1/events", False),  # it looks itself: an interrupt is always taken
        ("POST", "/v1/sessions/sesn_1/archive", False),
        ("POST", "/corral/v1/kill", False),
        ("POST", "/corral/v1/keys/key_1/revoke", False),
        ("DELETE", "/v1/sessions/sesn_1", False),
        ("GET", "/v1/sessions", False),
    ],
)
def test_what_starts_work(method: str, path: str, expected: bool) -> None:
    assert starts_work(scope(method, path)) is expected


def test_requests_at_once_are_bounded_and_streams_are_not_counted() -> None:
    admission = Admission()
    held = [admission.request(scope("GET", "/v1/sessions")) for _ in range(limits.REQUESTS_IN_FLIGHT_MAX)]
    for each in held:
        each.__enter__()
    with pytest.raises(Overloaded), admission.request(scope("GET", "/v1/sessions")):
        pass
    with admission.request(scope("GET", "/v1/sessions/sesn_1/events/stream")):
        pass
    held.pop().__exit__(None, None, None)
    with admission.request(scope("GET", "/v1/sessions")):
        pass


def test_bodies_at_once_are_bounded() -> None:
    admission = Admission()
    with admission.request(scope("POST", "/v1/agents")) as first:
        first.take(limits.BODIES_BYTES_MAX)
        with (
            pytest.raises(Overloaded),
            admission.request(scope("POST", "/v1/agents")) as second,
        ):
            second.take(1)
    with admission.request(scope("POST", "/v1/agents")) as again:
        again.take(limits.BODIES_BYTES_MAX)
    assert admission.bodies_bytes == 0


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_path_that_ends_like_a_stream_leaves_no_bytes_behind(method: str) -> None:
    admission = Admission()
    with admission.request(scope(method, "/v1/agents/stream")) as inflow:  # an id may be any word
        inflow.take(100)
        assert admission.requests == (method == "POST")
    assert admission.bodies_bytes == admission.requests == 0


def test_a_machine_says_what_it_is_short_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queued = 0
    machine = Machine(data_dir=tmp_path, writes_queued=lambda: queued)
    assert machine.shortage() is None
    queued = limits.WRITES_QUEUED_ADMITTED_MAX + 1
    assert "writes" in (machine.shortage() or "")
    monkeypatch.setattr("corral.api.admission.MEMORY_FREE_BYTES_MIN", memory_free_bytes() * 2)
    assert "memory" in (machine.shortage() or "")
    monkeypatch.setattr("corral.api.admission.DISK_FREE_BYTES_MIN", 2**62)
    assert "disk" in (machine.shortage() or "")
    assert Machine(data_dir=None, writes_queued=lambda: 0).shortage() != machine.shortage()


@pytest.mark.parametrize(
    ("error", "status"),
    [(Overloaded("x"), 529), (StoreUnavailable("x"), 529), (RateLimited("x"), 429)],
)
def test_who_has_to_wait_is_told_for_how_long(error: Exception, status: int) -> None:
    response = error_response(error, "req_1")
    assert (response.status_code, response.headers["retry-after"]) == (status, "1")
