"""Whether a sandbox, or an errand, may reach a host: by its name first, by each of its addresses
afterwards."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from corral.catalog.hosts import HTTPS_PORT, Errand, HostList
from corral.catalog.networking import NetworkPolicy
from corral.kernel.addresses import answers_machines_only, is_public, stands_for
from corral.kernel.hosts import fits

__all__ = ["Gate", "OperatorHosts", "Refused"]


class Refused(Exception):
    """reason: for the sandbox and the audit. detail: for the audit alone: where our own network is
    is none of the sandbox's business."""

    def __init__(self, reason: str, *, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorHosts:
    """What the operator says for every sandbox, in entries of `kernel.hosts.entry_of`.

    denied:   reached by nobody; an address or a network denies every name that is there.
    internal: may be at a private or loopback address; an address or a network opens what is there for
              every name. An environment's policy binds them all the same.
    packages: hosts that `allow_package_managers` opens, beside those that are configured in a sandbox.
    repositories: hosts of private repositories, likewise; they are open to sessions with a token alone,
              and for that repository alone.
    servers:  MCP servers, and token endpoints of their credentials, that may be at such an address; without
              a port, that of HTTPS.
    errands:  hosts that are reached on an errand; nowhere on one that is not named.
    only:     what else is denied; None for nothing.
    """

    denied: tuple[str, ...] = ()
    internal: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    errands: Mapping[Errand, HostList] = field(default_factory=dict)
    only: HostList | None = None

    def of_servers(self) -> "OperatorHosts":
        """What holds for MCP servers: nothing is open to them because it is open to sandboxes."""
        return OperatorHosts(denied=self.denied, internal=_of_https(self.servers))

    def of_repositories(self) -> "OperatorHosts":
        """What holds for repositories of which a session has the token."""
        return OperatorHosts(denied=self.denied, internal=_of_https(self.repositories))

    def of_errand(self, errand: Errand) -> "OperatorHosts":
        """What holds for what this server fetches itself: nothing is open to it because it is open to
        sandboxes."""
        hosts = self.errands.get(errand, HostList())
        return OperatorHosts(denied=self.denied, internal=_of_https(tuple(hosts.private)), only=hosts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """Of one sandbox."""

    policy: NetworkPolicy
    operator: OperatorHosts

    def of_repositories(self) -> "Gate":
        """Towards hosts of repositories of which the session has the token: whoever attached them meant
        them to be reached, whatever `networking` says of the host."""
        return Gate(policy=NetworkPolicy(hosts=None), operator=self.operator.of_repositories())

    def check_name(self, host: str, port: int) -> None:
        """host: canonical. Raises Refused."""
        if _any_fits(self.operator.denied, host, port):
            raise Refused("the operator of this server denies it")
        if self.operator.only is not None and not self.operator.only.allows(host, port):
            raise Refused("the operator of this server has not opened it for this")
        if not self.policy.allows(host, port):
            raise Refused("the networking of the environment does not allow it")

    def check_address(self, host: str, port: int, address: str) -> None:
        """One of the addresses of a host that passed `check_name`. Raises Refused."""
        if any(_any_fits(self.operator.denied, each, port) for each in stands_for(address)):
            raise Refused("the operator of this server denies its address", detail=f"it is at {address}")
        if is_public(address):
            return
        internal = self.operator.internal
        is_opened = _any_fits(internal, host, port) or _any_fits(internal, _as_ipv4(address), port)
        if is_opened and not _is_never_reached(address):
            return
        raise Refused("it is at an address that is not public", detail=f"it is at {address}")


def _of_https(entries: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(entry if ":" in entry else f"{entry}:{HTTPS_PORT}" for entry in entries)


def _as_ipv4(address: str) -> str:
    """An IPv4 address that is spelled as an IPv6 one (RFC 4291, 2.5.5.2) by its own name; others as they
    are."""
    try:
        mapped = ipaddress.IPv6Address(address.partition("%")[0]).ipv4_mapped
    except ValueError:
        return address
    return address if mapped is None else str(mapped)


def _any_fits(entries: tuple[str, ...], host: str, port: int) -> bool:
    return any(fits(entry, host, port, port_unless_named=None) for entry in entries)


def _is_never_reached(address: str) -> bool:
    """Metadata services and what is no host: not even for a name that an operator opened, because whoever
    answers for that name could point it there."""
    found = [ipaddress.ip_address(each) for each in stands_for(address)]
    return (
        not found
        or answers_machines_only(address)
        or any(each.is_multicast or each.is_unspecified for each in found)
    )
