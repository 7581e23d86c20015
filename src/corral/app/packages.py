"""Where a node installs packages of environments."""

from corral.app.errands import package_hosts
from corral.catalog.blobs import BlobStore
from corral.config import Config
from corral.hands.providers.system import System
from corral.hands.way_out import Egress
from corral.packages.installer import Installer
from corral.packages.layers import Layers

__all__ = ["open_layers"]


def open_layers(config: Config, blobs: BlobStore) -> Layers:
    """Of this node; makes nothing before the first package."""
    installer = Installer(
        config.data_dir / "packages",
        hosts=package_hosts(config),
        egress=Egress(config.data_dir) if "egress" in config.roles else None,
        authorities=config.packages_ca,
        config=config.packages_config,
        system=System.at(config.sandbox_root),
    )
    return Layers(installer, blobs)
