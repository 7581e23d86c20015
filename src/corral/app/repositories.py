"""Where repositories of sessions come from, and where a node keeps its copies."""

from corral.catalog.hosts import HostList
from corral.config import Config
from corral.hands.way_out import Egress
from corral.repositories.mirrors import Mirrors
from corral.repositories.private import EgressWays

__all__ = ["hosts_of", "open_mirrors"]


def hosts_of(config: Config) -> HostList:
    return HostList(public=config.repository_hosts, private=config.repository_private_hosts)


def open_mirrors(config: Config) -> Mirrors:
    """Of this node; makes nothing before the first repository."""
    return Mirrors(
        config.data_dir / "repositories",
        hosts=hosts_of(config),
        authorities=config.repository_ca,
        private=EgressWays(Egress(config.data_dir)) if "egress" in config.roles else None,
    )
