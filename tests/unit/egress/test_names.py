"""Lookups of names whose servers never answer."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from corral.egress.names import Names


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names below "silent" are looked up in vain until the test ends; those that were, in order."""
    asked: list[str] = []
    end, real = threading.Event(), socket.getaddrinfo

    def look(host: str, *given: Any, **more: Any) -> Any:
        if host.endswith(".silent"):
            asked.append(host)
            end.wait(60)
            raise socket.gaierror("no answer")
        return real(host, *given, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look)
    yield asked
    end.set()


async def test_names_that_are_never_answered_hold_up_nobody_else(silent: list[str]) -> None:
    waiting = [asyncio.ensure_future(Names().resolve(f"{number}.silent", 80)) for number in range(40)]
    async with asyncio.timeout(60):
        assert "127.0.0.1" in await Names().resolve("localhost", 80)
        assert await asyncio.get_running_loop().getaddrinfo("localhost", 80)
        while len(silent) < 40:  # noqa: ASYNC110  (each has a thread, which begins when it may)
            await asyncio.sleep(0.01)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_lookup_has_its_place_until_it_ends(silent: list[str]) -> None:
    names = Names(at_once_max=2)
    for number in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await names.resolve(f"{number}.silent", 80)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await names.resolve("localhost", 80)
    async with asyncio.timeout(60):
        while len(silent) < 2:  # noqa: ASYNC110  (as above)
            await asyncio.sleep(0.01)
    assert sorted(silent) == ["0.silent", "1.silent"]


async def test_a_place_is_free_again_and_what_is_no_name_is_an_error() -> None:
    names = Names(at_once_max=1)
    for _ in range(3):
        assert await names.resolve("127.0.0.1", 80) == ["127.0.0.1"]
        with pytest.raises(OSError):
            await names.resolve("a" * 300 + ".invalid", 80)
