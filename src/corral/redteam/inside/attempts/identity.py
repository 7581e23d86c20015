"""Who one is: user ids, capabilities, setuid programs; and what the kernel keeps for users: keyrings."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.box import Box
from corral.redteam.inside.calls import call
from corral.redteam.inside.ends import Held, Untried, Won
from corral.redteam.inside.means import Tries, calls, output_of, reads, runs

_PR_GET_NO_NEW_PRIVS, _PR_CAPBSET_READ, _PR_SET_SECUREBITS, _PR_CAP_AMBIENT = 39, 23, 28, 47
_KEYCTL_GET_KEYRING_ID, _KEYCTL_SEARCH, _KEYCTL_DESCRIBE, _KEYCTL_JOIN = 0, 10, 6, 1
_SESSION_RING, _USER_RING, _USER_SESSION_RING = -3, -4, -5


def _becomes(name: str, *arguments: int) -> Tries:
    """A success that changes nothing (we are that already) is none."""

    def tries(box: Box) -> None:
        before = os.getresuid() + os.getresgid()
        try:
            call(name, *arguments)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise Held("there is no such user in here") from None
            raise
        after = os.getresuid() + os.getresgid()
        if after != before:
            raise Won(f"{before} became {after}")
        box.note("it was taken, and changed nothing")

    return tries


def _own_setuid_program(box: Box) -> None:
    program = os.path.join(os.getcwd(), ".redteam-suid")
    shutil.copy("/bin/sh", program)
    try:
        os.chmod(program, 0o6755)
        _, said = output_of(box, program, "-p", "-c", "id -u; id -g")
        found = set(said.split())
        if found - {str(os.getuid()).encode(), str(os.getgid()).encode()}:
            raise Won(f"it runs as {said!r}")
        box.note("it runs as we do")
    finally:
        with contextlib.suppress(OSError):
            os.unlink(program)


def _setuid_programs(box: Box) -> None:
    """Each one that the system has, asked for its version: its effective user is looked at."""
    found = []
    for folder in ("/usr/bin", "/usr/sbin", "/usr/lib/openssh", "/usr/lib/dbus-1.0", "/usr/libexec"):
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                with contextlib.suppress(OSError):
                    if entry.stat().st_mode & (stat.S_ISUID | stat.S_ISGID):
                        found.append(entry.path)
    if not found:
        raise Held("the system has none in reach")
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        if "NoNewPrivs:\t1" not in status.read() and not _is_nosuid():
            raise Won(f"{found[0]} would gain privileges")
    box.note(f"{len(found)} of them, which gain nothing: no new privileges")


def _is_nosuid() -> bool:
    return bool(os.statvfs("/usr").f_flag & os.ST_NOSUID)


def _new_privileges(box: Box) -> None:
    if call(_prctl(), _PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 and not _is_nosuid():
        raise Won("a program may gain privileges")
    box.note("no program may gain any, for ever")


def _prctl() -> int:
    import platform

    found = {"x86_64": 157, "aarch64": 167}.get(platform.machine())
    if found is None:
        raise Untried("prctl has no number here")
    return found


def _capabilities(which: str) -> Tries:
    def tries(box: Box) -> None:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            lines = dict(line.split(":\t") for line in status.read().splitlines() if line.startswith("Cap"))
        if int(lines[which], 16):
            raise Won(f"{which} is {lines[which]}")
        box.note("it has none")

    return tries


def _ambient(box: Box) -> None:
    call(_prctl(), _PR_CAP_AMBIENT, 2, 21, 0, 0)  # CAP_SYS_ADMIN
    raise Won("an ambient capability was raised")


def _securebits(box: Box) -> None:
    call(_prctl(), _PR_SET_SECUREBITS, 0x2F, 0, 0, 0)
    raise Won("they were changed")


def _all_capabilities(box: Box) -> None:
    import ctypes

    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
    call("capset", header, data)
    raise Won("all capabilities were taken")


def _is_root(box: Box) -> None:
    if os.getuid() == 0:
        raise Won("it is root inside")
    box.note(f"it is {os.getuid()}")


def _reads_ring(ring: int) -> Tries:
    def tries(box: Box) -> None:
        number = call("keyctl", _KEYCTL_GET_KEYRING_ID, ring, 0, 0, 0)
        raise Won(f"keyring {number}")

    return tries


def _su(box: Box) -> None:
    code, said = output_of(box, "su", "-c", "id -u", "root", seconds=4)
    if code == 0 and said.strip() == b"0":
        raise Won("su made us root")
    box.note(f"it ended with {code}: {said.decode(errors='replace').strip()[:100]}")


ATTEMPTS = {
    "setuid": [
        Attempt("setuid", "becomes root", _becomes("setuid", 0)),
        Attempt("setresuid", "becomes root, thoroughly", _becomes("setresuid", 0, 0, 0)),
        Attempt("setgid", "joins root's group", _becomes("setgid", 0)),
        Attempt("another-user", "becomes another user of the machine", _becomes("setuid", 1)),
        Attempt("setgroups", "takes other groups", calls("setgroups", 0, 0)),
        Attempt("is-root", "finds itself root", _is_root, "user"),
        Attempt("own-program", "runs a program of its own with the setuid bit", _own_setuid_program),
        Attempt(
            "system-programs",
            "gains something by the system's setuid programs",
            _setuid_programs,
            is_of_kernel=True,
        ),
        Attempt(
            "new-privileges",
            "asks whether programs may gain privileges",
            _new_privileges,
            is_of_kernel=True,
        ),
        Attempt("capset", "takes all capabilities", _all_capabilities),
        Attempt("ambient", "raises an ambient capability", _ambient),
        Attempt("securebits", "changes how root is treated", _securebits),
        Attempt("effective", "has capabilities", _capabilities("CapEff")),
        Attempt("permitted", "has capabilities in hand", _capabilities("CapPrm")),
        Attempt("bounding", "has capabilities in reach", _capabilities("CapBnd"), "user"),
        Attempt("su", "asks su", _su),
        Attempt("sudo", "asks sudo", runs("sudo", "-n", "id", "-u", shows="0\n")),
    ],
    "keyrings": [
        Attempt(
            "add",
            "adds a key",
            calls("add_key", b"user", b"redteam", b"x", 1, _SESSION_RING),
            is_of_kernel=True,
        ),
        Attempt(
            "request",
            "asks for a key of the machine",
            calls("request_key", b"user", b"corral", None, 0),
            is_of_kernel=True,
        ),
        Attempt(
            "session-ring", "opens the session's keyring", _reads_ring(_SESSION_RING), is_of_kernel=True
        ),
        Attempt("user-ring", "opens the user's keyring", _reads_ring(_USER_RING), is_of_kernel=True),
        Attempt(
            "user-session-ring",
            "opens the user's session keyring",
            _reads_ring(_USER_SESSION_RING),
            is_of_kernel=True,
        ),
        Attempt(
            "join",
            "joins another session keyring",
            calls("keyctl", _KEYCTL_JOIN, 0, 0, 0, 0),
            is_of_kernel=True,
        ),
        Attempt("listed", "lists the keys of the machine", reads("/proc/keys", mode="anything")),
        Attempt("counted", "counts the keys of other users", reads("/proc/key-users"), "kernel"),
    ],
}
