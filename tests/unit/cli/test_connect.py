"""Which server, which key."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from corral.cli.connect import find_server
from corral.cli.main import main
from corral.config import Config, Secret

LOCAL = "http://127.0.0.1:9999"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    state = {"pid": os.getpid(), "url": LOCAL, "local_key": "corral_local_x"}
    (tmp_path / "supervisor.json").write_text(json.dumps(state))
    return Config(data_dir=tmp_path)


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        (None, {}, (LOCAL, "corral_local_x")),
        (None, {"ANTHROPIC_API_KEY": "corral_mine"}, (LOCAL, "corral_mine")),
        (None, {"ANTHROPIC_API_KEY": "sk-model"}, (LOCAL, "corral_local_x")),
        (None, {"ANTHROPIC_BASE_URL": "http://box/"}, ("http://box", "")),
        (None, {"ANTHROPIC_BASE_URL": "http://box", "ANTHROPIC_API_KEY": "sk-model"}, ("http://box", "")),
        (None, {"ANTHROPIC_BASE_URL": "https://api.anthropic.com"}, (LOCAL, "corral_local_x")),
        ("http://x", {"ANTHROPIC_BASE_URL": "http://box"}, ("http://x", "")),
    ],
)
def test_url_and_key(
    config: Config, url: str | None, environ: dict[str, str], expected: tuple[str, str]
) -> None:
    server = find_server(config, url=url, environ=environ)
    assert (server.url, server.key) == expected


def test_a_named_data_directory_goes_before_the_environment_of_a_client(config: Config) -> None:
    environ = {"ANTHROPIC_BASE_URL": "http://box", "ANTHROPIC_API_KEY": "corral_of_the_box"}
    server = find_server(config, url=None, is_here=True, environ=environ)
    assert (server.url, server.key) == (LOCAL, "corral_local_x")


def test_a_preset_key_is_ours_whatever_it_looks_like(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, port=7, api_key=Secret("preset"))
    server = find_server(config, url=None, environ={"ANTHROPIC_API_KEY": "sk-model"})
    assert (server.url, server.key, server.data_dir) == ("http://127.0.0.1:7", "preset", None)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version"], 0, ""),
        (["serve", "--prot", "1"], 2, "--prot"),
        (["serve", "--host", "0.0.0.0"], 2, "--insecure-bind"),
        (["serve", "--port", "99999"], 2, "--port: 99999 is not a port"),
        (["nonsense"], 2, "nonsense"),
        (["run"], 2, "say what to do"),
        (["run", "x", "--agent", "a", "--model", "m"], 2, "give one of the two"),
        (["run", "x", "--session", "s", "--model", "m"], 2, "--session goes on"),
        (["run", "x", "--session", "s", "--ask"], 2, "--session goes on"),
        (["run", "x", "--apply"], 2, "--apply needs --workspace"),
        (["run", "x", "--workspace", "/nowhere"], 1, "there is no directory '/nowhere'"),
        (["run", "x", "--url", "http://127.0.0.1:1"], 3, "no Corral server answers at http://127.0.0.1:1"),
        (["run", "x", "--url", "box:8420"], 2, "'box:8420' is not a URL"),
        (["run", "x", "--data-dir", "d"], 2, "export CORRAL_ANTHROPIC_API_KEY"),
        (["run", "x", "--data-dir", "d", "--model", "gpt-4"], 2, "no model provider knows 'gpt-4'"),
        (["demo", "--model", "claude-sonnet-5-5"], 2, "export CORRAL_ANTHROPIC_API_KEY"),
        (["demo", "--model", "gpt-4"], 2, "no model provider knows 'gpt-4'"),
        (["sessions", "list", "--url", "http://127.0.0.1:1"], 3, "no Corral server answers"),
        (["status"], 3, "nothing is served"),
        (["models", "install", "gpt"], 2, "there is: local"),
    ],
)
def test_mistakes_are_one_line_and_a_code(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "CORRAL_API_KEY", "CORRAL_ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == "" or code == 0
    assert not list(tmp_path.iterdir())
