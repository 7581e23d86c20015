"""The system calls a sandbox may not make, as a classic BPF program for bwrap's --seccomp, or prctl; and as
a profile for engines of containers, which is the same by names.

Kill on a foreign architecture (its call numbers would slip through), ENOSYS for x32 and clone3 (libc falls
back to clone, whose flags can be read), EPERM for what reaches the kernel's wider surface, EAFNOSUPPORT for
sockets other than unix, inet and netlink: AF_VSOCK is not namespaced and leads to the hypervisor.

Where there are no namespaces, more is refused: every socket but pairs of AF_UNIX, System V's and POSIX's
shared objects, and all by which a process changes how another one of its user runs.
Source: docs/ARCHITECTURE.md; Linux include/uapi/linux/{seccomp,filter,audit}.h and the two syscall tables.
"""

import errno
import json
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from corral.hands.providers.binary import CannotWork

__all__ = ["seccomp_filter", "seccomp_profile"]

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT, _SECOND_ARGUMENT = (
    0,
    4,
    16,
    24,
)  # offsets in struct seccomp_data (both are little endian)
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_REFUSED: Final = _ERRNO | errno.EPERM
_X32_BIT = 0x40000000
_SELF = 0  # as a pid
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_FAMILIES: Final = (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK)
# NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; NEWTIME cannot be passed to clone
_CLONE_NEW_ANY: Final = (
    0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
)
_CLONE3: Final = 435
_DENIED_EVERYWHERE: Final = {  # one number on every architecture since Linux 5.0
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_getfd": 438, "mount_setattr": 442, "open_tree_attr": 467,
}  # fmt: skip
_SHARED_EVERYWHERE: Final = {"process_madvise": 440, "process_mrelease": 448}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Architecture:
    audit: int
    of_profiles: str
    clone: int
    socket: int
    socketpair: int
    has_x32: bool
    denied: dict[str, int]
    shared: dict[str, int]  # refused where there are no namespaces
    of_others: dict[str, int]  # likewise, if their first argument names another process
    setpriority: int


ARCHITECTURES: Final = {
    "x86_64": _Architecture(
        audit=0xC000003E, of_profiles="SCMP_ARCH_X86_64",
        clone=56, socket=41, socketpair=53, setpriority=141, has_x32=True,
        shared={
            "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "msgget": 68,
            "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "semtimedop": 220, "mq_open": 240, "mq_unlink": 241,
            "ioprio_set": 251, "truncate": 76,
        },
        of_others={
            "sched_setparam": 142, "sched_setscheduler": 144, "sched_setaffinity": 203, "prlimit64": 302,
            "sched_setattr": 314,
        },
        denied={
            "ptrace": 101, "syslog": 103, "personality": 135, "pivot_root": 155, "acct": 163, "mount": 165,
            "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "init_module": 175,
            "delete_module": 176, "quotactl": 179, "move_pages": 279, "migrate_pages": 256,
            "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
            "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
            "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
            "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
        },
    ),
    "aarch64": _Architecture(
        audit=0xC00000B7, of_profiles="SCMP_ARCH_AARCH64",
        clone=220, socket=198, socketpair=199, setpriority=140, has_x32=False,
        shared={
            "shmget": 194, "shmat": 196, "shmctl": 195, "semget": 190, "semop": 193, "semctl": 191,
            "msgget": 186, "msgsnd": 189, "msgrcv": 188, "msgctl": 187, "semtimedop": 192, "mq_open": 180,
            "mq_unlink": 181, "ioprio_set": 30, "truncate": 45,
        },
        of_others={
            "sched_setparam": 118, "sched_setscheduler": 119, "sched_setaffinity": 122, "prlimit64": 261,
            "sched_setattr": 274,
        },
        denied={
            "ptrace": 117, "syslog": 116, "personality": 92, "pivot_root": 41, "acct": 89, "mount": 40,
            "umount2": 39, "swapon": 224, "swapoff": 225, "reboot": 142, "init_module": 105,
            "delete_module": 106, "quotactl": 60, "move_pages": 239, "migrate_pages": 238,
            "kexec_load": 104, "add_key": 217, "request_key": 218, "keyctl": 219, "unshare": 97,
            "perf_event_open": 241, "fanotify_init": 262, "name_to_handle_at": 264,
            "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271,
            "kcmp": 272, "finit_module": 273, "kexec_file_load": 294, "bpf": 280, "userfaultfd": 282,
        },
    ),
}  # fmt: skip


