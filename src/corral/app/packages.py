"""Where packages of environments come from, and where a node installs them."""

from corral.catalog.blobs import BlobStore
from corral.catalog.hosts import HostList
from corral.config import Config
from corral.hands.providers.system import System
from corral.packages.installer import Installer
from corral.packages.layers import Layers

__all__ = ["open_layers"]


def open_layers(config: Config, blobs: BlobStore) -> Layers:
    """Of this node; makes nothing before the first package."""
    hosts = HostList(public=config.packages_hosts, private=config.packages_private_hosts)
    installer = Installer(
        config.data_dir / "packages",
        hosts=hosts,
        authorities=config.packages_ca,
        config=config.packages_config,
        system=System.at(config.sandbox_root),
    )
    return Layers(installer, blobs)
