"""All that was planted, looked for everywhere it must not be, while the server still runs.

What was planted in a session next door is in the store, the journal and that session's log, where it
belongs: of it, only the attackers' side is searched. A secret of the vault or of the server belongs nowhere
but where it was given.
"""

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import httpx2

from corral.daemon import token_path
from corral.redteam.canaries import KINDS, Canaries, Search
from corral.redteam.served import ServedStage
from corral.redteam.stage import ATTACKERS

__all__ = ["searched"]

_OF_THE_SERVER: Final = ("vault", "bearer", "model", "server", "git", "unmounted")
_PRIVATE_KEY: Final = "private key"
_REGION_BYTES_MAX: Final = 256 << 20
_PIECE: Final = 16 << 20
_OVERLAP: Final = 512


async def searched(stage: ServedStage, canaries: Canaries) -> Search:
    secrets = {KINDS[kind]: value for kind, value in canaries.planted.items()}
    ours = [KINDS[kind] for kind in _OF_THE_SERVER if kind in canaries.planted]
    passes = _passes(stage)
    search = Search(secrets={**secrets, **passes})
    everything = [*secrets, *passes]
    for name, content in (await _answers(stage)).items():
        of_attackers = any(f"session {who}" in name for who in ATTACKERS)
        search.look(name, content, only=everything if of_attackers else [*ours, *passes])
    await asyncio.to_thread(_files, stage, search, everything, [*ours, *passes])
    await asyncio.to_thread(_processes, stage, search, everything, ours)
    await _checkpoints(stage, search, everything)
    await _backup(stage, search, [*ours, *passes])
    return search


def _passes(stage: ServedStage) -> Mapping[str, str]:
    """Secrets that Corral made itself."""
    data_dir = stage.node.data_dir
    found = {f"the token of {role}": token_path(data_dir, role).read_text() for role in ("hands", "egress")}
    keys = data_dir / "egress" / "private" / "vault.keys"
    if keys.exists():
        for number, line in enumerate(keys.read_text().splitlines()):
            if len(secret := line.split()[-1]) >= 32:
                found[f"{_PRIVATE_KEY} {number} of the vault"] = secret
    return {name: value.strip() for name, value in found.items()}


async def _answers(stage: ServedStage) -> Mapping[str, bytes]:
    """What clients can read, and what they are told when they ask wrongly."""
    found: dict[str, bytes] = {}
    async with httpx2.AsyncClient(
        base_url=stage.node.url, headers={"x-api-key": stage.key}, timeout=60, trust_env=False
    ) as http:

        async def get(name: str, path: str) -> None:
            found[name] = b""
            page: str | None = path
            while page:
                response = await http.get(page)
                found[name] += response.content
                is_json = response.headers.get("content-type", "").startswith("application/json")
                after = response.json().get("next_page") if is_json else None
                page = f"{path}{'&' if '?' in path else '?'}page={after}" if after else None

        for who, session_id in stage.sessions.items():
            for what in ("", "/events?limit=1000", "/resources"):
                await get(f"session {who}: {what or 'itself'}", f"/v1/sessions/{session_id}{what}")
            await get(f"audit of session {who}", f"/corral/v1/sessions/{session_id}/audit")
        for path in (
            "/v1/vaults", f"/v1/vaults/{stage.vault_id}/credentials", "/v1/files", "/v1/skills",
            "/v1/agents",
            "/v1/environments", "/corral/v1/audit", "/corral/v1/sandboxes", "/metrics", "/health",
            "/readyz",
        ):  # fmt: skip
            await get(f"answer of {path}", path)
        for path in ("/v1/vaults/vlt_none", "/v1/sessions/sesn_none", "/corral/v1/none"):
            await get(f"error of {path}", path)
    return found


def _files(stage: ServedStage, search: Search, everything: Iterable[str], ours: Iterable[str]) -> None:
    """Logs, store, journal, audit, blobs, checkpoints, core files: every file below the data directory.
    What lies in an attacker's workspace must have nothing at all of others in it."""
    data_dir = stage.node.data_dir
    homes = {stage.home(who): who for who in ATTACKERS}
    own = {token_path(data_dir, role) for role in ("hands", "egress")}
    own |= {data_dir / "egress" / "private" / "vault.keys"}
    for path in sorted(data_dir.rglob("*")):
        if path.is_symlink() or not path.is_file() or path in own:
            continue
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            of = next((who for home, who in homes.items() if path.is_relative_to(home)), None)
            if of is not None:
                search.look(f"files of session {of}", content, only=everything)
            else:
                search.look(f"file {_shown(path.relative_to(data_dir))}", content, only=ours)
    for path in (stage.gate_log,):
        search.look("log of the egress process", path.read_bytes(), only=ours)
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(data_dir / "corral.db")) as db,
    ):
        search.look("dump of the store", "\n".join(db.iterdump()).encode(errors="replace"), only=ours)


