"""What runs package managers in a throw-away sandbox, on whatever Python is there, which may be an older
one: standard library only, and of ours nothing but the door.

One line on stdin, JSON: {"do": "install" | "pack", "bounds": {...}, ...}. It is no argument: those have a
bound, and everybody on the machine can read them. Places: PLACE, where the layer is made and where it will
be seen; /scratch; CONFIG, the operator's settings of package managers. Answers:

install  one line of JSON: {} or {"failed": manager, "missing": program or null, "said": its last words}
pack     the layer as a tar; exit code 3 if it has too many entries or bytes
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from typing import Any

from corral.confine.door import let_in

PLACE, SCRATCH, CONFIG = "/opt/corral/packages", "/scratch", "/run/corral/packages"
AUTHORITIES = "/run/corral/authorities.pem"
TOO_LARGE = 3
TAR_BLOCK = 512


class Failed(Exception):
    def __init__(self, manager: str, said: str = "", missing: str | None = None) -> None:
        super().__init__(manager)
        self.manager, self.said, self.missing = manager, said, missing


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    bounds = asked["bounds"]
    for limit, value in (
        (resource.RLIMIT_FSIZE, bounds["file_bytes"]),
        (resource.RLIMIT_CPU, bounds["cpu_seconds"]),
        (resource.RLIMIT_NPROC, bounds["processes"]),
        (resource.RLIMIT_DATA, bounds["memory_bytes"]),
        (resource.RLIMIT_NOFILE, bounds["open_files"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    if asked["do"] == "pack":
        pack(bounds)
    answer: dict[str, Any] = {}
    try:
        proxy = f"http://127.0.0.1:{let_in(asked['door'])}"
        for manager, packages in asked["packages"].items():
            MANAGERS[manager](packages, environment(proxy), bounds)
    except Failed as error:
        answer = {"failed": error.manager, "missing": error.missing, "said": error.said}
    print(json.dumps(answer))


def environment(proxy: str) -> dict[str, str]:
    """What every package manager gets, and what each of them reads of it."""
    home = SCRATCH + "/home"
    os.makedirs(home + "/temporary", exist_ok=True)
    proxies = {name: proxy for word in ("http_proxy", "https_proxy") for name in (word, word.upper())}
    return {
        "PATH": os.environ["PATH"],
        "HOME": home,
        "TMPDIR": home + "/temporary",
        "LANG": "C.UTF-8",
        "CI": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "SSL_CERT_FILE": AUTHORITIES,
        "CURL_CA_BUNDLE": AUTHORITIES,
        "REQUESTS_CA_BUNDLE": AUTHORITIES,
        **proxies,
    }


def run(manager: str, command: list[str], env: dict[str, str], bounds: dict[str, Any]) -> None:
    """Raises Failed with what it said last. It may say any amount: only the end is kept."""
    program = shutil.which(command[0], path=env["PATH"])
    if program is None:
        raise Failed(manager, missing=command[0])
    with open(SCRATCH + "/said", "w+b") as said:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=env["HOME"],
            check=False,
        )
        if done.returncode != 0:
            size = said.seek(0, os.SEEK_END)
            said.seek(max(0, size - bounds["said_bytes"]))
            raise Failed(manager, said.read().decode("utf-8", "replace") or f"exit {done.returncode}")


def place_of(manager: str) -> str:
    place = PLACE + "/" + manager
    os.makedirs(place, exist_ok=True)
    return place


def config(name: str) -> str:
    """The operator's file for a package manager; an empty one if there is none."""
    path = CONFIG + "/" + name
    return path if os.path.exists(path) else os.devnull


# -- package managers -----------------------------------------------------------------------------------


def cargo(packages: list[str], env: dict[str, str], bounds: dict[str, Any]) -> None:
    env.update(CARGO_HOME=SCRATCH + "/cargo", CARGO_HTTP_CAINFO=AUTHORITIES, CARGO_TERM_COLOR="never")
    os.makedirs(env["CARGO_HOME"], exist_ok=True)
    if config("cargo.toml") != os.devnull:
        shutil.copyfile(config("cargo.toml"), env["CARGO_HOME"] + "/config.toml")
    run("cargo", ["cargo", "install", "--root", place_of("cargo"), "--", *packages], env, bounds)


