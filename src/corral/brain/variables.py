"""The variables of a session's sandboxes: placeholders of what its vaults hold, which are no secrets."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from corral.catalog.credentials import first_of_each_use, unreachable_hosts, variables_of
from corral.catalog.mcp.servers import opened_endpoints
from corral.catalog.records import Wire
from corral.kernel.ids import SessionId
from corral.session.mounts import MountFailed
from corral.session.state import State

__all__ = ["Variables"]


class Variables:
    """records: the active credentials of a session's vaults, in the order of the vaults; no secrets."""

    def __init__(self, records: Callable[[SessionId], Awaitable[Sequence[Wire]]]) -> None:
        self._records = records

    async def of(self, state: State) -> Mapping[str, str]:
        """By name. A credential that is for hosts which the environment does not allow is told of once, as
        a mount that fails is: the session goes on with the rest of them.

        Raises MountFailed, StoreUnavailable.
        """
        if not state.vault_ids:
            return {}
        used = first_of_each_use(await self._records(state.session_id))
        networking = state.environment.get("networking") or {}
        opened = opened_endpoints(state.primary.agent, state.environment)
        for credential in used:
            hosts = unreachable_hosts(credential, networking, mcp_endpoints=opened)
            if hosts and credential["id"] not in state.failed_mounts:
                raise MountFailed(
                    {
                        "type": "credential_host_unreachable_error",
                        "credential_id": credential["id"],
                        "vault_id": credential["vault_id"],
                        "message": (
                            f"The credential for {credential['auth']['secret_name']!r} is for"
                            f" {', '.join(hosts)}, which the networking of the environment does not allow."
                        ),
                    },
                    mount_id=credential["id"],
                )
        return variables_of(used, state.session_id)
