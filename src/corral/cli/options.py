"""Options that many commands have, and what they lead to: the settings, a client of the server."""

from pathlib import Path
from typing import Annotated, Any

import typer

from corral.config import Config, load

__all__ = [
    "ConfigFile", "DataDir", "Json", "Most", "ServedDir", "SessionId", "Text", "Url", "api_at",
    "config_from",
]  # fmt: skip

Text = str | None
Url = Annotated[
    Text, typer.Option(help="Server to talk to; ANTHROPIC_BASE_URL, else the one on this machine.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Where everything is kept; ~/.local/share/corral unless set.")
]
ServedDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="The server on this data directory, not ANTHROPIC_BASE_URL's."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Settings file; ./corral.toml unless set.")
]
SessionId = Annotated[str, typer.Argument(help="As in sesn_01...")]
Most = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]


def config_from(config_file: Path | None = None, **flags: Any) -> Config:
    """The settings, with what was given on the command line. Raises SettingsError."""
    return load(flags, config_file=config_file)


def api_at(url: str | None, data_dir: Path | None) -> Any:
    """An `Api` of that server, or of the one that runs here. Raises Problem: there is none."""
    from corral.cli.connect import Api, running_server

    return Api(running_server(config_from(data_dir=data_dir), url=url, is_here=data_dir is not None))
