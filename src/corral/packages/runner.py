"""What runs package managers in a throw-away sandbox, on whatever Python is there, which may be an older
one: standard library only, and of ours nothing but the door.

One line on stdin, JSON: {"do": one of these, "bounds": {...}, ...}. It is no argument: those have a bound,
and everybody on the machine can read them. Places: PLACE, where the layer is made and where it will be
seen; /scratch; CONFIG, the operator's settings of package managers. Answers:

install  one line of JSON: {} or {"failed": manager, "missing": program or null, "said": its last words}
fetch    the same: packages of apt are fetched, and the places that they go to are prepared
unpack   the same: they are installed, as root of an overlay over the system, without a way out
pack     the layer as a tar; exit code 3 if it has too many entries or bytes
look     one line of JSON: {manager: the program that it would need and is not there}
"""

from __future__ import annotations

import filecmp
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
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
        try:
            pack(bounds)
        except OSError:
            sys.exit(1)
    if asked["do"] == "look":
        print(json.dumps(look()))
        return
    answer: dict[str, Any] = {}
    manager = "apt"
    try:
        env = environment(f"http://127.0.0.1:{let_in(asked['door'])}" if asked["door"] else "")
        if asked["do"] == "fetch":
            fetch(asked["packages"], env, bounds)
        elif asked["do"] == "unpack":
            unpack(asked["packages"], env, bounds)
        else:
            for manager, packages in asked["packages"].items():
                MANAGERS[manager](packages, dict(env), bounds)
    except Failed as error:
        answer = {"failed": error.manager, "missing": error.missing, "said": error.said}
    except (OSError, EOFError, tarfile.TarError) as error:  # what is there is not what was expected
        answer = {"failed": manager, "missing": None, "said": str(error)[-bounds["said_bytes"] :]}
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
    into = place_of("gem")
    options = ["--no-document", "--install-dir", into, "--bindir", into + "/bin"]
    options += ["--norc"] if config("gemrc") == os.devnull else ["--config-file", config("gemrc")]
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
    run("pip", [own_python(), *venv], env, bounds)
    python = into + "/bin/python"
    if subprocess.run([python, "-c", "import pip"], env=env, capture_output=True, check=False).returncode:
        raise Failed("pip", missing="pip")
    run(
        "pip",
        [python, "-m", "pip", "install", "--quiet", "--ignore-installed", "--", *packages],
        env,
        bounds,
    )


def own_python() -> str:
    """Ours, if that is the system's, or there is none: not one that was brought along."""
    return "python3" if sys.executable.startswith("/run/") else sys.executable


def look() -> dict[str, str]:
    programs = {manager: manager for manager in MANAGERS} | {"apt": "apt-get", "pip": own_python()}
    missing = {manager: program for manager, program in programs.items() if shutil.which(program) is None}
    if "pip" not in missing:
        has_pip = subprocess.run([own_python(), "-c", "import pip, venv"], capture_output=True, check=False)
        missing |= {} if has_pip.returncode == 0 else {"pip": "pip"}
    return missing


MANAGERS = {"cargo": cargo, "gem": gem, "go": go, "npm": npm, "pip": pip}


# -- packages of the system -----------------------------------------------------------------------------
# What of the system is not in the upper tree of the overlay can be replaced or removed, but not changed,
# and directories not be written in: to copy it up, its owner would have to be known in there. So what
# packages need is put there beforehand.

ADMIN, BASE = "/var/lib/dpkg", "/run/corral/dpkg"
DEPTH = 3  # of the system's own directories; what packages bring goes deeper
FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
# Whoever a file of a package belongs to: there is one user in there.
USERS = "root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc _apt nobody"
GROUPS = (
    "root daemon bin sys adm tty disk lp mail news uucp man proxy kmem dialout fax voice cdrom floppy tape"
    " sudo audio dip www-data backup operator list irc src shadow utmp video sasl plugdev staff games users"
    " crontab ssh messagebus nogroup"
)
# Of /etc: what was made up, or is the sandbox's own.
OWN = frozenset(
    (
        "apt",
        "group",
        "group-",
        "gshadow",
        "hosts",
        "nsswitch.conf",
        "passwd",
        "passwd-",
        "resolv.conf",
        "shadow",
    )
)
SERVICES = "/usr/sbin/policy-rc.d"


def apt(words: list[str], env: dict[str, str], bounds: dict[str, Any]) -> None:
    state = SCRATCH + "/apt"
    settings = {
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Pipeline-Depth": "0",
        "Acquire::https::CaInfo": AUTHORITIES,
        "APT::Get::Assume-Yes": "true",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
        "Debug::NoLocking": "true",
        "Dir::Cache": state + "/cache",
        "Dir::Log": state + "/log",
        "Dir::State": state + "/state",
        "Dir::State::status": ADMIN + "/status",
        "DPkg::Options::": "--force-confold,unsafe-io",
        "Dpkg::Use-Pty": "0",
    }
    options = [word for name, value in settings.items() for word in ("-o", name + "=" + value)]
    run("apt", ["apt-get", "-qq", *options, *words], env, bounds)


