"""Hosts that the list of nodes shows alive and that no call of ours reaches: why, and how to mend it.

A certificate that does not fit, or settings that are missing, do not mend themselves within a call: such a
host is not tried again for HOST_UNREACHABLE_SECONDS, so who waits for it shakes hands in no loop.
"""

import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from corral.kernel.errors import HandsUnavailable
from corral.kernel.limits import HOST_UNREACHABLE_SECONDS, HOST_WARNING_SECONDS, NODE_LOST_SECONDS

__all__ = ["Unreachable", "why_tls_failed"]

log = logging.getLogger(__name__)

_EXPIRED, _NOT_YET, _OTHER_NAME, _OTHER_ADDRESS = 10, 9, 62, 64  # X509_V_ERR_* of OpenSSL


def why_tls_failed(error: BaseException, address: str) -> HandsUnavailable | None:
    """What is wrong between our certificate and that of the host at `https://host:port`, and the remedy;
    None if something else failed."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    host = urlsplit(address).hostname or address
    made_anew = f"make one with `corral certs DIR --host {host}`"
    if not isinstance(cause, ssl.SSLCertVerificationError):
        why = "TLS with the hands host fails: both sides need certificates of one authority"
        detail = f"{address}, {cause.reason or 'no reason given'}; see `corral certs`"
    elif cause.verify_code in (_OTHER_NAME, _OTHER_ADDRESS):
        why = "the certificate of the hands host does not name the address at which it is reached"
        detail = f"the certificate does not name {host}: {made_anew}"
    elif cause.verify_code in (_EXPIRED, _NOT_YET):
        why = "the certificate of the hands host has expired, or is not valid yet"
        detail = f"{address}, {cause.verify_message}: {made_anew}, and compare the clocks"
    else:
        why = "the certificate of the hands host is not trusted: all nodes need the same CORRAL_CLUSTER_CA"
        detail = f"{address}, {cause.verify_message}"
    return HandsUnavailable(why, retryable=False, detail=detail)


@dataclass(kw_only=True, slots=True)
class _Trouble:
    error: HandsUnavailable
    since: float
    failed_at: float

    @property
    def is_lasting(self) -> bool:
        return not self.error.retryable


class Unreachable:
    """Times are monotonic. What is remembered of a host ends with its next answer, or with `forget`."""

    def __init__(self) -> None:
        self._troubles: dict[str, _Trouble] = {}
        self._warned: dict[tuple[str, str], float] = {}

    def failed(self, host_id: str, address: str, error: HandsUnavailable) -> None:
        """A live host could not be reached. What is not retryable lasts; one that does not answer may be
        restarting, and is told of once it has been away for NODE_LOST_SECONDS."""
        now = time.monotonic()
        before = self._troubles.get(host_id)
        is_new = before is None or now - before.failed_at > 2 * NODE_LOST_SECONDS + HOST_UNREACHABLE_SECONDS
        since = now if is_new or before is None else before.since
        self._troubles[host_id] = _Trouble(error=error, since=since, failed_at=now)
        if not error.retryable or now - since > NODE_LOST_SECONDS:
            self._warn(host_id, address, error, now)

    def answered(self, host_id: str) -> None:
        self._troubles.pop(host_id, None)

    def forget(self, listed: set[str]) -> None:
        """Keep only hosts of these ids."""
        for host_id in self._troubles.keys() - listed:
            del self._troubles[host_id]
        for key in [key for key in self._warned if key[0] not in listed]:
            del self._warned[key]

    def blocks(self, host_id: str) -> HandsUnavailable | None:
        """Why the host is not tried now."""
        found = self._troubles.get(host_id)
        if found is None or not found.is_lasting:
            return None
        return found.error if time.monotonic() - found.failed_at < HOST_UNREACHABLE_SECONDS else None

    def is_given_up(self, host_id: str) -> bool:
        """Whether its sessions go elsewhere: a lasting trouble that has lasted."""
        found = self._troubles.get(host_id)
        return bool(found and found.is_lasting and time.monotonic() - found.since > NODE_LOST_SECONDS)

    def why(self) -> Mapping[str, HandsUnavailable]:
        """By host id."""
        return {host_id: found.error for host_id, found in self._troubles.items()}

    def _warn(self, host_id: str, address: str, error: HandsUnavailable, now: float) -> None:
        before = self._warned.get((host_id, error.message))
        if before is None or now - before > HOST_WARNING_SECONDS:
            self._warned[host_id, error.message] = now
            log.warning("no call from here reaches hands host %s at %s: %s", host_id, address, error)
