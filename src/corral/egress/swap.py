"""Replacing some strings in a stream of bytes by others, wherever the stream is cut into chunks."""

from collections.abc import Iterable, Mapping
from itertools import groupby, takewhile

__all__ = ["Swap"]

_PROBE_BYTES = 16  # of a string, looked for first: the rest is rarely there
_ROOT_BYTES = 4  # strings that begin alike for so long are looked for together


class Swap:
    """Give it what comes with `feed`, and call `end` after the last of it; both return what goes on.

    At a place where several of the strings begin, the longest is replaced; what has been put in is not
    looked at again. Held back is an end that may be the beginning of one of the strings. is_steady: as much
    is held back whatever it is, so that nobody can tell by the clock whether it is such a beginning; who
    does not want to wait longer has `lines` let go of some of it.

    found: which of them were met so far.
    """

    def __init__(self, table: Mapping[bytes, bytes], *, is_steady: bool = False) -> None:
        """table: what is replaced -> by what. No string is empty."""
        assert all(table)
        self._table = dict(table)
        self._roots = _roots(table)
        self._longest = max(map(len, table), default=0)
        self._is_steady = is_steady
        self._held = b""
        self.found: set[bytes] = set()

    @property
    def held_bytes(self) -> int:
        """So many are held back."""
        return len(self._held)

    def feed(self, data: bytes) -> bytes:
        return self._swapped(data, is_end=False) if self._table else data

    def growth(self, data: bytes) -> int:
        """So many bytes are put in for what stands whole in the data, at most."""
        return sum(data.count(each) * len(instead) for each, instead in self._table.items())

    def end(self) -> bytes:
        return self._swapped(b"", is_end=True) if self._held else b""

    def lines(self) -> bytes:
        """Of what is held back, the whole lines: they may go on although nothing more has come. None of the
        strings reaches across the end of a line, so none is cut in two; and where lines end tells nothing
        of them. If one does, nothing goes on."""
        end = self._held.rfind(b"\n") + 1
        if not end or any(b"\n" in each for each in self._table):
            return b""
        self._held, rest = self._held[:end], self._held[end:]
        done = self._swapped(b"", is_end=True)
        self._held = rest
        return done

    def all(self, data: bytes) -> bytes:
        """Of data that is whole."""
        return self.feed(data) + self.end()

    def _swapped(self, data: bytes, *, is_end: bool) -> bytes:
        # Not by a regular expression: Python keeps those that it has compiled, and secrets in them.
        data = self._held + data
        done: list[bytes] = []
        at, held_at = 0, len(data) if is_end else self._held_at(data, 0)
        met: dict[bytes, int] = {}
        if any(root in data for root in self._roots):
            met = {each: start for each in self._table if (start := data.find(each)) >= 0}
        while met:
            each = min(met, key=lambda each: (met[each], -len(each)))
            if met[each] >= held_at:
                break
            self.found.add(each)
            done += [data[at : met[each]], self._table[each]]
            at = met[each] + len(each)
            met = {
                other: start
                for other, known in met.items()
                if (start := known if known >= at else data.find(other, at)) >= 0
            }
            if at > held_at:
                held_at = self._held_at(data, at)
        done.append(data[at:held_at])
        self._held = data[held_at:]
        return b"".join(done)

    def _held_at(self, data: bytes, start: int) -> int:
        """Where in the data, from `start` on, what may be the beginning of a string begins; its end if
        nothing does."""
        first = len(data)
        if self._is_steady:
            return max(start, first - self._longest + 1)
        for each in self._table:
            probe = each[:_PROBE_BYTES]
            begin = max(start, len(data) - len(each) + 1)
            at = data.find(probe, begin, first + len(probe))
            while at >= 0 and not each.startswith(data[at:]):
                at = data.find(probe, at + 1, first + len(probe))
            first = at if 0 <= at < first else first
            for at in range(max(begin, len(data) - len(probe) + 1), first):  # less than the probe is there
                if each.startswith(data[at:]):
                    first = at
                    break
        return first


def _roots(strings: Iterable[bytes]) -> list[bytes]:
    """What they begin with: where none of these stands, none of the strings does."""
    alike = [list(group) for _, group in groupby(sorted(strings), key=lambda each: each[:_ROOT_BYTES])]
    return [_shared(group[0], group[-1]) for group in alike]  # sorted, so by all between them, too


def _shared(one: bytes, other: bytes) -> bytes:
    return bytes(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
