"""Where a node keeps its copies of repositories."""

from corral.app.errands import repository_hosts
from corral.config import Config
from corral.hands.way_out import Egress
from corral.repositories.mirrors import Mirrors

__all__ = ["open_mirrors"]


def open_mirrors(config: Config) -> Mirrors:
    """Of this node; makes nothing before the first repository."""
    return Mirrors(
        config.data_dir / "repositories",
        hosts=repository_hosts(config),
        egress=Egress(config.data_dir) if "egress" in config.roles else None,
        authorities=config.repository_ca,
    )
