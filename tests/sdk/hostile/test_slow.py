"""The last of these files: what began with the first has come to its end."""

import json

from tests.sdk.hostile.slow import LATE_SECONDS, SlowClients
from tests.sdk.hostile.wire import answers


def test_slow_requests_end_within_their_bounds(slow_clients: SlowClients) -> None:
    slow_clients.join()
    for slow in slow_clients.all:
        assert slow.seconds is not None, f"{slow.name} is still there"
        assert slow.seconds < slow.bound + LATE_SECONDS, slow.name
        got = [] if not slow.received else answers(slow.received)
        assert [status for status, _ in got] == ([] if slow.status is None else [slow.status]), slow.name
        if slow.status == 408:
            assert json.loads(got[0][1])["error"]["type"] == "timeout_error", slow.name
