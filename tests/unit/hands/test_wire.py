"""Hosts of another version: what they say more is left out, what they say less has its default. And errors:
what was written for anybody crosses, and nothing else."""

import subprocess
import sys

import orjson
import pytest

from corral.hands.ports import Probe, SandboxLost, WorkspaceMissing
from corral.hands.wire import (
    HeldWorkspace,
    LiveSandbox,
    decode_error,
    decode_known,
    decode_probe,
    encode_error,
    encode_probe,
)
from corral.kernel.errors import (
    BlobUnavailable,
    CallerError,
    Conflict,
    HandsUnavailable,
    InvalidRequest,
    LeaseLost,
    NotFound,
    RequestTooLarge,
    SandboxUnavailable,
    Stale,
    WorldError,
)
from corral.kernel.ids import SessionId
from corral.session.call import NeverStarted

SECRET = "/srv/corral/hands/private/token=hunter2"


def test_fields_of_a_later_version_are_left_out() -> None:
    said = {"session_id": "sesn_1", "provider": "bwrap", "is_busy": True, "idle_seconds": 0.0, "gpus": 8}
    assert decode_known(LiveSandbox, said) == LiveSandbox(
        session_id=SessionId("sesn_1"), provider="bwrap", is_busy=True, idle_seconds=0.0
    )
    assert decode_probe(b'{"is_available":true,"detail":"","kernel":"7.0"}').is_available


def test_fields_that_an_earlier_version_lacks_have_their_default() -> None:
    said = {
        "session_id": "sesn_1",
        "placed_at": 1,
        "provider": None,
        "is_busy": False,
        "idle_seconds": 0.0,
        "changes": 2,
        "kept": 1,
    }
    assert decode_known(HeldWorkspace, said).disk_bytes == 0
    assert decode_probe(b'{"is_available":false,"detail":"no"}') == Probe(is_available=False, summary="no")


@pytest.mark.parametrize("kind", [InvalidRequest, NotFound, Conflict, RequestTooLarge])
def test_a_callers_mistake_crosses_in_its_words(kind: type[CallerError]) -> None:
    found = decode_error(encode_error(kind("session 'x' is not a plain name"))[1])
    assert type(found) is kind and str(found) == "session 'x' is not a plain name"


@pytest.mark.parametrize("kind", [SandboxUnavailable, HandsUnavailable, WorkspaceMissing])
def test_a_failure_crosses_without_its_detail(kind: type[WorldError]) -> None:
    failed = kind("the journal cannot be written", detail=SECRET, retryable=False, written=True)
    _, body = encode_error(failed, reference="req_1")
    assert SECRET.encode() not in body
    found = decode_error(body)
    assert isinstance(found, kind) and found.message == "the journal cannot be written"
    assert (found.retryable, found.written) == (False, True)
    assert "req_1" in str(found) and "req_1" not in found.message


@pytest.mark.parametrize("kind", [BlobUnavailable, SandboxLost])
def test_a_kind_that_the_other_end_does_not_know_is_the_host_failing(kind: type[WorldError]) -> None:
    found = decode_error(encode_error(kind("it is gone", detail=SECRET))[1])
    assert type(found) is HandsUnavailable and str(found) == "it is gone"


@pytest.mark.parametrize("stop", [LeaseLost(SECRET), NeverStarted(SECRET)])
def test_what_is_no_failure_crosses_as_its_kind(stop: Exception) -> None:
    _, body = encode_error(stop)
    assert SECRET.encode() not in body and type(decode_error(body)) is type(stop)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", SECRET),
        ValueError(SECRET),
        KeyError(SECRET),
        Stale(SECRET),
        subprocess.CalledProcessError(1, [sys.executable, "--token", SECRET], stderr=SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_of_anything_else_only_the_class_crosses(error: Exception) -> None:
    status, body = encode_error(error, reference="req_1")
    assert status == 503 and SECRET.encode() not in body
    assert set(orjson.loads(body)["error"]) <= {"type", "message", "class", "reference"}
    found = decode_error(body)
    assert isinstance(found, HandsUnavailable) and found.retryable
    assert type(error).__name__ in str(found) and "req_1" in str(found)
    assert found.message == "the hands host failed; see its log"


def test_of_a_probe_only_the_summary_crosses() -> None:
    probe = Probe(is_available=False, summary="bwrap does not start", detail=SECRET, remedy=SECRET)
    body = encode_probe(probe)
    assert SECRET.encode() not in body
    assert decode_probe(body) == Probe(is_available=False, summary="bwrap does not start")
