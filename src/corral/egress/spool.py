"""The book of an egress process, on its disk until the store has it.

    <data_dir>/egress/private/audit/00000000000000000007.jsonl     oldest first; the last one is written to

Written before anything is done, one line and one write each: it survives the end of this process; a loss of
power costs EGRESS_SPOOL_SYNC_SECONDS at most. The server process of the node reads it, a page at a time,
and says how far the store has it; read twice, an entry is the same entry. When nobody reads, it grows to
EGRESS_SPOOL_BYTES_MAX, and then nothing more gets out: better than going unseen.
"""

import asyncio
import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Final

from corral.catalog.audit import Begun, Decision, Ended
from corral.egress.book import BookFull
from corral.egress.target import Target
from corral.kernel.clock import Clock, rfc3339
from corral.kernel.ids import AUDIT_ENTRY, CredentialId, Ids, SessionId
from corral.kernel.limits import (
    EGRESS_SPOOL_BYTES_MAX,
    EGRESS_SPOOL_SEGMENT_BYTES,
    EGRESS_SPOOL_SYNC_SECONDS,
)

__all__ = ["Spool"]

_log = logging.getLogger(__name__)
_SUFFIX: Final = ".jsonl"
_DIGITS: Final = 20


class Spool:
    """`egress.book.Book`. One per directory, which is made if needed."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        ids: Ids | None = None,
        bytes_max: int = EGRESS_SPOOL_BYTES_MAX,
    ) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._clock = clock
        self._ids = ids or Ids()
        self._bytes_max = bytes_max
        self._sizes = {int(path.stem): path.stat().st_size for path in sorted(folder.glob(f"*{_SUFFIX}"))}
        self._read_to = 0  # of the oldest segment: what is before it is in the store
        self._number = max(self._sizes, default=0)
        self._file = -1
        self._is_dirty = False

    # -- writing --------------------------------------------------------------------------------------

    def begin(
        self,
        session_id: SessionId,
        target: Target,
        method: str,
        decision: Decision,
        *,
        reason: str = "",
        detail: str = "",
        credential_id: CredentialId | None = None,
    ) -> str:
        entry = Begun(
            entry_id=self._ids.mint(AUDIT_ENTRY),
            session_id=session_id,
            created_at=self._clock.now(),
            host=target.host,
            port=target.port,
            method=method,
            decision=decision,
            reason=reason,
            detail=detail,
            credential_id=credential_id,
        )
        if sum(self._sizes.values()) >= self._bytes_max:
            raise BookFull("the audit of this server is full: nothing more gets out until it is read")
        try:
            self._write({"begin": {**asdict(entry), "created_at": rfc3339(entry.created_at)}})
        except OSError as error:
            raise BookFull(f"the audit cannot be written ({error.strerror})") from error
        return entry.entry_id

    def end(self, ended: Ended) -> None:
        try:
            self._write({"end": asdict(ended)})
        except OSError as error:
            _log.warning("how a connection ended cannot be written down: %s", error.strerror)

    def _write(self, line: dict[str, object]) -> None:
        if self._file < 0 or self._sizes[self._number] >= EGRESS_SPOOL_SEGMENT_BYTES:
            self._next_segment()
        data = json.dumps(line).encode() + b"\n"
        size = self._sizes[self._number]
        written = os.write(self._file, data)
        if written < len(data):  # the disk is full: half a line is none
            os.ftruncate(self._file, size)
            raise OSError(None, "the disk is full")
        self._sizes[self._number] = size + written
        self._is_dirty = True

    def _next_segment(self) -> None:
        self._close()
        number = self._number + 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._path(number), flags, 0o600)
        self._number, self._sizes[number] = number, 0

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    async def sync_forever(self) -> None:
        while True:
            await asyncio.sleep(EGRESS_SPOOL_SYNC_SECONDS)
            if self._is_dirty and self._file >= 0:
                self._is_dirty = False
                copy = os.dup(self._file)
                try:
                    await asyncio.to_thread(os.fsync, copy)
                except OSError as error:
                    _log.warning("the audit cannot be kept safe: %s", error.strerror)
                finally:
                    os.close(copy)

    def close(self) -> None:
        self._close()

    @property
    def waiting_bytes(self) -> int:
        """Written, and not in the store yet."""
        return sum(self._sizes.values()) - self._read_to

    # -- reading --------------------------------------------------------------------------------------

    def read(self, *, bytes_max: int) -> tuple[list[dict[str, object]], str]:
        """What the store has not: whole lines, oldest first, of one segment, and the position behind them
        for `forget`. A line that a loss of power tore is left out."""
        if not self._sizes:
            return [], ""
        oldest = min(self._sizes)
        with self._path(oldest).open("rb") as file:
            file.seek(self._read_to)
            data = file.read(min(bytes_max, self._sizes[oldest] - self._read_to))
        is_all = oldest != self._number and self._read_to + len(data) == self._sizes[oldest]
        end = len(data) if is_all else data.rfind(b"\n") + 1
        lines = []
        for line in data[:end].splitlines():
            try:
                lines.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                _log.warning("a torn line of the audit is left out")
        return lines, f"{oldest}:{self._read_to + end}"

    def forget(self, position: str) -> None:
        """The store has everything before. Repeat: safe. Raises ValueError for no position of ours."""
        if not position:
            return
        number, offset = (int(part) for part in position.split(":"))
        if number != min(self._sizes, default=None) or not self._read_to <= offset <= self._sizes[number]:
            return  # forgotten already
        self._read_to = offset
        if offset == self._sizes[number]:
            if number == self._number:
                self._close()
            self._path(number).unlink()
            del self._sizes[number]
            self._read_to = 0

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:0{_DIGITS}}{_SUFFIX}"
