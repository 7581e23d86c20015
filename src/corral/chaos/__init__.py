"""Chaos: a real cluster under fire, and the proof afterwards that nothing was lost.

    schedule ----> faults ----kill, stop, cut----> cluster (the processes of `corral serve`)
       |                                              ^  |
      seed                        SDK, SSE, real sockets  |  store ports, /proc
       |                                              |  v
      plan -----> driver (clients of sessions) -------+  laws, grammar, residue ----> violations

* `plan` says what every session will be asked and what the made-up model will answer: a pure function of
  the seed. `schedule` says what will be broken, when: another one. Both can be written down and replayed.
* `driver` behaves as a good client does: one Idempotency-Key for all attempts of a send, streams resumed by
  cursor. It writes down what was acknowledged, and knows nothing of the server's insides.
* `faults` breaks: signals, crash points (`kernel.crash`), the database, the network, the disk, the clock.
* When the faults have stopped, every session must come to rest within a deadline. `run` is all of it, in
  order; what comes of it is a `report`.
* Then `verdict` puts each `history` together, from the store and from what clients can read (`reading`),
  and `laws` and `grammar` judge it against what was acknowledged, what ran in the sandboxes and what the
  streams showed; `residue` looks for what should be gone: processes, mounts, sockets, secrets.

A violation is a bug of Corral until shown otherwise. Its run can be repeated: `corral chaos --replay FILE`.
"""
