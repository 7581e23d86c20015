"""Sessions and their primary thread, without any work of a model."""

from corral.conformance.case import Target, case, check, refused, same


@case("sessions", "POST /v1/sessions", "GET /v1/sessions/{session_id}")
async def a_new_session_is_idle_and_holds_its_agent(to: Target) -> None:
    agent = await to.agent(system="Be brief.")
    session = await to.session(agent, title="a title", metadata={"a": "1"})
    same((session.type, session.status, session.title), ("session", "idle", "a title"), "the session")
    same((session.agent.id, session.agent.version), (agent.id, 1), "its agent")
    same(session.agent.system, "Be brief.", "the snapshot of its agent")
    same((session.metadata, session.archived_at), ({"a": "1"}, None), "metadata and archived_at")
    same((session.usage.input_tokens or 0, session.usage.output_tokens or 0), (0, 0), "usage")
    found = await to.beta.sessions.retrieve(session.id)
    same((found.id, found.created_at), (session.id, session.created_at), "as retrieved")


@case("sessions", "POST /v1/sessions")
async def a_session_takes_an_older_version_of_its_agent(to: Target) -> None:
    agent = await to.agent(system="one")
    await to.beta.agents.update(agent.id, version=1, system="two")
    session = await to.session(agent, as_agent={"type": "agent", "id": agent.id, "version": 1})
    same((session.agent.version, session.agent.system), (1, "one"), "the snapshot")
    newest = await to.session(agent)
    same((newest.agent.version, newest.agent.system), (2, "two"), "the snapshot of the newest")


@case("sessions", "POST /v1/sessions")
async def a_session_may_override_its_agent(to: Target) -> None:
    agent = await to.agent(system="one")
    session = await to.session(
        agent, as_agent={"type": "agent_with_overrides", "id": agent.id, "system": "other"}
    )
    same((session.agent.system, session.agent.name), ("other", agent.name), "the snapshot")
    same((await to.beta.agents.retrieve(agent.id)).system, "one", "the agent itself")


@case("sessions", "POST /v1/sessions/{session_id}")
async def title_and_metadata_are_updated(to: Target) -> None:
    session = await to.session(title="one", metadata={"keep": "1", "drop": "2"})
    changed = await to.beta.sessions.update(session.id, title="two", metadata={"drop": None})
    same((changed.title, changed.metadata), ("two", {"keep": "1"}), "title and metadata")
    cleared = await to.beta.sessions.update(session.id, title=None)
    same(cleared.title, None, "title after null")
    events = await to.every(to.beta.sessions.events.list(session.id))
    same([event.type for event in events], ["session.updated"] * 2, "types of events")


@case("sessions", "GET /v1/sessions")
async def sessions_are_listed_both_ways(to: Target) -> None:
    agent, environment = await to.agent(), await to.environment()
    made = [(await to.session(agent, environment)).id for _ in range(3)]
    newest = await to.every(to.beta.sessions.list(agent_id=agent.id, limit=2))
    same([each.id for each in newest], made[::-1], "of this agent, newest first")
    oldest = await to.every(to.beta.sessions.list(agent_id=agent.id, limit=2, order="asc"))
    same([each.id for each in oldest], made, "order=asc")
    first = await to.beta.sessions.list(agent_id=agent.id, limit=2)
    same(first.prev_page, None, "prev_page of the first page")
    second = await to.beta.sessions.list(agent_id=agent.id, limit=2, page=first.next_page)
    check(second.prev_page, "prev_page of the second page")
    back = await to.beta.sessions.list(agent_id=agent.id, limit=2, page=second.prev_page)
    same([each.id for each in back.data], [each.id for each in first.data], "the page before")
    with refused(400):
        await to.beta.sessions.list(agent_id=agent.id, order="asc", page=first.next_page)


@case("sessions", "POST /v1/sessions/{session_id}/archive")
async def an_archived_session_is_terminated_and_takes_nothing(to: Target) -> None:
    session = await to.session()
    archived = await to.beta.sessions.archive(session.id)
    same(archived.status, "terminated", "status")
    check(archived.archived_at, "archived_at is set")
    with refused(409, "conflict_error"):
        await to.beta.sessions.events.send(
            session.id, events=[{"type": "user.message", "content": [{"type": "text", "text": "x"}]}]
        )


@case("sessions", "DELETE /v1/sessions/{session_id}")
async def a_deleted_session_is_gone(to: Target) -> None:
    session = await to.session()
    gone = await to.beta.sessions.delete(session.id)
    same((gone.id, gone.type), (session.id, "session_deleted"), "the answer")
    with refused(404, "not_found_error"):
        await to.beta.sessions.retrieve(session.id)
    with refused(404, "not_found_error"):
        await to.beta.sessions.events.list(session.id)


@case(
    "sessions",
    "GET /v1/sessions/{session_id}/threads",
    "GET /v1/sessions/{session_id}/threads/{thread_id}",
    "GET /v1/sessions/{session_id}/threads/{thread_id}/events",
)
async def a_session_has_its_primary_thread(to: Target) -> None:
    session = await to.session()
    threads = await to.every(to.beta.sessions.threads.list(session.id))
    same(len(threads), 1, "number of threads")
    primary = await to.beta.sessions.threads.retrieve(threads[0].id, session_id=session.id)
    same((primary.session_id, primary.status), (session.id, "idle"), "the thread")
    same(primary.agent.id, session.agent.id, "its agent")
    events = await to.every(to.beta.sessions.threads.events.list(primary.id, session_id=session.id))
    same(events, [], "its events")


@case("sessions", "POST /v1/sessions/{session_id}/threads/{thread_id}/archive")
async def the_primary_thread_cannot_be_archived(to: Target) -> None:
    session = await to.session()
    threads = await to.every(to.beta.sessions.threads.list(session.id))
    with refused(400):
        await to.beta.sessions.threads.archive(threads[0].id, session_id=session.id)


@case("sessions", "POST /v1/sessions")
async def what_a_session_cannot_be_is_named(to: Target) -> None:
    agent, environment = await to.agent(), await to.environment()
    with refused(404, "not_found_error"):
        await to.beta.sessions.create(agent="agent_01AAAAAAAAAAAAAAAAAAAAAA", environment_id=environment.id)
    with refused(400, naming="environment_id"):
        await to.client.post("/v1/sessions", body={"agent": agent.id}, cast_to=object)
    with refused(400, naming="initial_events"):
        await to.session(agent, environment, initial_events=[{"type": "user.interrupt"}])
