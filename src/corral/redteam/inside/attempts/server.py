"""Corral's own: the journal of the hands, the store, keys, tokens, and the API on the loopback."""

from __future__ import annotations

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.means import (
    connects,
    connects_unix,
    lists,
    opens_for_writing,
    proxied,
    reads,
    tells,
)

ATTEMPTS = {
    "journal": [
        Attempt("reads", "reads the journal of the hands host", reads("{journal}", mode="anything")),
        Attempt("writes", "opens it for writing", opens_for_writing("{journal}")),
        Attempt("log", "reads what was just written to it", reads("{journal}-wal", mode="anything")),
        Attempt("lists", "lists what the hands host keeps to itself", lists("{hands_private}")),
        Attempt("token", "reads the hands host's token", reads("{hands_token}", mode="anything")),
        Attempt(
            "host-id", "reads the hands host's name", reads("{hands_private}/host_id", mode="anything")
        ),
        Attempt(
            "asks",
            "asks the hands host for its sandboxes",
            connects_unix(
                "{hands_socket}",
                said=b"GET /corral/hands/v1/sandboxes HTTP/1.1\r\nHost: hands\r\nConnection: close\r\n\r\n",
            ),
        ),
        Attempt("tells", "tells that the journal is there", tells("{journal}"), "names"),
    ],
    "store": [
        Attempt("reads", "reads the database", reads("{store}", mode="anything")),
        Attempt("writes", "opens it for writing", opens_for_writing("{store}")),
        Attempt("log", "reads what was just written to it", reads("{store}-wal", mode="anything")),
        Attempt("lists", "lists the data directory", lists("{data_dir}")),
        Attempt("keys", "reads the vault's keys", reads("{vault_keys}", mode="anything")),
        Attempt(
            "egress-token", "reads the egress process's token", reads("{egress_token}", mode="anything")
        ),
        Attempt("audit", "reads who went where", lists("{audit}")),
        Attempt(
            "state",
            "reads the supervisor's state, which has a key",
            reads("{supervisor_state}", mode="anything"),
        ),
        Attempt("server-log", "reads the server's log", reads("{server_log}", mode="anything")),
        Attempt("api", "asks the API on the machine's loopback", connects("127.0.0.1", "{api_port}")),
        Attempt("api-6", "asks it by the other family", connects("::1", "{api_port}")),
        Attempt(
            "api-proxied",
            "asks it through the proxy",
            proxied("127.0.0.1", "{api_port}", path="/v1/sessions"),
            networking="unrestricted",
        ),
        Attempt(
            "api-localhost",
            "asks it by its name",
            proxied("localhost", "{api_port}", path="/v1/sessions"),
            networking="unrestricted",
        ),
        Attempt("tells", "tells that the database is there", tells("{store}"), "names"),
    ],
}
