"""Carries each connection to a listening socket in here to the unix socket of the door, and back.

It is a child of the agent, which keeps the listening socket: so nobody listens in its place while there is
none, and another one goes on when it is killed.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import select
import signal

_CONNECTIONS_MAX = 1000  # fewer than wait at the door, so that connecting to it never waits
_CHUNK_BYTES = 64 * 1024
_DESCRIPTORS_MAX = 1 << 16
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT


class Carrier:
    """One child at a time."""

    def __init__(self, listening: _socket.socket, way: str) -> None:
        self._listening, self._way = listening, way
        self.pid = 0

    def start(self) -> None:
        """Raises OSError: no process can be had."""
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                kept = self._listening.fileno()  # none of the agent's own pipes
                os.closerange(3, kept)
                os.closerange(kept + 1, _DESCRIPTORS_MAX)
                Carrying(self._listening, self._way).run()
            finally:
                os._exit(1)


class _Direction:
    """What goes from one end of a connection to the other."""

    def __init__(self, source: _socket.socket, target: _socket.socket) -> None:
        self.source, self.target = source, target
        self.unsent = b""
        self.has_ended = False  # the source
        self.is_over = False

    @property
    def wants_to_read(self) -> bool:
        return not self.unsent and not self.has_ended

    def read(self) -> None:
        try:
            self.unsent = self.source.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.unsent = b""
        self.has_ended = not self.unsent
        self.write()

    def write(self) -> None:
        try:
            if self.unsent and not self.is_over:
                self.unsent = self.unsent[self.target.send(self.unsent) :]
        except BlockingIOError:
            return
        except OSError:  # nobody takes it: what still comes is thrown away, what comes back is not
            self.is_over = True
        if self.is_over:
            self.unsent = b""
        elif self.has_ended and not self.unsent:
            self.is_over = True
            with contextlib.suppress(OSError):
                self.target.shutdown(_socket.SHUT_WR)


class _Connection:
    def __init__(self, inner: _socket.socket, outer: _socket.socket) -> None:
        self.ends = (inner, outer)
        self.there, self.back = _Direction(inner, outer), _Direction(outer, inner)

    @property
    def is_over(self) -> bool:
        return all(way.is_over and way.has_ended for way in (self.there, self.back))

    def wishes(self, end: _socket.socket) -> int:
        """Of epoll, at one end."""
        from_it, to_it = (self.there, self.back) if end is self.ends[0] else (self.back, self.there)
        return (_IN if from_it.wants_to_read else 0) | (_OUT if to_it.unsent else 0)

    def go_on(self, fd: int, events: int) -> None:
        is_inner = fd == self.ends[0].fileno()
        from_it, to_it = (self.there, self.back) if is_inner else (self.back, self.there)
        if to_it.unsent and events & ~_IN:
            to_it.write()
        if from_it.wants_to_read and events & ~_OUT:
            from_it.read()


class Carrying:
    """The child's loop. way: of the door's socket."""

    def __init__(self, listening: _socket.socket, way: str) -> None:
        self._listening, self._way = listening, way
        self._poll = select.epoll()
        self._wished: dict[int, int] = {}
        self._connections: dict[int, _Connection] = {}  # by both descriptors

    def run(self) -> None:
        """For ever. Raises OSError when the listening socket breaks."""
        self._listening.setblocking(False)
        while True:
            is_open = len(self._connections) < 2 * _CONNECTIONS_MAX
            self._wish(self._listening.fileno(), _IN if is_open else 0)
            for fd, events in self._poll.poll():
                if fd == self._listening.fileno():
                    self._accept()
                elif connection := self._connections.get(fd):
                    connection.go_on(fd, events)
                    self._settle(connection)

    def _accept(self) -> None:
        try:
            fd, _ = self._listening._accept()  # type: ignore[attr-defined]  # `socket` has `accept`
        except (BlockingIOError, ConnectionAbortedError):
            return
        inner = _socket.socket(fileno=fd)
        outer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            outer.connect(self._way)
        except OSError:  # the door is closed
            inner.close()
            outer.close()
            return
        with contextlib.suppress(OSError):
            inner.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        connection = _Connection(inner, outer)
        for end in connection.ends:
            end.setblocking(False)
            self._connections[end.fileno()] = connection
        self._settle(connection)

    def _settle(self, connection: _Connection) -> None:
        if connection.is_over:
            for end in connection.ends:
                self._wish(end.fileno(), 0)
                del self._connections[end.fileno()]
                end.close()
        else:
            for end in connection.ends:
                self._wish(end.fileno(), connection.wishes(end))

    def _wish(self, fd: int, wished: int) -> None:
        """Nothing is heard of one that has no wishes: its end would be told over and over."""
        before = self._wished.pop(fd, 0)
        if wished:
            self._wished[fd] = wished
        if wished == before:
            return
        if not wished:
            self._poll.unregister(fd)
        elif before:
            self._poll.modify(fd, wished)
        else:
            self._poll.register(fd, wished)
