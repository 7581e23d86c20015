"""What the kernel offers beyond files and processes: namespaces, devices, and calls that are none of an
agent's business."""

from __future__ import annotations

import errno
import os
import socket
import stat

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.box import Box
from corral.redteam.inside.calls import call, number_of
from corral.redteam.inside.ends import Untried, Won
from corral.redteam.inside.means import Tries, calls, opens_for_writing, reads

_NAMESPACES = {
    "user": 0x10000000, "mount": 0x00020000, "network": 0x40000000, "pid": 0x20000000, "ipc": 0x08000000,
    "uts": 0x04000000, "cgroup": 0x02000000, "time": 0x00000080,
}  # fmt: skip
_DEVICES = (
    "mem", "kmem", "port", "kmsg", "sda", "vda", "nvme0n1", "dm-0", "kvm", "fuse", "net/tun", "vhost-vsock",
    "vhost-net", "loop-control", "mapper/control", "input/event0", "dri/card0", "snd/controlC0", "rtc0",
    "hpet", "cpu/0/msr", "userfaultfd", "uinput",
)  # fmt: skip


def _clones(flag: int) -> Tries:
    def tries(box: Box) -> None:
        pid = call("clone", flag | 17, 0, 0, 0, 0)  # SIGCHLD
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        raise Won("a process in a new namespace was made")

    return tries


def _clone3(box: Box) -> None:
    import ctypes

    arguments = (ctypes.c_uint64 * 11)(_NAMESPACES["user"], 0, 0, 0, 17)
    pid = call("clone3", arguments, ctypes.sizeof(arguments))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    raise Won("clone3 made a process in a new user namespace")


def _enters(of: str, kind: str) -> Tries:
    def tries(box: Box) -> None:
        pid = box.agent_pid if of == "agent" else box[f"{of}_pid"]
        try:
            fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:  # one's own is asked for instead: the call itself must be refused
            fd = os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        call("setns", fd, 0)
        raise Won(f"entered the {kind} namespace of {of}")

    return tries


def _same_namespace(kind: str) -> Tries:
    def tries(box: Box) -> None:
        ours = os.readlink(f"/proc/self/ns/{kind}")
        if ours == box["namespaces"].get(kind):
            raise Won(f"{ours} is the machine's")
        box.note(f"{ours} is not the machine's")

    return tries


def _socket(family: int, kind: int, protocol: int = 0) -> Tries:
    def tries(box: Box) -> None:
        fd = call("socket", family, kind, protocol)
        os.close(fd)
        raise Won(f"a socket of family {family}")

    return tries


def _makes_device(mode: int, major: int, minor: int) -> Tries:
    def tries(box: Box) -> None:
        path = os.path.join(os.getcwd(), ".redteam-device")
        call("mknodat", -100, path.encode(), mode | 0o600, os.makedev(major, minor))
        try:
            with open(path, "rb"):
                raise Won("a device was made, and opens")
        finally:
            os.unlink(path)

    return tries


def _foreign_architecture(box: Box) -> None:
    """getpid() by the 32-bit way in, whose numbers are others."""
    import ctypes
    import mmap
    import platform

    if platform.machine() != "x86_64":
        raise Untried("only x86_64 has another way in")
    code = bytes.fromhex("53b814000000cd805bc3")  # push rbx; mov eax,20; int 0x80; pop rbx; ret
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    result = function()
    if result == os.getpid():
        raise Won("calls of another architecture are answered")
    box.note(f"answered {result}")


def _x32(box: Box) -> None:
    """The third set of numbers of x86_64, past a filter that compares only numbers."""
    import platform

    if platform.machine() != "x86_64":
        raise Untried("only x86_64 has these")
    if call(0x40000000 | 39) == os.getpid():  # getpid
        raise Won("x32 calls are answered")


def _vsock(box: Box) -> None:
    with socket.socket(40, socket.SOCK_STREAM) as end:
        end.settimeout(2)
        try:
            end.connect((2, 1024))  # the hypervisor's side
        except TimeoutError:
            pass
        except OSError as error:
            raise Won(
                f"a socket to the hypervisor was made ({errno.errorcode.get(error.errno or 0)})"
            ) from None
        raise Won("the hypervisor was reached")


def _lists_devices(box: Box) -> None:
    strange = []
    harmless = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)}  # from null to ptmx
    for folder, _, names in os.walk("/dev"):
        for name in names:
            path = os.path.join(folder, name)
            try:
                found = os.stat(path)
            except OSError:
                continue
            which = (os.major(found.st_rdev), os.minor(found.st_rdev))
            is_device = stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)
            if is_device and which not in harmless and folder != "/dev/pts":
                try:
                    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
                except OSError:
                    continue
                strange.append(path)
    if strange:
        raise Won(", ".join(strange[:6]))
    box.note("none that is not harmless")


