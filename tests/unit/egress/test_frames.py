"""The ends of frames, wherever the stream is cut into chunks."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from corral.egress.frames import Frames

SIZES = st.one_of(st.integers(0, 300), st.sampled_from([125, 126, 127, 65_535, 65_536]))


def frame(size: int, *, masked: bool) -> bytes:
    mask = 0x80 if masked else 0
    if size < 126:
        length = bytes([mask | size])
    elif size < 2**16:
        length = bytes([mask | 126]) + size.to_bytes(2)
    else:
        length = bytes([mask | 127]) + size.to_bytes(8)
    return b"\x82" + length + (bytes(4) if masked else b"") + b"\x81" * size


@given(st.lists(st.tuples(SIZES, st.booleans()), max_size=5), st.lists(st.floats(0, 1), max_size=8))
def test_whole_frames_are_counted(wanted: list[tuple[int, bool]], cuts: list[float]) -> None:
    data, ends = b"", [0]
    for size, masked in wanted:
        data += frame(size, masked=masked)
        ends.append(len(data))
    frames, places = Frames(), sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    for begin, end in itertools.pairwise(places):
        frames.feed(data[begin:end])
        assert frames.total == end
        assert frames.whole == max(each for each in ends if each <= end)
