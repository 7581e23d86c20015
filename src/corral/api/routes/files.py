"""/v1/files. Source: API docs, files."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import datetime
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from corral.api.answer import bytes_response, json_answer, json_response
from corral.api.caller import Caller, caller
from corral.api.dependencies import Dependencies
from corral.api.errors import envelope
from corral.api.idempotency import OnceOnly
from corral.api.openapi import takes
from corral.api.ranges import Span, asked_span
from corral.api.schema.files import UPLOAD, FileListQuery
from corral.api.schema.query import NoQuery, parse_query
from corral.api.uploads import Uploading
from corral.api.visible_files import VisibleFiles
from corral.catalog.files import FileFilter, FilePage, FileRecord, check_readable, file_view, new_upload
from corral.kernel import cursor
from corral.kernel.clock import parse_rfc3339, rfc3339
from corral.kernel.cursor import BAD_CURSOR
from corral.kernel.errors import InvalidRequest, NotFound
from corral.kernel.ids import FILE, FileId
from corral.kernel.limits import FILE_IDS_MAX, PAGE_LIMIT_DEFAULT

__all__ = ["file_routes"]

_CURSOR, _CURSOR_MARK = "files", "page_"
Place = tuple[datetime, str]


def file_routes(deps: Dependencies, once: OnceOnly, visible: VisibleFiles) -> APIRouter:
    router = APIRouter(tags=["files"])
    uploading = Uploading(deps.files)

    @router.post("/v1/files", openapi_extra=takes(form=UPLOAD))
    async def upload_file(request: Request) -> Response:
        # Whether it is a repeat is known at its end: then what was stored for it goes.
        parse_query(NoQuery, request.query_params)
        once.check_key(request)
        upload = await uploading.read(request, caller(request).workspace_id)
        digest = upload.digest
        is_kept = False
        try:
            replayed = await once.replay(request, digest)
            if replayed is not None:
                return replayed
            record = new_upload(
                file_id=FileId(deps.ids.mint(FILE)),
                workspace_id=caller(request).workspace_id,
                filename=upload.filename,
                mime_type=upload.content_type,
                size_bytes=upload.received.size_bytes,
                sha256=upload.received.sha256,
                blob_key=upload.received.blob_key,
                expires_in_seconds=upload.expires_in_seconds,
                now=deps.clock.now(),
            )

            async def add() -> FileRecord:
                nonlocal is_kept
                added = await deps.files.table.add(record)
                is_kept = True
                return added

            return await once.perform(
                request, add, lambda added: json_answer(file_view(added)), digest=digest
            )
        finally:
            if not is_kept:
                await deps.files.discard(upload.received)

    @router.get("/v1/files", openapi_extra=takes(query=FileListQuery))
    async def list_files(request: Request) -> Response:
        query = parse_query(FileListQuery, request.query_params)
        who = caller(request)
        if query.ids is not None:
            page = await _named(visible, who, query)
        else:
            after, before = await _places(visible, who, query)
            page = await deps.files.table.page(
                who.workspace_id,
                FileFilter(
                    scope_id=query.scope_id,
                    unscoped_only=who.role == "user"
                    and (query.scope_id is None or not await visible.sees_session(who, query.scope_id)),
                ),
                limit=query.limit or PAGE_LIMIT_DEFAULT,
                after=after,
                before=before,
            )
        is_forward = query.ids is None and query.before_id is None
        return _page_response(page, has_next=page.has_more and is_forward)

    @router.get("/v1/files/{file_id}")
    async def retrieve_file(request: Request, file_id: FileId) -> Response:
        parse_query(NoQuery, request.query_params)
        return json_response(file_view(await visible.read(caller(request), file_id)))

    @router.head(
        "/v1/files/{file_id}/content", include_in_schema=False
    )  # elsewhere the gate makes it a GET
    @router.get("/v1/files/{file_id}/content")
    async def download_file(request: Request, file_id: FileId) -> Response:
        parse_query(NoQuery, request.query_params)
        record = await visible.read(caller(request), file_id)
        check_readable(record, now=deps.clock.now())
        if not record.downloadable:
            raise InvalidRequest(
                f"File {file_id!r} was uploaded; only files that a tool has made can be downloaded.",
                error_code="file_not_downloadable",
            )
        return await _content(deps, request, record)

    @router.delete("/v1/files/{file_id}")
    @once.per_key
    async def delete_file(request: Request, file_id: FileId) -> Response:
        parse_query(NoQuery, request.query_params)
        return await once.perform(
            request,
            lambda: deps.files.table.delete(caller(request).workspace_id, file_id),
            lambda _: json_answer({"id": file_id, "type": "file_deleted"}),
        )

    return router


# -- lists ----------------------------------------------------------------------------------------------


async def _named(visible: VisibleFiles, who: Caller, query: FileListQuery) -> FilePage:
    """Of `ids[]`: those that are there, newest first. Raises InvalidRequest."""
    if (query.limit, query.page, query.after_id, query.before_id) != (None, None, None, None):
        raise InvalidRequest("ids[]: is answered in one page; leave limit and page out")
    ids = {FileId(file_id) for file_id in query.ids or ()}
    if len(ids) > FILE_IDS_MAX:
        raise InvalidRequest(f"ids[]: at most {FILE_IDS_MAX} files")
    found = (await visible.read_all(who, list(ids))).values()
    wanted = [record for record in found if query.scope_id in (None, record.scope_id)]
    return FilePage(
        files=sorted(wanted, key=lambda record: (record.created_at, record.file_id), reverse=True),
        has_more=False,
    )


async def _places(
    visible: VisibleFiles, who: Caller, query: FileListQuery
) -> tuple[Place | None, Place | None]:
    """After or before which the page lies. Raises InvalidRequest."""
    if sum(each is not None for each in (query.page, query.after_id, query.before_id)) > 1:
        raise InvalidRequest("page, after_id, before_id: give one of them")

    async def place(name: str, file_id: str | None) -> Place | None:
        if file_id is None:
            return None
        try:
            record = await visible.read(who, FileId(file_id))
        except NotFound as error:
            raise InvalidRequest(f"{name}: {error.message}") from None
        return record.created_at, record.file_id

    after = await place("after_id", query.after_id)
    if query.page is not None:
        after = _decoded(query.page)
    return after, await place("before_id", query.before_id)


def _decoded(page: str) -> Place:
    if not page.startswith(_CURSOR_MARK):
        raise InvalidRequest(BAD_CURSOR)
    created, file_id = cursor.decode(_CURSOR, page.removeprefix(_CURSOR_MARK), shape=(str, str))
    try:
        return parse_rfc3339(created), file_id
    except ValueError:
        raise InvalidRequest(BAD_CURSOR) from None


def _page_response(page: FilePage, *, has_next: bool) -> Response:
    """With what older SDKs page by: `has_more`, `first_id`, `last_id`."""
    files = page.files
    next_page = None
    if has_next:
        next_page = _CURSOR_MARK + cursor.encode(_CURSOR, rfc3339(files[-1].created_at), files[-1].file_id)
    return bytes_response(
        orjson.dumps(
            {
                "data": [file_view(record) for record in files],
                "next_page": next_page,
                "has_more": page.has_more,
                "first_id": files[0].file_id if files else None,
                "last_id": files[-1].file_id if files else None,
            }
        )
    )


# -- content --------------------------------------------------------------------------------------------


async def _content(deps: Dependencies, request: Request, record: FileRecord) -> Response:
    """All of it, or what `Range` asks for. A file never changes, so its hash is its ETag."""
    size, etag = record.size_bytes, f'"{record.sha256}"'
    headers = {
        "accept-ranges": "bytes",
        "etag": etag,
        "content-type": record.mime_type,
        # Whoever made it may have meant it for a browser that trusts us.
        "content-disposition": f"attachment; filename*=UTF-8''{quote(record.filename, safe='')}",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox",
    }
    span = None
    if request.headers.get("if-range", etag) == etag:
        span = asked_span(request.headers.get("range"), size)
    if span is not None and span.start >= span.end:
        message = f"Range: file {record.file_id!r} has {size} bytes"
        body = envelope("invalid_request_error", message, request.scope["corral.request_id"])
        return Response(body, 416, {"content-range": f"bytes */{size}"}, "application/json")
    status = 200
    if span is None:
        span = Span(0, size)
    else:
        status = 206
        headers["content-range"] = f"bytes {span.start}-{span.end - 1}/{size}"
    headers["content-length"] = str(span.end - span.start)
    if request.method == "HEAD":
        return Response(None, status, headers)
    chunks = deps.files.read(record, start=span.start, end=span.end)
    first = await anext(chunks, b"")  # what fails, fails before the answer begins
    return StreamingResponse(_rest(first, chunks), status, headers)


async def _rest(first: bytes, chunks: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(chunks):
        yield first
        async for chunk in chunks:
            yield chunk
