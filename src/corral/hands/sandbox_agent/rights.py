"""What the agent gives up before anything else runs, where the kernel is the sandbox's own and knows it as
root: that user, every capability, and system calls that no program needs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from collections.abc import Sequence
from typing import Any

_CLONE_NEWUSER = 0x10000000
_PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 22, 24, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES_MAX = 64
_INSTRUCTION_BYTES = 8
_STRANGER = 1  # any uid that is not ours


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def give_up(kept: Sequence[int], user: int, system_calls: str, address_bytes: int | None) -> None:
    """Become this user, in a user namespace in which there is no other; and put a filter of system calls
    on, in hexadecimal. Raises OSError: nothing may run in here then.

    kept: descriptors that are the agent's alone. gVisor lets everybody look at those of process 1, and open
    what they may: so they become a stranger's. address_bytes: of each process, where nothing else bounds
    its memory: gVisor knows no bound of data.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    outer = os.geteuid(), os.getegid()
    for fd in kept:
        os.fchmod(fd, 0)
        os.fchown(fd, _STRANGER, _STRANGER)
    os.chown("/dev", _STRANGER, _STRANGER)  # gVisor mounts it writable for its owner, whatever it is told
    if address_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (address_bytes, address_bytes))
    _must(libc.unshare(_CLONE_NEWUSER), "no user namespace can be made")
    with contextlib.suppress(OSError):  # gVisor has none; Linux insists on it, at the next step
        _write("setgroups", "deny")
    _write("uid_map", f"{user} {outer[0]} 1")
    _write("gid_map", f"{user} {outer[1]} 1")
    for capability in range(_CAPABILITIES_MAX):  # it says which one is the last
        if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            break
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _must(libc.capset(header, (ctypes.c_uint32 * 6)()), "capabilities stay")
    rules = bytes.fromhex(system_calls)
    program = ctypes.byref(_Program(len(rules) // _INSTRUCTION_BYTES, rules))
    _must(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "privileges can be gained")
    _must(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0), "no filter of system calls")


def _must(returned: Any, otherwise: str) -> None:
    if returned:
        raise OSError(ctypes.get_errno(), otherwise)


def _write(name: str, words: str) -> None:
    with open(f"/proc/self/{name}", "w", encoding="ascii") as f:
        f.write(words)
