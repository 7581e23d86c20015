"""Print the URLs that the package managers in here fetch from, one a line, as they themselves say.

Whoever made this machine may have pointed them at mirrors, so nothing is known of them beforehand. One that
is not here, or does not say, adds nothing.
"""

from __future__ import annotations

import glob
import re
import subprocess

_SECONDS = 20
_PIP = """
from pip._internal.commands.install import InstallCommand
from pip._internal.models.index import PyPI
options, _ = InstallCommand("install", "").parse_args([])
print(options.index_url, *options.extra_index_urls, sep="\\n")
if options.index_url == PyPI.simple_url:
    print("https://" + PyPI.file_storage_domain)
"""
_COMMANDS = (
    ["python3", "-c", _PIP],
    ["npm", "config", "get", "registry"],
    ["gem", "sources", "--list"],
    ["go", "env", "GOPROXY", "GOSUMDB"],
)
_APT = ("/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources")
_URL = re.compile(r"https?://[^\s,|]+")
_NAME = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")  # how go names its checksum database


def main() -> None:
    found: dict[str, None] = {}
    for command in _COMMANDS:
        for line in _said_by(command).splitlines():
            found.update(dict.fromkeys(_URL.findall(line)))
            if _NAME.fullmatch(line.strip()):
                found["https://" + line.strip()] = None
    for pattern in _APT:
        for path in sorted(glob.glob(pattern)):
            for line in _lines_of(path):
                found.update(dict.fromkeys(_URL.findall(line.partition("#")[0])))
    print("\n".join(found))


def _said_by(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _lines_of(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
