"""The `skills` of an agent: what a client may ask for, and what a session gets.

A reference is resolved when it is saved: what is stored and shown names one version, so an agent does not
change because somebody uploads. A session keeps, besides, what its model is told (`Attached`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from corral.catalog.records import Wire
from corral.catalog.skills.ports import LATEST, SkillKey, SkillVersion, SkillVersions
from corral.catalog.toolset import offers
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import SKILL, SkillId, WorkspaceId
from corral.kernel.limits import SKILLS_PER_SESSION_MAX

__all__ = ["DIRECTORY", "PREBUILT", "AttachedSkill", "attach", "check_readable"]

PREBUILT: Final = ("docx", "pdf", "pptx", "xlsx")
"""Anthropic's own skills, by id. Here an operator can install packages under these names."""

DIRECTORY: Final = "/workspace/skills"
"""Where sandboxes have the skills of an agent. Source: API docs, skills."""

NOT_FOUND: Final = "skill_not_found"


@dataclass(frozen=True, kw_only=True, slots=True)
class AttachedSkill:
    """One skill of an agent, resolved."""

    type: str
    version: SkillVersion

    @property
    def wire(self) -> dict[str, Any]:
        """As agents show it."""
        return {
            "skill_id": self.version.skill_id,
            "type": self.type,
            "version": self.version.skill_version_id,
        }

    @property
    def kept(self) -> dict[str, Any]:
        """What a session keeps: its brains need no more to say what there is and to bring it along."""
        return {
            **self.wire,
            "name": self.version.name,
            "description": self.version.description,
            "path": f"{DIRECTORY}/{self.version.name}",
            "sha256": self.version.sha256,
        }


async def attach(
    versions: SkillVersions, workspace_id: WorkspaceId, asked: Sequence[Wire], *, where: str = "skills"
) -> list[AttachedSkill]:
    """`where` names the list in messages.

    Raises InvalidRequest: not there (`skill_not_found`), twice, or two of one name.
    """
    if len(asked) > SKILLS_PER_SESSION_MAX:
        raise InvalidRequest(
            f"{where}: {len(asked)} skills; a session has at most {SKILLS_PER_SESSION_MAX}"
        )
    if not asked:
        return []
    found = await versions.find(
        [(_key(workspace_id, each), each.get("version") or LATEST) for each in asked]
    )
    attached: list[AttachedSkill] = []
    for number, (each, version) in enumerate(zip(asked, found, strict=True)):
        path = f"{where}.{number}"
        is_custom = each["skill_id"].startswith(f"{SKILL}_")
        if version is None or is_custom != (each["type"] == "custom"):
            raise InvalidRequest(f"{path}: {_missing(each, is_custom=is_custom)}", error_code=NOT_FOUND)
        for earlier in attached:
            if earlier.version.skill_id == version.skill_id:
                raise InvalidRequest(f"{path}.skill_id: {version.skill_id!r} is listed twice")
            if earlier.version.name == version.name:
                raise InvalidRequest(
                    f"{path}.skill_id: {version.skill_id!r} and {earlier.version.skill_id!r} are both"
                    f" called {version.name!r}, so they would be in one directory; leave one out"
                )
        attached.append(AttachedSkill(type=each["type"], version=version))
    return attached


def check_readable(skills: Sequence[Wire], tools: Sequence[Wire], *, where: str = "") -> None:
    """Skills are files that the agent reads. `where` prefixes field paths. Raises InvalidRequest."""
    if skills and not offers(tools, "read"):
        raise InvalidRequest(
            f"{where}skills: an agent with skills needs the tool 'read'; enable it in tools, as in"
            " {'type': 'agent_toolset_20260401'}, or leave the skills out"
        )


def _key(workspace_id: WorkspaceId, asked: Wire) -> SkillKey:
    return SkillKey(workspace_id, SkillId(asked["skill_id"]))


def _missing(asked: Wire, *, is_custom: bool) -> str:
    skill_id, version = asked["skill_id"], asked.get("version") or LATEST
    if is_custom and asked["type"] != "custom":
        return f"{skill_id!r} is a skill of type 'custom'"
    if asked["type"] == "custom":
        which = "" if version == LATEST else f", or has no version {version!r}"
        return f"skill {skill_id!r} does not exist{which}; it may have been deleted"
    if skill_id not in PREBUILT:
        return f"{skill_id!r} is none of the prebuilt skills: {', '.join(PREBUILT)}"
    if version != LATEST:
        return f"the prebuilt skill {skill_id!r} is not installed on this server in version {version!r}"
    return (
        f"the prebuilt skill {skill_id!r} is Anthropic's and not part of this server. Upload a skill of"
        " your own (type 'custom'), or have the operator install a package under this name:"
        f" corral skills install DIRECTORY --as {skill_id}"
    )
