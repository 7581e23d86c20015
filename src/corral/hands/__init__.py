"""Hands: what acts. `execute(call_id, name, input) -> result`, at most once, its outcome never invented.

A hands host is a process of its own that outlives the brains it serves and the supervisor that started
it. It owns sandboxes (cattle: they may vanish at any time), workspaces (one directory per session, which
outlive sandboxes and hosts), and a journal (what was started, what came out, who may still ask).

    call:     absent -> started -> result -> absent       (journal.py; each arrow durable, settled last)
    sandbox:  absent -> idle <-> busy -> absent           (lifecycle.py; the reaper alone destroys)
    files:    absent -> here -> changed -> copied -> absent  (held.py; evicted by the journal first)

When things fail:
- the brain dies: the call runs on; the next brain attaches to it by its id and gets the true result.
- the sandbox dies: an error result says that the outcome is unknown; the next call gets a fresh sandbox.
- the host dies: its sandboxes die with it; what was started without a result has an unknown outcome.
- the journal is lost: it is another journal; what was placed under the old one has an unknown outcome.
- the supervisor dies: the next one adopts the host; unadopted, it ends with its sandboxes.

`host` decides, `rpc` and `client` carry, `process` lives, `providers/` make sandboxes, and what runs
inside of those is `sandbox_agent/`, which trusts nobody and imports nothing of ours. Where there are many
hosts, `router` sends each call to its own: `placer` knows which that is, `hosts` how it is reached.
"""
