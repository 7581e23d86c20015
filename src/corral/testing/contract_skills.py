"""What every store of skills must do. See contract_store."""

import asyncio
from dataclasses import replace
from datetime import datetime

from corral.catalog.skills.attached import AttachedSkill
from corral.catalog.skills.ports import Skill, SkillKey, SkillVersion, blob_key
from corral.kernel.errors import BlobUnavailable, Conflict, InvalidRequest, NotFound
from corral.kernel.ids import (
    DEFAULT_WORKSPACE,
    SKILL,
    SKILL_VERSION,
    SkillId,
    SkillVersionId,
    WorkspaceId,
)
from corral.kernel.limits import SKILL_FORGET_SECONDS
from corral.testing.sessions import new_session
from corral.testing.stores import Check, Stores, error_of

ELSEWHERE = WorkspaceId("wrkspc_other")


def new_key(stores: Stores, workspace_id: WorkspaceId = DEFAULT_WORKSPACE) -> SkillKey:
    return SkillKey(workspace_id, SkillId(stores.ids.mint(SKILL)))


def new_version(stores: Stores, at: SkillKey, *, name: str = "ä") -> SkillVersion:
    version_id = SkillVersionId(stores.ids.mint(SKILL_VERSION))
    return SkillVersion(
        skill_version_id=version_id,
        skill_id=at.skill_id,
        name=name,
        description="Does things.",
        directory="D",
        files=2,
        size_bytes=3,
        sha256="00",
        blob_key=blob_key(version_id),
        created_at=stores.clock.now(),
    )


async def reserved(stores: Stores, at: SkillKey, *, name: str = "ä") -> SkillVersion:
    version = new_version(stores, at, name=name)
    await stores.skill_versions.reserve(at, version)
    return version


async def create(stores: Stores, at: SkillKey) -> Skill:
    version = await reserved(stores, at)
    return await stores.skills.create(at, version, source="custom", display_name="Ä")


async def add(stores: Stores, at: SkillKey) -> SkillVersion:
    return await stores.skill_versions.add(at, await reserved(stores, at))


async def found(stores: Stores, at: SkillKey, which: str) -> SkillVersion | None:
    [version] = await stores.skill_versions.find([(at, which)])
    return version


async def a_skill_and_its_versions(stores: Stores) -> None:
    at = new_key(stores)
    first = await reserved(stores, at)
    assert isinstance(await error_of(stores.skills.read(at)), NotFound), "reserved is not there"
    assert await found(stores, at, first.skill_version_id) is None
    skill = await stores.skills.create(at, first, source="custom", display_name="Ä")
    assert skill == await stores.skills.read(at)
    assert (skill.latest_version_id, skill.name, skill.display_name) == (first.skill_version_id, "ä", "Ä")
    assert await stores.skill_versions.read(at, "latest") == first
    second, third = await add(stores, at), await add(stores, at)
    assert first.created_at < second.created_at < third.created_at, "though the clock stands still"
    for version in (first, second, third):
        assert await stores.skill_versions.read(at, version.skill_version_id) == version
        assert await stores.skill_versions.read(at, version.number) == version
    changed = await stores.skills.read(at)
    assert (changed.latest_version_id, changed.latest_number) == (third.skill_version_id, third.number)
    assert changed.updated_at == third.created_at
    for which in ("skillver_x", "0", "9" * 15, "9" * 40, "²", "x", "", "latest "):
        assert isinstance(await error_of(stores.skill_versions.read(at, which)), NotFound)


async def another_name_is_refused(stores: Stores) -> None:
    at = new_key(stores)
    await create(stores, at)
    other = await reserved(stores, at, name="b")
    assert isinstance(await error_of(stores.skill_versions.add(at, other)), InvalidRequest)
    assert len((await stores.skill_versions.page(at, limit=9, cursor=None)).items) == 1


async def what_was_not_reserved_is_not_kept(stores: Stores) -> None:
    at = new_key(stores)
    version = new_version(stores, at)
    made = stores.skills.create(at, version, source="custom", display_name="Ä")
    assert isinstance(await error_of(made), BlobUnavailable)
    assert isinstance(await error_of(stores.skills.read(at)), NotFound)
    await create(stores, at)
    assert isinstance(await error_of(stores.skill_versions.add(at, version)), BlobUnavailable)
    twin = stores.skills.create(at, await reserved(stores, at), source="custom", display_name="Ä")
    assert isinstance(await error_of(twin), Conflict)


