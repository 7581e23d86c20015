"""Outputs: what agents put into /mnt/session/outputs, as files of their sessions, seconds later.

    changed, at work, or alive -> tree -> what differs from the note -> files -> noted

Any number of collectors may look at one host, and each may die at any point: what was not noted is read
again, and a file with the same content stays what it is. The note lies beside the tree, so that what a
client has deleted since does not come back; it is lost only with the tree's host. Then nothing is removed:
what a lost host has put out is still there for its user.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from itertools import islice
from typing import Final

from corral.catalog.files import FileRecord, Files, output_key
from corral.hands.client import HandsClient
from corral.hands.trees import TreeEntry
from corral.hands.wire import HeldWorkspace, TreeNews
from corral.kernel.crash import crash_point
from corral.kernel.errors import CallerError, Conflict, HandsUnavailable, NotFound, WorldError
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    FILE_BYTES_MAX,
    OUTPUTS_AGAIN_SECONDS,
    OUTPUTS_ALIVE_SECONDS,
    OUTPUTS_AT_ONCE,
    OUTPUTS_BUSY_SECONDS,
    OUTPUTS_BYTES_MAX,
    OUTPUTS_LOOK_SECONDS,
    OUTPUTS_NOTED_MAX,
    OUTPUTS_QUIET_SECONDS,
    OUTPUTS_RETRY_SECONDS_MAX,
    SESSION_OUTPUTS_MAX,
)

__all__ = ["OutputsCollector"]

log = logging.getLogger(__name__)

_PLACE: Final = "outputs"


@dataclass(kw_only=True, slots=True)
class _Looked:
    """When a session's outputs were looked at, and what was known of it then. changes: None if something
    could not be read, which is tried again."""

    at: float
    changes: int | None
    task: "asyncio.Task[bool] | None" = None

    def is_done(self) -> bool:
        if self.task is not None and self.task.done():
            self.changes = self.changes if self.task.result() else None
            self.task = None
        return self.task is None


@dataclass(kw_only=True, slots=True)
class _Restless:
    """Files of a session that were changed whenever they were read: how often, and until when each is left
    alone. After its next call they are tried again: a call costs more than a file that is read in vain.

    changes: calls so far, as `HeldWorkspace` counts them."""

    changes: int
    files: dict[str, tuple[int, float]] = field(default_factory=dict)

    def is_left_alone(self, name: str) -> bool:
        return name in self.files and time.monotonic() < self.files[name][1]

    def note(self, name: str) -> None:
        times = self.files.get(name, (0, 0.0))[0] + 1
        self.files[name] = times, time.monotonic() + _pause(times)


class OutputsCollector:
    """Of one server process, for the host of its node."""

    def __init__(
        self,
        files: Files,
        *,
        save_memory: Callable[[SessionId], Awaitable[None]] | None = None,
        outputs_max: int = SESSION_OUTPUTS_MAX,
    ) -> None:
        """save_memory: of a session that is not at work, what its processes have written into memory
        stores; calls see to that themselves. Raises WorldError, CallerError.
        outputs_max: of one session."""
        self._files = files
        self._outputs_max = outputs_max
        self._save_memory = save_memory
        self._looked: dict[SessionId, _Looked] = {}
        self._failures: dict[SessionId, int] = {}  # of looks since the last that did not fail
        self._restless: dict[SessionId, _Restless] = {}
        self._at_once = asyncio.Semaphore(OUTPUTS_AT_ONCE)

    async def run(self, hands: HandsClient) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            only_recent = False
            while True:
                try:
                    await self._look(hands, group, only_recent=only_recent)
                    only_recent = not self._is_any_left()
                except WorldError as error:
                    log.debug("outputs wait: %s", error.message)
                await asyncio.sleep(OUTPUTS_LOOK_SECONDS)

    async def _look(self, hands: HandsClient, group: asyncio.TaskGroup, *, only_recent: bool) -> None:
        now = time.monotonic()
        there = await hands.held(only_recent=only_recent)
        for held in sorted(there, key=lambda each: each.idle_seconds):
            looked = self._looked.get(held.session_id)
            if looked is not None and not looked.is_done():
                continue
            if not (held.has_outputs or held.has_memory):
                self._failures.pop(held.session_id, None)
                continue  # as most sessions
            failures = self._failures.get(held.session_id, 0)
            if looked is None or _is_due(held, looked, now, failures=failures):
                task = group.create_task(self.collect(hands, held))
                self._looked[held.session_id] = _Looked(at=now, changes=held.changes, task=task)
        listed = {held.session_id for held in there}
        for session_id, looked in list(self._looked.items()):
            if session_id in listed or not looked.is_done():
                continue
            if only_recent and self._due_at(session_id) is not None:  # what failed is made up for
                continue
            del self._looked[session_id]
            self._failures.pop(session_id, None)
            self._restless.pop(session_id, None)

    def _is_any_left(self) -> bool:
        """Whether a session whose last look failed is due: it may not be among the recent ones any more."""
        now = time.monotonic()
        return any(
            looked.is_done() and (due_at := self._due_at(session_id)) is not None and now > due_at
            for session_id, looked in self._looked.items()
        )

    def _due_at(self, session_id: SessionId) -> float | None:
        """When its next look has to be, whoever lists it; None if nothing is left to do."""
        if (failures := self._failures.get(session_id, 0)) > 0:
            return self._looked[session_id].at + _pause(failures)
        restless = self._restless.get(session_id)
        return min((until for _, until in restless.files.values()), default=None) if restless else None

    async def collect(self, hands: HandsClient, held: HeldWorkspace) -> bool:
        """Make files of what has changed among the outputs of one session. Returns whether that is all; if
        not, it is to be tried again."""
        session_id = held.session_id
        failures = self._failures.pop(session_id, 0)
        async with self._at_once:
            try:
                if self._save_memory is not None and held.has_memory and not held.is_busy:
                    await self._save_memory(session_id)
                if not held.has_outputs:
                    return True
                news = await hands.tree(session_id, _PLACE)
                if news.version == 0 and not news.tree.entries:
                    return True
                return await self._collect(hands, held, news)
            except (NotFound, Conflict):  # it has just gone, or somebody else has just done it
                self._restless.pop(session_id, None)
                return True
            except (WorldError, CallerError) as error:
                log.warning("session %s: its outputs wait: %s", session_id, error)
            except Exception:  # the outermost loop: one session's tree must not end the others'
                log.exception("session %s: its outputs cannot be collected", session_id)
            self._failures[session_id] = failures + 1
            return False

    async def _collect(self, hands: HandsClient, held: HeldWorkspace, news: TreeNews) -> bool:
        session_id = held.session_id
        noted: Mapping[str, str] = news.note.get("entries", {})
        there = {_short(output_key(entry.path)): entry for entry in news.tree.entries}
        stamps = {name: _short(str(entry.stamp)) for name, entry in there.items()}
        kept = {name: stamps[name] for name in there if noted.get(name) == stamps[name]}
        restless = self._restless_of(held, there)
        asked = {
            name
            for name, entry in there.items()
            if name not in kept and not restless.is_left_alone(name) and self._is_quiet(held, entry)
        }
        is_any_gone = news.tree.is_whole and any(name not in there for name in noted)
        known = dict(await self._files.outputs(session_id)) if asked or is_any_gone else {}
        gone = [
            path for path in known if is_any_gone and (name := _short(path)) in noted and name not in there
        ]
        fresh = sum(output_key(there[name].path) not in known for name in asked)
        if (
            gone and len(known) + fresh > self._outputs_max
        ):  # else they go last: there is always one of both
            await self._files.remove_outputs(session_id, gone)
            for path in gone:
                del known[path]
            gone = []
        is_all, left = True, OUTPUTS_BYTES_MAX
        for name, entry in there.items():
            left -= entry.size
            if name in kept:
                continue
            if name in asked:
                try:
                    await self._publish(hands, session_id, entry, left=left, known=known)
                    kept[name] = stamps[name]
                    restless.files.pop(name, None)
                    continue
                except _Changed:
                    restless.note(name)
            is_all = False
            if name in noted:
                kept[name] = noted[name]
        crash_point("outputs.before_note")
        if not news.tree.is_whole:  # what we do not see may be there
            unseen = (name for name in noted if name not in kept)
            kept |= {name: noted[name] for name in islice(unseen, max(0, OUTPUTS_NOTED_MAX - len(kept)))}
        if gone:
            await self._files.remove_outputs(session_id, gone)
        if kept != noted or news.version == 0:
            await hands.note_tree(session_id, _PLACE, {"entries": kept}, instead_of=news.version)
        return is_all

    def _restless_of(self, held: HeldWorkspace, there: Mapping[str, TreeEntry]) -> _Restless:
        """Of those that are there; from now on it is remembered."""
        restless = self._restless.get(held.session_id)
        if restless is None or restless.changes != held.changes:
            restless = _Restless(changes=held.changes)
        restless.files = {name: each for name, each in restless.files.items() if name in there}
        self._restless[held.session_id] = restless
        return restless

    async def _publish(
        self,
        hands: HandsClient,
        session_id: SessionId,
        entry: TreeEntry,
        *,
        left: int,
        known: dict[str, FileRecord],
    ) -> None:
        """Then there is nothing more to do about this entry as it is. known: by `output_key`, what is kept;
        it is added. Raises _Changed."""
        key = output_key(entry.path)
        earlier = known.get(key)
        if earlier is None and len(known) >= self._outputs_max:  # before any byte of it is stored
            log.debug("session %s: an output is not kept: there are too many", session_id)
            return
        if entry.size > FILE_BYTES_MAX or left < 0:
            log.warning("session %s: an output of %d bytes is too large", session_id, entry.size)
            return
        if earlier is not None and await self._is_same(hands, session_id, entry, earlier):
            return
        crash_point("outputs.before_file")
        try:
            async with aclosing(self._content(hands, session_id, entry)) as content:
                known[key] = await self._files.put_output(session_id, entry.path, content)
        except (NotFound, WorldError):
            raise
        except CallerError as error:  # too many of them: said once, for what it is now
            log.warning("session %s: an output is not kept: %s", session_id, error)
        crash_point("outputs.after_file")

    async def _is_same(
        self, hands: HandsClient, session_id: SessionId, entry: TreeEntry, earlier: FileRecord
    ) -> bool:
        """Whether its content is what is kept. To read it costs less than to store it and remove that."""
        if earlier.blob_key is None or earlier.size_bytes != entry.size:
            return False
        digest = sha256()
        async with aclosing(self._content(hands, session_id, entry)) as content:
            async for chunk in content:
                digest.update(chunk)
        return digest.hexdigest() == earlier.sha256

    async def _content(
        self, hands: HandsClient, session_id: SessionId, entry: TreeEntry
    ) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(hands.tree_file(session_id, _PLACE, entry.path)) as content:
                async for chunk in content:
                    yield chunk
        except (NotFound, HandsUnavailable) as error:  # it is another file by now
            raise _Changed from error

    def _is_quiet(self, held: HeldWorkspace, entry: TreeEntry) -> bool:
        """Whether nobody seems to be writing it: while a call runs, half a file is worth waiting for."""
        return not held.is_busy or time.time() - entry.mtime_ns / 1e9 > OUTPUTS_QUIET_SECONDS


class _Changed(Exception):
    """A file was changed or replaced while it was read."""


def _short(text: str) -> str:
    """So that a note has room for all of a tree, however long its names."""
    return blake2b(text.encode(), digest_size=12).hexdigest()


def _pause(failures: int) -> float:
    return min(OUTPUTS_RETRY_SECONDS_MAX, OUTPUTS_BUSY_SECONDS * 2.0 ** min(failures, 20))


def _is_due(held: HeldWorkspace, looked: _Looked, now: float, *, failures: int) -> bool:
    since = now - looked.at
    if failures:
        return since > _pause(failures)
    if held.changes != looked.changes and looked.changes is not None:
        return since > OUTPUTS_AGAIN_SECONDS
    if held.is_busy or looked.changes is None:
        return since > OUTPUTS_BUSY_SECONDS
    return held.provider is not None and since > OUTPUTS_ALIVE_SECONDS