def seccomp_filter(machine: str | None = None, *, has_namespaces: bool = True) -> bytes:
    """The program for this machine: an array of struct sock_filter. Raises CannotWork."""
    arch = _architecture(machine)
    denied = {*arch.denied.values(), *_DENIED_EVERYWHERE.values()}
    families = list(_FAMILIES)
    if not has_namespaces:
        denied |= {*arch.shared.values(), *_SHARED_EVERYWHERE.values()}
        families = []
    program = [
        _statement(_LOAD, _ARCH),
        *_unless(_JUMP_EQUAL, arch.audit, _KILL_PROCESS),
        _statement(_LOAD, _NUMBER),
    ]
    if arch.has_x32:
        program += _if(_JUMP_AT_LEAST, _X32_BIT, _ERRNO | errno.ENOSYS)
    program += _if(_JUMP_EQUAL, _CLONE3, _ERRNO | errno.ENOSYS)
    for number in sorted(denied):
        program += _if(_JUMP_EQUAL, number, _REFUSED)
    program += _of(
        arch.clone, _statement(_LOAD, _FIRST_ARGUMENT), *_if(_JUMP_ANY_BIT, _CLONE_NEW_ANY, _REFUSED)
    )
    program += _of(arch.socket, *_only(families, _ERRNO | errno.EAFNOSUPPORT))
    program += _of(arch.socketpair, *_only([_AF_UNIX], _ERRNO | errno.EAFNOSUPPORT))
    if not has_namespaces:
        for number in arch.of_others.values():
            program += _of(number, *_only([_SELF], _REFUSED))
        # of this process, and not of a group or of the user
        program += _of(
            arch.setpriority, *_only([_SELF], _REFUSED, argument=_SECOND_ARGUMENT), *_only([0], _REFUSED)
        )
    return b"".join([*program, _statement(_RETURN, _ALLOW)])


def seccomp_profile(machine: str | None = None) -> str:
    """The same where there are namespaces, as JSON of the OCI. Foreign architectures and x32 are killed:
    the engines' library does that with what a profile does not name. Raises CannotWork.

    Source: the OCI runtime specification, config-linux.md#seccomp. Of several conditions of one rule all
    must hold, and each is of another argument: so one rule per value, of which one is enough.
    """
    arch = _architecture(machine)
    rules = [
        _rule([*arch.denied, *_DENIED_EVERYWHERE], errno.EPERM),
        _rule(["clone3"], errno.ENOSYS),
        *(
            _rule(["clone"], errno.EPERM, op="SCMP_CMP_MASKED_EQ", value=bit, valueTwo=bit)
            for bit in (1 << place for place in range(32))
            if bit & _CLONE_NEW_ANY
        ),
    ]
    for call, allowed in (("socket", _FAMILIES), ("socketpair", (_AF_UNIX,))):
        between = sorted({*range(max(allowed))} - {*allowed})
        rules += [_rule([call], errno.EAFNOSUPPORT, op="SCMP_CMP_EQ", value=family) for family in between]
        rules.append(_rule([call], errno.EAFNOSUPPORT, op="SCMP_CMP_GT", value=max(allowed)))
    return json.dumps(
        {"defaultAction": "SCMP_ACT_ALLOW", "architectures": [arch.of_profiles], "syscalls": rules}
    )


def _rule(names: Sequence[str], number: int, **condition: int | str) -> dict[str, object]:
    """condition: on the first argument."""
    args = [{"index": 0, **condition}] if condition else []
    return {"names": list(names), "action": "SCMP_ACT_ERRNO", "errnoRet": number, "args": args}


def _architecture(machine: str | None) -> _Architecture:
    name = machine or platform.machine()
    if name not in ARCHITECTURES:
        raise CannotWork(
            f"there is no system call filter for {name!r}",
            remedy=f"use a machine with one of {', '.join(ARCHITECTURES)}",
        )
    return ARCHITECTURES[name]


def _of(number: int, *tests: bytes) -> list[bytes]:
    """Tests of one call alone. They may leave anything in the accumulator; the number comes back."""
    return [_jump(_JUMP_EQUAL, number, 0, len(tests)), *tests, _statement(_LOAD, _NUMBER)]


def _only(values: Sequence[int], answer: int, *, argument: int = _FIRST_ARGUMENT) -> list[bytes]:
    """Answer unless an argument has one of these values."""
    last = len(values)
    tests = [_jump(_JUMP_EQUAL, value, last - i, 0) for i, value in enumerate(values)]
    return [_statement(_LOAD, argument), *tests, _statement(_RETURN, answer)]


def _statement(code: int, value: int) -> bytes:
    return struct.pack("<HBBI", code, 0, 0, value)


def _jump(code: int, value: int, skip_if_true: int, skip_if_false: int) -> bytes:
    return struct.pack("<HBBI", code, skip_if_true, skip_if_false, value)


def _if(code: int, value: int, answer: int) -> list[bytes]:
    return [_jump(code, value, 0, 1), _statement(_RETURN, answer)]


def _unless(code: int, value: int, answer: int) -> list[bytes]:
    return [_jump(code, value, 1, 0), _statement(_RETURN, answer)]
