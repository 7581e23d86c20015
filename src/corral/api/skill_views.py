"""What skills look like on the wire, today and to clients of the older API (`skills-2025-10-02`).

The older one names a version by a number, has `display_title`, `latest_version` and `directory`, and its
`source` is a word. Its clients get those besides what there is today; `source` is a word only for those
that also send an `anthropic-version` of that time.
"""

from starlette.requests import Request

from corral.api.betas import SKILLS, betas_of
from corral.catalog.skills.ports import Skill, SkillVersion
from corral.kernel.clock import rfc3339
from corral.session.content import Json

__all__ = ["SkillViews"]

_NEW_API = "2026"  # anthropic-version since then


class SkillViews:
    """Of one request."""

    def __init__(self, request: Request) -> None:
        self.is_legacy = SKILLS in betas_of(request)
        self._is_old = self.is_legacy and request.headers.get("anthropic-version", "") < _NEW_API

    def skill(self, skill: Skill) -> dict[str, Json]:
        shown: dict[str, Json] = {
            "id": skill.skill_id,
            "type": "skill",
            "display_name": skill.display_name,
            "latest_version_id": skill.latest_version_id,
            "source": skill.source if self._is_old else {"type": skill.source},
            "created_at": rfc3339(skill.created_at),
            "updated_at": rfc3339(skill.updated_at),
        }
        if self.is_legacy:
            shown["display_title"] = skill.display_name
            shown["latest_version"] = skill.latest_number
        return shown

    def version(self, version: SkillVersion) -> dict[str, Json]:
        shown: dict[str, Json] = {
            "id": version.skill_version_id,
            "type": "skill_version",
            "skill_id": version.skill_id,
            "name": version.name,
            "description": version.description,
            "created_at": rfc3339(version.created_at),
        }
        if self.is_legacy:
            shown["version"] = version.number
            shown["directory"] = version.directory
        return shown

    def page(self, shown: list[dict[str, Json]], next_cursor: str | None) -> dict[str, Json]:
        page: dict[str, Json] = {"data": shown, "next_page": next_cursor}
        if self.is_legacy:
            page["has_more"] = next_cursor is not None
        return page

    def deleted_version(self, version: SkillVersion) -> dict[str, Json]:
        id_ = version.number if self._is_old else version.skill_version_id
        return {"id": id_, "type": "skill_version_deleted"}
