"""Packages of environments: installed once per list, kept as layers, shown read-only to sandboxes.

    environment --> digest of its layer --> on the host? --no--> in the blobs? --no--> install, pack, put

Install scripts are anybody's programs. They run in a throw-away sandbox (`confine`) that has an empty
directory to write in and one way out, to hosts that the operator allows; what they leave is unpacked in
another sandbox, and seen read-only by those of sessions. `catalog.packages` says what a layer is,
`hands.providers.layers` where hosts keep them.
"""