async def workspaces_do_not_see_each_other(stores: Stores) -> None:
    at = new_key(stores)
    skill = await create(stores, at)
    other = at._replace(workspace_id=ELSEWHERE)
    for action in (
        stores.skills.read(other),
        stores.skills.delete(other),
        stores.skill_versions.read(other, "latest"),
        stores.skill_versions.page(other, limit=1, cursor=None),
        stores.skill_versions.delete(other, str(skill.latest_version_id)),
        stores.skill_versions.add(other, await reserved(stores, other)),
    ):
        assert isinstance(await error_of(action), NotFound)
    assert (await stores.skills.page(ELSEWHERE, limit=9, cursor=None)).items == []
    assert await found(stores, other, "latest") is None
    assert skill.latest_version_id is not None
    assert await stores.skill_versions.kept(ELSEWHERE, skill.latest_version_id) is None
    assert await stores.skill_versions.kept(DEFAULT_WORKSPACE, skill.latest_version_id) is not None
    twin = new_key(stores, ELSEWHERE)._replace(skill_id=at.skill_id)
    assert (await create(stores, twin)).skill_id == at.skill_id, "the operator's have the same id"


async def pages(stores: Stores) -> None:
    made = []
    for number in range(5):
        stores.clock.advance(number % 2)  # some in one moment
        made.append(await create(stores, new_key(stores)))
    installed = SkillKey(DEFAULT_WORKSPACE, SkillId("pptx"))
    version = await reserved(stores, installed)
    await stores.skills.create(installed, version, source="anthropic", display_name="pptx")

    async def all_of(limit: int, **options: object) -> list[str]:
        ids: list[str] = []
        cursor = None
        while True:
            page = await stores.skills.page(DEFAULT_WORKSPACE, limit=limit, cursor=cursor, **options)  # type: ignore[arg-type]
            assert len(page.items) <= limit
            ids += [skill.skill_id for skill in page.items]
            if (cursor := page.next_cursor) is None:
                return ids

    def newest_first(skill: Skill) -> tuple[datetime, str]:
        return skill.created_at, skill.skill_id

    custom = [skill.skill_id for skill in sorted(made, key=newest_first, reverse=True)]
    for limit in (1, 2, 10):
        assert await all_of(limit, source="custom") == custom
        assert await all_of(limit, source="anthropic") == ["pptx"]
        assert sorted(await all_of(limit)) == sorted([*custom, "pptx"])
    at = SkillKey(DEFAULT_WORKSPACE, made[0].skill_id)
    versions = [str(made[0].latest_version_id)]
    for _ in range(3):
        versions.insert(0, (await add(stores, at)).skill_version_id)
    first = await stores.skill_versions.page(at, limit=3, cursor=None)
    rest = await stores.skill_versions.page(at, limit=3, cursor=first.next_cursor)
    assert [each.skill_version_id for each in (*first.items, *rest.items)] == versions
    assert rest.next_cursor is None
    other = SkillKey(DEFAULT_WORKSPACE, made[1].skill_id)
    foreign = stores.skill_versions.page(other, limit=1, cursor=first.next_cursor)
    assert isinstance(await error_of(foreign), InvalidRequest)


async def deleting_versions(stores: Stores) -> None:
    at = new_key(stores)
    await create(stores, at)
    second, third = await add(stores, at), await add(stores, at)
    assert await stores.skill_versions.delete(at, third.number) == third
    skill = await stores.skills.read(at)
    assert skill.latest_version_id == second.skill_version_id
    again = await add(stores, at)
    assert again.created_at > third.created_at, "a number is never used again"
    for which in (again.skill_version_id, second.skill_version_id):
        await stores.skill_versions.delete(at, which)
    [left] = (await stores.skill_versions.page(at, limit=9, cursor=None)).items
    refused = await error_of(stores.skill_versions.delete(at, left.skill_version_id))
    assert isinstance(refused, InvalidRequest)
    await stores.skill_versions.delete(at, left.skill_version_id, may_empty=True)
    assert isinstance(await error_of(stores.skills.read(at)), NotFound)
    assert (await stores.skills.read(at, is_empty_shown=True)).latest_version_id is None
    assert (await stores.skills.page(at.workspace_id, limit=9, cursor=None)).items == []
    assert (
        len((await stores.skills.page(at.workspace_id, limit=9, cursor=None, is_empty_shown=True)).items)
        == 1
    )
    await add(stores, at)
    assert (await stores.skills.read(at)).latest_version_id is not None


