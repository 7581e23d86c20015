"""HTTP in, events out: the edge of the server, and nothing behind it.

    request -> gate (host, key, body limit) -> route: parse strictly -> one store call -> JSON bytes
    stream  -> gate -> bus subscription, then store position -> frames until the client or session goes

* Shapes are checked here, once; rules live in `catalog` and `session` as pure functions; the store applies
  them under its locks. The API thinks nothing and touches no sandbox.
* A rejected request has no effect. A keyed POST takes effect once.
* Every answer has a request id; every error is the official envelope (`errors.py`).

What fails: a store that is busy or broken is a 529 that says so; a stream ends and is resumed by its
cursor. Source: docs/ARCHITECTURE.md, API docs, errors-limits.
"""
