"""The file that a backup is: a tar, packed with zstd, the same from every engine.

    corral-backup.json           format, versions, engine, time: first, so that others can refuse early
    tables/<table>/<n>.jsonl     rows by primary key, one JSON object a line, bytes as base64
    blobs/<key>/<n>              a blob's bytes, in order
    blobs/<key>/end              what the bytes must come to, and what the blob is to be (see `BlobEnd`)
    manifest.json                per table rows and sha256, of blobs count and sha256: last, so that an
                                 archive without it was never finished

A table's sha256 is of its lines, as they stand in the archive: whoever reads the rows of a store in the
same order and writes them in the same way gets the same sum. Members are small (ARCHIVE_MEMBER_BYTES) and
numbered, so that both sides need little memory. The file is for its owner only (0600): it holds everything
that sessions said, and the hashes of API keys; no key, and no secret of a vault.
"""

import contextlib
import io
import os
import tarfile
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

import orjson
import zstandard

from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import ARCHIVE_MEMBER_BYTES, ARCHIVE_MEMBER_BYTES_MAX

__all__ = [
    "FORMAT",
    "ArchiveWriter",
    "BlobEnd",
    "Manifest",
    "TableSum",
    "Told",
    "as_line",
    "members",
    "silent",
    "verify",
]

FORMAT: Final = 1
HEADER, MANIFEST = "corral-backup.json", "manifest.json"
SUFFIX: Final = ".tar.zst"

Told = Callable[[str, int], None]
"""Is told what is being done, and how many bytes of it more are done."""


def silent(doing: str, more_bytes: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSum:
    rows: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobEnd:
    """What stands behind a blob's bytes.

    session_id: whose checkpoint it is; "" of what others name: a file.
    copied:    the blob that the session's checkpoint, or the file, names.
    replaced:  it was gone when its turn came, because the session has a newer checkpoint: this one, whose
               row is `row`. The workspace is then newer than the log.
    missing:   there is none to be had; `reason` says why. The restored session begins with an empty
               workspace, and its model is told; the restored file has no content.
    discarded: bytes that turned out to be no good; the next blob is in their place, or `missing`.
    """

    key: str
    session_id: str
    size_bytes: int
    sha256: str
    parts: int
    state: Literal["copied", "replaced", "missing", "discarded"]
    reason: str = ""
    row: Mapping[str, Any] | None = None


@dataclass(kw_only=True, slots=True)
class Manifest:
    """`engine`: sqlite or postgresql. `blobs`: that are in the archive; `blobs_sha256`: of their ends."""

    format: int
    corral: str
    schema: str
    engine: str
    taken_at: str
    tables: dict[str, TableSum] = field(default_factory=dict)
    blobs: int = 0
    blob_bytes: int = 0
    blobs_replaced: int = 0
    blobs_missing: int = 0
    blobs_sha256: str = ""

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables.values())

    @property
    def header(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("format", "corral", "schema", "engine", "taken_at")}

    @classmethod
    def parse(cls, data: bytes) -> "Manifest":
        """Raises ValueError, KeyError, TypeError."""
        fields = orjson.loads(data)
        tables = {name: TableSum(**table) for name, table in fields.pop("tables", {}).items()}
        return cls(**fields, tables=tables)


