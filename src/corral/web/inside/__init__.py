"""What fetches and reads pages inside a throw-away sandbox, on the standard library and the libraries that
are bound for it, and on nothing else of ours (`corral.web.fetch` starts it).

Everything that comes from the network is hostile. What keeps it in is the sandbox: these files only have to
be bounded, and to fail with a sentence.
"""