async def _checkpoints(stage: ServedStage, search: Search, only: Iterable[str]) -> None:
    """What would be kept of the attackers' sandboxes when they move."""
    for who in ATTACKERS:
        content = b"".join([chunk async for chunk in stage.export(who)])
        await asyncio.to_thread(search.look, f"checkpoint of session {who}", content, only=only)


def _shown(path: Path) -> str:
    """Workspaces and caches have names of their own in each run."""
    return "/".join(path.parts[:3]) + ("/..." if len(path.parts) > 3 else "")


def _processes(stage: ServedStage, search: Search, everything: Iterable[str], ours: Iterable[str]) -> None:
    """Environment and arguments of every process of Corral, and of what runs in sandboxes; memory of the
    latter, and of all of Corral's but the egress process for what it alone has."""
    roles = {**stage.node.processes(), "egress": stage.gate_pid}
    if stage.node.supervisor_pid:
        roles["supervisor"] = stage.node.supervisor_pid
    of_egress = [KINDS[kind] for kind in ("vault", "bearer", "git") if KINDS[kind] in search.secrets]
    of_egress += [name for name in search.secrets if name.startswith(_PRIVATE_KEY)]
    for role, pid in roles.items():
        _look(search, f"arguments of {role}", pid, "cmdline", ours)
        # The supervisor was started with the settings in its environment, by us.
        allowed = [KINDS["model"], KINDS["server"]] if role == "supervisor" else []
        _look(
            search, f"environment of {role}", pid, "environ", [each for each in ours if each not in allowed]
        )
        if role != "egress":
            hidden = [*of_egress, KINDS["model"]] if role == "hands" else of_egress
            _look_in_memory(search, f"memory of {role}", pid, hidden)
    for pid, who in _inside(stage):
        for what in ("environ", "cmdline"):
            _look(search, f"{what} in the sandbox of {who}", pid, what, everything)
        _look_in_memory(search, f"memory in the sandbox of {who}", pid, everything)


def _inside(stage: ServedStage) -> Iterable[tuple[int, str]]:
    """Processes whose working directory is an attacker's workspace. Seen from outside, if at all."""
    homes = {stage.home(who).joinpath("files").stat().st_ino: who for who in ATTACKERS}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if (who := homes.get((folder / "cwd").stat().st_ino)) is not None:
                    yield int(folder.name), who


def _look(search: Search, place: str, pid: int, what: str, only: Iterable[str]) -> None:
    try:
        search.look(place, Path(f"/proc/{pid}/{what}").read_bytes(), only=only)
    except OSError as error:
        search.unsearched[place] = f"{type(error).__name__}: what is hardened shows it to root alone"


def _look_in_memory(search: Search, place: str, pid: int, only: Iterable[str]) -> None:
    only = list(only)
    try:
        regions = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            for region in regions:
                start, end = (int(number, 16) for number in region[0].split("-"))
                if region[1][0] != "r" or region[-1].startswith("[v") or end - start > _REGION_BYTES_MAX:
                    continue
                for at in range(start, end, _PIECE):
                    with contextlib.suppress(OSError, ValueError):
                        memory.seek(at)
                        search.look(place, memory.read(min(_PIECE + _OVERLAP, end - at)), only=only)
    except OSError as error:
        search.unsearched[place] = f"{type(error).__name__}: what is hardened shows it to root alone"


async def _backup(stage: ServedStage, search: Search, only: Iterable[str]) -> None:
    """What an operator carries away."""
    archive = stage.node.data_dir.parent / "backup.tar.zst"
    making = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "corral.cli",
            "backup",
            str(archive),
            "--data-dir",
            str(stage.node.data_dir),
        ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=stage.node.data_dir,
    )
    said, _ = await making.communicate()
    if making.returncode != 0:
        search.unsearched["a backup"] = said.decode(errors="replace").strip()[-200:]
        return
    from corral.store.archive import members

    content = b"".join(data for _, data in await asyncio.to_thread(lambda: list(members(archive))))
    search.look("a backup", content, only=only)
    search.look("what `corral backup` says", said, only=only)
