"""A session: a durable, append-only log of events, and everything that is a fold over it.

    inputs ──accept──> inbox ──taken by a brain──> log (seq 1, 2, 3, ...) ──fold──> State

* The log is the truth. Status, usage and pending work are folds; columns that repeat a fold are written
  in the same transaction as the events they come from.
* Inputs that wait for a brain (`user.message`, `user.interrupt`, `user.tool_confirmation`,
  `system.message`) sit in the inbox with an arrival number. A brain takes them by appending them, same
  ids, to the log, and deleting exactly those inbox rows in one transaction. Results of custom tools are
  processed on receipt: they go into the log at once.
* One brain at a time holds the session's lease. Its epoch is the fencing token of every write; its
  `seen` is the optimistic lock: if anything arrived since it folded, nothing is written and it decides
  again.

What fails: a stale brain's append raises LeaseLost or Stale and writes nothing. A dead brain's lease
ends; the next one folds the same log and goes on. Source: docs/ARCHITECTURE.md, API docs, events.
"""
