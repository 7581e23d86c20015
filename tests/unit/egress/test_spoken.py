"""What goes on of what a host says over a WebSocket, and when."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.egress.frames import BadFrame
from corral.egress.spoken import SecretSaid, Spoken
from corral.kernel.limits import EGRESS_FRAMES_HELD_MAX

SECRET = b"canary-of-a-websocket"


def spoken() -> Spoken:
    return Spoken([SECRET, SECRET + b" as it may be spelled"])


def frame(content: bytes, kind: int = 0x81) -> bytes:
    return bytes([kind, len(content)]) + content


def in_frames(content: bytes, size: int, *, between: bytes = b"") -> bytes:
    """One message, in frames of this size, and something between each two."""
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    kinds = [0x01, *[0x00] * (len(parts) - 1)]
    kinds[-1] |= 0x80
    return between.join(frame(part, kind) for part, kind in zip(parts, kinds, strict=True))


def heard(said: bytes, size: int) -> bytes:
    """What has gone on when the connection ends, of what came in chunks of this size."""
    watched, passed = spoken(), b""
    for at in range(0, len(said), size):
        try:
            passed += watched.feed(said[at : at + size])
        except SecretSaid:
            return passed
    return passed + watched.end()


@pytest.mark.parametrize("chunk", [1, 7, 4096])
@pytest.mark.parametrize(
    "said",
    [
        frame(SECRET),
        frame(b"before " + SECRET + b" after", 0x82),
        in_frames(SECRET, 1),
        in_frames(b"more than " + SECRET, 5, between=frame(b"a ping", 0x89)),
        frame(SECRET[:9]) + frame(SECRET[9:]),  # two messages
        frame(SECRET, 0x89),
        frame(SECRET, 0x8A),
        frame(b"\x03\xe8" + SECRET, 0x88),
        in_frames(b"ab", 1, between=frame(SECRET, 0x8A)),
    ],
)
def test_no_part_of_a_secret_goes_on(said: bytes, chunk: int) -> None:
    passed = heard(said + frame(bytes(100)), chunk)
    assert len(passed) < len(said) and SECRET[:4] not in passed.replace(b"\x00\x01", b"")


@given(st.lists(st.binary(max_size=80), max_size=6), st.integers(1, 300), st.integers(1, 30))
def test_everything_else_does_as_it_came(messages: list[bytes], chunk: int, size: int) -> None:
    said = b"".join(in_frames(each, size) for each in messages if each)
    assert heard(said, chunk) == said


def test_as_much_is_held_back_whatever_it_is() -> None:
    """A guess that is right goes on no later than one that is wrong."""
    for end, kind in itertools.product((SECRET[:8], b"x" * 8), (0x81, 0x01)):
        assert len(spoken().feed(frame(b"y" * 90 + end, kind))) == 2 + 98 - 41


def test_a_pause_lets_whole_messages_go() -> None:
    watched = spoken()
    assert watched.feed(frame(b"one") + b"\x81\x03tw") == frame(b"one")[:2] and watched.holds
    assert watched.let_go() == b"one" and not watched.holds
    assert watched.feed(b"o" + frame(SECRET[:5])) == b""
    assert watched.let_go() == frame(b"two") + frame(SECRET[:5])
    with pytest.raises(SecretSaid):  # it is looked for across what has gone on
        watched.feed(frame(SECRET[5:]))
    watched = spoken()
    watched.feed(frame(SECRET[:5], 0x89))
    with pytest.raises(SecretSaid):
        watched.feed(frame(SECRET[5:], 0x8A))
    assert spoken().let_go() == b"" == spoken().end()


def test_a_pause_lets_no_part_of_a_message_go() -> None:
    """Nor a ping that came in the middle of it, which would tell where it goes on."""
    watched = spoken()
    first = frame(SECRET[:9], 0x01) + frame(b"", 0x89)
    assert watched.feed(first) == first[:2] and not watched.holds
    assert watched.let_go() == b""
    assert watched.feed(frame(b"", 0x80)) == b"" and watched.holds
    assert watched.let_go() == first[2:] + frame(b"", 0x80)


def test_frames_without_end_are_not_kept() -> None:
    """Empty ones, behind what may be the beginning of a secret."""
    watched, many = spoken(), EGRESS_FRAMES_HELD_MAX + 1
    watched.feed(frame(SECRET[:9]))
    assert watched.feed(frame(b"") * many) == frame(SECRET[:9])[2:] + frame(b"") * many
    for empty in (frame(b"", 0x00), frame(b"", 0x89)):
        watched = spoken()
        watched.feed(frame(SECRET[:9], 0x01))
        with pytest.raises(BadFrame, match="too many"):
            watched.feed(empty * many)


def test_what_is_compressed_is_refused() -> None:
    with pytest.raises(BadFrame, match="extension"):
        spoken().feed(b"\xc1\x01a")
