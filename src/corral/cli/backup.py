"""`corral backup` and `corral restore`: what is done is in `store`; here it is chosen, shown and told."""

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from corral.cli.outcome import Exit, Problem
from corral.config import Config
from corral.hands.process import lose_workspaces
from corral.kernel.errors import CorralError
from corral.kernel.limits import BACKUP_NAMED_MAX
from corral.store.archive import SUFFIX, Manifest, Told, silent, verify
from corral.store.backup import back_up
from corral.store.blobs import open_blobs
from corral.store.restore import Restored
from corral.store.restore import restore as restore_store

__all__ = ["backup", "refuse_ignored", "restore", "verify_only"]


def backup(to: Path, config: Config) -> int:
    """Exit FAILED if blobs are missing: the archive is there, and says which."""
    print(f"copying {_named_store(config)}, blobs from {_named_blobs(config)}", file=sys.stderr)
    now = datetime.now(UTC)
    path = to / f"corral-{now:%Y%m%dT%H%M%SZ}{SUFFIX}" if to.is_dir() else to
    with _said(), _shown() as told:
        manifest = asyncio.run(_back_up(config, path, now, told))
    print(f"{path}\n{_contents(manifest)}")
    if not config.is_postgres:
        print(
            f"not in it: the files of sessions, which a server on SQLite keeps once, below"
            f" {config.data_dir / 'hands'}"
        )
    if manifest.blobs_replaced:
        print(f"{manifest.blobs_replaced} workspaces are newer than their logs: replaced while we copied")
    if manifest.blobs_missing:
        print(
            f"corral: {manifest.blobs_missing} workspaces or files are missing: they were deleted"
            " meanwhile, or the blob store has lost them (`corral restore` names them)",
            file=sys.stderr,
        )
        return Exit.FAILED
    return Exit.DONE


def restore(source: Path, config: Config) -> int:
    path = _newest(source)
    print(f"restoring into {_named_store(config)}, blobs into {_named_blobs(config)}", file=sys.stderr)
    with _said(), contextlib.ExitStack() as stack:
        if not config.is_postgres:
            from corral.supervisor.datadir import lock_data_dir
            from corral.supervisor.users import Users

            # Root makes no files there that a server of another user could not open.
            stack.enter_context(Users().acting_as_owner(config.data_dir))
            stack.enter_context(lock_data_dir(config.data_dir))
        restored = asyncio.run(_restore(config, path, stack.enter_context(_shown())))
    print(f"restored {path}\n{_contents(restored.manifest)}")
    print(
        "every table and blob is as in the backup, by count and hash; sessions go on when a server starts"
    )
    if not config.is_postgres and not _hosts(config):
        print(
            "sessions begin with empty workspaces: a server on SQLite reads no checkpoints, and their"
            f" directories are not below {config.data_dir / 'hands'}"
        )
    if restored.unplaced:
        print(f"{restored.unplaced} sessions get new sandboxes: their hosts are unknown here")
    for end in restored.missing[:BACKUP_NAMED_MAX]:
        if end.session_id:
            print(f"{end.session_id} has no workspace: {end.reason}")
        else:
            print(f"the content of a file ({end.key}) is gone: {end.reason}")
    if len(restored.missing) > BACKUP_NAMED_MAX:
        print(f"and {len(restored.missing) - BACKUP_NAMED_MAX} more")
    return Exit.DONE


def verify_only(source: Path) -> int:
    path = _newest(source)
    with _said(), _shown() as told:
        manifest = verify(path, told=told)
    print(f"{path}\n{_contents(manifest)}\nevery table and blob comes to its hash")
    return Exit.DONE


async def _back_up(config: Config, path: Path, now: datetime, told: Told) -> Manifest:
    blobs = await open_blobs(config)
    try:
        return await back_up(_store(config), blobs, path, now=now, told=told)
    finally:
        await blobs.aclose()


async def _restore(config: Config, path: Path, told: Told) -> Restored:
    blobs = await open_blobs(config)
    try:
        await blobs.probe()  # before anything is changed
        return await restore_store(
            path,
            _store(config),
            blobs,
            known_hosts=_hosts(config),
            told=told,
            before_live=None if config.is_postgres else partial(lose_workspaces, config.data_dir),
        )
    finally:
        await blobs.aclose()


def _store(config: Config) -> str | Path:
    return config.database_url.reveal() if config.database_url else config.data_dir / "corral.db"


def refuse_ignored(config: Config, *, data_dir: Path | None) -> None:
    """Raises Problem if a data directory was named and what is in it would not be copied."""
    if data_dir is None or not config.is_postgres:
        return
    if config.blob_url is not None or (config.data_dir / "corral.db").exists():
        raise Problem(
            f"--data-dir {str(data_dir)!r} is one store and CORRAL_DATABASE_URL another: `corral backup`"
            f" would copy {_named_store(config)}. Leave --data-dir out, or unset CORRAL_DATABASE_URL",
            exit=Exit.USAGE,
        )


def _named_store(config: Config) -> str:
    """Without what is secret in a URL."""
    if config.database_url is None:
        return f"the SQLite file {config.data_dir / 'corral.db'}"
    if not config.is_postgres:
        return f"the SQLite file of CORRAL_DATABASE_URL, {urlsplit(config.database_url.reveal()).path}"
    parts = urlsplit(config.database_url.reveal())
    name, host = parts.path.lstrip("/") or "default", parts.hostname or "this machine"
    return f"PostgreSQL {name} at {host} (CORRAL_DATABASE_URL)"


def _named_blobs(config: Config) -> str:
    return config.blob_url or str(config.data_dir / "blobs")


def _hosts(config: Config) -> list[str]:
    """The hands host of this data directory, if it has one: its workspaces are still here."""
    with contextlib.suppress(OSError):
        return [(config.data_dir / "hands" / "private" / "host_id").read_text()]
    return []


def _newest(source: Path) -> Path:
    if not source.is_dir():
        return source
    found = sorted(source.glob(f"corral-*{SUFFIX}"))
    if not found:
        raise Problem(f"there is no backup (corral-*{SUFFIX}) in {str(source)!r}", exit=Exit.USAGE)
    return found[-1]


def _contents(manifest: Manifest) -> str:
    counts = {name: table.rows for name, table in manifest.tables.items()}
    return (
        f"taken {manifest.taken_at} by Corral {manifest.corral} from {manifest.engine}:"
        f" {counts['sessions']} sessions, {counts['events']} events, {manifest.rows} rows in all,"
        f" {manifest.blobs} blobs of {manifest.blob_bytes / 2**20:.1f} MiB"
    )


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """What fails here is no wrong usage."""
    try:
        yield
    except Problem:
        raise
    except CorralError as error:
        raise Problem(str(error)) from error


@contextlib.contextmanager
def _shown() -> Iterator[Told]:
    """A line on the terminal that says how far it is; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description:10}"),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        tasks: dict[str, object] = {}

        def told(doing: str, more_bytes: int) -> None:
            if doing not in tasks:
                tasks[doing] = bar.add_task(doing, total=None)
            bar.advance(tasks[doing], more_bytes)  # type: ignore[arg-type]

        yield told
