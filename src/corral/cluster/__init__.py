"""Many machines as one Corral: who serves (nodes), and where a session's sandbox lives (placement).

A *node* is one `corral serve`: a supervisor, a server process with some of the roles api and brain, and, if
asked, hands and egress. Nodes meet in the database and nowhere else: each writes its row every
NODE_BEAT_SECONDS, and one whose row is older than NODE_LOST_SECONDS, by the database's clock, is lost.

A *hands host* is the hands process of a node. A session is placed on one host at a time; placing it
elsewhere is a compare-and-set, so two brains that both find the old host gone agree on the new one. The row
says where the session's sandbox should be, never that it is there: a host makes it at the first call.
"""
