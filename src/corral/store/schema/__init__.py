"""The tables. Changing one needs a migration; a test compares them with the migrated database.

What changes with every append (`sessions`, `threads`) is narrow; what is large and rarely changes
(`session_details`, `thread_details`) is apart, because an update rewrites its whole row.
"""

from corral.store.schema.audit import audit_entries
from corral.store.schema.catalog import (
    agent_versions,
    agents,
    api_keys,
    environments,
    idempotency,
    workspaces,
)
from corral.store.schema.cluster import checkpoints, nodes, placements, writers
from corral.store.schema.files import file_blobs, file_usage, files
from corral.store.schema.memory import memories, memory_stores, memory_stores_deleted, memory_versions
from corral.store.schema.sessions import (
    IS_FORGOTTEN,
    IS_NOT_IDLE,
    NOT_HELD_BACK,
    cleanup,
    events,
    inbox,
    session_details,
    session_memory_stores,
    sessions,
    thread_details,
    threads,
    tombstones,
)
from corral.store.schema.skills import session_skills, skill_versions, skills
from corral.store.schema.types import Exact, JsonBytes, Moment, from_us, metadata, to_us
from corral.store.schema.vaults import (
    credential_refreshes,
    credential_secrets,
    credential_validations,
    credentials,
    repository_tokens,
    vault_keys,
    vaults,
)
from corral.store.schema.work import environment_keys, work, workers

__all__ = [
    "IS_FORGOTTEN",
    "IS_NOT_IDLE",
    "NOT_HELD_BACK",
    "REVISION",
    "Exact",
    "JsonBytes",
    "Moment",
    "agent_versions",
    "agents",
    "api_keys",
    "audit_entries",
    "checkpoints",
    "cleanup",
    "credential_refreshes",
    "credential_secrets",
    "credential_validations",
    "credentials",
    "environment_keys",
    "environments",
    "events",
    "file_blobs",
    "file_usage",
    "files",
    "from_us",
    "idempotency",
    "inbox",
    "memories",
    "memory_stores",
    "memory_stores_deleted",
    "memory_versions",
    "metadata",
    "nodes",
    "placements",
    "repository_tokens",
    "session_details",
    "session_memory_stores",
    "session_skills",
    "sessions",
    "skill_versions",
    "skills",
    "thread_details",
    "threads",
    "to_us",
    "tombstones",
    "vault_keys",
    "vaults",
    "work",
    "workers",
    "workspaces",
    "writers",
]

REVISION = "0016"
"""The Alembic revision that these tables are of."""