def _has_device(name: str) -> Tries:
    def tries(box: Box) -> None:
        if name not in box["devices"]:
            raise Untried(f"this machine has no /dev/{name}")
        os.close(os.open(f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        raise Won(f"/dev/{name} opens")

    return tries


def _shared_memory(box: Box) -> None:
    """System V's, by a key that somebody outside has used."""
    number = call("shmget", box["shared_memory_key"], 0, 0)
    raise Won(f"shared memory {number} of the machine")


def _filter(box: Box) -> None:
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        if "Seccomp:\t2" not in status.read():
            raise Won("there is no filter of system calls")
    box.note("there is a filter of system calls")


_CALLS = {  # name -> arguments that do no harm if they are taken: most point nowhere
    "perf_event_open": (0, 0, -1, -1, 0), "bpf": (0, 0, 0), "userfaultfd": (1,),
    "io_uring_setup": (1, 0), "kexec_load": (0, 99, 0, 0), "init_module": (0, 0, 0),
    "reboot": (0, 0, 0, 0), "swapon": (0, 0), "acct": (1,), "quotactl": (0, 0, 0, 0),
    "fanotify_init": (0, 0), "kcmp": (1, 1, 0, 0, 0), "personality": (0x0400000,), "settimeofday": (0, 0),
    "migrate_pages": (1, 0, 0, 0), "move_pages": (1, 0, 0, 0, 0, 0), "syslog": (3, 0, 0),
}  # fmt: skip


def _sets_hostname(box: Box) -> None:
    name = socket.gethostname().encode()
    call("sethostname", name, len(name))  # to what it is
    raise Won("the host's name can be set")


def _raw_io(name: str) -> Tries:
    def tries(box: Box) -> None:
        number_of(name)
        call(name, 0x80, 1, 1) if name == "ioperm" else call(name, 3)
        raise Won("ports of the machine are open")

    return tries


ATTEMPTS = {
    "namespaces": [
        *(
            Attempt(
                f"unshare-{kind}",
                f"makes a new {kind} namespace",
                calls("unshare", flag),
                is_of_kernel=True,
            )
            for kind, flag in _NAMESPACES.items()
        ),
        *(
            Attempt(
                f"clone-{kind}",
                f"starts a process in a new {kind} namespace",
                _clones(_NAMESPACES[kind]),
                is_of_kernel=True,
            )
            for kind in ("user", "mount", "network")
        ),
        Attempt(
            "clone3",
            "starts one by the newer call, whose flags a filter cannot read",
            _clone3,
            is_of_kernel=True,
        ),
        *(
            Attempt(
                f"enter-{of}-{kind}",
                f"enters the {kind} namespace of {of}",
                _enters(of, kind),
                is_of_kernel=True,
            )
            for of, kind in (
                ("agent", "mnt"),
                ("agent", "user"),
                ("hands", "mnt"),
                ("hands", "net"),
                ("victim", "pid"),
            )
        ),
        *(
            Attempt(f"shares-{kind}", f"is in the machine's {kind} namespace", _same_namespace(kind), wall)
            for kind, wall in (
                ("net", "network"),
                ("pid", "processes"),
                ("mnt", "paths"),
                ("ipc", "network"),
            )
        ),
        Attempt(
            "uid-map",
            "changes who its users are",
            opens_for_writing("/proc/1/uid_map"),
            is_of_kernel=True,
        ),
        Attempt(
            "more-namespaces",
            "raises the number of namespaces it may have",
            opens_for_writing("/proc/sys/user/max_user_namespaces"),
            is_of_kernel=True,
        ),
    ],
    "devices": [
        *(
            Attempt(name.replace("/", "-"), f"opens /dev/{name}", _has_device(name), is_of_kernel=True)
            for name in _DEVICES
        ),
        Attempt("make-disk", "makes a device of the first disk", _makes_device(stat.S_IFBLK, 8, 0)),
        Attempt("make-memory", "makes a device of the machine's memory", _makes_device(stat.S_IFCHR, 1, 1)),
        Attempt("strange", "finds a device that is not harmless", _lists_devices, is_of_kernel=True),
        Attempt("vsock", "reaches for the hypervisor", _vsock),
        Attempt("packets", "makes a socket for raw packets", _socket(17, 3, 0x0300)),
        Attempt("raw", "makes a raw socket", _socket(2, 3, 1)),
        Attempt("ciphers", "reaches the kernel's ciphers", _socket(38, 5), is_of_kernel=True),
        Attempt("bluetooth", "makes a socket for Bluetooth", _socket(31, 3, 1), is_of_kernel=True),
        Attempt("tipc", "makes a socket of a family that nobody uses", _socket(30, 2), is_of_kernel=True),
        Attempt("io-ports", "opens the ports of the machine", _raw_io("iopl")),
        Attempt("some-io-ports", "opens one port of the machine", _raw_io("ioperm")),
    ],
    "kernel": [
        *(
            Attempt(name.replace("_", "-"), f"calls {name}", calls(name, *arguments), is_of_kernel=True)
            for name, arguments in _CALLS.items()
        ),
        Attempt("filter", "finds no filter of system calls", _filter, is_of_kernel=True),
        Attempt(
            "foreign-architecture",
            "makes calls of another architecture",
            _foreign_architecture,
            is_of_kernel=True,
        ),
        Attempt("x32", "makes calls by a third set of numbers", _x32, is_of_kernel=True),
        Attempt("hostname", "sets the host's name", _sets_hostname, is_of_kernel=True),
        Attempt("shared-memory", "opens shared memory of the machine", _shared_memory),
        Attempt(
            "slabs",
            "reads how the kernel's memory is used",
            reads("/proc/slabinfo", mode="anything"),
            is_of_kernel=True,
        ),
    ],
}
