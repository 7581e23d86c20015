"""What is printed once everything serves: it can be typed as it stands."""

import os
import sys
from pathlib import Path

import pytest

from corral.config import Config, Secret
from corral.supervisor.ready import our_command, ready_text

URL = "http://127.0.0.1:8420"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a .venv that we run from, and nothing of ours on the PATH."""
    program = tmp_path / ".venv" / "bin" / "corral"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_our_command_can_be_typed_here(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert our_command() == ".venv/bin/corral"
    monkeypatch.chdir(clone / ".venv" / "bin")
    assert our_command() == str(clone / ".venv" / "bin" / "corral")
    (clone / "bin").mkdir()
    (clone / "bin" / "corral").touch(mode=0o755)
    monkeypatch.chdir(clone)
    assert our_command() == ".venv/bin/corral", "the bare name means another program"
    monkeypatch.setenv("PATH", f"{clone}/.venv/bin{os.pathsep}{clone}/bin")
    assert our_command() == "corral"
    monkeypatch.setattr(sys, "prefix", "/nowhere")
    assert our_command() == "corral"


@pytest.mark.usefixtures("clone")
def test_every_line_copies_whole_and_names_the_data_directory(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path / "my data", anthropic_api_key=Secret("sk-canary"))
    lines = [line.strip() for line in ready_text(config, URL, Secret("corral_new")).splitlines()]
    assert f"export ANTHROPIC_BASE_URL={URL}" in lines
    assert "export ANTHROPIC_API_KEY=corral_new" in lines
    option = f"--data-dir '{tmp_path}/my data'"
    assert f'.venv/bin/corral run "what is in this directory?" --workspace . {option}' in lines
    assert "model key" not in " ".join(lines)
    again = ready_text(config, URL, None)
    assert f".venv/bin/corral keys create {option}" in again
    assert "canary" not in again


@pytest.mark.usefixtures("clone")
def test_without_a_model_key_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    said = ready_text(Config(data_dir=tmp_path / "corral"), URL, None)
    assert "no model key" in said
    assert "export CORRAL_ANTHROPIC_API_KEY=..." in said
    assert "--workspace . --model local\n" in said
