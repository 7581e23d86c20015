"""What runs inside a sandbox: the hostile agent's script. It is copied in and run by whatever Python is
there (3.9+), so it uses the standard library only and imports nothing of Corral.

    told.json ----> run: each attempt in a process of its own ----> one line of JSON each, on stdout

An attempt knows everything about the machine but the secrets (`told`: paths, pids, ports, digests). It ends
in one of three ways:

    won       with evidence that cannot come about by chance: a canary that was planted outside, the digest
              of a file of the machine, an answer that only the other side can have given
    held      with what stopped it: an error of the kernel that says no, or an answer that does
    untried   with what was missing: a tool, a fact, time. It counts for nothing.

What shows only outside (a connection that came, a file that changed, a process that died) is looked for
there, whatever was said in here: `watches` names it. Nothing here harms a machine whose walls are down:
what is opened for writing is not written, what is signalled or overwritten was made for that.
"""