def fetch(packages: list[str], env: dict[str, str], bounds: dict[str, Any]) -> None:
    state = SCRATCH + "/apt"
    for folder in ("cache/archives/partial", "log", "state/lists/partial"):
        os.makedirs(state + "/" + folder)
    apt(["update"], env, bounds)
    apt(["install", "--download-only", "--", *packages], env, bounds)
    upper, archives = PLACE + "/apt", state + "/cache/archives/"
    for folder in directories("/usr", DEPTH):
        os.makedirs(upper + folder, exist_ok=True)
    for name in sorted(os.listdir(archives)):
        for path in paths_of(archives + name) if name.endswith(".deb") else ():
            if os.path.isdir(path) and not os.path.islink(path):
                os.makedirs(upper + path, exist_ok=True)
            elif os.path.lexists(path):  # of an older version, which gets a second name for a while
                os.makedirs(os.path.dirname(upper + path), exist_ok=True)
                shutil.copy2(path, upper + path, follow_symlinks=False)
    shutil.copytree("/etc", upper + "/etc", symlinks=True, ignore=closed)
    for folder in ("cache", "lib", "log", "tmp"):
        os.makedirs(upper + "/var/" + folder)
    os.makedirs(SCRATCH + "/overlay")


def closed(folder: str, names: list[str]) -> list[str]:
    """What its owner alone may read."""
    paths = [(name, folder + "/" + name) for name in names]
    return [name for name, path in paths if not os.path.islink(path) and not is_open(path)]


def is_open(path: str) -> bool:
    return os.access(path, os.R_OK | (os.X_OK if os.path.isdir(path) else 0))


def directories(top: str, depth: int) -> Iterator[str]:
    yield top
    if depth > 0:
        with os.scandir(top) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    yield from directories(entry.path, depth - 1)


def paths_of(package: str) -> Iterator[str]:
    """What of the system it has, as it is called there."""
    unpacking = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    with unpacking, tarfile.open(fileobj=unpacking.stdout, mode="r|") as members:
        for member in members:
            parts = os.path.normpath(member.name).split("/")
            if parts[0] in FOLDERS and ".." not in parts:
                yield "/" + "/".join(parts if parts[0] == "usr" else ["usr", *parts])


def unpack(packages: list[str], env: dict[str, str], bounds: dict[str, Any]) -> None:
    shutil.copytree(BASE, ADMIN, symlinks=True, ignore=shutil.ignore_patterns("*.md5sums", "lock*", "Lock"))
    for path, content in (
        (ADMIN + "/statoverride", ""),  # it may name users who are not there
        ("/etc/passwd", "".join(name + ":x:0:0::/root:/bin/sh\n" for name in USERS.split())),
        ("/etc/group", "".join(name + ":x:0:\n" for name in GROUPS.split())),
        (SERVICES, "#!/bin/sh\nexit 101\n"),  # none is started
    ):
        with open(path + ".new", "w") as file:
            file.write(content)
        os.chmod(path + ".new", 0o755)
        os.rename(path + ".new", path)  # also over one of the system
    env.update(
        PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        DEBIAN_FRONTEND="noninteractive",
        LC_ALL="C.UTF-8",
    )
    apt(["install", "--no-download", "--", *packages], env, bounds)


# -- pack ---------------------------------------------------------------------------------------------


def pack(bounds: dict[str, Any]) -> None:
    if os.path.isdir(PLACE + "/apt") and not os.path.islink(PLACE + "/apt"):
        forget_system(PLACE + "/apt")
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


def forget_system(top: str) -> None:
    """What was there only while packages of the system were installed."""
    for name in os.listdir(top + "/etc"):
        if name in OWN or is_same(top + "/etc/" + name, "/etc/" + name):
            remove(top + "/etc/" + name)
    for name in os.listdir(top + "/var"):
        if name != "lib":
            remove(top + "/var/" + name)
    for name in ("apt", "dpkg"):
        remove(top + "/var/lib/" + name)
    remove(top + SERVICES)
    for folder, _, names in os.walk(top + "/usr", topdown=False):
        for name in names:
            if stat.S_ISCHR(os.lstat(folder + "/" + name).st_mode):  # says that the system's is gone
                os.unlink(folder + "/" + name)
        if not os.listdir(folder):
            os.rmdir(folder)


def is_same(path: str, other: str) -> bool:
    if os.path.islink(path) or os.path.islink(other):
        return os.path.islink(path) and os.path.islink(other) and os.readlink(path) == os.readlink(other)
    if os.path.isdir(path) and os.path.isdir(other):
        names = os.listdir(path)
        return sorted(names) == sorted(os.listdir(other)) and all(
            is_same(path + "/" + name, other + "/" + name) for name in names
        )
    return os.path.isfile(path) and os.path.isfile(other) and filecmp.cmp(path, other, shallow=False)


def remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