def gem(packages: list[str], env: dict[str, str], bounds: dict[str, Any]) -> None:
    env["GEMRC"] = config("gemrc")
    into = place_of("gem")
    options = ["--no-document", "--install-dir", into, "--bindir", into + "/bin"]
    run("gem", ["gem", "install", *options, *packages], env, bounds)


def go(packages: list[str], env: dict[str, str], bounds: dict[str, Any]) -> None:
    into = place_of("go") + "/bin"
    env.update(GOBIN=into, GOPATH=SCRATCH + "/go", GOCACHE=SCRATCH + "/go-build", GOENV=config("go.env"))
    for package in packages:
        run("go", ["go", "install", package if "@" in package else package + "@latest"], env, bounds)


def npm(packages: list[str], env: dict[str, str], bounds: dict[str, Any]) -> None:
    proxy = env["http_proxy"]
    settings = {
        "audit": "false",
        "cache": SCRATCH + "/npm",
        "cafile": AUTHORITIES,
        "fund": "false",
        "fetch_retries": "1",
        "fetch_retry_mintimeout": "1000",
        "globalconfig": SCRATCH + "/npmrc",  # there is none
        "https_proxy": proxy,
        "loglevel": "error",
        "prefix": place_of("npm"),
        "proxy": proxy,
        "update_notifier": "false",
        "userconfig": config("npmrc"),
    }
    env.update({"npm_config_" + name: value for name, value in settings.items()})
    env["NODE_EXTRA_CA_CERTS"] = AUTHORITIES
    run("npm", ["npm", "install", "--global", "--", *packages], env, bounds)


def pip(packages: list[str], env: dict[str, str], bounds: dict[str, Any]) -> None:
    into = place_of("pip")
    env.update(
        PIP_CERT=AUTHORITIES,
        PIP_CONFIG_FILE=config("pip.conf"),
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_NO_CACHE_DIR="1",
        PIP_NO_INPUT="1",
        PIP_PROGRESS_BAR="off",
        PIP_RETRIES="2",
    )
    # A Python of its own, which finds what is installed, and else what the system has. All that a package
    # needs is installed, so that another machine does not need to have the same.
    venv = ["-m", "venv", "--without-pip", "--system-site-packages", into]
    run("pip", [sys.executable, *venv], env, bounds)
    python = into + "/bin/python"
    if subprocess.run([python, "-c", "import pip"], env=env, capture_output=True, check=False).returncode:
        raise Failed("pip", missing="pip")
    run(
        "pip",
        [python, "-m", "pip", "install", "--quiet", "--ignore-installed", "--", *packages],
        env,
        bounds,
    )


MANAGERS = {"cargo": cargo, "gem": gem, "go": go, "npm": npm, "pip": pip}


# -- pack ---------------------------------------------------------------------------------------------


def pack(bounds: dict[str, Any]) -> None:
    size = count = 0
    todo = [PLACE]
    while todo:
        with os.scandir(todo.pop()) as found:
            for entry in found:
                seen = entry.stat(follow_symlinks=False)
                count += 1
                size += TAR_BLOCK * (1 + 2 * (len(entry.path) > 100))
                if stat.S_ISREG(seen.st_mode):
                    size += -(-seen.st_size // TAR_BLOCK) * TAR_BLOCK
                elif stat.S_ISDIR(seen.st_mode):
                    todo.append(entry.path)
                if count > bounds["entries"] or size > bounds["bytes"]:
                    sys.exit(TOO_LARGE)
    words = [
        "-cf",
        "-",
        "--format=gnu",
        "--numeric-owner",
        "--owner=1000",
        "--group=1000",
        "--hard-dereference",
    ]
    os.execvp("tar", ["tar", "-C", PLACE, *words, "."])
