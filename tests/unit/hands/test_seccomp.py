"""The filter, run by an interpreter of classic BPF and checked against the kernel's own tables."""

import errno
import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from corral.hands.providers.seccomp import (
    _DENIED_EVERYWHERE,
    _SHARED_EVERYWHERE,
    ARCHITECTURES,
    seccomp_filter,
    seccomp_profile,
)
from corral.kernel.errors import SandboxUnavailable

ALLOW, KILL = 0x7FFF0000, 0x80000000
NEWUSER, NEWNET = 0x10000000, 0x40000000
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def denied(code: int) -> int:
    return 0x00050000 | code


def answer(program: bytes, *, number: int, arch: int, argument: int = 0, second: int = 0) -> int:
    """What the kernel would do with this call."""
    data = struct.pack("<IIQ6Q", number, arch, 0, argument, second, 0, 0, 0, 0)
    steps = list(struct.iter_unpack("<HBBI", program))
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x06:
                return value
            case 0x15 | 0x35 | 0x45:
                is_true = {
                    0x15: accumulator == value,
                    0x35: accumulator >= value,
                    0x45: accumulator & value,
                }[code]
                at += if_true if is_true else if_false
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_every_call_gets_its_answer(machine: str) -> None:
    program, arch = seccomp_filter(machine), ARCHITECTURES[machine]
    refused = set(arch.denied.values()) | set(_DENIED_EVERYWHERE.values())
    for number in range(600):
        expected = denied(errno.EPERM) if number in refused else ALLOW
        if number == 435:
            expected = denied(errno.ENOSYS)
        if number not in (arch.socket, arch.socketpair):
            assert answer(program, number=number, arch=arch.audit) == expected, number
        assert answer(program, number=number, arch=0x40000003) == KILL
    for family in range(50):
        expected = ALLOW if family in (1, 2, 10, 16) else denied(errno.EAFNOSUPPORT)
        assert answer(program, number=arch.socket, arch=arch.audit, argument=family) == expected
        expected = ALLOW if family == 1 else denied(errno.EAFNOSUPPORT)
        assert answer(program, number=arch.socketpair, arch=arch.audit, argument=family) == expected
    for flags, expected in [
        (0x01200011, ALLOW),
        (0x3D0F00, ALLOW),
        (NEWUSER | 17, denied(1)),
        (NEWNET, denied(1)),
    ]:
        assert answer(program, number=arch.clone, arch=arch.audit, argument=flags) == expected
    if arch.has_x32:
        assert answer(program, number=0x40000000 | 1, arch=arch.audit) == denied(errno.ENOSYS)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_without_namespaces_more_is_refused(machine: str) -> None:
    program, arch = seccomp_filter(machine, has_namespaces=False), ARCHITECTURES[machine]

    def answered(number: int, argument: int = 0, second: int = 0) -> int:
        return answer(program, number=number, arch=arch.audit, argument=argument, second=second)

    for family in range(50):
        assert answered(arch.socket, family) == denied(errno.EAFNOSUPPORT)
        assert (answered(arch.socketpair, family) == ALLOW) == (family == 1)
    refused = {*arch.denied.values(), *_DENIED_EVERYWHERE.values()}
    refused |= {*arch.shared.values(), *_SHARED_EVERYWHERE.values()}
    assert {number for number in range(600) if answered(number) == denied(errno.EPERM)} == refused
    for number in arch.of_others.values():
        assert answered(number) == ALLOW
        assert answered(number, 1) == answered(number, os.getpid()) == denied(errno.EPERM)
    assert answered(arch.setpriority) == ALLOW
    for which, who in ((0, 1), (1, 0), (2, 0), (2, 1000)):
        assert answered(arch.setpriority, which, who) == denied(errno.EPERM)
    assert answered(arch.clone, NEWUSER | 17) == denied(errno.EPERM)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_numbers_are_the_kernels(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("no kernel headers here")
    text = HEADERS[machine].read_text()
    kernel = {
        name: int(number) for name, number in re.findall(r"#define __NR3?2?6?4?_?(\w+) (\d+)$", text, re.M)
    }
    arch = ARCHITECTURES[machine]
    ours = {**arch.denied, **arch.shared, **arch.of_others, **_DENIED_EVERYWHERE, **_SHARED_EVERYWHERE}
    ours |= {"clone": arch.clone, "clone3": 435, "socket": arch.socket, "socketpair": arch.socketpair}
    ours |= {"setpriority": arch.setpriority}
    known = {name: number for name, number in ours.items() if name in kernel}
    assert len(known) > 40
    assert {name: kernel[name] for name in known} == known


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(SandboxUnavailable, match="riscv64"):
        seccomp_filter("riscv64")


def answer_of_profile(profile: dict[str, Any], *, name: str, argument: int = 0) -> int:
    """What an engine's library makes of this call."""
    assert profile["defaultAction"] == "SCMP_ACT_ALLOW"
    for rule in profile["syscalls"]:
        if name in rule["names"]:
            met = {
                "SCMP_CMP_EQ": lambda value, _: argument == value,
                "SCMP_CMP_GT": lambda value, _: argument > value,
                "SCMP_CMP_MASKED_EQ": lambda mask, value: argument & mask == value,
            }
            if all(met[c["op"]](c["value"], c.get("valueTwo")) for c in rule["args"]):
                return denied(rule["errnoRet"])
    return ALLOW


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_a_profile_answers_as_the_filter_does(machine: str) -> None:
    profile, program = json.loads(seccomp_profile(machine)), seccomp_filter(machine)
    arch = ARCHITECTURES[machine]
    numbers = {
        **arch.denied,
        **arch.shared,
        **arch.of_others,
        **_DENIED_EVERYWHERE,
        "clone3": 435,
        "read": 0,
    }
    numbers |= {"clone": arch.clone, "socket": arch.socket, "socketpair": arch.socketpair}
    if machine == "aarch64":
        del numbers["read"]
    arguments = [*range(60), *(1 << place for place in range(32)), NEWUSER | NEWNET, 0x003D0F00, 0xFFFFFFFF]
    for name, number in numbers.items():
        for argument in arguments:
            expected = answer(program, number=number, arch=arch.audit, argument=argument)
            assert answer_of_profile(profile, name=name, argument=argument) == expected, (name, argument)
    assert len(profile["architectures"]) == 1, "any other is killed"
