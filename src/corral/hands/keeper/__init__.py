"""The program that keeps a sandbox without namespaces: puts up its walls, starts the program inside, and
ends all that came of it.

It is copied to where whatever Python the machine has (3.9+) can read it, so it uses the standard library
only and imports nothing of Corral. `keeper FD`: on that descriptor it reads one line of JSON.

    {"program": [...], "environment": {...}, "workdir": ..., "uid": null or a number, "groups": [...],
     "joins": [files of cgroups that take a pid], "abi": version of Landlock,
     "allowed": [[path, mode], ...], "seccomp": in hex}

Nothing of that is in an argument: arguments can be read by whoever is inside. When the other end of the
descriptor is closed, or the program has ended, everything that came of the program is killed and waited
for; then the keeper ends as the program did: with its exit code, or 128 and the number of its signal. The
keeper is the reaper of all orphans inside, so "no child is left" means "nothing is left running".
"""
