"""Which skills of repositories an agent is told of."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from corral.catalog.repositories import RepositorySkill
from corral.kernel.ids import SessionId
from corral.repositories.skills import SkillsOfRepositories
from corral.session.mounts import MountFailed

SESSION = SessionId("sesn_1")


def skill(name: str, text: str | None = None) -> RepositorySkill:
    text = f"---\nname: {name}\ndescription: Does it.\n---\n" if text is None else text
    return RepositorySkill(name=name, path=f".claude/skills/{name}/SKILL.md", text=text)


class Repositories:
    """By mount path; one that is missing cannot be cloned."""

    def __init__(self, skills: Mapping[str, Sequence[RepositorySkill]]) -> None:
        self._skills = skills

    async def skills(self, session_id: SessionId, resource: Mapping[str, Any]) -> Sequence[RepositorySkill]:
        assert session_id == SESSION
        if resource["mount_path"] not in self._skills:
            raise MountFailed.unknown("not there")
        return self._skills[resource["mount_path"]]


async def found(skills: Mapping[str, Sequence[RepositorySkill]], *paths: str) -> list[tuple[str, str]]:
    async def resources(session_id: SessionId) -> Sequence[Mapping[str, Any]]:
        files = {"type": "file", "id": "sesrsc_0", "mount_path": "/a/x"}
        return [
            files,
            *(
                {"type": "github_repository", "id": path, "mount_path": f"/workspace/{path}"}
                for path in paths
            ),
        ]

    listed = await SkillsOfRepositories(Repositories(skills), resources=resources).of(SESSION, waits=True)
    assert listed is not None
    return [(each["name"], each["path"]) for each in listed]


async def test_names_that_clash_keep_both_with_their_paths() -> None:
    skills = {"/workspace/a": [skill("x"), skill("y")], "/workspace/b": [skill("x")]}
    assert await found(skills, "a", "b") == [
        ("x", "/workspace/a/.claude/skills/x"),
        ("y", "/workspace/a/.claude/skills/y"),
        ("x", "/workspace/b/.claude/skills/x"),
    ]


class Slow:
    """A repository whose clone takes a while."""

    def __init__(self) -> None:
        self.is_cloned, self.asked = asyncio.Event(), 0

    async def skills(self, session_id: SessionId, resource: Mapping[str, Any]) -> Sequence[RepositorySkill]:
        self.asked += 1
        await self.is_cloned.wait()
        return [skill("x")]


async def test_nobody_waits_for_a_clone_to_its_end_and_it_goes_on() -> None:
    async def resources(session_id: SessionId) -> Sequence[Mapping[str, Any]]:
        return [{"type": "github_repository", "id": "sesrsc_1", "mount_path": "/workspace/a"}]

    slow = Slow()
    skills = SkillsOfRepositories(slow, resources=resources, wait_seconds=0.01)
    assert await skills.of(SESSION, waits=True) is None
    assert await skills.of(SESSION, waits=False) is None
    asking = asyncio.create_task(skills.of(SESSION, waits=True))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    slow.is_cloned.set()
    async with asyncio.timeout(60):
        while (found := await skills.of(SESSION, waits=False)) is None:
            pass
    assert [each["name"] for each in found] == ["x"] and slow.asked == 1
    await skills.of(SESSION, waits=True)
    assert slow.asked == 2, "once it is known, it is looked for anew"
    slow.is_cloned.clear()
    assert await skills.of(SESSION, waits=False) is None
    await skills.aclose()


async def test_what_cannot_be_had_or_told_is_left_out() -> None:
    skills = {"/workspace/b": [skill("x", "# no front matter"), skill("line\nfeed"), skill("y")]}
    assert await found(skills, "gone", "b") == [("y", "/workspace/b/.claude/skills/y")]
