"""The connections of a hands host to MCP servers, as the operator has set them up."""

from corral.config import Config
from corral.mcp.connector import McpConnector
from corral.mcp.way import Roads

__all__ = ["open_mcp"]


def open_mcp(config: Config) -> McpConnector:
    return McpConnector(Roads(private=config.mcp_private_hosts, authorities=config.mcp_ca))
