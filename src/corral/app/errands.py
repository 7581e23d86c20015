"""Where this server goes itself for sessions, as the operator says."""

from collections.abc import Mapping
from typing import Final

from corral.catalog.hosts import Errand, HostList
from corral.config import Config

__all__ = ["errands_of", "package_hosts", "repository_hosts"]

_WEB: Final = ("*:80", "*:443", "*:8080", "*:8443")
"""Where web servers listen. Others are reached at those hosts alone that the operator named."""


def errands_of(config: Config) -> Mapping[Errand, HostList]:
    return {
        "page": HostList(public=_WEB, private=config.web_private_hosts),
        "repository": repository_hosts(config),
        "packages": package_hosts(config),
    }


def repository_hosts(config: Config) -> HostList:
    return HostList(public=config.repository_hosts, private=config.repository_private_hosts)


def package_hosts(config: Config) -> HostList:
    return HostList(public=config.packages_hosts, private=config.packages_private_hosts)
