"""The red team: a hostile agent in a real sandbox of each kind, and what came of everything it tried.

    outside ----> files, a process, services around the sandboxes, open to everybody on the machine
    canaries ---> secrets planted there, in the server, its store, its journal, its vault, next door
       |
    stage ------> sandboxes: of a server of its own (`served`), or alone (`bare`)
       |
    attack -----> `inside`: the attempts, run by the agent                                  ---> findings
    scenarios --> what it plants (`races`, `unpacking`) or a server tells it (`servers`),
                  and the host then handles                                                 ---> findings
    search -----> all that was planted, looked for everywhere                               ---> hits

An attempt that worked is an escape, unless the provider's `Capabilities` name it as a gap. One that could
not be tried counts for nothing: a wall that holds must have been seen to hold.

What is in here is also a test of itself: `tests` take walls away, and see the attempts get through.
"""
