"""The walls of a sandbox: what runs inside sees, reaches and takes no more than it is given. A part of
`corral.testing.contract_provider`, which every provider is held to.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Mapping
from pathlib import Path

from corral.catalog.sandbox import SANDBOX
from corral.hands.ports import Sandbox, SandboxLost
from corral.kernel.limits import (
    BASH_OUTPUT_BYTES_MAX,
    SANDBOX_FILE_BYTES_MAX,
    SANDBOX_OPEN_FILES_MAX,
    SANDBOX_PROCESSES_MAX,
    SPILL_BYTES_MAX,
    TOOL_PREVIEW_CHARS,
)
from corral.session.call import INTERRUPTED, Recipe
from corral.session.content import Json, ToolResult
from corral.testing.lab import (
    Lab,
    new_mark,
    new_session_name,
    pids_of,
    process_count,
    processor_seconds,
    text_of,
    until,
)

__all__ = ["IsolationContract"]


class IsolationContract:
    """As `ProviderContract`."""

    async def test_the_host_cannot_be_seen(self, lab: Lab) -> None:
        secret = secrets.token_hex(8)
        os.environ["CORRAL_TEST_SECRET"] = secret
        try:
            other = await lab.sandbox("sesn_other")
            await lab.bash(other, f"echo {secret} > mine")
            box = await lab.sandbox()
        finally:
            del os.environ["CORRAL_TEST_SECRET"]
        outside = ["/home", "/etc/shadow", "/sys/kernel", "/var/log", str(lab.root), str(Path.cwd())]
        for path in [*outside, "/root", "/var/lib"]:
            await lab.fails(box, f"ls {path}/. || cat {path}")
            if lab.provider.capabilities.holds("names"):
                await lab.fails(box, f"ls -d {path}")
        theirs = lab.provider.place(await lab.workspace("sesn_other"), "outputs").parent / "files" / "mine"
        await lab.fails(box, f"cat {theirs}")
        await lab.fails(box, f"echo x >> {theirs}")
        await lab.fails(box, f"truncate -s 0 {theirs}")
        own = " ".join(map(lab.seen, ("/workspace", "/mnt/session/outputs")))
        found = f"grep -rl {secret} /proc/*/environ ~ {own} /run /etc 2>/dev/null"
        assert await lab.fails(box, found) == "(no output)"
        if lab.provider.capabilities.holds("paths"):  # then /etc is our own, too
            users = await lab.bash(box, "cut -d: -f1 /etc/passwd | sort | xargs; id -un; id -gn; hostname")
            assert users == "agent root\nagent\nagent\ncorral"

    async def test_no_descriptor_of_ours_is_inherited(self, lab: Lab) -> None:
        box = await lab.sandbox()
        look = "import os; print(*sorted(map(int, os.listdir('/proc/self/fd'))))"
        assert await lab.bash(box, f'python3 -c "{look}"') == "0 1 2 3"  # 3: of the look itself

    async def test_only_own_processes_are_seen(self, lab: Lab) -> None:
        box, other, mark = await lab.sandbox(), await lab.sandbox("sesn_other"), new_mark()
        await lab.bash(other, f"sleep {mark} &")
        if not lab.provider.capabilities.holds("processes"):
            return
        pids = [int(pid) for pid in (await lab.bash(box, "cd /proc; echo [0-9]*; cd")).split()]
        assert len(pids) < 6
        assert mark not in await lab.bash(box, "cat /proc/*/cmdline | tr '\\0' ' '")

    async def test_no_process_outside_hears_a_signal(self, lab: Lab) -> None:
        """Neither ours, nor one of another sandbox."""
        if not lab.provider.capabilities.holds("signals"):
            return
        box, other, mark = await lab.sandbox(), await lab.sandbox("sesn_other"), new_mark()
        running = await lab.started(other, call := lab.call("bash", command=f"sleep {mark}"), mark)
        for pid in [os.getpid(), *pids_of(mark)]:
            await lab.fails(box, f"kill -9 {pid} || kill -9 -{pid}")
        # all that it can reach, which may be itself
        await asyncio.gather(
            box.run(lab.call("bash", command="kill -HUP -1; kill -9 -1")), return_exceptions=True
        )
        assert await lab.runs(other, mark) and not running.done()
        await other.cancel(call.call_id)
        await running

    async def test_there_is_no_network(self, lab: Lab) -> None:
        box = await lab.sandbox()
        if lab.provider.capabilities.holds("network"):
            devices = await lab.bash(box, "tail -n +3 /proc/net/dev | cut -d: -f1 | xargs")
            assert devices in ("lo", "(no output)")
        connect = "import socket; socket.create_connection(({!r}, {}), 2)"
        await lab.fails(box, f'python3 -c "{connect.format("192.0.2.1", 80)}"')
        heard: list[str] = []

        def hear(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.append("a connection")
            writer.close()

        server = await asyncio.start_server(hear, "127.0.0.1", 0)
        local = await asyncio.start_unix_server(hear, abstract := f"\0corral-{secrets.token_hex(8)}")
        async with server, local:
            port = server.sockets[0].getsockname()[1]
            await lab.fails(box, f'python3 -c "{connect.format("127.0.0.1", port)}"')
            unix = f"import socket; socket.socket(socket.AF_UNIX).connect(chr(0) + {abstract[1:]!r})"
            await lab.fails(box, f'python3 -c "{unix}"')
        assert not heard
        for family, kind in ((17, 3), (38, 5), (40, 1)):  # packets, the kernel's ciphers, the hypervisor
            await lab.fails(box, f"python3 -c 'import socket; socket.socket({family}, {kind})'")
        pair = "import socket; a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))"
        assert await lab.bash(box, f'python3 -c "{pair}"') == "b'x'"

    async def test_privileges_cannot_be_gained(self, lab: Lab) -> None:
        box = await lab.sandbox()
        for attempt in [
            "unshare -U true", "unshare -m true", "unshare -n true", "mount -t tmpfs x /tmp",
            "mount -t proc proc /proc", "chroot / true", "su -c true", "setpriv --reuid=0 true",
            "echo 1 > /proc/sys/kernel/core_pattern", "echo x > /proc/sysrq-trigger",
            "touch /usr/bin/x", "touch /x", "mknod d b 8 0", *_looks_at_the_agent(lab), "cat /proc/1/mem",
            "nsenter -t 1 -a true",
            "python3 -c 'import ctypes; raise SystemExit(ctypes.CDLL(None).ptrace(16, 1, 0, 0) != 0)'",
            "python3 -c 'import ctypes; raise SystemExit(ctypes.CDLL(None).syscall(435, 0, 0) < 0)'",
        ]:  # fmt: skip
            await lab.fails(box, attempt)
        status = await lab.bash(
            box, "grep -E 'CapEff|CapPrm|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | xargs"
        )
        found = dict(zip(status.split()[::2], status.split()[1::2], strict=True))
        assert found["CapEff:"] == found["CapPrm:"] == "0" * 16, found
        if lab.provider.capabilities.holds(
            "user"
        ):  # else it may be full, and "no new privileges" empties it
            assert found["CapBnd:"] == "0" * 16
        if "kernel" in lab.provider.capabilities.gaps:
            assert (found["NoNewPrivs:"], found["Seccomp:"]) == ("1", "2")
        setuid = "cp /bin/bash s; chmod u+s s; ./s -p -c 'id -u'; id -u"
        assert len(set((await lab.bash(box, setuid)).split())) == 1

    async def test_killing_everything_inside_is_survived_or_reported(self, lab: Lab) -> None:
        """`kill -9 -1` takes the shell; the sandbox goes on or is lost, and never hangs."""
        box = await lab.sandbox()
        await lab.bash(box, "echo kept > a")
        results = await asyncio.gather(
            box.run(lab.call("bash", command="kill -9 1 -1 $$; sleep 1; echo here", timeout_ms=5000)),
            return_exceptions=True,
        )
        if isinstance(results[0], SandboxLost):
            box = await lab.sandbox()
        else:
            assert isinstance(results[0], ToolResult) and results[0].is_error
            await box.run(lab.call("bash", restart=True))
        assert await lab.bash(box, "cat a") == "kept"

    async def test_planted_links_lead_nowhere(self, lab: Lab) -> None:
        """CVE-2026-87766: links where a later start might make mount points."""
        outside = lab.root.parent / "target"
        outside.mkdir(mode=0o777)
        outside.chmod(0o777)
        box = await lab.sandbox()
        names = "mnt tmp proc dev usr etc run session outputs tool-outputs skills workspace"
        for place in map(lab.seen, ["/workspace", "/mnt/session/outputs", "/mnt/session/tool-outputs"]):
            await lab.bash(box, f"cd {place}; for n in {names}; do ln -s {outside} $n; done")
            await lab.fails(box, f"rmdir {place} || mv {place} ~/moved")
        await box.destroy()
        again = await lab.sandbox()
        await lab.bash(again, f"ls -l . {lab.seen('/mnt/session/outputs')}")
        await again.run(lab.call("write", file_path="mnt/escaped", content="x"))
        packed = [c async for c in lab.provider.export_archive(await lab.workspace())]
        assert packed
        await again.destroy()
        await lab.provider.remove_workspace(await lab.workspace())
        assert list(outside.iterdir()) == []

    async def test_a_fork_bomb_is_bounded(self, lab: Lab) -> None:
        session, mark = new_session_name(), new_mark()
        box, calm = await lab.sandbox(session), await lab.sandbox("sesn_calm")
        call = lab.call("bash", command=f"bash -c 'bomb() {{ bomb | bomb & }}; bomb; sleep 60' {mark}")
        # What runs in a kernel of its own is known by what runs that.
        if lab.provider.capabilities.holds("kernel"):
            mark = f"/{session}/"
        task = asyncio.create_task(box.run(call))
        await until(lambda: process_count(mark) > SANDBOX_PROCESSES_MAX // 4 or not box.is_alive)
        assert await lab.bash(calm, "echo calm") == "calm"
        assert process_count(mark) < SANDBOX_PROCESSES_MAX + 50
        await box.cancel(call.call_id)
        async with asyncio.timeout(60):
            bombed = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(bombed, SandboxLost):  # as `_overdone`
            assert lab.provider.capabilities.holds("kernel")
        else:
            assert isinstance(bombed, ToolResult) and text_of(bombed) == INTERRUPTED
        await box.destroy()
        await until(lambda: not process_count(mark))

    async def test_descriptors_and_file_sizes_are_bounded(self, lab: Lab) -> None:
        box = await lab.sandbox()
        opened = "import os\nn = 0\ntry:\n while True: os.dup(0); n += 1\nexcept OSError: print(n + 3)"
        assert int(await lab.bash(box, f"python3 -c '{opened}'")) <= SANDBOX_OPEN_FILES_MAX
        await lab.fails(box, f"truncate -s {SANDBOX_FILE_BYTES_MAX + 1} big")
        assert await lab.bash(box, "stat -c %s big") == "0"
        assert await lab.bash(box, "echo calm") == "calm"

    async def test_a_flood_of_output_is_bounded(self, lab: Lab) -> None:
        """It is read to its end, kept in part, and holds up nobody."""
        box, calm = await lab.sandbox(), await lab.sandbox("sesn_calm")
        flood = lab.call("bash", command="head -c 150M /dev/zero | tr '\\0' x", timeout_ms=60_000)
        task = asyncio.create_task(box.run(flood))
        while not task.done():
            assert await lab.bash(calm, "echo calm") == "calm"
        assert len(text_of(await task)) < 2 * TOOL_PREVIEW_CHARS + 500
        kept = lab.provider.place(await lab.workspace(), "outputs").parent / "tool-outputs"
        assert (
            sum(file.stat().st_size for file in kept.iterdir()) <= SPILL_BYTES_MAX + BASH_OUTPUT_BYTES_MAX
        )

    async def test_a_memory_hog_is_bounded(self, lab: Lab) -> None:
        box = await lab.sandbox()
        box = await _overdone(lab, box, "python3 -c 'x = bytearray(3 << 30)'")
        if lab.provider.capabilities.holds("paths"):  # else /tmp is no memory
            await lab.fails(box, "dd if=/dev/zero of=/tmp/full bs=1M count=2048", timeout_ms=60_000)
            await lab.bash(box, "rm -f /tmp/full")
        if lab.provider.capabilities.holds("memory"):
            hog = "import time; x = bytearray(900 << 20); print(len(x), flush=True); time.sleep(60)"
            # What each holds until one is ended is held at once, however late one of them starts.
            hogs = f"for i in 1 2 3 4; do python3 -c '{hog}' & done; wait -n; kill $(jobs -p)"
            results = await asyncio.gather(
                box.run(lab.call("bash", command=hogs, timeout_ms=60_000)), return_exceptions=True
            )
            if isinstance(results[0], ToolResult):
                assert text_of(results[0]).count(str(900 << 20)) < 4
            else:
                assert isinstance(results[0], SandboxLost)
        calm = await lab.sandbox("sesn_calm")
        assert await lab.bash(calm, "echo calm") == "calm"

    # -- bounds of an environment --------------------------------------------------------------------

    async def test_an_environment_has_bounds_of_its_own(self, lab: Lab) -> None:
        bounds: dict[str, Json] = {"memory_bytes": 256 << 20, "processes": 40}
        box = await lab.sandbox(recipe=_bounded(bounds))
        box = await _overdone(lab, box, "python3 -c 'x = bytearray(300 << 20)'", _bounded(bounds))
        assert await lab.bash(box, "python3 -c 'x = bytearray(90 << 20); print(len(x) >> 20)'") == "90"
        if lab.provider.capabilities.holds("paths"):  # else /tmp is no memory
            await lab.fails(box, "dd if=/dev/zero of=/tmp/full bs=1M count=65")
        many = "import os, time\nfor n in range(60): os.fork() or time.sleep(60)"
        await _overdone(lab, box, f"python3 -c '{many}'")
        hurried = await lab.sandbox("sesn_2", recipe=_bounded({"command_seconds": 2}))
        assert "timed out after 2" in await lab.fails(hurried, "sleep 60", timeout_ms=50_000)

    async def test_a_disk_filler_is_stopped(self, lab: Lab) -> None:
        """It may delete, and go on when there is room again."""
        if not lab.provider.capabilities.holds("disk"):
            return
        small, calm = _bounded({"disk_bytes": 8 << 20}), await lab.sandbox("sesn_calm")
        box = await lab.sandbox(recipe=small)
        await lab.fails(box, "head -c 9M /dev/zero > large")
        fill = "mkdir d; for i in $(seq 100); do head -c 1M /dev/zero > d/$i; done; sleep 60; echo filled"
        said = await lab.fails(box, fill, timeout_ms=60_000)
        assert "8,388,608 bytes" in said and "filled" not in said
        assert not box.is_alive and await lab.bash(calm, "echo calm > a; cat a") == "calm"
        full = await lab.sandbox(recipe=small)
        assert "8,388,608 bytes" in await lab.fails(full, "echo more > more; test -s more")
        await until(lambda: not full.is_alive)
        await lab.bash(await lab.sandbox(recipe=small), "rm -r d")
        assert await lab.bash(await lab.sandbox(recipe=small), "echo more > more; cat more") == "more"

    async def test_processors_are_shared_fairly(self, lab: Lab) -> None:
        """One process beside a sandbox with many: all of them are measured in one time."""
        if not lab.provider.capabilities.holds("cpu"):
            return
        cold, mark = _bounded({"command_seconds": 60}), new_mark()
        one, many = new_session_name(), new_session_name()
        calm, crowded = await lab.sandbox(one, recipe=cold), await lab.sandbox(many, recipe=cold)
        spinning = lab.call("bash", command=_spin(processes=_CROWD, seconds=4, mark=mark))
        crowd = await lab.started(crowded, spinning, mark)
        share = asyncio.create_task(_processors(lab, many, _said(crowd)))
        alone = await _processors(lab, one, lab.bash(calm, _spin(processes=1, seconds=1.5)))
        assert alone > 4 * await share / _CROWD, "by turns it would be one among all"

    async def test_processors_have_a_bound(self, lab: Lab) -> None:
        if not lab.provider.capabilities.holds("cpu"):
            return
        session = new_session_name()
        box = await lab.sandbox(session, recipe=_bounded({"cpus": 0.1}))
        spinning = lab.bash(box, _spin(processes=2, seconds=2))
        assert await _processors(lab, session, spinning) < 0.2


_CROWD = 32
_SPIN = """
import os, sys, time
before = os.times()
end, children = time.monotonic() + float(sys.argv[2]), 0
while children < int(sys.argv[1]) - 1 and os.fork():
    children += 1
