"""The supervisor under fire: real processes, real signals, real sockets."""

import contextlib
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from corral.daemon import socket_path
from corral.kernel.limits import START_DEATHS_MAX
from corral.supervisor.adopt import lock_holder, request
from corral.supervisor.datadir import read_state

T = TypeVar("T")
DEADLINE_SECONDS = 60.0
PROGRAM = Path(__file__).with_name("supervised.py")


def until(found: Callable[[], T], *, seconds: float = DEADLINE_SECONDS) -> T:
    """The first true value; what is watched has no signal of its own."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Serving:
    """One supervisor of a data directory."""

    def __init__(self, data_dir: Path, **settings: object) -> None:
        self.data_dir = data_dir
        self.stderr_path = data_dir.parent / f"stderr-{time.monotonic_ns()}"
        with self.stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), "supervisor", "--json"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "ANTHROPIC_API_KEY": "sk-canary", "CORRAL_API_KEY": "canary"},
            )
        assert self.process.stdin and self.process.stdout
        line = json.dumps({"data_dir": str(data_dir), "port": 0, **settings}) + "\n"
        self.process.stdin.write(line.encode())
        self.process.stdin.close()
        self._stalled: list[int] = []

    def ready(self) -> dict[str, Any]:
        assert self.process.stdout
        can_read, _, _ = select.select([self.process.stdout], [], [], DEADLINE_SECONDS)
        line = self.process.stdout.readline() if can_read else b""
        assert line, f"not ready; {self.log()}"
        return dict(json.loads(line))

    def log(self) -> str:
        return self.stderr_path.read_text()

    def pids(self) -> dict[str, int]:
        state: Any = read_state(self.data_dir)
        return {each["role"]: each["pid"] for each in state["processes"] if each["is_up"]} if state else {}

    def all_up(self) -> dict[str, int]:
        return until(lambda: pids if len(pids := self.pids()) == 3 else None) or {}

    def stall(self, pid: int) -> None:
        """SIGSTOP. Such a process hears no SIGTERM and misses its supervisor's end: `close` kills it."""
        self._stalled.append(os.pidfd_open(pid))
        os.kill(pid, signal.SIGSTOP)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_SECONDS)

    def close(self) -> None:
        for pidfd in self._stalled:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    started: list[Serving] = []

    def start(**settings: object) -> Serving:
        started.append(Serving(tmp_path / "d", **settings))
        return started[-1]

    yield start
    for each in started:
        each.close()


def ask(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=DEADLINE_SECONDS) as response:
        return dict(json.load(response))


def test_start_tells_the_server_what_it_needs_and_the_others_nothing(serve: Callable[..., Serving]) -> None:
    serving = serve(anthropic_api_key="sk-canary-model", api_key="corral_canary_bootstrap")
    ready = serving.ready()
    assert ready["api_key"] == "corral_shown_once"
    facts = ask(ready["url"])
    assert facts["has_model_key"]
    assert facts["has_local_key"]
    assert facts["incarnation"].startswith("inc_")
    assert "canary" not in json.dumps([facts["environment"], facts["argv"]])
    assert not {name for name in facts["environment"] if name.startswith(("CORRAL_", "ANTHROPIC_"))}
    pids = serving.all_up()
    for role in ("hands", "egress"):
        health = json.loads(request(serving.data_dir, role, "health"))
        assert (health["role"], health["pid"], health["is_supervised"]) == (role, pids[role], True)
    assert "canary" not in serving.log()


def test_processes_are_closed_to_others_of_the_same_user(serve: Callable[..., Serving]) -> None:
    serving = serve()
    serving.ready()
    if os.geteuid() == 0:  # root may read anyway; what the kernel calls undumpable belongs to root
        pytest.skip("as root nothing is closed")
    for pid in serving.all_up().values():
        with pytest.raises(PermissionError):
            Path(f"/proc/{pid}/environ").read_bytes()


def test_sigterm_drains_and_leaves_nothing(serve: Callable[..., Serving]) -> None:
    serving = serve()
    serving.ready()
    pids = serving.all_up()
    assert serving.end() == 0
    assert (serving.data_dir / "drained").exists()
    assert not [role for role, pid in pids.items() if lives(pid)]
    assert not (serving.data_dir / "supervisor.json").exists()


