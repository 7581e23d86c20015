"""Memory stores: small text files that outlive sessions, with every change kept for a while.

A store holds up to MEMORIES_PER_STORE_MAX memories; each is a text at a path. What a memory was is in its
versions: one for each change, with who made it. The newest version of a memory is its *head*, and has its
content. Only redaction changes a version, and never a head.

Changes of a store are numbered without gaps, in the order in which they become visible: a change is written
under the lock of its store's row. So whoever has seen change 7 and asks what came later misses nothing
(`ports.MemoryMounts.changes`), and paths, preconditions and limits are never raced for.

Paths are those of a file system, because stores are mounted as directories: `/a` and `/a/b` exclude each
other. They are ordered byte by byte.

Versions stay for MEMORY_VERSION_DAYS; the last MEMORY_VERSIONS_KEPT of a memory that lives stay for ever,
and what a deleted memory had then stays for MEMORY_VERSION_DAYS more. They go with their store.
Source: API docs, memory.
"""
