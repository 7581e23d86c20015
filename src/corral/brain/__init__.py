"""The brain: folds the log, decides, asks the model, lets the hands act, appends. It holds nothing.

    wake ─> snapshot ─fold─> State ─advance─> events to append ─append─> (committed)
                               ▲                                             │
                               └──── completions, inbox news <──── effects <─┘  decide

* `turn.advance` is pure: what the log, the inbox and finished effects call for, as events.
* `decide.decide` is pure: which effects should be in flight in this state.
* `loop.Loop` performs: appends first, starts effects after, waits, and begins again.

What fails: if an append is refused, the state is thrown away and read again; nothing was done that the
log does not tell. If the lease is lost, the loop aborts its own model request, touches no tool, and ends.
If the process dies, another brain folds the same log: an open request is closed with an error and asked
again, a call is attached to by its id. Source: docs/ARCHITECTURE.md.
"""
