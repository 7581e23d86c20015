"""The process that holds a local model: JSON lines in, JSON lines out.

    python -I -m corral.brain.models.local_child MODEL_PATH CONTEXT_TOKENS SOCKET_DIR

It is a process of its own because a native crash must not take the server. Lines in: `{"id", "body"}`
asks for a chat completion, `{"cancel": id}` stops one. Lines out: `{"ready": true}` or `{"failed": text}`
once, then `{"id", "chunk"}` per piece and `{"id", "end": true}`. One request at a time, in order. It ends
with its standard input, so it cannot outlive its parent.

The library insists on an HTTP listener: it gets a unix socket in a directory that only we can enter, and a
key that nobody knows.
"""

import json
import os
import queue
import secrets
import sys
import threading
from pathlib import Path
from typing import Any, TextIO


def main() -> None:
    model, context_tokens, socket_dir = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    with open(os.devnull, "w") as nothing:  # noqa: PTH123 -- a device; the library chats on both streams
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    try:
        server = _load(model, context_tokens, socket_dir)
    except Exception as error:  # the library raises whatever it likes; the parent must hear of it
        _write(out, {"failed": f"{type(error).__name__}: {error}"})
        return
    _write(out, {"ready": True})
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    cancelled: set[int] = set()
    threading.Thread(target=_read, args=(requests, cancelled), daemon=True).start()
    while True:
        request = requests.get()
        number = request["id"]

        def piece(chunk: Any, number: int = number) -> bool:
            if number not in cancelled:
                _write(out, {"id": number, "chunk": chunk})
            return number in cancelled  # True stops the generation

        if number not in cancelled:
            try:
                server.handle_chat_completions(request["body"], piece)
            except Exception as error:
                _write(out, {"id": number, "chunk": {"error": {"message": str(error)}}})
        cancelled.discard(number)
        _write(out, {"id": number, "end": True})


def _load(model: str, context_tokens: int, socket_dir: Path) -> Any:
    import xllamacpp  # type: ignore[import-untyped,import-not-found,unused-ignore] # optional, no stubs

    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_ctx = context_tokens
    parameters.n_parallel = 1
    parameters.verbosity = -1
    parameters.warmup = False
    # threads that wait sleep: the cores belong to the sandboxes and the server too
    parameters.cpuparams.poll = parameters.cpuparams_batch.poll = 0
    parameters.ui = False
    parameters.hostnames = [str(socket_dir / "unused.sock")]
    parameters.api_keys = [secrets.token_hex(32)]
    return xllamacpp.Server(parameters)


def _read(requests: "queue.SimpleQueue[dict[str, Any]]", cancelled: set[int]) -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "cancel" in message:
            cancelled.add(message["cancel"])
        else:
            requests.put(message)
    os._exit(0)  # the parent is gone or wants us gone; the generation cannot be interrupted politely


def _write(out: TextIO, message: dict[str, Any]) -> None:
    try:
        out.write(json.dumps(message) + "\n")
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
