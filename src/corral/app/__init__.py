"""The wiring: the only place that imports everything. `python -m corral.app ROLE` is one process.

    server   api + brain + clean-up; the only writer of the embedded store
    hands    the hands host: sandboxes
    egress   the only way out

Started by the supervisor, with whom they speak as `process` says. Each role imports only what it needs.
"""
