"""A request that its client gave up on and that arrives all the same contradicts nothing in the log."""

import asyncio

import pytest

from corral.brain.dispatch import RESTORED, Dispatch
from corral.hands.wire import decode_result
from corral.kernel.errors import HandsUnavailable
from corral.session.call import INTERRUPTED, NeverStarted

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


async def test_a_backup_does_not_know_that_a_call_never_started(host, bash, tmp_path):
    call, answering = bash("c1", "touch ran"), Dispatch(host)._until_answered
    answer = await answering(call, epoch=9, attach=True, stop=asyncio.Event(), is_restored=True)
    assert (answer.content[0]["text"], answer.is_error) == (RESTORED, True)
    assert not (tmp_path / "workspaces" / SESSION / "ran").exists()


async def test_a_call_that_attach_forbids_never_starts(host, bash, tmp_path):
    call = bash("c1", "touch ran")
    with pytest.raises(NeverStarted):
        await host.attach_encoded(call, epoch=1, forbids=True)
    assert (await host.execute(call, epoch=1)).content[0]["text"] == INTERRUPTED
    assert not (tmp_path / "workspaces" / SESSION / "ran").exists()


async def test_a_call_that_comes_before_it_is_forbidden_has_its_result(host, bash, journal, monkeypatch):
    """Between the look that did not find it and the row that would forbid it."""
    call, forbid = bash("c1", "echo ran"), journal.forbid

    async def late(*arguments):
        await host.execute(call, epoch=1)
        return await forbid(*arguments)

    monkeypatch.setattr(journal, "forbid", late)
    result = decode_result(await host.attach_encoded(call, epoch=1, forbids=True))
    assert result.content[0]["text"] == "ran\n"
