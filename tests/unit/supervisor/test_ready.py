"""What is printed once everything serves: it can be typed as it stands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from corral.config import Config, Secret
from corral.supervisor.ready import our_command, ready_json, ready_text

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


@pytest.mark.usefixtures("clone")
def test_a_node_without_an_api_sends_nobody_to_itself(tmp_path: Path) -> None:
    postgres = Secret("postgresql://corral:canary@db/corral")
    config = Config(
        data_dir=tmp_path / "data", roles=("brain",), database_url=postgres, blob_url="file:///blobs"
    )
    said = ready_text(config, URL, None)
    assert "with the role brain" in said and "has no API" in said
    assert f".venv/bin/corral status --data-dir {tmp_path}/data" in said
    assert "keys create" not in said and "ANTHROPIC_BASE_URL" not in said and "canary" not in said
    assert json.loads(ready_json(config, URL, None))["roles"] == ["brain"]


@pytest.mark.usefixtures("clone")
def test_who_keeps_files_alone_on_a_shared_database_is_told(tmp_path: Path) -> None:
    postgres = Secret("postgresql://corral:canary@db/corral")
    assert "CORRAL_BLOB_URL" in ready_text(Config(data_dir=tmp_path, database_url=postgres), URL, None)
    for config in (
        Config(data_dir=tmp_path),
        Config(data_dir=tmp_path, database_url=postgres, blob_url="s3://b"),
    ):
        assert "CORRAL_BLOB_URL" not in ready_text(config, URL, None)


def test_a_spare_whose_supervisor_is_gone_ends_quietly() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "corral.app", "hands"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    assert (ended.stdout, ended.stderr) == (b"", b"")
