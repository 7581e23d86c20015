"""System calls by name, past the C library, which has no function for some and opinions about others."""

from __future__ import annotations

import ctypes
import os
import platform

from corral.redteam.inside.ends import Untried

_X86 = {
    "socket": 41, "shmget": 29, "shmat": 30, "msgget": 68, "semget": 64, "ptrace": 101, "syslog": 103,
    "setuid": 105, "setgid": 106, "setresuid": 117, "setgroups": 116, "capset": 126, "personality": 135,
    "pivot_root": 155, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166,
    "swapon": 167, "reboot": 169, "sethostname": 170, "iopl": 172, "ioperm": 173, "init_module": 175,
    "quotactl": 179, "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256,
    "mknodat": 259, "unshare": 272, "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300,
    "prlimit64": 302,
    "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "bpf": 321, "userfaultfd": 323, "kexec_load": 246,
    "mq_open": 240, "clone": 56, "ioprio_set": 251, "lookup_dcookie": 212, "modify_ldt": 154,
}  # fmt: skip
_ARM = {
    "socket": 198, "shmget": 194, "shmat": 196, "msgget": 186, "semget": 190, "ptrace": 117, "syslog": 116,
    "setuid": 146, "setgid": 144, "setresuid": 147, "setgroups": 159, "capset": 91, "personality": 92,
    "pivot_root": 41, "chroot": 51, "acct": 89, "settimeofday": 170, "mount": 40, "umount2": 39,
    "swapon": 224, "reboot": 142, "sethostname": 161, "init_module": 105,
    "quotactl": 60, "add_key": 217, "request_key": 218, "keyctl": 219, "migrate_pages": 238, "mknodat": 33,
    "unshare": 97, "move_pages": 239, "perf_event_open": 241, "fanotify_init": 262, "prlimit64": 261,
    "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270,
    "process_vm_writev": 271, "kcmp": 272, "bpf": 280, "userfaultfd": 282, "kexec_load": 104,
    "mq_open": 180, "clone": 220, "ioprio_set": 30, "lookup_dcookie": 18,
}  # fmt: skip
_EVERYWHERE = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsmount": 432, "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438, "mount_setattr": 442,
    "process_madvise": 440, "memfd_secret": 447, "quotactl_fd": 443,
}  # fmt: skip
_NUMBERS = {"x86_64": {**_X86, **_EVERYWHERE}, "aarch64": {**_ARM, **_EVERYWHERE}}


def number_of(name: str) -> int:
    """Raises Untried where this machine has no such call."""
    try:
        return _NUMBERS[platform.machine()][name]
    except KeyError:
        raise Untried(f"{platform.machine()} has no call {name}") from None


def call(name: str | int, *arguments: object) -> int:
    """What it returns. Raises OSError, Untried."""
    number = name if isinstance(name, int) else number_of(name)
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *wide))
    if result < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
    return result
