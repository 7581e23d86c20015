"""MCP servers, as a hands host speaks to them: lists their tools, and calls them.

    hands host --ToolCall--> McpConnector --> Connection (one per session and server) --> Way --> server
                                               the official SDK's client                  HTTP at checked
                                                                                          addresses

What a server says is hostile: every answer has a bound before anything parses it, what it lists and returns
is data, and no output is checked by a schema of the server's making, which could keep a core busy for ever.

* A connection is cattle: made when it is needed, shared by the calls of its session, closed when idle, and
  never needed for what is right. A call is sent once (`hands.journal` says so before); whatever breaks
  after it was sent makes its outcome unknown, in those words. Only a server that says that it does not
  know the connection, and so has not done anything, is asked again over a new one.
* Streamable HTTP is tried first, the older SSE transport where a server refuses that.
* The way out resolves, checks and dials addresses itself (`way`), so that a server's name leads nowhere
  private unless the operator has opened it. It is the one place that the egress process takes over.
* Nothing here knows a credential: a server that asks for one is an `mcp_authentication_failed_error`.
"""
