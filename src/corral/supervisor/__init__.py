"""The process that starts the others: `python -m corral.supervisor`, reached by `corral serve`.

It owns the data directory's lock, the listening socket and the life of server, hands and egress; it holds
no state that matters. Killed, it takes the server with it; hands and egress go on working for a minute, in
which the next supervisor adopts them.
"""
