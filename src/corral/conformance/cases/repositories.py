"""Repositories as resources of sessions. Nothing here waits for a clone."""

from corral.conformance.case import Target, case, check, refused, same

_URL = "https://github.com/octocat/Hello-World"


@case(
    "repositories",
    "POST /v1/sessions",
    "GET /v1/sessions/{session_id}/resources",
    "GET /v1/sessions/{session_id}/resources/{resource_id}",
    "DELETE /v1/sessions/{session_id}/resources/{resource_id}",
)
async def repositories_are_mounted_below_the_workspace(to: Target) -> None:
    session = await to.session(
        resources=[
            {"type": "github_repository", "url": _URL},
            {
                "type": "github_repository",
                "url": _URL,
                "checkout": {"type": "branch", "name": "test"},
                "mount_path": "/workspace/src/again",
            },
        ]
    )
    first, second = session.resources
    same((first.type, first.url), ("github_repository", _URL), "type and url")
    same((first.mount_path, first.checkout), ("/workspace/Hello-World", None), "without either")
    same(second.mount_path, "/workspace/src/again", "mount_path")
    same((second.checkout.type, second.checkout.name), ("branch", "test"), "checkout")
    resources = to.beta.sessions.resources
    found = [each.id for each in await to.every(resources.list(session.id))]
    same(sorted(found), sorted([first.id, second.id]), "resources")
    shown = await resources.retrieve(second.id, session_id=session.id)
    same(shown.to_dict(), second.to_dict(), "as retrieved")
    check("authorization_token" not in shown.to_dict(), "no token is shown")
    with refused(400):
        await resources.delete(first.id, session_id=session.id)


@case(
    "repositories",
    "POST /v1/sessions",
    "GET /v1/sessions/{session_id}",
    "POST /v1/sessions/{session_id}/resources/{resource_id}",
)
async def a_token_of_a_repository_is_taken_and_never_shown(to: Target) -> None:
    first, second = to.name("token"), to.name("token")
    session = await to.session(
        resources=[{"type": "github_repository", "url": _URL, "authorization_token": first}]
    )
    resources, [resource] = to.beta.sessions.resources, session.resources
    changed = await resources.update(resource.id, session_id=session.id, authorization_token=second)
    same((changed.id, changed.url), (resource.id, _URL), "id and url after an update")
    shown = [
        *(session, changed, await to.beta.sessions.retrieve(session.id)),
        await resources.retrieve(resource.id, session_id=session.id),
        *await to.every(resources.list(session.id)),
    ]
    for answer in shown:
        text = str(answer.to_dict())
        check(first not in text and second not in text, "no answer has a token")
        check("authorization_token" not in text, "no answer has the member")
    with refused(400):
        await resources.update(resource.id, session_id=session.id, authorization_token="")


@case("repositories", "POST /v1/sessions")
async def what_is_no_repository_is_refused(to: Target) -> None:
    for fields in (
        {"url": "http://github.com/octocat/Hello-World"},
        {"url": "https://github.com/"},
        {"url": _URL, "mount_path": "/etc/hello"},
        {"url": _URL, "mount_path": "/workspace/../etc/hello"},
        {"url": _URL, "checkout": {"type": "tag", "name": "v1"}},
    ):
        with refused(400):
            await to.session(resources=[{"type": "github_repository", **fields}])
