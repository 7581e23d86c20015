"""Which effects belong in flight. Pure: a function of the folded log, the lease's epoch, and what is
running already. The loop starts what is missing and stops what it is told to stop.
"""

from corral.brain.actions import Action, AskModel, Backoff, RunTool, Seek, Stop
from corral.brain.toolset import SHELL_TOOL
from corral.kernel.ids import ThreadId
from corral.session.events import UserInterrupt
from corral.session.state import State, Thread


def decide(
    state: State,
    *,
    epoch: int,
    in_flight: frozenset[Action],
    ending: frozenset[ThreadId] = frozenset(),
) -> frozenset[Action | Stop]:
    """The actions to start now, and those to stop (once started) because an interrupt waits for them, or
    because the turns of these threads are `ending`."""
    actions: set[Action | Stop] = set()
    for thread in state.threads.values():
        if is_interrupted(state, thread.thread_id) or thread.thread_id in ending:
            left = left_running(thread, epoch=epoch)
            actions |= left - in_flight
            actions |= {
                Stop(action=action) for action in left | of_thread(state, thread.thread_id, in_flight)
            }
        else:
            actions |= wanted(state, thread, epoch=epoch) - in_flight
    return frozenset(actions)


def wanted(state: State, thread: Thread, *, epoch: int) -> set[Action]:
    """What should be in flight for one thread, whether or not it is."""
    if thread.status == "rescheduling":
        return {Backoff(thread_id=thread.thread_id, failures=thread.failures)}
    if thread.status != "running":
        return set()
    if thread.request is not None:
        # A request of an older epoch is lost with its brain; `turn` closes it.
        mine = thread.request_epoch == epoch
        return {AskModel(thread_id=thread.thread_id, request=thread.request)} if mine else set()
    ready = [c for c in thread.calls.values() if not c.awaits_client and c.placement is not None]
    if thread.seeks and thread.wants_model and not thread.calls:
        return {Seek(thread_id=thread.thread_id, waits=not thread.is_told_later)}
    # A thread's shell takes one command after another, in the order the model gave them: hands could not
    # tell that order from the order in which side by side requests reach them.
    in_shell = [call.call_id for call in ready if call.own_tool == SHELL_TOOL]
    return {
        RunTool(call_id=call.call_id, attach=call.epoch != epoch)
        for call in ready
        if call.call_id not in in_shell[1:]
    }


def left_running(thread: Thread, *, epoch: int) -> set[Action]:
    """Calls that an earlier brain may have dispatched. Only the hands know what became of them, and only
    they can kill them: an interrupt goes there before it is applied."""
    if thread.status != "running":
        return set()
    return {
        RunTool(call_id=call.call_id, attach=True)
        for call in thread.calls.values()
        if not call.awaits_client and call.placement is not None and call.epoch != epoch
    }


def is_interrupted(state: State, thread_id: ThreadId) -> bool:
    """Whether an interrupt for this thread waits in the inbox."""
    return any(
        isinstance(waiting.event, UserInterrupt) and waiting.event.session_thread_id in (None, thread_id)
        for waiting in state.inbox.values()
    )


def of_thread(state: State, thread_id: ThreadId, in_flight: frozenset[Action]) -> set[Action]:
    """The actions in flight that belong to a thread."""
    calls = state.threads[thread_id].calls
    return {
        action
        for action in in_flight
        if (action.call_id in calls if isinstance(action, RunTool) else action.thread_id == thread_id)
    }
