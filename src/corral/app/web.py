"""The web tools of a hands host, as the operator has set them up."""

from pathlib import Path

from corral.config import Config
from corral.hands.way_out import Egress
from corral.kernel.clock import SystemClock
from corral.web.fetch import Fetcher
from corral.web.search import SearXNG
from corral.web.tools import WebTools

__all__ = ["open_web"]


def open_web(config: Config, state_dir: Path, egress: Egress | None) -> WebTools:
    """egress: None where this node has none. state_dir: of the hands host; nothing of the web tools in it
    outlives a call."""
    fetcher = Fetcher(state_dir / "web", egress, authorities=config.web_ca)
    search = None if config.search_url is None else SearXNG(config.search_url)
    return WebTools(fetcher, search, clock=SystemClock())
