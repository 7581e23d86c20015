"""MCP servers of an agent, without speaking to any: what they are, what their tools are called, and in what
form a model is shown them.

What a server says of its tools is data of somebody else: bounded, put in order, and never an instruction
to us. Source: API docs, tools "MCP toolset"; vaults "MCP connector"; docs/DIVERGENCES.md.
"""
