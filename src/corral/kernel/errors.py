"""One tree of errors.

    CorralError
    ├── CallerError                 4xx: the caller's mistake; the message says what to change
    │   ├── InvalidRequest          400 invalid_request_error
    │   │   └── MemoryRefused       what a memory store does not take; `errno` for a write through a mount
    │   ├── AuthenticationFailed    401 authentication_error
    │   ├── PermissionDenied        403 permission_error
    │   ├── NotFound                404 not_found_error
    │   ├── RequestTooSlow          408 timeout_error: its body did not come fast enough
    │   ├── Conflict                409 conflict_error
    │   │   ├── MemoryPathConflict  409 memory_path_conflict_error: another memory is in the way
    │   │   └── MemoryPreconditionFailed  409 memory_precondition_failed_error: it has another content
    │   ├── HeartbeatRefused        412 invalid_request_error: somebody else may hold the work item
    │   ├── RequestTooLarge         413 request_too_large
    │   ├── UnsupportedMediaType    415 invalid_request_error: a coding of the body that is not known
    │   └── RateLimited             429 rate_limit_error: the same request may be taken later
    ├── WorldError                  the world's failure; `retryable`, `written`
    │   ├── StoreUnavailable        503 -> 529 overloaded_error: nothing was written
    │   ├── Overloaded              529 overloaded_error: this process takes no new work now
    │   ├── HandsUnavailable        the hands host did not answer
    │   ├── VaultUnavailable        there is no key to seal secrets with, or it has just changed
    │   ├── BlobUnavailable         the blob store did not answer, or has no room
    │   ├── SandboxUnavailable      no sandbox can be made here; the message says what to install
    │   └── ModelFailed             brain.ports: the model's side failed
    └── Stop                        not failures: "somebody else goes on from here"
        ├── LeaseLost               a newer epoch owns the session: write nothing, stop
        └── Stale                   the log moved since it was folded: fold the news, decide again

Our own bugs are none of these: `assert`, or let it crash; the lease expires and the log is intact.
Only `api/errors.py` renders an error for the wire.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from corral.kernel.limits import RETRY_AFTER_SECONDS


class CorralError(Exception):
    """Base of everything Corral raises on purpose."""


class CallerError(CorralError):
    status: ClassVar[int] = 400
    wire_type: ClassVar[str] = "invalid_request_error"

    def __init__(self, message: str, *, error_code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code
        self.members: Mapping[str, str] = {}
        """Further members of the error object on the wire."""
        self.details: Mapping[str, object] = {}
        """Further members of its `details`, beside the error code."""


class InvalidRequest(CallerError):
    pass


class MemoryRefused(InvalidRequest):
    """`errno`: what a program gets that wrote through a mount."""

    def __init__(self, message: str, *, errno: Literal["EFBIG", "EINVAL", "ENOSPC", "EROFS"]) -> None:
        super().__init__(message)
        self.errno = errno


class AuthenticationFailed(CallerError):
    status = 401
    wire_type = "authentication_error"


class PermissionDenied(CallerError):
    status = 403
    wire_type = "permission_error"


class NotFound(CallerError):
    status = 404
    wire_type = "not_found_error"


class RequestTooSlow(CallerError):
    status = 408
    wire_type = "timeout_error"


class Conflict(CallerError):
    """`retryable`: the same request may succeed soon. Otherwise it says so on the wire: SDKs repeat every
    409 twice by themselves, which only delays what the caller has to be told."""

    status = 409
    wire_type = "conflict_error"

    def __init__(self, message: str, *, error_code: str | None = None, retryable: bool = False) -> None:
        super().__init__(message, error_code=error_code)
        self.retryable = retryable


class MemoryPathConflict(Conflict):
    """`conflicting_path` is of the memory that is in the way: there, above or below."""

    wire_type = "memory_path_conflict_error"

    def __init__(self, path: str, *, conflicting_memory_id: str, conflicting_path: str) -> None:
        where = "there" if path == conflicting_path else f"at {conflicting_path!r}"
        super().__init__(
            f"path: {path!r} is taken: memory {conflicting_memory_id} is {where}."
            " Update, rename or delete that one."
        )
        self.members = {
            "conflicting_memory_id": conflicting_memory_id,
            "conflicting_path": conflicting_path,
        }


class MemoryPreconditionFailed(Conflict):
    wire_type = "memory_precondition_failed_error"


class HeartbeatRefused(CallerError):
    """`details.current_state`: the lease as it is. Source: SDK, BetaHeartbeatPreconditionFailedError."""

    status = 412

    def __init__(self, message: str, *, last_heartbeat: str | None, state: str, ttl_seconds: int) -> None:
        super().__init__(message, error_code="heartbeat_precondition_failed")
        self.details = {
            "current_state": {
                "last_heartbeat": last_heartbeat,
                "lease_extended": False,
                "state": state,
                "ttl_seconds": ttl_seconds,
            }
        }


class RequestTooLarge(CallerError):
    status = 413
    wire_type = "request_too_large"


class UnsupportedMediaType(CallerError):
    status = 415


class RateLimited(CallerError):
    """`retry_after_seconds`: when it is worth another try."""

    status = 429
    wire_type = "rate_limit_error"

    def __init__(self, message: str, *, retry_after_seconds: int = RETRY_AFTER_SECONDS) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class WorldError(CorralError):
    """The world failed. `retryable`: the same call may succeed later. `written`: whether anything was.

    `message` is for whoever asks, who may be anybody; `str()` has the `detail` as well (hosts, users,
    paths), which is for logs and for who starts the server.
    """

    def __init__(
        self, message: str, *, retryable: bool = True, written: bool = False, detail: str | None = None
    ) -> None:
        super().__init__(message if detail is None else f"{message} ({detail})")
        self.message = message
        self.detail = detail
        self.retryable = retryable
        self.written = written


class StoreUnavailable(WorldError):
    pass


class Overloaded(WorldError):
    pass


class HandsUnavailable(WorldError):
    pass


class SandboxUnavailable(WorldError):
    pass


class BlobUnavailable(WorldError):
    pass


class VaultUnavailable(WorldError):
    pass


class Stop(CorralError):
    """Somebody else goes on from here. Never logged as an error."""


class LeaseLost(Stop):
    pass


class Stale(Stop):
    pass
