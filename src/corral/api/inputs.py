"""From request shapes to events: what a client sends becomes facts with ids."""

from collections.abc import Sequence

from corral.api.schema.events import Input, UserDefineOutcome, UserToolConfirmation
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import Ids
from corral.session.events import EVENT_TYPES, Event


def new_inputs(shapes: Sequence[Input], *, field: str, ids: Ids) -> list[Event]:
    """Events as they will be stored, in order. `field` names the list in messages.

    Raises InvalidRequest naming the item.
    """
    return [_input(shape, f"{field}.{number}", ids) for number, shape in enumerate(shapes)]


def _input(shape: Input, where: str, ids: Ids) -> Event:
    match shape:
        case UserDefineOutcome():
            raise InvalidRequest(f"{where}.type: 'user.define_outcome' is not available on this server yet")
        case UserToolConfirmation(result="allow", deny_message=str()):
            raise InvalidRequest(f"{where}.deny_message: only with result 'deny'")
        case _:
            return EVENT_TYPES[shape.type](id=ids.event(), **shape.given())
