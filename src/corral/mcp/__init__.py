"""MCP servers, as a hands host speaks to them: lists their tools, and calls them.

    hands host --ToolCall--> McpConnector --> Connection (one per session and server) --> Way --> egress
                                               the official SDK's client                           process
                                                                                                     |
                                                                                                  server

What a server says is hostile: every answer has a bound before anything parses it, what it lists and returns
is data, and no output is checked by a schema of the server's making, which could keep a core busy for ever.

* A connection is cattle: made when it is needed, shared by the calls of its session, closed when idle, and
  never needed for what is right. A call is sent once (`hands.journal` says so before); whatever breaks
  after it was sent makes its outcome unknown, in those words. Only a server that says that it does not
  know the connection, and so has not done anything, is asked again over a new one.
* Streamable HTTP is tried first, the older SSE transport where a server refuses that.
* Requests leave through the egress process (`way`, `corral.egress.servers`): it decides whether a server
  may be reached, and at which address, and puts the session's credential in. Nothing here ever holds one.
"""
