"""Registries of packages that tests start: files behind HTTPS and HTTP on this machine.

    with Registry.start(directory) as registry:
        registry.wheel("greet", "1.0", {"greet/__init__.py": "..."}, scripts={"greet": "greet:main"})
        registry.tarball("hello", "1.0.0", {"index.js": "..."}, scripts={"hello": "index.js"})
        registry.deb("ave", "1.0", {"usr/bin/ave": "..."}, postinst="...")
        registry.crate("salve", "1.0.0", {"src/lib.rs": "..."})

`registry.requests` is what came, in order, and `registry.authorizations` what was sent along.
"""

import base64
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from corral.testing.certificates import certificates
from corral.testing.web_server import WebServer

__all__ = ["Registry"]


@dataclass(kw_only=True)
class Registry:
    """config: a directory as the setting packages_config takes it."""

    authority: Path
    config: Path
    name: str = "localhost"
    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    authorizations: set[str] = field(default_factory=set)

    @classmethod
    @contextmanager
    def start(cls, directory: Path, *, name: str = "localhost") -> "Iterator[Registry]":
        """name: what it is called by, which somebody else makes resolve."""
        authority, chain, key = certificates(directory, name)
        registry = cls(authority=authority, config=directory / "config", name=name)
        server = _Server(_Handler, certificate=(chain, key))
        server.registry, registry.port = registry, server.port
        registry.config.mkdir()
        (registry.config / "pip.conf").write_text(f"[global]\nindex-url = {registry.url}/simple/\n")
        (registry.config / "apt").mkdir()
        # Nobody has signed it: apt is told to believe it.
        sources = f"deb [trusted=yes] {registry.url}/apt ./\n"
        (registry.config / "apt" / "sources.list").write_text(sources)
        (registry.config / "npmrc").write_text(f"registry={registry.url}/npm/\n")
        with server.running():
            yield registry

    @property
    def where(self) -> str:
        """As an entry of the setting packages_private_hosts."""
        return f"{self.name}:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{self.where}"

    def taken(self) -> list[str]:
        """What came since it was last asked."""
        came, self.requests[:] = list(self.requests), []
        return came

    def wheel(
        self,
        name: str,
        version: str,
        files: Mapping[str, str | bytes],
        *,
        scripts: Mapping[str, str] | None = None,
    ) -> None:
        """A wheel in the index of pip (PEP 503). files: whatever a wheel may hold, however hostile."""
        info, file = f"{name}-{version}.dist-info", f"{name}-{version}-py3-none-any.whl"
        entry_points = "".join(f"{script} = {target}\n" for script, target in (scripts or {}).items())
        every = {
            **files,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": f"[console_scripts]\n{entry_points}",
        }
        every[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*every, f"{info}/RECORD"])
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, content in every.items():
                archive.writestr(path, content)
        self.files[f"/files/{file}"] = packed.getvalue()
        self.files[f"/simple/{name}/"] = f'<a href="{self.url}/files/{file}">{file}</a>'.encode()

    def sdist(self, name: str, version: str, setup: str) -> None:
        """A source package whose setup.py is this program."""
        file = f"{name}-{version}.tar.gz"
        info = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        self.files[f"/files/{file}"] = _tar(
            {"setup.py": setup, "PKG-INFO": info}, below=f"{name}-{version}"
        )
        self.files[f"/simple/{name}/"] = f'<a href="{self.url}/files/{file}">{file}</a>'.encode()

    def tarball(
        self, name: str, version: str, files: Mapping[str, str], *, scripts: Mapping[str, str] | None = None
    ) -> None:
        """A package of npm. scripts: of the command line, and the file of each."""
        about: dict[str, Any] = {"name": name, "version": version, "bin": dict(scripts or {})}
        content = _tar({"package.json": json.dumps(about), **files}, below="package")
        path = f"/npm/{name}/-/{name}-{version}.tgz"
        digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
        about["dist"] = {"tarball": self.url + path, "integrity": f"sha512-{digest}"}
        self.files[path] = content
        listing = {"name": name, "dist-tags": {"latest": version}, "versions": {version: about}}
        self.files[f"/npm/{name}"] = json.dumps(listing).encode()

    def deb(self, name: str, version: str, files: Mapping[str, str], *, postinst: str = "") -> None:
        """A package in the one repository of apt. files: by path, without the first slash; executable."""
        with tempfile.TemporaryDirectory() as made:
            top = Path(made, "package")
            about = (
                f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Ada <a@example.com>\n"
            )
            control = {"DEBIAN/control": f"{about}Description: {name}\n"}
            scripts = {"DEBIAN/postinst": f"#!/bin/sh\nset -e\n{postinst}\n"} if postinst else {}
            for path, content in {**control, **scripts, **files}.items():
                (top / path).parent.mkdir(parents=True, exist_ok=True)
                (top / path).write_text(content)
                (top / path).chmod(0o644 if path == "DEBIAN/control" else 0o755)
            for folder in [top, *(path for path in top.rglob("*") if path.is_dir())]:
                folder.chmod(0o755)
            build = ["dpkg-deb", "--build", "--root-owner-group", str(top), f"{made}/{name}.deb"]
            subprocess.run(build, check=True, capture_output=True)
            content = Path(made, f"{name}.deb").read_bytes()
        self.files[f"/apt/./{name}.deb"] = content
        digest = hashlib.sha256(content).hexdigest()
        listed = f"{about}Filename: ./{name}.deb\nSize: {len(content)}\nSHA256: {digest}\n\n"
        self.files["/apt/./Packages"] = self.files.get("/apt/./Packages", b"") + listed.encode()

    def crate(self, name: str, version: str, files: Mapping[str, str]) -> None:
        """A crate of cargo, in the sparse index at `crates/`; of a name with four letters or more."""
        about = f'[package]\nname = "{name}"\nversion = "{version}"\nedition = "2021"\n'
        content = _tar({"Cargo.toml": about, **files}, below=f"{name}-{version}")
        listed = {
            "name": name,
            "vers": version,
            "deps": [],
            "features": {},
            "yanked": False,
            "cksum": hashlib.sha256(content).hexdigest(),
        }
        self.files["/crates/config.json"] = json.dumps({"dl": f"{self.url}/crates/dl"}).encode()
        self.files[f"/crates/{name[:2]}/{name[2:4]}/{name}"] = json.dumps(listed).encode() + b"\n"
        self.files[f"/crates/dl/{name}/{version}/download"] = content


def _tar(files: Mapping[str, str], *, below: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(f"{below}/{path}")
            member.size, member.mode = len(content.encode()), 0o755
            archive.addfile(member, io.BytesIO(content.encode()))
    return packed.getvalue()


class _Server(WebServer):
    registry: Registry


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        registry = self.server.registry
        registry.requests.append(self.path)
        if (authorization := self.headers.get("authorization")) is not None:
            registry.authorizations.add(authorization)
        content = registry.files.get(self.path.replace("%2f", "/"))
        self.send_response(404 if content is None else 200)
        body = content or b"no such file"
        kind = "text/html" if self.path.endswith("/") else "application/octet-stream"
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""
