"""The program that runs inside a sandbox: a shell per thread, the file tools, nothing else.

It is copied into the sandbox and started as `python3 -IS`, by whatever Python the machine has (3.9+), so
it uses the standard library only and imports nothing of Corral. What it may import is also a matter of
start-up time: `subprocess`, `asyncio` and threads are left out on purpose.

Protocol, over stdin and stdout: 4 bytes length, big endian, then that many bytes of JSON.

    host  -> {"op": "start", "limits": {...}, "env": {...}, "workdir": ..., "roots": [...], "spill": ...}
    agent -> {"op": "ready"}
    host  -> {"op": "run", "id": ..., "thread": ..., "name": "bash", "input": {...}}   any number at once
    host  -> {"op": "cancel", "id": ...}
    agent -> {"op": "result", "id": ..., "content": [...], "is_error": false}          one per run

One process, no threads: a `poll` loop (`loop`). A bash call is a line written to its thread's shell
(`shell`); every other tool runs in a forked child that can be killed (`files`, `search`), so neither a
hostile regular expression nor a huge file can stop the loop from hearing a cancel. At most one bash call
per thread is in flight: the host queues the others. The host trusts nothing that comes out of here.

Before it is ready it may hand out a listening socket on the sandbox's own loopback (`way_out`): the only
way out of a sandbox. In one with a kernel of its own it first gives up what makes it root there (`rights`),
and keeps that socket, from which a child carries what comes to the door (`carrier`).

It runs as process 1 of the sandbox: its end, by the host or by end of stdin, is the end of everything in
there, and no signal from inside can bring that about. Not dumpable, it is no target through /proc either.
"""
