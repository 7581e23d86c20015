"""What processes are told, and what they are not."""

import os
import stat
from pathlib import Path

import pytest

from corral.config import Config, Secret
from corral.kernel.errors import Conflict
from corral.process import Start
from corral.supervisor.child import child_environment
from corral.supervisor.datadir import lock_data_dir, node_name, read_state, write_state

FULL = {
    "PATH": "/bin",
    "HOME": "/root",
    "ANTHROPIC_API_KEY": "canary",
    "CORRAL_API_KEY": "canary",
    "AWS_SECRET_ACCESS_KEY": "canary",
    "HTTPS_PROXY": "http://proxy",
    "LD_PRELOAD": "/evil.so",
    "DOCKER_HOST": "unix:///run/docker.sock",
}


def test_no_key_is_in_any_environment() -> None:
    assert child_environment("server", FULL) == {
        "PATH": "/bin",
        "HOME": "/root",
        "HTTPS_PROXY": "http://proxy",
        "PYTHONMALLOC": "malloc",  # what it frees is overwritten
        "MALLOC_PERTURB_": "165",
        "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
    }
    assert child_environment("hands", FULL) == {
        "PATH": "/bin",
        "HOME": "/root",
        "DOCKER_HOST": "unix:///run/docker.sock",
    }


def test_a_start_survives_the_pipe(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, anthropic_api_key=Secret("k"))
    start = Start(
        role="server", config=config, node="n", incarnation="i", local_key=Secret("l"), listen_fd=5
    )
    line = start.encode()
    assert line.count(b"\n") == 1
    assert Start.decode(line) == start
    with pytest.raises(ValueError, match="unknown role"):
        Start.decode(line.replace(b'"server"', b'"king"'))


def test_the_data_directory_has_one_holder_and_one_name(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    refused = pytest.raises(Conflict, match=f"served already, by pid {os.getpid()}")
    with lock_data_dir(directory), refused, lock_data_dir(directory):
        pass
    with lock_data_dir(directory):
        name = node_name(directory)
        assert name.startswith("node_")
        assert node_name(directory) == name


def test_the_state_file_is_private_and_of_the_living(tmp_path: Path) -> None:
    write_state(tmp_path, {"pid": os.getpid(), "local_key": "x"})
    write_state(tmp_path, {"pid": os.getpid(), "local_key": "y"})
    path = tmp_path / "supervisor.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_state(tmp_path) == {"pid": os.getpid(), "local_key": "y"}
    write_state(tmp_path, {"pid": 2**22 + 1})
    assert read_state(tmp_path) is None
    path.write_text("{")
    assert read_state(tmp_path) is None
