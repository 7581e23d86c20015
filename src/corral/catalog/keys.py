"""API keys: recognisable, random, kept only as a hash. Source: docs/ARCHITECTURE.md."""

import secrets
from datetime import datetime
from hashlib import sha256

from corral.catalog.records import ApiKey
from corral.catalog.roles import Role
from corral.kernel.ids import API_KEY, CORRAL_KEY_PREFIX, DEFAULT_WORKSPACE, Ids, WorkspaceId


def new_secret() -> str:
    return CORRAL_KEY_PREFIX + secrets.token_urlsafe(32)


def as_record(
    secret: str,
    *,
    name: str,
    ids: Ids,
    now: datetime,
    workspace_id: WorkspaceId = DEFAULT_WORKSPACE,
    role: Role = "admin",
) -> ApiKey:
    """What is kept of a key: hash and last four characters."""
    return ApiKey(
        api_key_id=ids.mint(API_KEY),
        name=name,
        sha256=sha256(secret.encode()).digest(),
        hint=secret[-4:],
        created_at=now,
        workspace_id=workspace_id,
        role=role,
    )