is_first = children == int(sys.argv[1]) - 1
while time.monotonic() < end:
    pass
if is_first:
    for _ in range(children):
        os.wait()
    after = os.times()
    print((sum(after[:4]) - sum(before[:4])) / (after.elapsed - before.elapsed))
"""


def _spin(*, processes: int, seconds: float, mark: str = "") -> str:
    """A command that prints how many processors so many busy processes have had."""
    return f"python3 -c '{_SPIN}' {processes} {seconds} {mark}"


async def _processors(lab: Lab, session: str, spinning: Awaitable[str]) -> float:
    """How many processors so many busy processes have had. A kernel of its own tells the time in which they
    would have run; so the machine is asked what that kernel has had."""
    if not lab.provider.capabilities.holds("kernel"):
        return float(await spinning)
    began, before = time.monotonic(), processor_seconds(session)
    await spinning
    return (processor_seconds(session) - before) / (time.monotonic() - began)


async def _said(running: "asyncio.Task[ToolResult]") -> str:
    return text_of(await running)


async def _overdone(lab: Lab, box: Sandbox, command: str, recipe: Recipe | None = None) -> Sandbox:
    """A command that wants more than it may have, and a sandbox to go on with. It fails; but where the
    kernel is the sandbox's own, the machine knows no command that it could end alone."""
    if not lab.provider.capabilities.holds("kernel"):
        await lab.fails(box, command, timeout_ms=30_000)
        return box
    try:
        await lab.fails(box, command, timeout_ms=30_000)
    except SandboxLost:
        return await (lab.sandbox() if recipe is None else lab.sandbox(recipe=recipe))
    return box


def _looks_at_the_agent(lab: Lab) -> list[str]:
    """What must not work. A kernel of its own may let everybody look, who then finds nothing: of its
    descriptors, those that lead out must not open."""
    if not lab.provider.capabilities.holds("kernel"):
        return ["ls /proc/1/fd/", "cat /proc/1/environ"]
    leads_in = "case $(readlink $fd) in /dev/null | pipe:*) continue; esac"
    opens = " ".join(f"{attempt} && exit 0;" for attempt in (": < $fd", ": > $fd", "chmod 777 $fd"))
    return [f"(for fd in /proc/1/fd/*; do {leads_in}; {opens} done; exit 1)"]


def _bounded(bounds: Mapping[str, Json]) -> Recipe:
    return Recipe(environment={"type": "cloud", SANDBOX: dict(bounds)})
