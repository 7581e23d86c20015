"""Answers of hosts that mean no good."""

import gzip
import zlib
from collections.abc import Iterator

import pytest

from corral.egress.credentials import CredentialUnusable
from corral.egress.substitution import Substitution
from corral.egress.treatment import Answer, Packed, Treatment
from corral.kernel.limits import EGRESS_CHUNK_BYTES, EGRESS_HEADERS_MAX, EGRESS_PUT_IN_BYTES_MAX
from tests.unit.egress.test_substitution import HELD, variable

SECRET = b"canary-secret"


def treatment() -> Treatment:
    substitution = Substitution(variables=[variable(SECRET.decode())])
    return Treatment(substitution, [], method=b"GET", path=b"/", uses=lambda _: None)


def packed() -> Answer:
    return treatment().answer(200, [(b"content-encoding", b"gzip")])


def test_what_is_packed_is_unpacked_as_it_is_passed_on() -> None:
    """A record of some kilobytes is megabytes inside: they are not there before somebody takes them."""
    bomb = gzip.compress(bytes(64 * 2**20))
    pieces = packed().fed(bomb)
    assert isinstance(pieces, Iterator)
    sizes = [len(next(pieces)) for _ in range(8)]
    assert max(sizes) <= EGRESS_CHUNK_BYTES


def test_all_members_are_unpacked() -> None:
    answer = packed()
    data = gzip.compress(b"first, canary-") + gzip.compress(b"secret") + gzip.compress(b"!")
    said = b"".join(piece for byte in data for piece in answer.fed(bytes([byte]))) + answer.ended()
    assert said == b"first, " + HELD.encode() + b"!"


def test_what_follows_and_is_not_packed_is_refused() -> None:
    """At once, and not kept."""
    answer = packed()
    assert b"".join(answer.fed(gzip.compress(b"hello"))) == b""  # shorter than what is held
    with pytest.raises(Packed):
        list(answer.fed(bytes(100)))
    with pytest.raises(Packed):
        list(packed().fed(zlib.compress(b"another format")))


def test_names_and_values_are_searched_as_far_as_they_are_few() -> None:
    headers = [(b"a", b"b")] * EGRESS_HEADERS_MAX
    assert treatment().answer(200, [*headers[1:], (b"x", SECRET)]).headers[-1] == (b"x", HELD.encode())
    with pytest.raises(Packed, match="headers"):
        treatment().answer(200, [*headers, (b"a", b"b")])


def test_a_request_is_not_blown_up() -> None:
    """By a short placeholder for a long secret."""
    long = Substitution(variables=[variable("x" * 16_384)])
    many = HELD.encode() * (EGRESS_PUT_IN_BYTES_MAX // 16_384 + 1)
    with pytest.raises(CredentialUnusable, match="4 MiB"):
        long.head([(b"a", many)], b"/")
    treated = Treatment(long, [], method=b"POST", path=b"/", uses=lambda _: None)
    assert len(treated.fed(HELD.encode())) == 16_384
    with pytest.raises(CredentialUnusable, match="4 MiB"):
        treated.fed(many)
