"""Roles of API keys: what each may do, as pure rules. Source: docs/DIVERGENCES.md, reference-server pages.

user       creates sessions of what is there, uses its sessions, reads everything that is no key
developer  also makes and changes agents, environments, vaults, memory stores, files, skills
admin      also the keys of its workspace
operator   an admin of the default workspace: also workspaces, the server, and any workspace by its header
"""

from typing import Literal, get_args

from corral.kernel.ids import DEFAULT_WORKSPACE, WorkspaceId

__all__ = ["ROLES", "Role", "is_operator"]

Role = Literal["admin", "developer", "user"]
ROLES: tuple[Role, ...] = get_args(Role)


def is_operator(role: Role, *, home: WorkspaceId) -> bool:
    """Whether a key of this role, of the workspace `home`, may manage the server and all workspaces."""
    return role == "admin" and home == DEFAULT_WORKSPACE
