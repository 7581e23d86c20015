"""`corral models`: which names mean what, and the model that runs on this machine."""

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from corral.brain.models.local_install import QWEN, install, is_installed, models_dir
from corral.catalog.models import ModelTable
from corral.cli.outcome import Exit, Problem
from corral.cli.render import print_table
from corral.config import Config

__all__ = ["check_model", "install_local", "is_recorded", "list_models"]

XLLAMACPP = "xllamacpp==2026.10.11549"  # the extra `local` of pyproject.toml
_NO_KEY = "no key in this shell: export CORRAL_ANTHROPIC_API_KEY=..."
_NOT_INSTALLED = "not installed: corral models install local"


def check_model(name: str, config: Config) -> None:
    """Before a server is started for a command: whether it could ask this model at all.

    Raises InvalidRequest for a name that no provider knows, Problem with what to do about a known one.
    """
    provider = ModelTable.packaged().extended(config.models).resolve(name).provider
    if provider == "anthropic" and config.anthropic_api_key is None:
        raise Problem(f"{name}: {_NO_KEY} (--model local needs none)", exit=Exit.USAGE)
    if name == "local" and config.local_model_path is None and not is_installed(directory_of(config)):
        raise Problem(f"{name}: {_NOT_INSTALLED}", exit=Exit.USAGE)


def is_recorded(model: str) -> bool:
    """Whether a recorded run is played, whatever is asked: it must be labelled wherever it is shown."""
    return model == "replay" or model.startswith("replay:")


def list_models(config: Config) -> None:
    """Name patterns and what is needed for each."""
    patterns = ModelTable.packaged().extended(config.models).patterns
    print_table(("models", "state"), [(pattern, _state(pattern, config)) for pattern in patterns])


def install_local(config: Config) -> Path:
    """Fetch, verify and assemble the model, and what runs it. Raises Problem, InstallFailed."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    directory = directory_of(config)
    _install_runtime()
    with Progress(
        TextColumn("{task.description:16}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    ) as bar:
        task = bar.add_task("starting", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        path = asyncio.run(install(directory, progress=show))
    print(f"{path}\nits SHA-256 is the expected one; try: corral demo --model local")
    return path


def directory_of(config: Config) -> Path:
    return config.models_dir or models_dir(os.environ)


def _state(pattern: str, config: Config) -> str:
    if pattern.startswith("local"):
        if config.local_model_path:
            return str(config.local_model_path)
        if is_installed(directory_of(config)) and importlib.util.find_spec("xllamacpp"):
            return f"installed ({QWEN.name}); small and fallible"
        return _NOT_INSTALLED
    if pattern.startswith("replay"):
        return "plays recorded runs; needs no key"
    if pattern.startswith("claude"):
        return "ready" if config.anthropic_api_key else _NO_KEY
    return "from your settings"


def _install_runtime() -> None:
    if importlib.util.find_spec("xllamacpp"):
        return
    print(f"installing {XLLAMACPP}, which runs the model")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-input",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    if subprocess.run([*command, XLLAMACPP], check=False).returncode != 0:
        raise Problem(f"pip could not install {XLLAMACPP} (its own words are above)")