def as_line(row: Mapping[str, Any]) -> bytes:
    """One row as it stands in an archive."""
    return orjson.dumps(
        {
            name: b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in row.items()
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


class ArchiveWriter:
    """Writes PATH.partial, which becomes PATH when it is whole. From one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidRequest if there is a file already, or none can be made."""
        self._path, self._partial = path, path.with_name(f"{path.name}.partial")
        if path.exists():
            raise InvalidRequest(f"{str(path)!r} is there already; a backup replaces nothing")
        try:
            self._partial.unlink(missing_ok=True)  # of a backup that was killed
            fd = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidRequest(f"{str(path)!r} cannot be written: {error.strerror}") from error
        self._file = os.fdopen(fd, "wb")
        self._packed = zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(
            self._file, closefd=False
        )
        self._tar = tarfile.open(fileobj=self._packed, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o600
        self._tar.addfile(member, io.BytesIO(data))
        self._tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all

    def add_rows(self, table: str, lines: Iterator[bytes]) -> TableSum:
        """All rows of a table, as `as_line` writes them."""
        digest, rows, number = sha256(), 0, 0
        waiting, waiting_bytes = [], 0
        for line in lines:
            digest.update(line)
            rows += 1
            waiting.append(line)
            waiting_bytes += len(line)
            if waiting_bytes >= ARCHIVE_MEMBER_BYTES:
                self.add(f"tables/{table}/{number:08}.jsonl", b"".join(waiting))
                waiting, waiting_bytes, number = [], 0, number + 1
        if waiting:
            self.add(f"tables/{table}/{number:08}.jsonl", b"".join(waiting))
        return TableSum(rows=rows, sha256=digest.hexdigest())

    def add_header(self, manifest: Manifest) -> None:
        self.add(HEADER, orjson.dumps(manifest.header, option=orjson.OPT_INDENT_2))

    def finish(self, manifest: Manifest) -> None:
        """The archive is whole: it is durable, and has its name, when this returns."""
        self.add(MANIFEST, orjson.dumps(asdict(manifest), option=orjson.OPT_INDENT_2))
        self._tar.close()
        self._packed.close()  # type: ignore[no-untyped-call]
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def __enter__(self) -> "ArchiveWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Without `finish` nothing is left."""
        if not self._file.closed:
            self._file.close()
            self._partial.unlink(missing_ok=True)


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each member, in order. Raises InvalidRequest: not an archive of ours, damaged, cut
    short; after which member."""
    after = "its beginning"
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(path.open("rb"))
            reader = stack.enter_context(zstandard.ZstdDecompressor().stream_reader(file))
            tar = stack.enter_context(tarfile.open(fileobj=reader, mode="r|"))
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if not member.isreg() or member.size > ARCHIVE_MEMBER_BYTES_MAX:
                    raise InvalidRequest(f"{str(path)!r}: {member.name!r} is not part of a backup")
                content = tar.extractfile(member)
                assert content is not None
                data = content.read()
                after = repr(member.name)
                yield member.name, data
            while rest := reader.read(65536):  # to the end of the frame, whose checksum is of all before
                if any(rest):  # a member's head is damaged: tarfile takes it for the end
                    raise _damaged(path, after)
    except OSError as error:
        if not isinstance(error, tarfile.TarError) and error.errno is not None:
            raise InvalidRequest(f"{str(path)!r} cannot be read: {error.strerror}") from error
        raise _damaged(path, after) from error
    except (zstandard.ZstdError, tarfile.TarError, EOFError, ValueError) as error:
        raise _damaged(path, after) from error


def _damaged(path: Path, after: str) -> InvalidRequest:
    return InvalidRequest(
        f"{str(path)!r} is damaged, cut short or no backup: what follows {after} cannot be read"
    )


class _Check:
    """What an archive must be, read from one end to the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.header: Manifest | None = None
        self.manifest: Manifest | None = None
        self._tables: dict[str, tuple[Any, int, int]] = {}
        self._blob: tuple[str, Any, int, int] | None = None
        self._ends, self._blobs = sha256(), 0

    def take(self, name: str, data: bytes) -> None:
        if self.header is None:
            self.header = self._read_header(name, data)
        elif self.manifest is not None:
            raise self._wrong(f"{name!r} follows the end")
        elif name == MANIFEST:
            self.manifest = self._parse(name, data)
        elif name.startswith("tables/"):
            self._take_rows(name, data)
        elif name.startswith("blobs/"):
            self._take_blob(name, data)
        else:
            raise self._wrong(f"{name!r} is not part of a backup")

    def end(self) -> Manifest:
        manifest = self.manifest
        if manifest is None:
            raise self._wrong("it was never finished: there is no manifest")
        assert self.header is not None
        if manifest.header != self.header.header:
            raise self._wrong("its beginning and its end are of different backups")
        empty = (sha256(), 0, 0)
        for table in {*manifest.tables, *self._tables}:
            digest, rows, _ = self._tables.get(table, empty)
            found = TableSum(rows=rows, sha256=digest.hexdigest())
            if found != manifest.tables.get(table):
                raise self._wrong(f"table {table!r} is not what the manifest says")
        if (self._blobs, self._ends.hexdigest()) != (manifest.blobs, manifest.blobs_sha256):
            raise self._wrong("the blobs are not those of the manifest")
        return manifest

    def _read_header(self, name: str, data: bytes) -> Manifest:
        if name != HEADER:
            raise self._wrong("it is no backup of Corral")
        header = self._parse(name, data)
        if header.format != FORMAT:
            raise InvalidRequest(
                f"{str(self._path)!r} has format {header.format}, written by Corral {header.corral}; this"
                f" version reads format {FORMAT}. Use that version."
            )
        return header

    def _parse(self, name: str, data: bytes) -> Manifest:
        try:
            return Manifest.parse(data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._wrong(f"{name!r} cannot be read") from error

    def _take_rows(self, name: str, data: bytes) -> None:
        _, _, below = name.partition("/")
        table, _, file = below.partition("/")
        digest, rows, number = self._tables.get(table, (sha256(), 0, 0))
        if file != f"{number:08}.jsonl":
            raise self._wrong(f"{name!r} is out of order")
        digest.update(data)
        self._tables[table] = (digest, rows + data.count(b"\n"), number + 1)

    def _take_blob(self, name: str, data: bytes) -> None:
        key, _, part = name.removeprefix("blobs/").rpartition("/")
        known, digest, size, number = self._blob or (key, sha256(), 0, 0)
        if known != key:
            raise self._wrong(f"blob {known!r} has no end")
        if part != "end":
            if part != f"{number:08}":
                raise self._wrong(f"{name!r} is out of order")
            digest.update(data)
            self._blob = (key, digest, size + len(data), number + 1)
            return
        try:
            end = BlobEnd(**orjson.loads(data))
        except (ValueError, TypeError) as error:
            raise self._wrong(f"{name!r} cannot be read") from error
        if (end.key, end.size_bytes, end.sha256, end.parts) != (key, size, digest.hexdigest(), number):
            raise self._wrong(f"blob {key!r} is not what its end says")
        self._ends.update(data)
        self._blobs += end.state in ("copied", "replaced")
        self._blob = None

    def _wrong(self, what: str) -> InvalidRequest:
        return InvalidRequest(f"{str(self._path)!r} cannot be restored: {what}")


def verify(path: Path, *, told: Told = silent) -> Manifest:
    """Read all of an archive and check everything in it against its sums, without a store.

    Raises InvalidRequest, which says what is wrong.
    """
    check = _Check(path)
    for name, data in members(path):
        check.take(name, data)
        told("checking", len(data))
    return check.end()
