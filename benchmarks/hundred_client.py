"""The client of `hundred`, a process of its own: threads of the official SDK, all let go at once.

    python -m benchmarks.hundred_client

Reads one order per line of standard input, `{"url", "api_key", "agent_id", "environment_id", "text",
"threads"}`; answers with `{"seconds", "whole", "turn"}`: of the run, and of each session from the start of
creating it, and from sending its message, to its `agent.message`.
"""

import json
import sys
import threading
import time

from anthropic import Anthropic


def run(order: dict[str, str], threads: int) -> dict[str, object]:
    """Raises RuntimeError when a session failed."""
    client = Anthropic(base_url=order["url"], api_key=order["api_key"], max_retries=0, timeout=60)
    go = threading.Barrier(threads + 1)
    times: list[tuple[float, float, float]] = []
    failures: list[Exception] = []

    def one() -> None:
        go.wait()
        try:
            start = time.monotonic()
            session = client.beta.sessions.create(
                agent=order["agent_id"], environment_id=order["environment_id"]
            )
            with client.beta.sessions.events.stream(session.id) as stream:
                sent = time.monotonic()
                client.beta.sessions.events.send(
                    session.id,
                    events=[{"type": "user.message", "content": [{"type": "text", "text": order["text"]}]}],
                )
                for event in stream:
                    if event.type == "agent.message":
                        times.append((start, sent, time.monotonic()))
                        return
            raise RuntimeError(f"the stream of {session.id} ended without a message")
        except Exception as error:  # reported to whoever started this process, with the others
            failures.append(error)

    workers = [threading.Thread(target=one) for _ in range(threads)]
    for worker in workers:
        worker.start()
    go.wait()
    began = time.monotonic()
    for worker in workers:
        worker.join()
    client.close()
    if failures:
        raise RuntimeError(f"{len(failures)} of {threads} sessions failed, the first: {failures[0]!r}")
    return {
        "seconds": max(end for _, _, end in times) - began,
        "whole": [end - start for start, _, end in times],
        "turn": [end - sent for _, sent, end in times],
    }


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(run(order, order["threads"])), flush=True)


if __name__ == "__main__":
    main()