async def the_operators_are_not_the_clients(stores: Stores) -> None:
    at = SkillKey(DEFAULT_WORKSPACE, SkillId("pdf"))
    version = await reserved(stores, at)
    await stores.skills.create(at, version, source="anthropic", display_name="pdf")
    for action in (
        stores.skills.delete(at),
        stores.skill_versions.add(at, await reserved(stores, at)),
        stores.skill_versions.delete(at, version.skill_version_id, may_empty=True),
    ):
        assert isinstance(await error_of(action), InvalidRequest)
    await stores.skill_versions.add(at, await reserved(stores, at), source="anthropic")
    await stores.skills.delete(at, source="anthropic")


async def what_is_gone_is_forgotten_later(stores: Stores) -> None:
    """A deleted version, all of a deleted skill, and an upload that nobody finished."""
    at, doomed = new_key(stores), new_key(stores)
    kept = await create(stores, at)
    second = await add(stores, at)
    await create(stores, doomed)
    third = await add(stores, doomed)
    lost = await reserved(stores, at)
    await stores.skill_versions.delete(at, second.skill_version_id)
    await stores.skills.delete(doomed)
    assert await stores.skill_forgetting.over(limit=9) == [], "a session may just be made with it"
    stores.clock.advance(SKILL_FORGET_SECONDS)
    over = await stores.skill_forgetting.over(limit=9)
    assert len(over) == 4
    assert {each.skill_version_id for each in over} > {
        second.skill_version_id,
        third.skill_version_id,
        lost.skill_version_id,
    }
    assert len(await stores.skill_forgetting.over(limit=1)) == 1
    ids = [each.skill_version_id for each in over]
    assert kept.latest_version_id is not None
    await stores.skill_forgetting.forget([*ids, kept.latest_version_id])
    await stores.skill_forgetting.forget(ids)
    assert await stores.skill_forgetting.over(limit=9) == []
    assert (await stores.skills.read(at)).latest_version_id == kept.latest_version_id
    assert isinstance(await error_of(stores.skill_versions.add(at, lost)), BlobUnavailable)


async def a_session_keeps_what_it_has(stores: Stores) -> None:
    """Its record has what was attached, and no package goes that it may need for a new sandbox."""
    at = new_key(stores)
    skill = await create(stores, at)
    version = await stores.skill_versions.read(at, "latest")
    kept = AttachedSkill(type="custom", version=version).kept
    drafted = replace(new_session(stores.ids, stores.clock.now()), skills=[kept])
    record = await stores.sessions.create(drafted)
    assert list(record.skills) == [kept]
    assert list((await stores.sessions.read(record.session_id)).skills) == [kept]
    assert list((await stores.log.snapshot(record.session_id)).record.skills) == [kept]
    await stores.skills.delete(at)
    stores.clock.advance(2 * SKILL_FORGET_SECONDS)
    assert await stores.skill_forgetting.over(limit=9) == []
    await stores.skill_forgetting.forget([version.skill_version_id])
    assert await stores.skill_versions.kept(at.workspace_id, version.skill_version_id) == version
    await stores.sessions.delete(record.session_id)
    [over] = await stores.skill_forgetting.over(limit=9)
    assert over.skill_version_id == skill.latest_version_id


async def twins_of_one_skill(stores: Stores) -> None:
    at = new_key(stores)
    await create(stores, at)
    versions = [await reserved(stores, at) for _ in range(6)]
    added = await asyncio.gather(*(stores.skill_versions.add(at, version) for version in versions))
    assert len({each.created_at for each in added}) == 6
    latest = max(added, key=lambda each: each.created_at)
    assert (await stores.skills.read(at)).latest_version_id == latest.skill_version_id


CHECKS: tuple[Check, ...] = (
    a_skill_and_its_versions,
    another_name_is_refused,
    what_was_not_reserved_is_not_kept,
    workspaces_do_not_see_each_other,
    pages,
    deleting_versions,
    the_operators_are_not_the_clients,
    what_is_gone_is_forgotten_later,
    a_session_keeps_what_it_has,
    twins_of_one_skill,
)
