"""`corral doctor`: what this machine can do, each thing tried for real, and how to mend what fails."""

import asyncio
import json
import os
import platform
import re
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.text import Text

from corral import __version__
from corral.brain.models.local_install import is_installed
from corral.cli.doctor_cluster import examine_cluster
from corral.cli.doctor_egress import examine_egress
from corral.cli.doctor_packages import examine_packages
from corral.cli.doctor_web import examine_search
from corral.cli.finding import Finding
from corral.cli.models import directory_of
from corral.cli.outcome import Exit
from corral.cli.render import safe
from corral.config import Config
from corral.daemon import SOCKET_PATH_BYTES_MAX, socket_path
from corral.hands.providers.choice import DEFAULT, FALLBACK, PROVIDERS, ProviderName, provider_of
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import (
    CLI_CONNECT_SECONDS,
    DISK_FREE_BYTES_MIN,
    FSYNC_SLOW_SECONDS,
    OPEN_FILES_MIN,
)
from corral.supervisor.datadir import read_state
from corral.supervisor.users import Users

__all__ = ["Finding", "doctor", "examine"]

_FSYNCS = 20
_SQLITE_MIN = (3, 35)  # RETURNING
_GIT_MIN = (2, 32)  # GIT_CONFIG_GLOBAL
_GIT_PATH = "/usr/local/bin:/usr/bin:/bin"  # what a sandbox sees of this machine


def doctor(config: Config, *, as_json: bool) -> Exit:
    """FAILED if any check failed."""
    console = Console(highlight=False)
    findings = []
    for finding in examine(config):
        findings.append(finding)
        if not as_json:
            mark, style = {"ok": ("ok", "green"), "warning": ("note", "yellow")}.get(
                finding.state, ("FAIL", "bold red")
            )
            line = Text(f"{mark:>5}  ", style=style) + Text(f"{finding.name}: {safe(finding.detail)}")
            console.print(line, soft_wrap=True)
            if finding.remedy:
                console.print(Text(f"       -> {safe(finding.remedy)}", style="yellow"), soft_wrap=True)
    is_well = all(finding.state != "failed" for finding in findings)
    if as_json:
        checks = [asdict(finding) for finding in findings]
        print(json.dumps({"is_well": is_well, "version": __version__, "checks": checks}, indent=2))
    return Exit.DONE if is_well else Exit.FAILED


def examine(config: Config) -> Iterator[Finding]:
    """Every check, as it is made."""
    checks: tuple[Callable[[Config], Finding], ...] = (
        _store, _disk, _open_files, _port, examine_egress, _claude, _local, _git, examine_packages,
        examine_search, _users,
    )  # fmt: skip
    yield _versions(config)
    yield from _sandboxes(config)
    for check in checks:
        yield check(config)
    yield from examine_cluster(config)


def _versions(config: Config) -> Finding:
    detail = f"corral {__version__}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    detail += (
        f", anthropic {version('anthropic')}, {platform.system()} {platform.release()} {platform.machine()}"
    )
    if sys.platform != "linux":
        remedy = "sandboxes need Linux; use a Linux machine or virtual machine"
        return Finding(name="versions", state="failed", detail=detail, remedy=remedy)
    if sqlite3.sqlite_version_info < _SQLITE_MIN:
        remedy = "use a Python with SQLite 3.35 or newer"
        return Finding(name="versions", state="failed", detail=detail, remedy=remedy)
    return Finding(name="versions", state="ok", detail=detail)


def _sandboxes(config: Config) -> Iterator[Finding]:
    """Boots one of each kind, the strongest first, and tries to escape from it. Only the node's own, and
    those that environments may choose, have to work."""
    chosen = config.sandbox or DEFAULT
    findings = {
        name: asyncio.run(
            _sandbox(config, name, is_chosen=name == chosen, is_offered=name in config.sandbox_choices)
        )
        for name in PROVIDERS
    }
    working = [name for name, finding in findings.items() if finding.state == "ok"]  # the strongest first
    if findings[chosen].state == "failed" and working:
        what = "the weaker one" if working[0] == FALLBACK else "one that works here"
        remedy = f"{findings[chosen].remedy}; or name {what}: corral serve --sandbox {working[0]}"
        findings[chosen] = replace(findings[chosen], remedy=remedy)
    for name in config.sandbox_choices:
        if name != chosen and findings[name].state == "failed":
            remedy = f"{findings[name].remedy}; or take it out of CORRAL_SANDBOX_CHOICES"
            findings[name] = replace(findings[name], remedy=remedy)
    yield findings.pop(chosen)
    yield from findings.values()


