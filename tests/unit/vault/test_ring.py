"""Sealing and opening, and the two places where keys are."""

import stat
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import pytest

from corral.kernel.errors import InvalidRequest, VaultUnavailable
from corral.vault.ring import CannotOpen, CommandKeys, FileKeys, KeyRing, new_key_line
from corral.vault.seal import key_id_of, seal

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "private" / "vault.keys"


def test_what_is_sealed_opens_in_its_place_and_nowhere_else(path: Path) -> None:
    ring = KeyRing(FileKeys(path))
    key_id, public_key = ring.newer_than(None, now=NOW)
    assert key_id == key_id_of(public_key)
    sealed = seal("s3cr€t".encode(), public_key=public_key, place=b"here")
    assert b"s3cr" not in sealed
    assert sealed != seal("s3cr€t".encode(), public_key=public_key, place=b"here")
    assert ring.open(sealed, key_id=key_id, place=b"here") == "s3cr€t".encode()
    other = KeyRing(FileKeys(path.with_name("other")))
    other_id, _ = other.newer_than(None, now=NOW)
    for attempt in (
        lambda: ring.open(sealed, key_id=key_id, place=b"there"),
        lambda: ring.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), key_id=key_id, place=b"here"),
        lambda: ring.open(b"\x02" + sealed[1:], key_id=key_id, place=b"here"),
        lambda: ring.open(sealed[:20], key_id=key_id, place=b"here"),
        lambda: ring.open(b"", key_id=key_id, place=b"here"),
        lambda: ring.open(sealed, key_id=other_id, place=b"here"),
        lambda: other.open(sealed, key_id=other_id, place=b"here"),
        lambda: ring.seal_anew(sealed, key_id=key_id, to=other_id, place=b"here"),
    ):
        with pytest.raises(CannotOpen) as caught:
            attempt()
        assert "s3cr" not in str(caught.value)


def test_a_new_key_is_made_once_and_the_old_one_is_forgotten(path: Path) -> None:
    ring = KeyRing(FileKeys(path))
    assert ring.public() == []
    assert not path.exists()
    old, old_public = ring.newer_than(None, now=NOW)
    assert ring.newer_than(None, now=NOW)[0] == old
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    new, _ = ring.newer_than(old, now=NOW)
    assert KeyRing(FileKeys(path)).newer_than(old, now=NOW)[0] == new != old
    sealed = seal(b"x", public_key=old_public, place=b"p")
    anew = ring.seal_anew(sealed, key_id=old, to=new, place=b"p")
    assert ring.forget([old]) == [old] == ring.forget([old])
    assert [key_id for key_id, _ in ring.public()] == [new]
    assert ring.open(anew, key_id=new, place=b"p") == b"x"
    with pytest.raises(CannotOpen):
        ring.open(sealed, key_id=old, place=b"p")
    assert ring.newer_than(old, now=NOW)[0] not in (old, new)  # the current one is not here: whose is ours?


def test_a_file_that_changes_is_read_again(path: Path) -> None:
    ring = KeyRing(FileKeys(path))
    first, _ = ring.newer_than(None, now=NOW)
    path.write_bytes(b"# copied from another node\n\n" + path.read_bytes() + new_key_line(NOW))
    assert len(ring.public()) == 2
    assert ring.public()[0][0] == first


def test_a_file_that_is_wrong_says_where_and_repeats_nothing(path: Path) -> None:
    line = new_key_line(NOW)
    key_id, private, made = line.split()
    path.parent.mkdir()
    for text in (
        b"canary",
        b"vkey_01 canary!! now",
        b" ".join([b"vkey_01canary", private, made]),
        key_id + b" " + b64encode(b"canary"),
        b"x" * 70_000,
    ):
        path.write_bytes(text)
        path.chmod(0o600)
        with pytest.raises(VaultUnavailable, match="the vault's keys") as caught:
            KeyRing(FileKeys(path)).public()
        assert "canary" not in str(caught.value)
        assert private.decode() not in str(caught.value)
    path.write_bytes(line)
    path.chmod(0o640)
    with pytest.raises(VaultUnavailable, match="chmod 600"):
        KeyRing(FileKeys(path)).public()


def test_keys_from_a_command(tmp_path: Path) -> None:
    text = tmp_path / "keys"
    text.write_bytes(new_key_line(NOW))
    ring = KeyRing(CommandKeys(f"cat '{text}'"))
    first, public = ring.newer_than(None, now=NOW)
    sealed = seal(b"x", public_key=public, place=b"p")
    with pytest.raises(InvalidRequest, match="make-key"):
        ring.newer_than(first, now=NOW)
    text.write_bytes(text.read_bytes() + new_key_line(NOW))
    second, _ = ring.newer_than(first, now=NOW)
    assert second != first
    assert ring.open(sealed, key_id=first, place=b"p") == b"x"
    assert ring.forget([first]) == []
    with pytest.raises(VaultUnavailable, match="status 3") as caught:
        KeyRing(CommandKeys("echo canary; echo canary >&2; exit 3")).public()
    assert "canary" not in str(caught.value)
