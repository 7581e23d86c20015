"""Programs that read what strangers wrote: each alone in a throw-away sandbox, with one checked way out.

    program --its listening socket, handed to us through the door--> Tunnel --Way--> egress process --> host

What a git server, a web server or a package index sends is hostile. So whatever reads it never runs on the
host, nor in the sandbox of a session:

* A program runs in a bwrap of its own (`confinement.py`): no network device, no file of ours but the
  directories that it is given, nothing of our environment, a system call filter, bounds on memory, low
  priority. It is gone when whoever started it is done with it.
* Its only way out is a listening socket that it hands to us (`door.py`, which runs inside). Behind it
  stands a proxy that counts what passes (`tunnel.py`) and takes it through a door of the egress process,
  for the session on whose errand it is (`way.py`). That one decides where it may go, at which addresses,
  and writes it down. TLS is the program's own, end to end.
* It writes to directories of its own, which are gone afterwards (`scratch.py`), or are kept by whoever
  started it. Both may be watched meanwhile (`watch.py`): it ends when it has written too much.
* What it hands back is hostile, too: whoever started it bounds and checks that.

Nothing here knows a secret, keeps anything, or decides which hosts those are.
"""
