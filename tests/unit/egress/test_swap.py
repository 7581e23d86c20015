"""Strings are replaced in a stream, however it is cut, exactly as in the whole."""

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from corral.egress.swap import Swap

TABLES = st.dictionaries(st.text("abc", min_size=1, max_size=20), st.text("XYZ", max_size=4), max_size=4)


def naive(table: dict[bytes, bytes], data: bytes) -> bytes:
    """Byte by byte: the longest that begins here, else the byte."""
    done, at = b"", 0
    while at < len(data):
        here = [each for each in table if data.startswith(each, at)]
        longest = max(here, key=len, default=b"")
        done += table[longest] if longest else data[at : at + 1]
        at += len(longest) or 1
    return done


@settings(max_examples=300)
@given(TABLES, st.text("abcd", max_size=60), st.lists(st.integers(0, 60), max_size=12))
def test_it_is_as_in_the_whole(words: dict[str, str], text: str, cuts: list[int]) -> None:
    table = {key.encode(): value.encode() for key, value in words.items()}
    data = text.encode()
    swap = Swap(table)
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    done = b"".join(swap.feed(data[a:b]) for a, b in itertools.pairwise(ends)) + swap.end()
    assert done == naive(table, data)
    assert swap.found <= set(table)
    assert bool(swap.found) == any(each in data for each in table)


def test_what_cannot_begin_one_goes_on_at_once() -> None:
    swap = Swap({b"secret-of-some-length": b"*"})
    assert swap.feed(b"data: hello\n\n") == b"data: hello\n\n"
    assert swap.feed(b"data: secret-") == b"data: "
    assert swap.feed(b"garden\n\n") == b"secret-garden\n\n"
    assert swap.feed(b"secret-of-some-length") == b"*"


@settings(max_examples=200)
@given(TABLES, st.text("abcd", max_size=60), st.lists(st.integers(0, 60), max_size=12))
def test_steadily_it_is_as_in_the_whole(words: dict[str, str], text: str, cuts: list[int]) -> None:
    table = {key.encode(): value.encode() for key, value in words.items()}
    data, swap = text.encode(), Swap(table, is_steady=True)
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    done = b"".join(swap.feed(data[a:b]) for a, b in itertools.pairwise(ends)) + swap.end()
    assert done == naive(table, data)


@given(st.binary(max_size=40))
def test_steadily_as_much_is_held_whatever_it_is(one: bytes) -> None:
    """A guess that is right and one that is wrong are let go of at the same time."""
    secret = b"a secret of some length, which nobody guesses"
    for size in range(1, len(secret)):
        right, wrong = Swap({secret: b"*"}, is_steady=True), Swap({secret: b"*"}, is_steady=True)
        guess = one + secret[:size]
        assert len(right.feed(guess)) == len(wrong.feed(one + bytes(size)))
        assert right.held_bytes == wrong.held_bytes
        assert right.end() + wrong.end()


def test_long_ones_that_share_a_beginning_across_every_cut() -> None:
    one, two = b"-----BEGIN KEY-----" * 40, b"-----BEGIN KEY-----" * 40 + b"tail"
    data = b"x" * 100 + two + b"y" + one + b"-----BEGIN KEY-----" + b"z" * 50
    for size in (1, 7, 19, 64, 1000):
        swap = Swap({one: b"<1>", two: b"<2>"})
        chunks = [data[at : at + size] for at in range(0, len(data), size)]
        assert b"".join(map(swap.feed, chunks)) + swap.end() == naive({one: b"<1>", two: b"<2>"}, data)


def test_random_bytes() -> None:
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    table = {rng.randbytes(rng.choice((1, 2, 3))): b"?" for _ in range(5)}
    data = rng.randbytes(20_000)
    swap = Swap(table)
    assert b"".join(swap.feed(data[at : at + 97]) for at in range(0, len(data), 97)) + swap.end() == naive(
        table, data
    ), f"seed {seed}"


@settings(max_examples=200)
@given(
    TABLES,
    st.text("abc\n", max_size=60),
    st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=12),
)
def test_whole_lines_may_go_on(words: dict[str, str], text: str, cuts: list[tuple[int, bool]]) -> None:
    """Whenever nothing comes for a while, and wherever that is, no string is cut in two."""
    table = {key.encode(): value.encode() for key, value in words.items()}
    data, swap, done, at = text.encode(), Swap(table, is_steady=True), b"", 0
    for cut, is_pause in sorted(cuts):
        done += swap.feed(data[at : min(cut, len(data))])
        at = max(at, min(cut, len(data)))
        if is_pause:
            done += swap.lines()
            if table:
                assert done.count(b"\n") == data[:at].count(b"\n")
    assert done + swap.feed(data[at:]) + swap.end() == naive(table, data)


def test_where_a_line_ends_in_a_string_nothing_goes_on() -> None:
    swap = Swap({b"secret\nof two lines": b"*"}, is_steady=True)
    assert swap.feed(b"a\nsecret\n") + swap.lines() == b""
    assert swap.feed(b"of two lines") + swap.end() == b"a\n*"
