"""An MCP server of the official SDK, on a port of loopback that it prints; its one tool says it again."""

import socket

import uvicorn
from mcp.server.mcpserver import MCPServer


def main() -> None:
    server = MCPServer("bench", log_level="CRITICAL")

    @server.tool()
    async def echo(text: str) -> str:
        return text

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="critical")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
