"""The store: implements the ports of session and catalog. All SQL lives here, once for both engines.

    event loop ──submit──> writer thread(s): BEGIN; merged appends; other bodies; COMMIT (one fsync)
               <─results── (all futures of the batch at once), then the bus learns what is durable
    event loop ──read────> a few reader threads: one transaction each, so one snapshot

* `Database` runs plain synchronous functions of a SQLAlchemy `Connection`; nothing else opens a
  transaction. A write is acknowledged only after its commit reached the disk.
* SQLite has one writer thread, PostgreSQL a few, each with a connection. `transact` knows how each engine
  begins and commits, and what to do when a connection dies at any of these moments; `commit` says how
  transactions of several nodes never wait for each other in a circle; `locks` locks rows.
* `Log` merges the appends of a batch into a handful of statements; every other write is a body of its
  own inside the batch, undone by itself when it raises.
* Time in the database is integer microseconds UTC. JSON is bytes. Rows that change with every append
  are kept narrow; large snapshots (agents) live in tables that are written once.

What fails: a full disk or an I/O error undoes the whole batch and everyone in it gets
StoreUnavailable; the log is as if they had never asked. A PostgreSQL that restarts is waited for, for
STORE_OUTAGE_SECONDS. Source: docs/adr/0002-sql-layer.md, docs/adr/0009-how-a-commit-is-resolved.md.
"""
