"""A request that its client gave up on and that arrives all the same contradicts nothing in the log."""

import asyncio

import pytest

from corral.brain.dispatch import Dispatch
from corral.kernel.errors import HandsUnavailable
from corral.session.call import INTERRUPTED

SESSION = "sesn_1"


class _SlowWire:
    """The port of a real host, behind a wire that holds the first execute back until `deliver`."""

    def __init__(self, host) -> None:
        self._host = host
        self._held = None
        self.attach, self.cancel, self.placement = host.attach, host.cancel, host.placement

    async def execute(self, call, *, epoch):
        if self._held is None:
            self._held = call, epoch
            raise HandsUnavailable("the connection broke")
        return await self._host.execute(call, epoch=epoch)

    async def deliver(self):
        call, epoch = self._held
        return await self._host.execute(call, epoch=epoch)


@pytest.mark.parametrize("why", ["refused", "stopped"])
async def test_what_is_said_not_to_have_run_does_not_run_later(host, bash, tmp_path, provider, why):
    wire, stop = _SlowWire(host), asyncio.Event()
    if why == "refused":
        provider.unavailable = "no room"
    else:
        stop.set()
    call = bash("c1", "touch ran")
    answer = await Dispatch(wire)._until_answered(call, epoch=1, attach=False, stop=stop)
    assert (answer.content[0]["text"], answer.is_error) == (INTERRUPTED, True)
    provider.unavailable = ""
    assert await wire.deliver() == answer
    assert not (tmp_path / "workspaces" / SESSION / "ran").exists()


async def test_a_lost_request_alone_changes_nothing(host, bash):
    wire = _SlowWire(host)
    call = bash("c1", "echo ran")
    answer = await Dispatch(wire)._until_answered(call, epoch=1, attach=False, stop=asyncio.Event())
    assert answer.content[0]["text"] == "ran\n"
    assert await wire.deliver() == answer
