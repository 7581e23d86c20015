"""Environments of the cloud type."""

from corral.conformance.case import Target, case, check, refused, same


@case(
    "environments",
    "POST /v1/environments",
    "GET /v1/environments/{environment_id}",
    "POST /v1/environments/{environment_id}",
)
async def an_environment_is_found_and_updated(to: Target) -> None:
    made = await to.environment(description="one", metadata={"a": "1", "b": "2"})
    same((made.type, made.config.type, made.archived_at), ("environment", "cloud", None), "the environment")
    same((await to.beta.environments.retrieve(made.id)).to_dict(), made.to_dict(), "as retrieved")
    changed = await to.beta.environments.update(made.id, description="two", metadata={"a": None, "c": "3"})
    same((changed.description, changed.name), ("two", made.name), "description and name")
    same(changed.metadata, {"b": "2", "c": "3"}, "metadata")


@case("environments", "POST /v1/environments/{environment_id}/archive")
async def an_archived_environment_starts_nothing(to: Target) -> None:
    made = await to.environment()
    archived = await to.beta.environments.archive(made.id)
    check(archived.archived_at, "archived_at is set")
    agent = await to.agent()
    with refused(400):
        await to.beta.sessions.create(agent=agent.id, environment_id=made.id)


@case("environments", "DELETE /v1/environments/{environment_id}")
async def a_deleted_environment_is_gone(to: Target) -> None:
    made = await to.environment()
    gone = await to.beta.environments.delete(made.id)
    same((gone.id, gone.type), (made.id, "environment_deleted"), "the answer")
    with refused(404, "not_found_error"):
        await to.beta.environments.retrieve(made.id)


@case("environments", "GET /v1/environments")
async def environments_are_listed_newest_first(to: Target) -> None:
    made = [await to.environment() for _ in range(2)]
    page = await to.beta.environments.list(limit=1)
    same(len(page.data), 1, "items of a page of one")
    check(page.next_page, "a cursor where there is more")
    shown = [each.id for each in await to.every(to.beta.environments.list(limit=100))]
    check(shown.index(made[1].id) < shown.index(made[0].id), "newest first")


@case("environments", "POST /v1/environments")
async def what_an_environment_cannot_be_is_named(to: Target) -> None:
    with refused(400, naming="config"):
        await to.environment(config={"type": "moon"})
    with refused(400, naming="networking"):
        await to.environment(config={"type": "cloud", "networking": {"type": "sometimes"}})
