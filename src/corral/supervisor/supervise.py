"""The supervisor: starts the server, and hands and egress if they are roles of this node, restarts what
dies, and ends them in order.

              spawn                report {"ready"}             (hands, egress) GET .../adopt
    absent ----------> starting ---------------------> running ------------------------------> adopted
       ^                                                  |                                       |
       +---------- backoff <-------- it died, or its adopting connection ended <------------------+

Rules of this file:
- One thread, no event loop, few imports: it must outlive everything else and cost little.
- The lock of the data directory is an inherited descriptor: supervisor *and* server hold it, so nobody
  else opens the store while either lives, however the other died.
- Hands and egress are found before they are started: an orphan of an earlier supervisor is adopted when
  it runs our version, and replaced otherwise. Adopting is holding one connection open.
- The listening socket stays here: while a server is replaced, connections wait instead of failing.
"""

import contextlib
import http.client
import json
import os
import secrets
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TextIO

from corral import __version__
from corral.config import Config, Secret
from corral.daemon import egress_paths, listen_at, made_token
from corral.kernel.errors import CorralError
from corral.kernel.ids import CORRAL_KEY_PREFIX, Ids
from corral.kernel.limits import (
    CHILD_SILENT_SECONDS,
    DEAF_SECONDS_MAX,
    HANDS_STOP_SECONDS,
    HEALTH_REPLY_SECONDS,
    LOG_FOLLOW_SECONDS,
    READY_SECONDS_MAX,
    RESTART_BACKOFF_SECONDS,
    RESTART_BACKOFF_SECONDS_MAX,
    RESTART_HEALTHY_SECONDS,
    SERVER_DRAIN_SECONDS,
    SPARE_DELAY_SECONDS,
    START_DEATHS_MAX,
)
from corral.process import EXIT_TAKEN, Start, prepare_line
from corral.supervisor.adopt import end, lock_holder, open_adoption, request
from corral.supervisor.child import Child, Command, our_program
from corral.supervisor.datadir import make_tokens, node_name, remove_state, write_state
from corral.supervisor.listen import listen, url_of
from corral.supervisor.logs import LogFile
from corral.supervisor.users import Users, signalled

__all__ = ["CannotServe", "Supervisor"]


class CannotServe(CorralError):
    """A process said that starting it again cannot help; the message says what to mend."""


