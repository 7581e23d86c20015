"""Metadata: up to 16 short pairs on most records, changed by merge."""

from collections.abc import Mapping

from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import METADATA_PAIRS_MAX


def merged(
    current: Mapping[str, str], patch: Mapping[str, str | None] | None, *, empty_deletes: bool = False
) -> dict[str, str]:
    """`current` with `patch`: a string upserts, null (or "", if `empty_deletes`) deletes.

    Raises InvalidRequest if the result has too many pairs; single keys and values are checked at the edge.
    """
    result = dict(current)
    for key, value in (patch or {}).items():
        if value is None or (empty_deletes and value == ""):
            result.pop(key, None)
        else:
            result[key] = value
    if len(result) > METADATA_PAIRS_MAX:
        raise InvalidRequest(
            f"metadata: {len(result)} pairs after the update; at most {METADATA_PAIRS_MAX} are kept."
            " Delete some by setting them to null.",
            error_code="invalid_metadata",
        )
    return result
