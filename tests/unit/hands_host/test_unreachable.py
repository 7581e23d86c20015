"""Hosts that live and that cannot be reached: said once, with the remedy, and not tried in a loop."""

import logging

from corral.hands.unreachable import Unreachable
from corral.kernel.errors import HandsUnavailable


def test_one_warning_for_a_host_and_a_reason(caplog):
    unreachable = Unreachable()
    error = HandsUnavailable("no certificate", retryable=False, detail="https://10.0.0.5:8421")
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            unreachable.failed("host_01", "https://10.0.0.5:8421", error)
    assert [record.getMessage() for record in caplog.records] == [
        "no call from here reaches hands host host_01 at https://10.0.0.5:8421: no certificate"
        " (https://10.0.0.5:8421)"
    ]
    assert unreachable.blocks("host_01") is error
    assert unreachable.why() == {"host_01": error}
    unreachable.answered("host_01")
    assert unreachable.blocks("host_01") is None and not unreachable.why()


def test_a_host_that_restarts_is_tried_again_and_told_of_only_when_it_stays_away(caplog):
    unreachable = Unreachable()
    with caplog.at_level(logging.WARNING):
        unreachable.failed("host_01", "unix:///x", HandsUnavailable("does not answer"))
    assert unreachable.blocks("host_01") is None
    assert not caplog.records
