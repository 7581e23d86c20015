"""Landlock as the kernel speaks it: what is handled, what is allowed beneath which path.

Source: Linux include/uapi/linux/landlock.h; the three calls have one number on every architecture.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_ALL_OF_ABI_1 = (1 << 13) - 1
_MAKES_DEVICES = 1 << 6 | 1 << 11
_BIND_AND_CONNECT_TCP = 0b11
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 0b01, 0b10
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

ABI_SCOPES = 6

_MODES = {
    "run": _EXECUTE | _READ_FILE | _READ_DIR,  # programs and libraries
    "read": _READ_FILE | _READ_DIR,
    "write": -1,  # all that is handled, but devices
    "device": _READ_FILE | _WRITE_FILE | _IOCTL_DEV,
}


def abi() -> int:
    """Which version of Landlock the kernel has; 0: none, or it is switched off."""
    return max(0, _call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG)))


def forbid_new_privileges() -> None:
    """Of this thread and all that comes of it, for ever. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs is refused")


def enclose(version: int) -> bool:
    """From now on signals of this process and its children reach nobody else; files stay as they are.

    Returns whether this kernel can do that. Raises OSError.
    """
    if version < ABI_SCOPES:
        return False
    _restrict(_ruleset(0, 0, _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS))
    return True


def confine(version: int, allowed: Iterable[tuple[str, str]]) -> None:
    """From now on this process and its children have only what is allowed: (path, mode of _MODES); paths
    that are not there are left out. Raises OSError."""
    handled = _ALL_OF_ABI_1
    handled |= _REFER if version >= 2 else 0
    handled |= _TRUNCATE if version >= 3 else 0
    handled |= _IOCTL_DEV if version >= 5 else 0
    network = _BIND_AND_CONNECT_TCP if version >= 4 else 0
    scopes = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if version >= ABI_SCOPES else 0
    rules = _ruleset(handled, network, scopes)
    for path, mode in allowed:
        with contextlib.suppress(FileNotFoundError):
            _allow(rules, path, _MODES[mode] & handled & ~_MAKES_DEVICES)
    _restrict(rules)


def _ruleset(files: int, network: int, scopes: int) -> int:
    # A kernel that does not know the later fields takes a longer structure if they are zero.
    attributes = struct.pack("<QQQ", files, network, scopes)
    return _checked(_call(_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)))


def _allow(rules: int, path: str, access: int) -> None:
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            access &= _OF_FILES
        rule = struct.pack("<Qi", access, beneath)
        _checked(
            _call(_ADD, ctypes.c_int(rules), ctypes.c_int(_RULE_PATH_BENEATH), rule, ctypes.c_uint32(0))
        )
    finally:
        os.close(beneath)


def _restrict(rules: int) -> None:
    try:
        _checked(_call(_RESTRICT, ctypes.c_int(rules), ctypes.c_uint32(0)))
    finally:
        os.close(rules)


def _call(number: int, *arguments: object) -> int:
    result: int = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *arguments)
    return result


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"landlock: {os.strerror(number)}")
    return result
