"""What a spare imports: all that a server process with its roles will use, so that it takes over in a
fraction of the second that the imports take."""

import importlib
from collections.abc import Sequence
from typing import Final

__all__ = ["prepare"]

_ALWAYS: Final = (
    "uvloop",
    "anyio._backends._asyncio",
    "anyio.streams.tls",
    "httpcore2",  # by a client of the hands when it is made, and what is around it when it first connects
    "uvicorn.lifespan.off",
    "corral.app.server",
    "corral.store.bus_postgres",
    "sqlalchemy.dialects.postgresql.psycopg",
)
_BY_ROLE: Final = {
    "api": ("corral.app.api",),
    "brain": ("corral.app.brain",),
    "egress": (
        "corral.app.egress",
        "corral.app.audit",
        "corral.store.audit",
        "corral.app.credentials",
        "corral.store.session_credentials",
        "corral.app.tokens",
        "corral.store.tokens",
        "corral.app.validation",
        "corral.store.validations",
        "corral.app.vault",
        "corral.store.vault_keys",
    ),
}


def prepare(roles: Sequence[str]) -> None:
    for name in _ALWAYS:
        importlib.import_module(name)
    for role in roles:
        for name in _BY_ROLE.get(role, ()):
            importlib.import_module(name)