async def _sandbox(config: Config, kind: ProviderName, *, is_chosen: bool, is_offered: bool) -> Finding:
    with tempfile.TemporaryDirectory(prefix="corral-") as state:
        Path(state).chmod(0o711)  # a root user's sandboxes pass through with a uid of their own
        provider = provider_of(
            kind,
            state_dir=Path(state),
            is_warm=False,
            root=config.sandbox_root,
            image=config.sandbox_image,
        )
        try:
            found = await provider.probe()
        finally:
            await provider.aclose()
    name = "sandbox" if is_chosen else f"sandbox {kind}"
    if not found.is_available:
        state = "failed" if is_chosen or is_offered else "warning"
        return Finding(name=name, state=state, detail=found.report, remedy=found.remedy)
    detail = f"{found.report} ({provider.capabilities.isolation})"
    gaps = provider.capabilities.gaps
    if is_chosen:
        detail += "".join(f"\n       not {wall}: {why}" for wall, why in gaps.items())
    elif gaps:
        detail += f"; not {', '.join(gaps)}"
    return Finding(name=name, state="ok", detail=detail)


def _store(config: Config) -> Finding:
    """Writable, and how long a durable write takes."""
    directory = config.data_dir
    if len(os.fsencode(socket_path(directory, "egress"))) > SOCKET_PATH_BYTES_MAX:
        detail = f"{directory} is too long a path for the sockets in it"
        return Finding(name="store", state="failed", detail=detail, remedy="choose a shorter --data-dir")
    place = _existing(directory)  # looking makes no data directory
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            times = []
            for _ in range(_FSYNCS):
                started = time.perf_counter()
                file.write(b"x" * 4096)
                file.flush()
                os.fsync(file.fileno())
                times.append(time.perf_counter() - started)
    except OSError as error:
        return Finding(
            name="store",
            state="failed",
            detail=f"{place} cannot be written: {error.strerror}",
            remedy=f"chown it to this user (uid {os.getuid()}), or choose another --data-dir",
        )
    typical = sorted(times)[_FSYNCS // 2]
    detail = f"{place} is writable, a durable write takes {typical * 1000:.2f} ms"
    if typical > FSYNC_SLOW_SECONDS:
        remedy = "every turn waits for several of them; put --data-dir on a faster disk"
        return Finding(name="store", state="warning", detail=detail, remedy=remedy)
    return Finding(name="store", state="ok", detail=detail)


def _disk(config: Config) -> Finding:
    place = _existing(config.data_dir)
    free = shutil.disk_usage(place).free
    detail = f"{free / 2**30:.1f} GiB free at {place}"
    if free < 4 * DISK_FREE_BYTES_MIN:
        state = "failed" if free < DISK_FREE_BYTES_MIN else "warning"
        remedy = "free some: below 0.25 GiB no new work is accepted"
        return Finding(name="disk", state=state, detail=detail, remedy=remedy)
    return Finding(name="disk", state="ok", detail=detail)


def _existing(directory: Path) -> Path:
    """The directory, or what it would be made in."""
    return next(path for path in (directory, *directory.parents) if path.exists())


def _open_files(config: Config) -> Finding:
    """Of each process; they raise the soft limit to the hard one themselves."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    detail = f"up to {limit:,} in each process" if limit != resource.RLIM_INFINITY else "no limit"
    if limit != resource.RLIM_INFINITY and limit < OPEN_FILES_MIN:
        remedy = "each event stream takes one: raise the hard limit (ulimit -Hn, LimitNOFILE= of systemd)"
        return Finding(name="open files", state="warning", detail=detail, remedy=remedy)
    return Finding(name="open files", state="ok", detail=detail)


def _port(config: Config) -> Finding:
    state = read_state(config.data_dir)
    if state is not None:
        return Finding(name="port", state="ok", detail=f"Corral serves at {state['url']}")
    where = f"{config.host}:{config.port}"
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return Finding(
            name="port",
            state="warning",
            detail=f"{where}: {error.strerror or error}",
            remedy="something else is there: corral serve --port 0 takes a free one",
        )
    return Finding(name="port", state="ok", detail=f"{where} is free")


def _users(config: Config) -> Finding:
    """Whether another user than the rest can read the vault's keys."""
    try:
        users = Users.of(config)
        users.refuse_unreachable(config)
    except InvalidRequest as error:
        return Finding(
            name="users", state="failed", detail=error.message, remedy="or unset user and egress_user"
        )
    if users:
        detail = f"server and hands run as {config.user!r}, egress as {config.egress_user!r}"
        return Finding(name="users", state="ok", detail=detail)
    if os.geteuid() == 0:
        detail = "what this user starts runs as root, all of it"
        remedy = "corral serve --user USER --egress-user USER: the vault's keys are the second one's alone"
        return Finding(name="users", state="warning", detail=detail, remedy=remedy)
    return Finding(name="users", state="ok", detail=f"all of it runs as uid {os.geteuid()}")


def _claude(config: Config) -> Finding:
    """Whether the Messages API answers, with our key if there is one. The key is never shown."""
    if config.anthropic_api_key is None:
        return Finding(
            name="claude-*",
            state="warning",
            detail="no model key in this shell; replay and local work without one",
            remedy="export CORRAL_ANTHROPIC_API_KEY=... before corral serve",
        )
    import httpx2

    base_url = (config.anthropic_base_url or "https://api.anthropic.com").rstrip("/")
    headers = {"x-api-key": config.anthropic_api_key.reveal(), "anthropic-version": "2023-06-01"}
    try:
        answer = httpx2.get(
            f"{base_url}/v1/models", params={"limit": 1}, headers=headers, timeout=5 * CLI_CONNECT_SECONDS
        )
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        return Finding(
            name="claude-*",
            state="failed",
            detail=f"{base_url} cannot be reached ({type(error).__name__})",
            remedy="check CORRAL_ANTHROPIC_BASE_URL, the network, and HTTPS_PROXY",
        )
    if answer.status_code in (401, 403):
        return Finding(
            name="claude-*",
            state="failed",
            detail=f"{base_url} refuses the key ({answer.status_code})",
            remedy="check CORRAL_ANTHROPIC_API_KEY, or ANTHROPIC_API_KEY if that is unset",
        )
    return Finding(name="claude-*", state="ok", detail=f"{base_url} answers ({answer.status_code})")


def _local(config: Config) -> Finding:
    if config.local_model_path is not None:
        return Finding(name="local", state="ok", detail=str(config.local_model_path))
    if is_installed(directory_of(config)):
        return Finding(name="local", state="ok", detail=f"installed in {directory_of(config)}")
    remedy = "corral models install local (1.1 GB), if you want a model without a key"
    return Finding(name="local", state="warning", detail="not installed", remedy=remedy)


def _git(config: Config) -> Finding:
    """For sessions with repositories: it clones them, in sandboxes."""
    found = shutil.which("git", path=_GIT_PATH)
    if found is None:
        remedy = "install git (and CA certificates), if sessions are to have repositories"
        return Finding(name="git", state="warning", detail="not installed", remedy=remedy)
    said = subprocess.run(
        [found, "--version"], capture_output=True, text=True, timeout=10, check=False
    ).stdout
    version = tuple(int(number) for number in re.findall(r"\d+", said)[:2])
    hosts = ", ".join((*config.repository_hosts, *config.repository_private_hosts)) or "no host"
    if version < _GIT_MIN:
        remedy = (
            f"install git {'.'.join(map(str, _GIT_MIN))} or newer, if sessions are to have repositories"
        )
        return Finding(name="git", state="warning", detail=said.strip(), remedy=remedy)
    if "brain" in config.roles and "egress" not in config.roles:
        remedy = "add --role egress, if sessions are to have repositories, or packages"
        detail = "this node has no egress process, through which it would clone"
        return Finding(name="git", state="warning", detail=detail, remedy=remedy)
    return Finding(name="git", state="ok", detail=f"{said.strip()}, clones from {hosts}")
