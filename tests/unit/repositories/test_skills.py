"""Which skills of repositories an agent is told of."""

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

    listed = await SkillsOfRepositories(Repositories(skills), resources=resources).of(SESSION)
    return [(each["name"], each["path"]) for each in listed]


async def test_names_that_clash_keep_both_with_their_paths() -> None:
    skills = {"/workspace/a": [skill("x"), skill("y")], "/workspace/b": [skill("x")]}
    assert await found(skills, "a", "b") == [
        ("x", "/workspace/a/.claude/skills/x"),
        ("y", "/workspace/a/.claude/skills/y"),
        ("x", "/workspace/b/.claude/skills/x"),
    ]


async def test_what_cannot_be_had_or_told_is_left_out() -> None:
    skills = {"/workspace/b": [skill("x", "# no front matter"), skill("line\nfeed"), skill("y")]}
    assert await found(skills, "gone", "b") == [("y", "/workspace/b/.claude/skills/y")]
