"""The frames that come, wherever the stream is cut into chunks."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.egress.frames import BadFrame, Frames, Piece

SIZES = st.one_of(st.integers(0, 300), st.sampled_from([125, 126, 127, 65_535, 65_536]))


def head(size: int, kind: int = 0x82) -> bytes:
    if size < 126:
        return bytes([kind, size])
    if size < 2**16:
        return bytes([kind, 126]) + size.to_bytes(2)
    return bytes([kind, 127]) + size.to_bytes(8)


@given(st.lists(SIZES, max_size=5), st.lists(st.floats(0, 1), max_size=8))
def test_frames_end_where_they_end(sizes: list[int], cuts: list[float]) -> None:
    data, ends = b"", []
    for size in sizes:
        data += head(size) + b"\x81" * size
        ends.append(len(data))
    frames, places = Frames(), sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    pieces: list[Piece] = []
    for begin, end in itertools.pairwise(places):
        pieces += frames.feed(data[begin:end])
    assert b"".join(piece.data for piece in pieces) == data
    assert b"".join(piece.data for piece in pieces if piece.is_content) == b"\x81" * sum(sizes)
    totals = itertools.accumulate(len(piece.data) for piece in pieces)
    assert [total for total, piece in zip(totals, pieces, strict=True) if piece.is_last] == ends


def test_pings_are_told_from_messages() -> None:
    kinds = [piece.is_control for piece in Frames().feed(b"\x01\x01a\x89\x01b\x80\x01c")]
    assert kinds == [False, False, True, True, False, False]


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1\x01a",  # compressed, though that was not asked for
        b"\x83\x01a",  # of a kind that there is none of
        b"\x81\x81\0\0\0\0a",  # masked
        b"\x89\x7e\x00\x7e",  # a long ping
        b"\x09\x01a",  # a part of one
        b"no frames at all",
    ],
)
def test_what_no_server_sends(data: bytes) -> None:
    with pytest.raises(BadFrame):
        list(Frames().feed(data))