def test_a_second_signal_does_not_wait(
    serve: Callable[..., Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_DRAIN_SECONDS", str(10 * DEADLINE_SECONDS))
    serving = serve()
    serving.ready()
    server = serving.all_up()["server"]
    serving.stall(server)  # it will not hear SIGTERM
    serving.process.terminate()
    until(lambda: "stopping" in serving.log())
    serving.process.terminate()
    assert serving.process.wait(DEADLINE_SECONDS) == 0
    assert not lives(server)


def test_killed_server_is_replaced_and_connections_wait(serve: Callable[..., Serving]) -> None:
    serving = serve()
    url = serving.ready()["url"]
    before = ask(url)
    os.kill(before["pid"], signal.SIGKILL)
    after = until(lambda: facts if (facts := ask(url))["pid"] != before["pid"] else None)
    assert after is not None
    assert after["node"] == before["node"]
    assert after["incarnation"] != before["incarnation"]
    assert re.search(r"server was killed by SIGKILL; starting it again now", serving.log())


# A URL that nobody answers: the server here opens no database.
SHARED: dict[str, object] = {"database_url": "postgresql://nobody@127.0.0.1:9/none"}


def spare_of(serving: Serving) -> int | None:
    state: Any = read_state(serving.data_dir)
    return state["spare"]["pid"] if state and state["spare"]["is_ready"] else None


def test_a_spare_takes_over_from_a_killed_server(serve: Callable[..., Serving]) -> None:
    serving = serve(**SHARED, roles=["api", "brain"])
    url = serving.ready()["url"]
    before = ask(url)
    assert before["prepared"] == []
    first = until(lambda: spare_of(serving))
    os.kill(before["pid"], signal.SIGKILL)
    after = ask(url)  # the connection waits for whoever serves next
    assert after["pid"] == first
    assert after["prepared"] == ["api", "brain"]
    assert after["incarnation"] != before["incarnation"]
    assert not {name for name in after["environment"] if name.startswith(("CORRAL_", "ANTHROPIC_"))}
    second = until(lambda: pid if (pid := spare_of(serving)) != first else None)
    os.kill(int(second or 0), signal.SIGKILL)  # a spare is no loss
    assert ask(url)["pid"] == first
    assert serving.end() == 0
    assert not lives(int(first or 0))


def test_a_spare_that_died_with_its_server_is_not_waited_for(serve: Callable[..., Serving]) -> None:
    serving = serve(**SHARED, roles=["api", "brain"])
    url = serving.ready()["url"]
    before, spare = ask(url), until(lambda: spare_of(serving))
    os.kill(int(spare or 0), signal.SIGKILL)
    os.kill(before["pid"], signal.SIGKILL)
    assert ask(url)["pid"] not in (spare, before["pid"])


def test_a_node_has_the_processes_of_its_roles(serve: Callable[..., Serving]) -> None:
    serving = serve(**SHARED, roles=["hands"])
    serving.ready()
    state: Any = read_state(serving.data_dir)
    assert sorted(each["role"] for each in state["processes"]) == ["hands", "server"]
    assert not socket_path(serving.data_dir, "egress").exists()
    assert serving.end() == 0
    assert state["spare"]["pid"] is None


def test_hands_that_hang_are_killed_and_replaced(serve: Callable[..., Serving]) -> None:
    """They hold their connection and their lock, and answer nobody."""
    serving = serve()
    serving.ready()
    hanging = serving.all_up()["hands"]
    serving.stall(hanging)
    until(lambda: serving.pids().get("hands") not in (None, hanging))
    assert f"hands pid {hanging} holds its lock and does not answer: killed" in serving.log()
    assert not lives(hanging)


@pytest.mark.parametrize("role", ["hands", "egress"])
def test_killed_hands_and_egress_are_replaced(serve: Callable[..., Serving], role: str) -> None:
    serving = serve()
    serving.ready()
    before = serving.all_up()
    os.kill(before[role], signal.SIGKILL)
    after = until(
        lambda: pids if (pids := serving.pids()).get(role, before[role]) != before[role] else None
    )
    assert after is not None
    others = {"hands", "egress", "server"} - {role}
    assert {name: after[name] for name in others} == {name: before[name] for name in others}
    assert f"{role} was killed by SIGKILL; starting it again now" in serving.log()


def test_killed_supervisor_takes_the_server_and_is_followed_by_one_that_adopts(
    serve: Callable[..., Serving],
) -> None:
    first = serve()
    first.ready()
    before = first.all_up()
    first.end(signal.SIGKILL)
    until(lambda: not lives(before["server"]))
    second = serve()
    second.ready()
    after = second.all_up()
    assert (after["hands"], after["egress"]) == (before["hands"], before["egress"])
    assert after["server"] != before["server"]
    assert f"hands adopted, pid {before['hands']}" in second.log()
    os.kill(after["hands"], signal.SIGKILL)  # not a child of this supervisor: noticed by its connection
    until(lambda: second.pids().get("hands", after["hands"]) != after["hands"])
    assert "hands ended; starting it again now" in second.log()


def test_what_was_adopted_and_ends_as_asked_has_not_died(serve: Callable[..., Serving]) -> None:
    first = serve()
    first.ready()
    first.end(signal.SIGKILL)
    second = serve()
    second.ready()
    pids = second.all_up()
    assert second.end(signal.SIGINT) == 0
    assert f"egress adopted, pid {pids['egress']}" in second.log()
    assert "again now" not in second.log()
    for role in ("hands", "egress"):
        assert lock_holder(second.data_dir, role) is None, "it was not waited for"
    until(lambda: not [role for role, pid in pids.items() if lives(pid)])


def test_nothing_is_left_when_nobody_starts_again(serve: Callable[..., Serving], tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "alone").touch()
    serving = serve()
    serving.ready()
    pids = serving.all_up()
    serving.end(signal.SIGKILL)
    until(lambda: not [role for role, pid in pids.items() if lives(pid)])


def test_a_second_serve_refuses_and_names_the_first(serve: Callable[..., Serving]) -> None:
    first = serve()
    first.ready()
    second = serve()
    assert second.process.wait(DEADLINE_SECONDS) == 2
    assert f"served already, by pid {first.process.pid}" in second.log()
    assert first.all_up()


def test_what_cannot_be_mended_by_starting_again_stops_the_start(
    serve: Callable[..., Serving], tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "hands.fails").write_text("install bubblewrap")
    serving = serve()
    assert serving.process.wait(DEADLINE_SECONDS) == 1
    assert "hands: install bubblewrap" in serving.log()
    assert not serving.pids()


def test_a_start_that_never_succeeds_ends(serve: Callable[..., Serving], tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "hands.dies").touch()
    serving = serve()
    assert serving.process.wait(DEADLINE_SECONDS) == 1
    assert f"hands ended with status 7, {START_DEATHS_MAX} times" in serving.log()


def test_what_worked_before_is_tried_again(serve: Callable[..., Serving]) -> None:
    serving = serve()
    serving.ready()
    before = serving.all_up()
    marker = serving.data_dir / "hands.fails"
    marker.write_text("no more processes")
    os.kill(before["hands"], signal.SIGKILL)
    until(lambda: "hands: no more processes" in serving.log())
    assert serving.process.poll() is None
    marker.unlink()
    until(lambda: serving.pids().get("hands", before["hands"]) != before["hands"])


def test_a_taken_port_is_the_users_mistake(serve: Callable[..., Serving], tmp_path: Path) -> None:
    first = serve()
    port = int(first.ready()["url"].rsplit(":", 1)[1])
    other = Serving(tmp_path / "other", port=port)
    try:
        assert other.process.wait(DEADLINE_SECONDS) == 2
        assert f"cannot listen on 127.0.0.1:{port}" in other.log()
        assert "Traceback" not in other.log()
        assert not other.data_dir.exists()
    finally:
        other.close()


@pytest.mark.parametrize("chars", [100, 300])  # for a socket's path; for a name of any file
def test_too_long_a_path_leaves_nothing(tmp_path: Path, chars: int) -> None:
    other = Serving(tmp_path / ("x" * chars))
    try:
        assert other.process.wait(DEADLINE_SECONDS) == 2
        assert "choose a shorter data directory" in other.log()
        assert "Traceback" not in other.log()
        assert not os.path.lexists(other.data_dir)
    finally:
        other.close()


def test_processes_may_open_as_many_files_as_they_can(serve: Callable[..., Serving]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))
    try:
        serving = serve()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    serving.ready()
    for pid in (serving.process.pid, *serving.all_up().values()):
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_hands_that_hang_are_not_waited_for(serve: Callable[..., Serving]) -> None:
    first = serve()
    first.ready()
    before = first.all_up()
    first.stall(before["hands"])
    first.end(signal.SIGKILL)
    second = serve()
    second.ready()
    assert second.all_up()["hands"] != before["hands"]
    assert f"hands pid {before['hands']} holds its lock and does not answer: killed" in second.log()


def test_another_version_is_replaced(
    serve: Callable[..., Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = serve()
    first.ready()
    before = first.all_up()
    first.end(signal.SIGKILL)
    later = str(_package_of_another_version(first.data_dir.parent))
    monkeypatch.setenv("PYTHONPATH", later, prepend=os.pathsep)
    second = serve()
    second.ready()
    after = second.all_up()
    assert after["hands"] != before["hands"]
    assert after["egress"] != before["egress"]
    assert "replacing it" in second.log()


def _package_of_another_version(directory: Path) -> Path:
    """A directory whose `sitecustomize` makes every Corral process believe it is a later version."""
    path = directory / "later"
    path.mkdir()
    (path / "sitecustomize.py").write_text("import corral\ncorral.__version__ = '99.0.0'\n")
    return path
