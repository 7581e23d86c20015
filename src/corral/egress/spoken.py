"""What a host says over a WebSocket, as far as it may go on to a sandbox.

A program puts the contents of a message's frames together, and pings may lie between them: so contents are
looked at one after another, whatever frames they come in, and those of control frames by themselves.
Nothing is replaced: a secret ends the connection, before any of it is said unless the host says it in
several messages, with a pause between them. Compression would hide one; it was not asked for
(`treatment`), so frames that have it are refused.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from corral.egress.frames import BadFrame, Frames, Piece
from corral.kernel.limits import EGRESS_FRAMES_HELD_MAX

__all__ = ["SecretSaid", "Spoken"]


class SecretSaid(Exception):
    """A host says a secret back."""


@dataclass(frozen=True, slots=True)
class _Held:
    """begin, end: where the content in it lies among all content of messages; alike if there is none.
    ends: a program may wait for this, and for nothing more."""

    data: bytes
    begin: int
    end: int
    ends: bool


class _Look:
    """For secrets in content that comes bit by bit. total: bytes of it. open_bytes: at its end, where one
    may have begun that is not whole."""

    def __init__(self, secrets: Collection[bytes]) -> None:
        self._secrets = secrets
        self._longest = max(map(len, secrets), default=1)
        self._end = b""
        self.total = 0

    @property
    def open_bytes(self) -> int:
        return len(self._end)

    def at(self, content: bytes) -> None:
        """Raises SecretSaid."""
        self.total += len(content)
        seen = self._end + content
        if any(secret in seen for secret in self._secrets):
            raise SecretSaid("the host says a secret back")
        self._end = seen[max(0, len(seen) - self._longest + 1) :]


class Spoken:
    """`feed` what comes, and call `end` after the last of it; both return what goes on. As much is held
    back whatever it is, so that nobody can tell by the clock what a secret begins with; `let_go` of it
    after a pause.

    All raise SecretSaid; BadFrame.
    """

    def __init__(self, secrets: Collection[bytes]) -> None:
        """secrets: as they may be spelled."""
        self._frames = Frames()
        self._messages, self._controls = _Look(secrets), _Look(secrets)
        self._control = b""  # a control frame that is not whole
        self._is_open = False  # a message is, that is not whole
        self._held: deque[_Held] = deque()

    @property
    def holds(self) -> bool:
        """Whether a whole message is held back, or a ping."""
        return any(each.ends for each in self._held)

    def feed(self, data: bytes) -> bytes:
        for piece in self._frames.feed(data):
            if piece.is_control:
                self._take_control(piece)
            else:
                begin = self._messages.total
                if piece.is_content:
                    self._messages.at(piece.data)
                self._is_open = not (piece.is_last and piece.is_final)
                self._held.append(_Held(piece.data, begin, self._messages.total, not self._is_open))
        passed = self._checked()
        if len(self._held) > EGRESS_FRAMES_HELD_MAX:
            passed += self.let_go()
        if len(self._held) > EGRESS_FRAMES_HELD_MAX:
            raise BadFrame("it cuts a message into too many frames")
        return passed

    def let_go(self) -> bytes:
        """The whole messages, although nothing more has come. A frame that is a part of one has nobody who
        waits for it."""
        count = max((at for at, each in enumerate(self._held, 1) if each.ends), default=0)
        return b"".join(self._held.popleft().data for _ in range(count))

    def end(self) -> bytes:
        rest = b"".join(each.data for each in self._held)
        self._held.clear()
        return rest + self._control

    def _take_control(self, piece: Piece) -> None:
        """One is short, and looked at when it is whole."""
        self._control += piece.data
        if piece.is_content:
            self._controls.at(piece.data)
        if piece.is_last:
            at = self._messages.total
            self._held.append(_Held(self._control, at, at, ends=not self._is_open))
            self._control = b""

    def _checked(self) -> bytes:
        """What no secret can begin in that is not known by now."""
        passed, until = list[bytes](), self._messages.total - self._messages.open_bytes
        while self._held and self._held[0].end <= until:
            passed.append(self._held.popleft().data)
        if self._held and self._held[0].begin < until:
            first = self._held.popleft()
            known = until - first.begin
            passed.append(first.data[:known])
            self._held.appendleft(_Held(first.data[known:], until, first.end, first.ends))
        return b"".join(passed)
