"""The edge's parser: JSON in, a strict model out, or a 400 that names the field.

Unknown fields are refused everywhere except inside JSON Schemas and tool inputs, and NUL everywhere:
PostgreSQL cannot store it in text or JSON. A shorthand (a model name
for a model object) is widened before validation, so that a field has one shape behind the edge.
"""

from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import (
    METADATA_KEY_CHARS_MAX,
    METADATA_PAIRS_MAX,
    METADATA_VALUE_CHARS_MAX,
    VALIDATION_ERRORS_SHOWN_MAX,
)

Parsed = TypeVar("Parsed", bound=BaseModel)


class Strict(BaseModel):
    """Base of request shapes: no unknown field, no coercion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def given(self) -> dict[str, Any]:
        """What the client set, as plain JSON; an omitted field stays omitted."""
        return self.model_dump(exclude_unset=True)


MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=METADATA_KEY_CHARS_MAX)]
MetadataValue = Annotated[str, StringConstraints(max_length=METADATA_VALUE_CHARS_MAX)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=METADATA_PAIRS_MAX)]
MetadataPatch = dict[MetadataKey, MetadataValue | None]
"""Its size is checked after the merge."""


def parse(shape: type[Parsed], raw: bytes | bytearray) -> Parsed:
    """Parse a request body. Raises InvalidRequest naming the path of each wrong field."""
    if not raw:
        raise InvalidRequest("The request has no body; send a JSON object")
    # Not pydantic's own parser: it takes NaN and lone surrogates, which could not be stored again.
    try:
        sent = orjson.loads(raw)
    except orjson.JSONDecodeError as broken:
        raise InvalidRequest(f"The request body is not valid JSON: {broken}") from None
    if rb"\u0000" in raw:  # JSON's only way to write it
        _refuse_nul(sent)
    try:
        return shape.model_validate(sent)
    except ValidationError as error:
        raise refusal(error, sent) from None


_SAYS: dict[str, str] = {}


def pattern(regex: str, says: str) -> StringConstraints:
    """Text that must match. says: what the client is told otherwise; patterns are for programs."""
    _SAYS[regex] = says
    return StringConstraints(pattern=regex)


def _refuse_nul(sent: Any) -> None:
    """Raises InvalidRequest for a NUL in any text, keys included."""
    path: list[str] = []
    levels: list[Iterator[tuple[str, Any]]] = [
        iter([("", sent)])
    ]  # no recursion: a request may nest deeper than calls can
    while levels:
        name, value = next(levels[-1], (None, None))
        if name is None:
            levels.pop()
            del path[-1:]
        elif "\0" in name or (isinstance(value, str) and "\0" in value):
            where = ".".join([*path, name][1:]).replace("\0", "\\u0000")
            raise InvalidRequest(f"{where}: must not contain the character U+0000")
        elif isinstance(value, dict):
            path.append(name)
            levels.append(iter(value.items()))
        elif isinstance(value, list):
            path.append(name)
            levels.append((str(number), inner) for number, inner in enumerate(value))


def parse_empty(raw: bytes) -> None:
    """Check the body of a POST that takes no fields: nothing, or `{}`. Raises InvalidRequest."""
    if raw:
        parse(_Nothing, raw)


def not_yet(what: str) -> AfterValidator:
    """Refuse a value (other than null, [] and {}) for what is not built: never accept and ignore."""

    def check(value: Any) -> Any:
        if value:
            raise ValueError(f"{what} not available on this server yet; leave it out")
        return value

    return AfterValidator(check)


OMITTED: Any = None
"""Default of a field that may be left out but not be null. Never read: `given` leaves it out."""


class _Nothing(Strict):
    pass


def refusal(error: ValidationError, sent: Any) -> InvalidRequest:
    """What to answer: `path: message`, one line per wrong field."""
    lines = []
    for detail in error.errors(include_url=False, include_input=False)[:VALIDATION_ERRORS_SHOWN_MAX]:
        kind, message = detail["type"], detail["msg"].removeprefix("Value error, ")
        path = _path(detail["loc"], sent)
        if kind in ("union_tag_invalid", "union_tag_not_found"):
            path = f"{path}.type" if path else "type"
        if kind == "union_tag_invalid":  # pydantic's own words repeat the value
            message = f"must be one of {detail['ctx']['expected_tags']}"
        if kind == "string_pattern_mismatch":
            message = _SAYS.get(detail["ctx"]["pattern"], message)
        if kind == "too_short" and "after validation" in message:  # a secret's, which has no items
            message = f"must have at least {detail['ctx']['min_length']} character"
        lines.append(f"{path}: {message}" if path else message)
    return InvalidRequest("\n".join(lines))


def _path(location: tuple[int | str, ...], sent: Any) -> str:
    """`events.0.content.1.text`: the location without the tags that pydantic puts in for tagged unions.

    A tag repeats the `type` of the object it stands behind, and a field of that object follows it.
    """
    parts: list[str] = []
    here, is_fresh = sent, True
    for number, part in enumerate(location):
        is_last = number == len(location) - 1
        if is_fresh and not is_last and isinstance(here, dict) and here.get("type") == part:
            is_fresh = False
            continue
        if part == "[key]":  # a dict's key is wrong, not its value
            continue
        parts.append(str(part))
        is_fresh = True
        if isinstance(here, dict):
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int):
            here = here[part]
    return ".".join(parts)
