"""The only way out of a session.

    sandbox                                     egress process
    bash --HTTP_PROXY--> 127.0.0.1:3128 ------> Door of this sandbox --> Proxy --> policy --> dial --> host
                         a listening socket     (accepts on it)            |
                         in its own network                                +--> audit

A sandbox has no network device but its own loopback. Its agent program makes a listening socket there and
hands it out, through the hands host, to this process, which accepts on it: so a connection *is* of that
sandbox, and there is no ticket that could be stolen, copied or used from elsewhere. The connection by which
the hands host handed the socket over is the door: when it ends, whoever ended it, every connection of the
sandbox ends with it (`doors`).

What this server fetches itself for a session (its errands: pages, repositories, packages) comes in by doors
of single connections, from programs in throw-away sandboxes (`corral.confine`), and is judged and written
down alike.

Rules of this package:
- Nothing is resolved, dialled or answered inside a sandbox; names do not leave it but through here.
- A host is judged by its name, and each of its addresses before one of them is dialled; what is dialled is
  the address that was judged (`policy`, `dial`).
- What a client says twice must be the same: the target, the Host header, the name in its TLS hello.
- TLS is passed through unread (`tunnel`), but to a host for which the session has a credential: there it is
  opened (`opened`). HTTP/1.1 is parsed and written anew (`forward`).
- A secret is in plain in this process alone (`credentials`), goes to the hosts that it is for and to no
  others (`substitution`), and does not come back (`treatment`).
- What is decided is written down before it is done (`audit`); what cannot be written down is not done.
- Everything a client can make us hold has a bound; a session can only use up its own.

`keys` is the other half of this process: it alone opens what vaults seal.
"""
