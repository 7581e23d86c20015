"""The connections of a hands host to MCP servers. Where they may lead is the egress process's affair."""

from corral.config import Config
from corral.mcp.connector import McpConnector
from corral.mcp.way import Roads

__all__ = ["open_mcp"]


def open_mcp(config: Config) -> McpConnector:
    return McpConnector(Roads(config.data_dir))
