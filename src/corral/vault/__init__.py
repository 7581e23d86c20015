"""Sealing and opening what must not be seen.

A secret is sealed where it arrives, in the API, with a public key, and is from then on bytes that only the
holder of the private key can open: the egress process, or a command of the operator's that it asks.

    seal    public key, secret, place  -> sealed        anybody (the API)
    ring    the private keys           -> secret        the egress process alone

Nobody else imports `ring`; an import contract says so. A sealed secret is bound to its place (workspace,
vault, credential, name, destination): moved to another row, it does not open. Keys are rotated by making
one, sealing everything anew with it, and forgetting the old one when nothing uses it.
"""
