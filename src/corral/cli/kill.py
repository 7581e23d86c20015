"""`corral kill`: stop a session, all sessions of an agent, or all there are."""

from corral.cli.connect import Api
from corral.cli.outcome import Exit, Problem

__all__ = ["kill"]

ALL = "ALL"


def kill(api: Api, what: str, *, reason: str) -> None:
    """Says how many were told to stop; each does within two seconds."""
    if what == ALL:
        target: dict[str, object] = {"all": True}
    elif what.startswith("agent_"):
        target = {"agent_id": what}
    elif what.startswith("sesn_"):
        target = {"session_id": what}
    else:
        raise Problem(
            f"{what!r} is no session (sesn_...), no agent (agent_...) and not {ALL}", exit=Exit.USAGE
        )
    told, page = 0, None
    while True:
        body = {**target, "reason": reason} | ({"page": page} if page else {})
        answer = api.post("/corral/v1/kill", body)
        told += len(answer["session_ids"])
        page = answer["next_page"]
        if page is None:
            break
    if not told:
        print("nothing to stop: nothing runs, waits for an answer or has a message")
    else:
        print(f"{told} session{'s' if told > 1 else ''} told to stop: {reason}")
