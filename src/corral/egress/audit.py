"""What the egress process tells its node's server of the requests that went through it.

    POST .../audit/read     {}                       {"lines": [line], "position": text}, oldest first
    POST .../audit/forget   {"position": text}       {}: the store has everything before

A line is {"begin": `catalog.audit.Begun`} or {"end": `catalog.audit.Ended`}, member by member.
"""

import json
from typing import Final

from corral.egress.spool import Spool

__all__ = ["AuditDesk"]

_PAGE_BYTES: Final = 256 * 1024  # a transaction of the store, some thousand lines


class AuditDesk:
    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    async def answer(self, what: str, body: bytes) -> tuple[str, dict[str, object]]:
        """Status line and body of the answer. Of the event loop: it shares the spool with who writes."""
        try:
            asked = json.loads(body or b"{}")
            if what == "read":
                lines, position = self._spool.read(bytes_max=_PAGE_BYTES)
                return "200 OK", {"lines": lines, "position": position}
            if what == "forget":
                self._spool.forget(str(asked["position"]))
                return "200 OK", {}
        except (KeyError, TypeError, ValueError) as error:
            return "400 Bad Request", {"error": f"not a request of ours ({type(error).__name__})"}
        except OSError as error:
            return "503 Service Unavailable", {"error": f"the audit cannot be read ({error.strerror})"}
        return "404 Not Found", {"error": "no such path"}
