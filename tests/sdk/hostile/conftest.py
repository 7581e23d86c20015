"""One server for all that is hostile, and what must hold whatever it is: nobody else is disturbed, nothing
fails, nothing is left over."""

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import psutil
import pytest

from corral.kernel.limits import REQUEST_BODY_BYTES_MAX
from tests.sdk.conftest import Server, eventually
from tests.sdk.hostile.bodies import begin, taken
from tests.sdk.hostile.slow import SlowClients
from tests.sdk.hostile.wire import ask, pad, post
from tests.served import WAIT_SECONDS

BYSTANDER_SECONDS_MAX = 5.0  # of two requests of a client that does nothing wrong: see Bystander.slowest
RSS_GROWTH_BYTES_MAX = 256 * 1024 * 1024  # of server and tests: eight bodies; thirty such are sent


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    running.start()
    yield running
    running.stop()


class Bystander(threading.Thread):
    """A client that does nothing wrong, on one connection, all the while."""

    def __init__(self, server: Server) -> None:
        super().__init__(name="bystander")
        self._server, self._is_over = server, threading.Event()
        self.problems: list[str] = []
        self.slowest = 0.0
        """By the clock, less what the processor did meanwhile for others of this machine."""
        self.count = 0

    def run(self) -> None:
        with self._server.http() as http:
            while not self._is_over.wait(0.1):
                began, worked = time.monotonic(), time.process_time()
                try:
                    made = http.post("/v1/environments", json={"name": "bystander"})
                    shown = http.get(f"/v1/environments/{made.json().get('id')}")
                    if (made.status_code, shown.status_code) != (200, 200):
                        self.problems.append(made.text + shown.text)
                except Exception as error:
                    self.problems.append(repr(error))
                took = min(time.monotonic() - began, time.process_time() - worked)
                self.slowest = max(self.slowest, took)
                self.count += 1

    def stop(self) -> None:
        self._is_over.set()
        self.join(WAIT_SECONDS)


class Failures(logging.Handler):
    """What the server says of failures of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record))


@pytest.fixture(scope="package", autouse=True)
def nobody_is_disturbed(server: Server) -> Iterator[None]:
    failures, bystander, process = Failures(), Bystander(server), psutil.Process()
    logging.getLogger().addHandler(failures)
    ask(server, post(server, pad(REQUEST_BODY_BYTES_MAX), "connection: close"))  # what one body costs once
    before = process.memory_info().rss
    bystander.start()
    yield
    bystander.stop()
    logging.getLogger().removeHandler(failures)
    grown = process.memory_info().rss - before
    print(
        f"{bystander.count} of the bystander, the slowest {bystander.slowest:.2f} s; {grown >> 20} MiB more"
    )
    assert bystander.problems == [] and bystander.count > 20
    assert bystander.slowest < BYSTANDER_SECONDS_MAX
    assert failures.records == []
    eventually(lambda: server.deps.admission.requests == 0 and server.deps.admission.bodies_bytes == 0)
    assert server.api.state.streams.open_count == 0
    eventually(lambda: server.connections == 0)
    assert grown < RSS_GROWTH_BYTES_MAX


@pytest.fixture(scope="package", autouse=True)
def slow_clients(server: Server, nobody_is_disturbed: None) -> Iterator[SlowClients]:
    clients = SlowClients(server)
    clients.start()
    yield clients
    clients.join()


@pytest.fixture(scope="package")
def bodies(server: Server) -> dict[str, Any]:
    with server.http() as http:
        return taken(http)


@pytest.fixture
def http(server: Server) -> Iterator[httpx2.Client]:
    with server.http() as made:
        made.event_hooks = {"request": [begin]}
        yield made
