"""/v1/skills, and the operator's own under /corral/v1. Source: API docs, skills."""

from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from corral.api.answer import json_answer, json_response
from corral.api.caller import caller
from corral.api.dependencies import Dependencies
from corral.api.idempotency import OnceOnly
from corral.api.openapi import takes
from corral.api.schema.query import NoQuery, parse_query
from corral.api.schema.skills import SkillListQuery, SkillVersionListQuery
from corral.api.skill_upload import Upload, display_name, received
from corral.api.skill_views import SkillViews
from corral.catalog.skills.attached import PREBUILT
from corral.catalog.skills.package import chunks_of
from corral.catalog.skills.ports import LATEST, SkillKey, SkillVersion, blob_key
from corral.kernel.errors import BlobUnavailable, InvalidRequest, NotFound
from corral.kernel.ids import SKILL, SKILL_VERSION, SkillId, SkillVersionId

__all__ = ["skill_routes"]

_DISPLAY_NAMES: Final = ("display_name", "display_title")  # today's, and the older API's
_FILES: Final = {
    "files[]": {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "description": "Each file with its path, as in my-skill/SKILL.md; or one zip of them all.",
    }
}


def _takes_form(**more: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {**_FILES, **more}, "required": ["files[]"]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def skill_routes(deps: Dependencies, once: OnceOnly) -> APIRouter:
    router = APIRouter(tags=["skills"])
    _add_skills(router, deps, once)
    _add_versions(router, deps, once)
    _add_installed(router, deps)
    return router


def _add_skills(router: APIRouter, deps: Dependencies, once: OnceOnly) -> None:
    @router.post("/v1/skills", openapi_extra=_takes_form(display_name={"type": "string"}))
    async def create_skill(request: Request) -> Response:
        parse_query(NoQuery, request.query_params)
        views, at = SkillViews(request), _key(request, SkillId(deps.ids.mint(SKILL)))
        async with received(request, fields=frozenset(_DISPLAY_NAMES)) as upload:
            name = display_name(upload, *_DISPLAY_NAMES)
            if (replayed := await once.replay(request, upload.digest)) is not None:
                return replayed
            version = await _put(deps, at, upload)
            return await once.perform(
                request,
                lambda: deps.skills.create(at, version, source="custom", display_name=name),
                lambda skill: json_answer(views.skill(skill)),
                digest=upload.digest,
            )

    @router.get("/v1/skills", openapi_extra=takes(query=SkillListQuery))
    async def list_skills(request: Request) -> Response:
        query, views = parse_query(SkillListQuery, request.query_params), SkillViews(request)
        page = await deps.skills.page(
            caller(request).workspace_id,
            limit=query.limit,
            cursor=query.page,
            source=query.source,
            is_empty_shown=views.is_legacy,
        )
        shown = [views.skill(skill) for skill in page.items]
        return json_response(views.page(shown, page.next_cursor))

    @router.get("/v1/skills/{skill_id}")
    async def retrieve_skill(request: Request, skill_id: SkillId) -> Response:
        parse_query(NoQuery, request.query_params)
        views = SkillViews(request)
        skill = await deps.skills.read(_key(request, skill_id), is_empty_shown=views.is_legacy)
        return json_response(views.skill(skill))

    @router.delete("/v1/skills/{skill_id}")
    @once.per_key
    async def delete_skill(request: Request, skill_id: SkillId) -> Response:
        parse_query(NoQuery, request.query_params)
        at = _key(request, skill_id)
        return await once.perform(
            request,
            lambda: deps.skills.delete(at),
            lambda _: json_answer({"id": skill_id, "type": "skill_deleted"}),
        )


def _add_versions(router: APIRouter, deps: Dependencies, once: OnceOnly) -> None:
    @router.post("/v1/skills/{skill_id}/versions", openapi_extra=_takes_form())
    async def create_skill_version(request: Request, skill_id: SkillId) -> Response:
        parse_query(NoQuery, request.query_params)
        views, at = SkillViews(request), _key(request, skill_id)
        async with received(request) as upload:
            if (replayed := await once.replay(request, upload.digest)) is not None:
                return replayed
            await deps.skills.read(at, is_empty_shown=True)  # nothing is kept for what is not there
            version = await _put(deps, at, upload)
            return await once.perform(
                request,
                lambda: deps.skill_versions.add(at, version),
                lambda added: json_answer(views.version(added)),
                digest=upload.digest,
            )

    @router.get("/v1/skills/{skill_id}/versions", openapi_extra=takes(query=SkillVersionListQuery))
    async def list_skill_versions(request: Request, skill_id: SkillId) -> Response:
        query, views = parse_query(SkillVersionListQuery, request.query_params), SkillViews(request)
        page = await deps.skill_versions.page(_key(request, skill_id), limit=query.limit, cursor=query.page)
        shown = [views.version(version) for version in page.items]
        return json_response(views.page(shown, page.next_cursor))

    @router.get("/v1/skills/{skill_id}/versions/{version}")
    async def retrieve_skill_version(request: Request, skill_id: SkillId, version: str) -> Response:
        parse_query(NoQuery, request.query_params)
        found = await deps.skill_versions.read(_key(request, skill_id), version)
        return json_response(SkillViews(request).version(found))

    @router.delete("/v1/skills/{skill_id}/versions/{version}")
    @once.per_key
    async def delete_skill_version(request: Request, skill_id: SkillId, version: str) -> Response:
        parse_query(NoQuery, request.query_params)
        views, at = SkillViews(request), _key(request, skill_id)
        if version == LATEST:
            raise InvalidRequest("version: name the version to delete; 'latest' may be another one by now")
        return await once.perform(
            request,
            lambda: deps.skill_versions.delete(at, version, may_empty=views.is_legacy),
            lambda gone: json_answer(views.deleted_version(gone)),
        )

    @router.get("/v1/skills/{skill_id}/versions/{version}/content")
    async def download_skill_version(request: Request, skill_id: SkillId, version: str) -> Response:
        parse_query(NoQuery, request.query_params)
        found = await deps.skill_versions.read(_key(request, skill_id), version)
        content = deps.blobs.get(found.blob_key)
        try:
            first = await anext(content)  # what fails, fails before the answer begins
        except (NotFound, StopAsyncIteration):
            raise BlobUnavailable(
                f"The package of {found.skill_version_id} is not where blobs are kept.", retryable=False
            ) from None
        return StreamingResponse(
            _rest(first, content),
            media_type="application/zip",
            headers={
                "content-length": str(found.size_bytes),
                "content-disposition": f'attachment; filename="{found.name}.zip"',
            },
        )


def _add_installed(router: APIRouter, deps: Dependencies) -> None:
    """Packages of the operator under the ids of Anthropic's own skills."""

    @router.post("/corral/v1/skills", openapi_extra=_takes_form(prebuilt={"enum": list(PREBUILT)}))
    async def install_skill(request: Request) -> Response:
        parse_query(NoQuery, request.query_params)
        async with received(request, fields=frozenset({"prebuilt"}), is_trusted=True) as upload:
            prebuilt = upload.fields.get("prebuilt")
            if prebuilt not in PREBUILT:
                raise InvalidRequest(
                    f"prebuilt: must be one of {', '.join(PREBUILT)}; upload other skills to /v1/skills"
                )
            at = _key(request, SkillId(prebuilt))
            version = await _put(deps, at, upload)
            try:
                await deps.skill_versions.add(at, version, source="anthropic")
            except NotFound:
                name = display_name(upload)
                await deps.skills.create(at, version, source="anthropic", display_name=name)
        return json_response(SkillViews(request).skill(await deps.skills.read(at)))

    @router.delete("/corral/v1/skills/{prebuilt}")
    async def uninstall_skill(request: Request, prebuilt: SkillId) -> Response:
        parse_query(NoQuery, request.query_params)
        await deps.skills.delete(_key(request, prebuilt), source="anthropic")
        return json_response({"id": prebuilt, "type": "skill_deleted"})


async def _put(deps: Dependencies, at: SkillKey, upload: Upload) -> SkillVersion:
    """Keep the package; nobody sees it yet. Raises BlobUnavailable."""
    package, version_id = upload.package, SkillVersionId(deps.ids.mint(SKILL_VERSION))
    version = SkillVersion(
        skill_version_id=version_id,
        skill_id=at.skill_id,
        name=package.manifest.name,
        description=package.manifest.description,
        directory=package.directory,
        files=package.files,
        size_bytes=package.size_bytes,
        sha256=package.sha256,
        blob_key=blob_key(version_id),
        created_at=deps.clock.now(),
    )

    async def content() -> AsyncIterator[bytes]:
        for chunk in chunks_of(package.file):
            yield chunk

    await deps.skill_versions.reserve(at, version)
    await deps.blobs.put(version.blob_key, content())
    return version


async def _rest(first: bytes, more: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in more:
        yield chunk


def _key(request: Request, skill_id: SkillId) -> SkillKey:
    return SkillKey(caller(request).workspace_id, skill_id)
