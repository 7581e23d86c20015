"""Hosts of another version: what they say more is left out, what they say less has its default."""

from corral.hands.ports import Probe
from corral.hands.wire import HeldWorkspace, LiveSandbox, decode_known
from corral.kernel.ids import SessionId


def test_fields_of_a_later_version_are_left_out() -> None:
    said = {"session_id": "sesn_1", "provider": "bwrap", "is_busy": True, "idle_seconds": 0.0, "gpus": 8}
    assert decode_known(LiveSandbox, said) == LiveSandbox(
        session_id=SessionId("sesn_1"), provider="bwrap", is_busy=True, idle_seconds=0.0
    )
    assert decode_known(Probe, {"is_available": True, "detail": "", "kernel": "7.0"}).is_available


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
    assert decode_known(Probe, {"is_available": False, "detail": "no"}).remedy == ""
