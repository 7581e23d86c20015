"""Files, and files as resources of sessions."""

from typing import Any

from corral.conformance.case import Target, case, check, refused, same


async def _file(
    to: Target, name: str = "data.csv", content: bytes = b"a,b\n", kind: str = "text/csv"
) -> Any:
    file = await to.beta.files.upload(file=(name, content, kind))
    to.later("file", lambda: to.beta.files.delete(file.id))
    return file


@case("files", "POST /v1/files", "GET /v1/files/{file_id}", "DELETE /v1/files/{file_id}")
async def a_file_lives_from_upload_to_delete(to: Target) -> None:
    file = await _file(to)
    same((file.type, file.filename, file.mime_type), ("file", "data.csv", "text/csv"), "the file")
    same((file.size_bytes, file.downloadable), (4, False), "its size, and whether it is downloadable")
    found = await to.beta.files.retrieve_metadata(file.id)
    same((found.id, found.created_at), (file.id, file.created_at), "as retrieved")
    gone = await to.beta.files.delete(file.id)
    same((gone.id, gone.type), (file.id, "file_deleted"), "the answer")
    with refused(404, "not_found_error"):
        await to.beta.files.retrieve_metadata(file.id)


@case("files", "POST /v1/files")
async def only_the_last_part_of_a_filename_is_kept(to: Target) -> None:
    same((await _file(to, "../a/données.txt", kind="text/plain")).filename, "données.txt", "filename")


@case("files", "GET /v1/files/{file_id}/content")
async def an_uploaded_file_is_not_downloadable(to: Target) -> None:
    file = await _file(to)
    with refused(400):
        await to.beta.files.download(file.id)
    with refused(404, "not_found_error"):
        await to.beta.files.download("file_011CNha8iCJcU1wXNR6q4V8w")


@case("files", "GET /v1/files")
async def files_are_listed_newest_first(to: Target) -> None:
    made = [(await _file(to)).id for _ in range(3)]
    found = [file.id for file in await to.every(to.beta.files.list(limit=2)) if file.id in made]
    same(found, made[::-1], "of these, newest first")


@case(
    "files",
    "POST /v1/sessions",
    "POST /v1/sessions/{session_id}/resources",
    "GET /v1/sessions/{session_id}/resources",
    "GET /v1/sessions/{session_id}/resources/{resource_id}",
    "DELETE /v1/sessions/{session_id}/resources/{resource_id}",
)
async def files_are_mounted_while_a_session_lives(to: Target) -> None:
    file, resources = await _file(to), to.beta.sessions.resources
    first = {"type": "file", "file_id": file.id, "mount_path": "/first.csv"}
    session = await to.session(resources=[first])
    [mounted] = session.resources
    same(mounted.mount_path, "/mnt/session/uploads/first.csv", "mount_path")
    check(mounted.file_id != file.id, "the session has a copy under an id of its own")
    added = await resources.add(session.id, type="file", file_id=file.id)
    same(added.mount_path, f"/mnt/session/uploads/{file.id}", "mount_path without one")
    same((await resources.retrieve(added.id, session_id=session.id)).id, added.id, "as retrieved")
    found = [each.id for each in await to.every(resources.list(session.id))]
    same(sorted(found), sorted([mounted.id, added.id]), "resources")
    gone = await resources.delete(added.id, session_id=session.id)
    same((gone.id, gone.type), (added.id, "session_resource_deleted"), "the answer")
    with refused(404, "not_found_error"):
        await resources.retrieve(added.id, session_id=session.id)
    copies = await to.every(to.beta.files.list(scope_id=session.id, betas=["managed-agents-2026-04-01"]))
    same([copy.id for copy in copies], [mounted.file_id], "files of the session")


@case("files", "POST /v1/sessions/{session_id}/resources/{resource_id}")
async def a_mounted_file_has_no_token(to: Target) -> None:
    file = await _file(to)
    session = await to.session(resources=[{"type": "file", "file_id": file.id}])
    with refused(400):
        await to.beta.sessions.resources.update(
            session.resources[0].id, session_id=session.id, authorization_token=to.name("token")
        )


@case("files", "POST /v1/sessions")
async def a_file_that_is_not_there_is_not_mounted(to: Target) -> None:
    with refused(404, "not_found_error"):
        await to.session(resources=[{"type": "file", "file_id": "file_011CNha8iCJcU1wXNR6q4V8w"}])
