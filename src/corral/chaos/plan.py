"""What the sessions are asked, and what the made-up model answers: both follow from the seed.

The order of a turn travels in the text of its user message, so the model needs no memory: it reads the
conversation and answers with the first calls of an order that nobody has made yet, or with text. Whoever
asks it again after a crash gets the same answer.

Every call leaves its token, unique in the whole run, as a line of the file `ran` in the workspace. So what
ran, and how often, is counted inside the sandbox and not by the one who might be wrong.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal, get_args

from corral.session.content import Block, Json
from corral.testing.messages_api import Request
from corral.testing.messages_reply import Answer, HttpError, Reply

__all__ = [
    "KINDS",
    "MARK",
    "OUTPUTS",
    "RAN",
    "Call",
    "Turn",
    "answer",
    "command",
    "expected",
    "lookup_tool",
    "turns",
]

Kind = Literal[
    "text", "tool", "long", "parallel", "rounds", "deny", "custom", "interrupt", "queue", "look", "output"
]  # fmt: skip
KINDS: Final = get_args(Kind)
WEIGHTS: Final[Mapping[Kind, int]] = {
    "text": 3, "tool": 5, "long": 2, "parallel": 3, "rounds": 3, "deny": 2, "custom": 2, "interrupt": 2,
    "queue": 2, "look": 1, "output": 2,
}  # fmt: skip
RAN: Final = "ran"
OUTPUTS: Final = "/mnt/session/outputs"
MARK: Final = "chaos "  # begins the text of every message that holds an order
_WORDS: Final = "The herd came home before the storm and nobody was lost on the way. " * 3
# A reply in pieces over a fraction of a second: so that what dies, dies in the middle of it.
_DRIP_BYTES, _DRIP_SECONDS = 400, 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One tool call. `seconds` is how long it takes; `denied`: where the agent asks, the answer is no;
    `puts_out`: it makes an output that has its token as name and content."""

    token: str
    tool: Literal["bash", "write", "lookup"] = "bash"
    seconds: float = 0.0
    denied: bool = False
    looks: bool = False
    puts_out: bool = False

    @property
    def tool_use_id(self) -> str:
        return f"toolu_{self.token.replace('.', '_')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One message and what becomes of it. `rounds`: calls of one reply are made side by side."""

    token: str
    kind: Kind
    rounds: Sequence[Sequence[Call]] = ()

    @property
    def calls(self) -> Sequence[Call]:
        return [call for each in self.rounds for call in each]

    @property
    def text(self) -> str:
        return MARK + json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def of(cls, text: str) -> "Turn":
        """Inverse of `text`."""
        data = json.loads(text.removeprefix(MARK))
        rounds = [[Call(**call) for call in each] for each in data["rounds"]]
        return cls(token=data["token"], kind=data["kind"], rounds=rounds)


def turns(seed: int, session: str, *, kinds: Sequence[Kind] = KINDS) -> Iterator[Sequence[Turn]]:
    """What one session is asked, without end: each item is sent at once, and waited for together."""
    choice = random.Random(f"{seed}/{session}")
    number = 0
    while True:
        kind = choice.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
        number += 1
        if kind == "queue":
            several = [f"{session}.{number}{letter}" for letter in "abc"[: choice.randint(2, 3)]]
            yield [_turn(choice, token, choice.choice(("text", "tool"))) for token in several]
        else:
            yield [_turn(choice, f"{session}.{number}", kind)]


def _turn(choice: random.Random, token: str, kind: Kind) -> Turn:
    def call(round_: int, number: int, **fields: Json) -> Call:
        return Call(token=f"{token}.{round_}.{number}", **fields)

    match kind:
        case "tool":
            rounds = [[call(0, 0, seconds=choice.choice((0.0, 0.2)))]]
        case "long":
            rounds = [[call(0, 0, seconds=choice.uniform(2.0, 5.0))]]
        case "parallel":
            tools = ["bash", "write", *choice.choices(("bash", "write"), k=choice.randint(0, 2))]
            rounds = [
                [call(0, n, tool=tool, seconds=choice.uniform(0.0, 1.0)) for n, tool in enumerate(tools)]
            ]
        case "rounds":
            rounds = [[call(n, 0)] for n in range(choice.randint(2, 4))]
        case "deny":
            rounds = [[call(0, 0, denied=True), call(0, 1)]]
        case "custom":
            rounds = [[call(0, 0, tool="lookup"), call(0, 1, seconds=choice.uniform(0.0, 0.5))]]
        case "interrupt":
            rounds = [[call(0, 0, seconds=20.0)]]
        case "look":
            rounds = [[call(0, 0, looks=True)]]
        case "output":
            rounds = [[call(0, 0, puts_out=True)]]
        case _:
            rounds = []
    return Turn(token=token, kind=kind, rounds=rounds)


def lookup_tool() -> Mapping[str, Json]:
    """The custom tool of every agent: the driver answers it."""
    return {
        "type": "custom",
        "name": "lookup",
        "description": "Look a word up.",
        "input_schema": {"type": "object", "properties": {"word": {"type": "string"}}},
    }


# -- the model ---------------------------------------------------------------------------------------


def answer(request: Request) -> Answer:
    """The script of the fake Messages API."""
    orders, made = _read(request.json["messages"])
    if not orders:
        return HttpError(
            status=400, message="there is no order in this conversation; see corral.chaos.plan"
        )
    for order in orders:
        for calls in order.rounds:
            if calls and calls[0].tool_use_id not in made:
                return _in_pieces(Reply.tools(*(_use(call) for call in calls)))
    return _in_pieces(Reply.text(f"Done {orders[-1].token}. {_WORDS}"))


def _read(messages: Sequence[Mapping[str, Json]]) -> tuple[list[Turn], set[str]]:
    """The orders of a conversation, and the ids of the calls that were made."""
    orders, made = [], set()
    for message in messages:
        blocks: Sequence[Block] = message["content"] if isinstance(message["content"], list) else ()
        for block in blocks:
            if block["type"] == "tool_use":
                made.add(block["id"])
            elif block["type"] == "text" and block["text"].startswith(MARK):
                orders.append(Turn.of(block["text"]))
    return orders, made


def _in_pieces(reply: Reply) -> Reply:
    return Reply(
        content=reply.content,
        stop_reason=reply.stop_reason,
        drip_bytes=_DRIP_BYTES,
        drip_seconds=_DRIP_SECONDS,
        first_seconds=0.02,
    )


def _use(call: Call) -> tuple[str, str, Mapping[str, Json]]:
    match call.tool:
        case "write":
            return call.tool_use_id, "write", {"file_path": f"w.{call.token}", "content": call.token}
        case "lookup":
            return call.tool_use_id, "lookup", {"word": call.token}
        case _:
            return call.tool_use_id, "bash", {"command": command(call)}


def command(call: Call) -> str:
    """What a bash call does: leave its token, take its time, say so."""
    put = f"echo {call.token} >{OUTPUTS}/{call.token}; " if call.puts_out else ""
    look = "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; " if call.looks else ""
    wait = f"sleep {call.seconds:.2f}; " if call.seconds else ""
    return f"echo {call.token} >>{RAN}; {put}{look}{wait}echo done {call.token}"


def expected(call: Call) -> str:
    """How the true result of a bash call ends."""
    return f"done {call.token}"