class Supervisor:
    """`run` is the whole life."""

    def __init__(
        self,
        config: Config,
        *,
        lock_fd: int,
        users: Users | None = None,
        command: Command = our_program,
        on_ready: Callable[[str, Secret | None], None] = lambda url, api_key: None,
        log: TextIO = sys.stderr,
        silent_seconds: float = CHILD_SILENT_SECONDS,
    ) -> None:
        self._silent_seconds = silent_seconds
        self._config = config
        self._command = command
        self._on_ready = on_ready
        self._log_to = log
        self._lock_fd = lock_fd
        self._users = users or Users()
        self._selector = selectors.DefaultSelector()
        self._local_key = Secret(CORRAL_KEY_PREFIX + "local_" + secrets.token_urlsafe(32))
        self._new_key: Secret | None = None
        self._announced = False
        self._stops = 0
        with self._users.as_root():  # the port may be one of root's
            self._listener = listen(config)
        self._server = Child(role="server", outlives=False)
        self._hands = Child(role="hands", outlives=True)
        self._egress = Child(role="egress", outlives=True)
        self._outliving = [each for each in (self._hands, self._egress) if each.role in config.roles]
        self._all = (*self._outliving, self._server)
        # A server starts in a second or two, most of which are imports. A brain that is missed for so long
        # is felt by every session it had, and memory is not short where PostgreSQL is.
        self._spare = Child(role="server", outlives=False, is_spare=True)
        self._has_spare = config.is_postgres and not {"api", "brain"}.isdisjoint(config.roles)
        self._node = node_name(config.data_dir)

    @property
    def _fds(self) -> tuple[int, int]:
        """What a server inherits."""
        return self._listener.fileno(), self._lock_fd

    @property
    def url(self) -> str:
        return url_of(self._listener, self._config)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises CannotServe."""
        make_tokens(self._config.data_dir)
        for each in self._outliving:
            each.log = LogFile(self._config.data_dir / "logs" / f"{each.role}.log")
        with self._signals():
            try:
                while not self._stops:
                    for each in self._all:
                        self._keep_up(each)
                    if self._has_spare:
                        self._keep_spare()
                    if not self._announced and all(each.is_up for each in self._all):
                        self._announced = True
                        self._on_ready(self.url, self._new_key)
                        self._new_key = None
                    self._wait()
            finally:
                self._stop_all()

    # -- one process --------------------------------------------------------------------------------
    def _keep_up(self, each: Child) -> None:
        now = time.monotonic()
        if each.process is not None and (status := each.process.poll()) is not None:
            self._read_report(each)
            if each.pid == each.process.pid:  # what we hold is this one, not an orphan found meanwhile
                self._release(each)
            self._let_go(each)
            if each.adoption is None:
                self._died(each, _describe(status))
                if status == EXIT_TAKEN:
                    self._is_deaf(each)
                elif not self._announced and each.failures >= START_DEATHS_MAX:
                    raise CannotServe(f"{each.role} {_describe(status)}, {each.failures} times; see above")
        if each.is_up and now - each.started_at > RESTART_HEALTHY_SECONDS:
            each.failures = 0
        if now < each.next_try_at:
            return
        if each.is_up:
            if each.adoption is not None and now - each.heard_at > self._silent_seconds:
                self._ask(each)
            return
        if each.outlives and self._adopt(each):
            return
        if each.process is None:
            self._spawn(each)
        elif now - each.started_at > READY_SECONDS_MAX:
            self.log("error", f"{each.role} was not ready within {READY_SECONDS_MAX:.0f} s: killed")
            self._kill(each, each.process.pid)
        elif each.is_ready:  # its socket should accept by now
            each.next_try_at = now + LOG_FOLLOW_SECONDS

    def _spawn(self, each: Child) -> None:
        is_server = each is self._server
        start = Start(role=each.role, config=self._config.without_secrets())
        if is_server:
            start = replace(
                start,
                config=self._config,
                node=self._node,
                incarnation=Ids().mint("inc"),
                local_key=self._local_key,
                listen_fd=self._listener.fileno(),
            )
        each.version, each.started_at = __version__, time.monotonic()
        each.restarts += 1
        if is_server and self._spare.is_promotable:
            self._promote(start)
            return
        with contextlib.ExitStack() as stack:
            fds: Sequence[int] = self._fds if is_server else ()
            if each.role == "egress" and self._users:
                token = made_token(self._config.data_dir, each.role)
                paths = egress_paths(self._config.data_dir)
                fds = [stack.enter_context(listen_at(path)).fileno() for path in paths]
                start = replace(start, token=Secret(token), sockets=tuple(fds))
            each.spawn(self._command(each.role), first_line=start.encode(), pass_fds=fds, users=self._users)
        self._listen_to(each)
        self.log("info", f"{each.role} started, pid {each.pid}")

    def _listen_to(self, each: Child) -> None:
        assert each.process and each.process.stdout
        self._selector.register(each.process.stdout, selectors.EVENT_READ, each)

    # -- the spare ------------------------------------------------------------------------------------
    def _keep_spare(self) -> None:
        """Have a server process at hand that needs only its Start, once the one that serves has settled."""
        spare, now = self._spare, time.monotonic()
        if spare.process is not None and spare.process.poll() is not None:
            self.log("warning", f"the spare server {_describe(spare.process.returncode)}")
            self._let_go(spare)
            spare.pid, spare.is_ready, spare.next_try_at = None, False, now + RESTART_BACKOFF_SECONDS_MAX
            self._write_state()
        settled = self._server.is_up and now - self._server.started_at > SPARE_DELAY_SECONDS
        if spare.process is None and self._announced and settled and now >= spare.next_try_at:
            spare.spawn(
                self._command("server"),
                first_line=prepare_line(self._config.roles),
                pass_fds=self._fds,
                users=self._users,
            )
            self._listen_to(spare)

    def _promote(self, start: Start) -> None:
        """The spare is the server from here on."""
        spare, server = self._spare, self._server
        assert spare.process and spare.process.stdout
        server.process, server.pid, server.report = spare.process, spare.pid, spare.report
        server.is_ready, server.is_drained = False, False
        spare.process, spare.pid, spare.is_ready = None, None, False
        assert server.process and server.process.stdout
        self._selector.modify(server.process.stdout, selectors.EVENT_READ, server)
        server.tell(start.encode())
        self.log("info", f"server goes on as pid {server.pid}, which was the spare")

    def _read_report(self, each: Child) -> None:
        """Take what a child has said on its standard output. Raises CannotServe."""
        if each.process is None or each.process.stdout is None or each.process.stdout.closed:
            return
        data = each.process.stdout.read(65536)
        each.report += data or b""
        *lines, each.report = each.report.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):  # something else that a library printed
                self._heed(each, json.loads(line))
        if data == b"":  # said all it has to say
            self._selector.unregister(each.process.stdout)
            each.process.stdout.close()

    def _heed(self, each: Child, said: object) -> None:
        if not isinstance(said, dict):
            return
        if "prepared" in said:
            self._spare.is_ready = each is self._spare
            self._write_state()
        elif "drained" in said:
            each.is_drained = True
        elif "failed" in said and self._announced:  # it worked here before, so it may again
            self.log("error", f"{each.role}: {said['failed']}")
        elif "failed" in said:
            raise CannotServe(f"{each.role}: {said['failed']}")
        elif "ready" in said:
            each.is_ready = True
            key = said["ready"].get("api_key")
            self._new_key = Secret(key) if key else self._new_key
            self._write_state()

    def _let_go(self, each: Child) -> None:
        """Close what connected us to a child that ended."""
        assert each.process
        assert each.process.stdin
        assert each.process.stdout
        if not each.process.stdout.closed:
            self._selector.unregister(each.process.stdout)
            each.process.stdout.close()
        each.process.stdin.close()
        each.process = None

    def _died(self, each: Child, how: str) -> None:
        each.pid, each.is_ready = None, False
        delay = 0.0
        if each.failures:
            delay = min(RESTART_BACKOFF_SECONDS * 2 ** (each.failures - 1), RESTART_BACKOFF_SECONDS_MAX)
        each.failures += 1
        each.next_try_at = time.monotonic() + delay
        again = f"again in {delay:g} s" if delay else "again now"
        self.log("warning", f"{each.role} {how}; starting it {again}")
        self._write_state()

    # -- hands and egress: found, held, let go -----------------------------------------------------------
    def _adopt(self, each: Child) -> bool:
        """Whether there is a process to hold, or to wait for."""
        data_dir = self._config.data_dir
        try:
            health = json.loads(request(data_dir, each.role, "health"))
            each.pid, each.version = int(health["pid"]), str(health["version"])
            if each.version != __version__:
                self.log("info", f"{each.role} pid {each.pid} runs {each.version}: replacing it")
                with self._users.acting_as(each.role):
                    end(each.pid, HANDS_STOP_SECONDS)
                return False
            each.adoption = open_adoption(data_dir, each.role)
        except TimeoutError:
            self._is_deaf(each)
            return True
        except (OSError, http.client.HTTPException, ValueError, KeyError, OverflowError):
            return False
        each.adoption.setblocking(False)
        each.deaf_since, each.heard_at = None, time.monotonic()
        self._selector.register(each.adoption, selectors.EVENT_READ, each)
        if each.process is None:
            each.started_at = time.monotonic()
            self.log("info", f"{each.role} adopted, pid {each.pid}")
        self._write_state()
        return True

    def _read_adoption(self, each: Child) -> None:
        assert each.adoption
        with contextlib.suppress(BlockingIOError):
            try:
                if each.adoption.recv(65536):
                    each.heard_at = time.monotonic()  # a heartbeat
                    return
            except OSError:
                pass
            self._release(each)
            # A child of ours is reaped by `_keep_up`, which learns how it ended. Who is asked to end has
            # not died.
            if each.process is None and not self._stops:
                self._died(each, "ended")

    def _release(self, each: Child) -> None:
        if each.adoption is not None:
            self._selector.unregister(each.adoption)
            each.adoption.close()
            each.adoption = None

    def _ask(self, each: Child) -> None:
        """It has been silent for too long. Silence alone proves nothing: after a pause of the whole machine
        everybody has been silent."""
        try:
            request(self._config.data_dir, each.role, "health")
        except TimeoutError:
            self._is_deaf(each)  # once it is killed, its connection ends, and `_read_adoption` goes on
        except (OSError, http.client.HTTPException):
            return  # it is ending: its connection will say so
        else:
            each.deaf_since, each.heard_at = None, time.monotonic()

    def _is_deaf(self, each: Child) -> None:
        """Something has this role and answers nobody: starting, ending, or hanging. The last is killed."""
        now = time.monotonic()
        each.deaf_since = each.deaf_since or now
        each.next_try_at = max(each.next_try_at, now + HEALTH_REPLY_SECONDS)
        pid = self._holder(each)
        if now - each.deaf_since > DEAF_SECONDS_MAX and pid is not None:
            self.log("warning", f"{each.role} pid {pid} holds its lock and does not answer: killed")
            each.deaf_since = None
            self._kill(each, pid)

    def _holder(self, each: Child) -> int | None:
        with self._users.acting_as(each.role):
            return lock_holder(self._config.data_dir, each.role)

    def _kill(self, each: Child, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """With no more rights than it has itself: a pid that was told us may be another's, or none."""
        if pid > 0:
            with self._users.acting_as(each.role):
                signalled(lambda: os.kill(pid, number))

    # -- waiting --------------------------------------------------------------------------------------
    def _wait(self) -> None:
        found = [key for key, _ in self._selector.select(LOG_FOLLOW_SECONDS)]
        # Signals first: a service manager may have told everybody at once to end.
        for key in sorted(found, key=lambda key: key.data is not None):
            each = key.data
            if each is None:
                self._take_signals()
            elif key.fileobj is each.adoption:
                self._read_adoption(each)
            else:
                self._read_report(each)
        for each in self._all:
            if each.log:
                each.log.show(self._log_to)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Every signal wakes the selector; what it means is decided in `_wait`, never in the handler."""
        self._signal_reader, writer = socket.socketpair()
        self._signal_reader.setblocking(False)
        writer.setblocking(False)
        self._selector.register(self._signal_reader, selectors.EVENT_READ, None)
        watched = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        before_fd = signal.set_wakeup_fd(writer.fileno())
        before = {number: signal.signal(number, lambda *_: None) for number in watched}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before_fd)
            self._selector.close()
            for item in (self._signal_reader, writer, self._listener):
                item.close()

    def _take_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._signal_reader.recv(4096):
                if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    self._stops += 1
                    if self._stops == 1:
                        self.log("info", "stopping: running turns are handed over (again: at once)")

    # -- the end --------------------------------------------------------------------------------------
    def _stop_all(self) -> None:
        """Server first, so that it can still ask the hands; then hands and egress. A server that others
        watch stays to say that this node stops, and ends last. Again: kill."""
        self._stops = max(self._stops, 1)  # also when the start has failed: nothing is started from here on
        try:
            self._stop([self._spare], HANDS_STOP_SECONDS)
            self._stop([self._server], SERVER_DRAIN_SECONDS, until_drained=True)
            self._stop(self._outliving, HANDS_STOP_SECONDS)
            self._stop([self._server], HANDS_STOP_SECONDS)
        finally:
            for each in self._all:
                if each.log:
                    each.log.show(self._log_to)
            remove_state(self._config.data_dir)

    def _stop(self, group: Sequence[Child], seconds: float, *, until_drained: bool = False) -> None:
        deadline = time.monotonic() + seconds
        stops_before = self._stops
        for each in group:
            self._send(each, signal.SIGTERM)
        while any(self._lives(each) and not (until_drained and each.is_drained) for each in group):
            if time.monotonic() > deadline or self._stops > max(stops_before, 1):
                for each in group:
                    if self._lives(each):
                        self.log("warning", f"{each.role} pid {each.pid} is killed")
                        self._send(each, signal.SIGKILL)
                deadline = time.monotonic() + seconds
            with contextlib.suppress(CannotServe):
                self._wait()

    def _lives(self, each: Child) -> bool:
        if each.process is not None:
            return each.process.poll() is None
        if each.adoption is not None:
            return True
        # An adopted process closes our connection first, and then destroys its sandboxes.
        return each.pid is not None and self._holder(each) == each.pid

    def _send(self, each: Child, number: signal.Signals) -> None:
        if each.pid is not None and self._lives(each):
            self._kill(each, each.pid, number)

    # -- what others see --------------------------------------------------------------------------------
    def log(self, level: str, message: str) -> None:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        millis = int(time.time() * 1000) % 1000
        print(f"{when}.{millis:03}Z {level:<7} supervisor corral.supervisor: {message}", file=self._log_to)
        self._log_to.flush()

    def _write_state(self) -> None:
        state = {
            "pid": os.getpid(),
            "version": __version__,
            "url": self.url,
            "local_key": self._local_key.reveal(),
            "processes": [
                {
                    "role": each.role,
                    "pid": each.pid,
                    "version": each.version,
                    "is_up": each.is_up,
                    "restarts": max(each.restarts, 0),
                }
                for each in self._all
            ],
            "spare": {"pid": self._spare.pid, "is_ready": self._spare.is_ready},
        }
        write_state(self._config.data_dir, state)


def _describe(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
