"""Skills and their versions."""

import io
import zipfile
from typing import Any

from corral.conformance.case import Target, case, check, refused, same


def _files(name: str, **more: bytes) -> list[Any]:
    text = f"---\nname: {name}\ndescription: Greets people. Use it for a greeting.\n---\nSay hello.\n"
    return [
        (f"{name}/SKILL.md", text.encode()),
        *((f"{name}/{path}", content) for path, content in more.items()),
    ]


async def _skill(to: Target, name: str, **more: bytes) -> Any:
    skill = await to.beta.skills.create(files=_files(name, **more))

    async def undo() -> None:
        await to.beta.skills.delete(skill.id)

    to.later("skill", undo)
    return skill


@case(
    "skills",
    "POST /v1/skills",
    "GET /v1/skills/{skill_id}",
    "GET /v1/skills",
    "DELETE /v1/skills/{skill_id}",
)
async def a_skill_lives_from_upload_to_delete(to: Target) -> None:
    name = to.name("skill")
    skill = await _skill(to, name)
    same((skill.display_name, skill.source.type), (name, "custom"), "display_name and source")
    same((await to.beta.skills.retrieve(skill.id)).to_dict(), skill.to_dict(), "as retrieved")
    listed = await to.every(to.beta.skills.list(source="custom", limit=100))
    check(skill.id in [each.id for each in listed], "it is listed")
    gone = await to.beta.skills.delete(skill.id)
    same((gone.id, gone.type), (skill.id, "skill_deleted"), "the answer")
    with refused(404, "not_found_error"):
        await to.beta.skills.retrieve(skill.id)


@case(
    "skills",
    "POST /v1/skills/{skill_id}/versions",
    "GET /v1/skills/{skill_id}/versions/{version}",
    "GET /v1/skills/{skill_id}/versions",
    "DELETE /v1/skills/{skill_id}/versions/{version}",
    "GET /v1/skills/{skill_id}/versions/{version}/content",
)
async def versions_are_added_downloaded_and_removed(to: Target) -> None:
    name = to.name("skill")
    skill, versions = await _skill(to, name), to.beta.skills.versions
    added = await versions.create(skill.id, files=_files(name, more=b"more"))
    same((added.name, added.description[:7]), (name, "Greets "), "name and description")
    same((await to.beta.skills.retrieve(skill.id)).latest_version_id, added.id, "latest_version_id")
    listed = [each.id for each in await to.every(versions.list(skill.id, limit=1))]
    same(listed, [added.id, skill.latest_version_id], "versions, newest first")
    same((await versions.retrieve("latest", skill_id=skill.id)).id, added.id, "latest")
    content = await (await versions.download(added.id, skill_id=skill.id)).read()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        same(archive.read(f"{name}/more"), b"more", "a file of the download")
    await versions.delete(added.id, skill_id=skill.id)
    same((await to.beta.skills.retrieve(skill.id)).latest_version_id, listed[1], "latest after a delete")
    with refused(404, "not_found_error"):
        await versions.retrieve(added.id, skill_id=skill.id)


@case("skills", "POST /v1/skills")
async def what_is_no_skill_is_refused(to: Target) -> None:
    name = to.name("skill")
    with refused(400, naming="SKILL.md"):
        await to.beta.skills.create(files=[(f"{name}/README.md", b"hello")])
    with refused(400):
        await to.beta.skills.create(files=[*_files(name), (f"{name}/../../x", b"out")])


@case("skills", "POST /v1/agents")
async def an_agent_keeps_the_version_it_was_saved_with(to: Target) -> None:
    skill = await _skill(to, to.name("skill"))
    asked = {"type": "custom", "skill_id": skill.id, "version": skill.latest_version_id}
    agent = await to.agent(tools=[{"type": "agent_toolset_20260401"}], skills=[asked])
    same(agent.skills[0].to_dict(), asked, "the skill of the agent")
    session = await to.session(agent)
    same(session.agent.skills[0].to_dict(), asked, "the skill of its session")
