"""`corral models`: which names mean what, and the model that runs on this machine."""

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from corral.brain.models.local_install import QWEN, install, is_installed, models_dir
from corral.catalog.models import ModelTable
from corral.cli.outcome import Problem
from corral.cli.render import print_table
from corral.config import Config

__all__ = ["install_local", "list_models"]

XLLAMACPP = "xllamacpp==2026.10.11549"  # the extra `local` of pyproject.toml


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
        return "not installed: corral models install local"
    if pattern.startswith("replay"):
        return "plays recorded runs; needs no key"
    if pattern.startswith("claude"):
        return "ready" if config.anthropic_api_key else "no key: export CORRAL_ANTHROPIC_API_KEY=..."
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
