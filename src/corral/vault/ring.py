"""The private keys, and what only their holder can do. For the egress process; see the package.

They are lines of a text, oldest first; the newest seals:

    vkey_01... <private key, 32 bytes as base64> <when it was made>

The text is a file of mode 0600, made when the first key is asked for, or what a command of the operator's
prints (a key management service decrypts it, say). A file is read again when it has changed, a command
when a key is asked for that it has not printed yet.
"""

import os
import subprocess
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from corral.kernel.clock import rfc3339
from corral.kernel.errors import InvalidRequest, VaultUnavailable
from corral.kernel.limits import VAULT_KEY_COMMAND_SECONDS, VAULT_KEYS_BYTES_MAX
from corral.vault.seal import FORMAT, key_id_of, seal, suite

__all__ = ["CannotOpen", "CommandKeys", "FileKeys", "KeyRing", "Keys", "new_key_line"]


class CannotOpen(Exception):
    """It was sealed with another key, or for another place, or was changed."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class _Held:
    key_id: str
    public_key: bytes
    private_key: X25519PrivateKey


class Keys(Protocol):
    """Where the text of the keys is."""

    def read(self, *, again: bool) -> bytes | None:
        """All lines; None if it has not changed since it was last read. `again`: look, whatever it costs.
        Raises VaultUnavailable."""

    def add(self, line: bytes) -> None:
        """Raises InvalidRequest: keys are added elsewhere, or it cannot be written."""

    def remove(self, key_id: str) -> bool:
        """Whether it is gone."""


class KeyRing:
    """Holds the private keys. Not for several threads."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._held: dict[str, _Held] = {}

    def public(self) -> Sequence[tuple[str, bytes]]:
        """(id, public key) of each, oldest first. Raises VaultUnavailable."""
        self._read(again=False)
        return [(held.key_id, held.public_key) for held in self._held.values()]

    def newer_than(self, current: str | None, *, now: datetime) -> tuple[str, bytes]:
        """The newest key after `current`, made now unless there is one. Repeat: the same key, so whoever
        was killed before it took effect finds it. Raises VaultUnavailable, InvalidRequest."""
        self._read(again=True)
        ids = list(self._held)
        if not ids or ids[-1] == current or (current is not None and current not in self._held):
            self._keys.add(new_key_line(now))
            self._read(again=True)
        newest = list(self._held.values())[-1]
        return newest.key_id, newest.public_key

    def forget(self, key_ids: Collection[str]) -> Sequence[str]:
        """Those of them that are gone."""
        gone = [key_id for key_id in key_ids if self._keys.remove(key_id)]
        self._read(again=True)
        return gone

    def open(self, sealed: bytes, *, key_id: str, place: bytes) -> bytes:
        """The secret. Raises CannotOpen, VaultUnavailable."""
        self._read(again=key_id not in self._held)
        held = self._held.get(key_id)
        if held is None:
            raise CannotOpen(f"it is sealed with {key_id}, whose private key is not here")
        if sealed[:1] != FORMAT:
            raise CannotOpen("it has a format that this version does not know")
        try:
            return suite().decrypt(sealed[1:], held.private_key, info=place)
        except (InvalidTag, ValueError):
            raise CannotOpen("it was sealed for another place, or changed") from None

    def seal_anew(self, sealed: bytes, *, key_id: str, to: str, place: bytes) -> bytes:
        """Sealed with the key `to`, which must be held here: whoever asks may not name one of his own.
        Raises CannotOpen, VaultUnavailable."""
        return self.seal(self.open(sealed, key_id=key_id, place=place), to=to, place=place)

    def seal(self, secret: bytes, *, to: str, place: bytes) -> bytes:
        """Sealed with the key `to`, which must be held here. Raises CannotOpen, VaultUnavailable."""
        self._read(again=to not in self._held)
        target = self._held.get(to)
        if target is None:
            raise CannotOpen(f"the private key of {to} is not here")
        return seal(secret, public_key=target.public_key, place=place)

    def _read(self, *, again: bool) -> None:
        text = self._keys.read(again=again)
        if text is not None:
            self._held = _parse(text)


class FileKeys:
    """A file that we make, of mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def read(self, *, again: bool) -> bytes | None:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._seen = None
            return b""
        except OSError as error:
            raise VaultUnavailable(
                "the vault's key file cannot be read", detail=f"{self._path}: {error.strerror}"
            ) from error
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if status.st_mode & 0o077:
                raise VaultUnavailable(
                    "the vault's key file may be read by others: chmod 600", detail=str(self._path)
                )
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen == self._seen:
                return None
            text = file.read(VAULT_KEYS_BYTES_MAX + 1)
        self._seen = seen
        return text

    def add(self, line: bytes) -> None:
        self._write((self._text() or b"") + line)

    def remove(self, key_id: str) -> bool:
        text = self._text()
        kept = [line for line in text.splitlines(keepends=True) if line.split()[:1] != [key_id.encode()]]
        if b"".join(kept) != text:
            self._write(b"".join(kept))
        return True

    def _text(self) -> bytes:
        self._seen = None
        return self.read(again=True) or b""

    def _write(self, text: bytes) -> None:
        """All or nothing, and durable: what is sealed next opens with nothing else."""
        draft = self._path.with_name(f"{self._path.name}.new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(fd)
            draft.rename(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise InvalidRequest(
                f"the vault's key file cannot be written ({error.strerror}): add the key where it is made,"
                " and copy the file"
            ) from error


class CommandKeys:
    """What a command prints. It gets nothing on its standard input; what it says on standard error is
    dropped, because nobody knows what that repeats."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._text: bytes | None = None

    def read(self, *, again: bool) -> bytes | None:
        if self._text is not None and not again:
            return None
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", self._command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=VAULT_KEY_COMMAND_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise VaultUnavailable(f"vault_key_command failed ({type(error).__name__})") from None
        if done.returncode != 0:
            raise VaultUnavailable(
                f"vault_key_command ended with status {done.returncode}; run it by hand to see why"
            )
        self._text = done.stdout
        return self._text

    def add(self, line: bytes) -> None:
        raise InvalidRequest(
            "the vault's keys come from vault_key_command: make one with `corral vault make-key`, have the"
            " command print it as its last line, and rotate again"
        )

    def remove(self, key_id: str) -> bool:
        return False


def new_key_line(now: datetime) -> bytes:
    """A new key, as a line of the text."""
    private = X25519PrivateKey.generate()
    key_id = key_id_of(private.public_key().public_bytes_raw())
    return b" ".join(
        [key_id.encode(), b64encode(private.private_bytes_raw()), rfc3339(now).encode() + b"\n"]
    )


def _parse(text: bytes) -> dict[str, _Held]:
    """Raises VaultUnavailable, which never repeats a line."""
    if len(text) > VAULT_KEYS_BYTES_MAX:
        raise VaultUnavailable("the vault's keys are too many, or something else", retryable=False)
    held: dict[str, _Held] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        try:
            private = X25519PrivateKey.from_private_bytes(b64decode(words[1], validate=True))
        except (IndexError, ValueError, NotBase64):
            raise VaultUnavailable(f"the vault's keys: line {number} is no key", retryable=False) from None
        public = private.public_key().public_bytes_raw()
        key_id = key_id_of(public)
        if words[0].decode(errors="replace") != key_id:
            raise VaultUnavailable(
                f"the vault's keys: line {number} is of another key than it says", retryable=False
            )
        held[key_id] = _Held(key_id=key_id, public_key=public, private_key=private)
    return held
