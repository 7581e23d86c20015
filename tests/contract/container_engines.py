"""Engines of containers for tests: the docker daemon that answers here, else one of our own; podman with a
storage of its own. Each says why it cannot be had."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.contract.ordinary_user import ORDINARY_UID

__all__ = ["NoEngine", "docker_environment", "podman_environment"]

_START_SECONDS = 60.0
_ASK_SECONDS = 60.0


class NoEngine(Exception):
    """This machine has none, and why."""


@contextlib.contextmanager
def docker_environment() -> Iterator[Mapping[str, str]]:
    """The variables by which its command finds a daemon; none for one that was there before.
    Raises NoEngine."""
    if shutil.which("docker") is None:
        raise NoEngine("there is no docker")
    if _answers({}):
        yield {}
    elif shutil.which("dockerd") is None or os.geteuid() != 0:
        raise NoEngine("no docker daemon answers, and none can be started: that needs dockerd, and root")
    else:
        with tempfile.TemporaryDirectory(prefix="corral-docker-", dir="/var/tmp") as root:
            Path(root).chmod(0o711)
            with _daemon(Path(root)) as address:
                yield {"DOCKER_HOST": address}


def _answers(environment: Mapping[str, str]) -> bool:
    words = ["docker", "info", "--format", "{{.ServerVersion}}"]
    done = subprocess.run(
        words, capture_output=True, timeout=_ASK_SECONDS, env={**os.environ, **environment}, check=False
    )
    return done.returncode == 0


@contextlib.contextmanager
def _daemon(root: Path) -> Iterator[str]:
    """A daemon that touches no network of this machine, and serves an ordinary user, too."""
    address = f"unix://{root}/docker.sock"
    places = [f"--{name}={root}/{name}" for name in ("data-root", "exec-root")]
    network = ["--iptables=false", "--bridge=none", "--ip-forward=false", "--ip-masq=false"]
    with (root / "log").open("w") as log:
        words = ["dockerd", "--host", address, f"--group={ORDINARY_UID}", f"--pidfile={root}/pid"]
        words += [*places, *network]
        daemon = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers({"DOCKER_HOST": address}):
            if daemon.poll() is not None or time.monotonic() > deadline:
                last = (root / "log").read_text().splitlines()[-3:]
                raise NoEngine(f"a docker daemon does not start here: {' '.join(last)}")
            time.sleep(0.1)
        yield address
    finally:
        daemon.send_signal(signal.SIGTERM)  # it ends its containers, and containerd
        daemon.wait(_START_SECONDS)


@contextlib.contextmanager
def podman_environment() -> Iterator[Mapping[str, str]]:
    """The variables that give it a storage and settings of its own. Raises NoEngine."""
    if shutil.which("podman") is None:
        raise NoEngine("there is no podman")
    if os.geteuid() != 0 and not _has_subordinate_uids():
        raise NoEngine("podman without root needs subordinate uids (/etc/subuid, newuidmap)")
    with tempfile.TemporaryDirectory(prefix="corral-podman-", dir="/var/tmp") as root:
        environment = _podman_settings(Path(root))
        try:
            yield environment
        finally:
            words = ["podman", "system", "reset", "--force"]
            subprocess.run(
                words,
                env={**os.environ, **environment},
                timeout=_ASK_SECONDS,
                capture_output=True,
                check=False,
            )


def _has_subordinate_uids() -> bool:
    words = ["podman", "unshare", "cat", "/proc/self/uid_map"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False)
    return sum(int(line.split()[2]) for line in done.stdout.splitlines()) > 1


def _podman_settings(root: Path) -> Mapping[str, str]:
    runtime = next(filter(shutil.which, ("runc", "crun")), "crun")  # crun refuses hybrid cgroups
    manager = "systemd" if Path("/run/systemd/system").is_dir() else "cgroupfs"
    (root / "containers.conf").write_text(
        f'[engine]\nruntime = "{runtime}"\ncgroup_manager = "{manager}"\nevents_logger = "file"\n'
        # or a reset would remove what all of this user's podmans know of their running containers
        f'tmp_dir = "{root}/tmp"\nlock_type = "file"\n'
    )
    driver = "overlay" if os.geteuid() == 0 else "vfs"  # the other needs a newer kernel, or a helper
    (root / "storage.conf").write_text(
        f'[storage]\ndriver = "{driver}"\ngraphroot = "{root}/graph"\nrunroot = "{root}/run"\n'
    )
    return {
        "CONTAINERS_CONF": str(root / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(root / "storage.conf"),
    }
