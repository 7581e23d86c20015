"""What every store of files and of sessions' resources must do. See contract_store."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256, shake_256
from typing import Any

from corral.catalog.files import FileFilter, FilePage, FileRecord, check_readable, new_upload
from corral.kernel.errors import Conflict, CorralError, InvalidRequest, NotFound
from corral.kernel.ids import DEFAULT_WORKSPACE, FILE, RESOURCE, FileId, ResourceId, SessionId, WorkspaceId
from corral.kernel.limits import FILE_METADATA_DAYS, UPLOAD_GIVEN_UP_SECONDS
from corral.session.record import SessionRecord
from corral.session.resources import FileCopy, NewResource, Resource
from corral.testing.sessions import new_session
from corral.testing.stores import Check, Stores, error_of

__all__ = ["CHECKS", "QUOTA_BYTES", "mount"]

QUOTA_BYTES = 1000
"""Of the store under test, for all uploads together."""
OTHER = WorkspaceId("wrkspc_other")


async def expected(stores: Stores) -> str:
    """The key of a blob whose bytes are there, for all that the store knows."""
    key = f"files/{stores.ids.mint('blob')}"
    await stores.files.expect(key)
    return key


async def upload(stores: Stores, content: bytes = b"content", **fields: Any) -> FileRecord:
    stores.clock.advance(0)
    record = new_upload(
        file_id=FileId(stores.ids.mint(FILE)),
        workspace_id=fields.pop("workspace_id", DEFAULT_WORKSPACE),
        filename=fields.pop("filename", "data.csv"),
        mime_type="text/csv",
        size_bytes=len(content),
        sha256=sha256(content).hexdigest(),
        blob_key=await expected(stores),
        expires_in_seconds=fields.pop("expires_in_seconds", None),
        now=stores.clock.now(),
    )
    return await stores.files.add(replace(record, **fields))


def output(stores: Stores, session_id: SessionId, path: str, content: bytes, key: str) -> FileRecord:
    return FileRecord(
        file_id=FileId(stores.ids.mint(FILE)),
        workspace_id=DEFAULT_WORKSPACE,
        filename=path,
        mime_type="text/plain",
        size_bytes=len(content),
        sha256=sha256(content).hexdigest(),
        origin="output",
        downloadable=True,
        created_at=stores.clock.now(),
        scope_id=session_id,
        blob_key=key,
        output_path=path,
    )


def mount(stores: Stores, source: FileRecord, path: str = "/mnt/session/uploads/a") -> NewResource:
    copy_id = FileId(stores.ids.mint(FILE))
    body = {"id": stores.ids.mint(RESOURCE), "type": "file", "file_id": copy_id, "mount_path": path}
    resource = Resource(body=body, private={"sha256": source.sha256})
    return NewResource(resource=resource, copies=[FileCopy(source.file_id, copy_id)])


async def going(stores: Stores) -> Sequence[str]:
    while await stores.unneeded_blobs.expire():
        pass
    return await stores.unneeded_blobs.going(limit=100)


async def gone(stores: Stores, *records: FileRecord) -> bool:
    """Whether exactly the bytes of these go now; they are gone then."""
    keys = await going(stores)
    await stores.unneeded_blobs.gone(keys)
    return sorted(keys) == sorted({record.blob_key or "" for record in records})


async def error_code(action: Any) -> str | None:
    error = await error_of(action)
    return getattr(error, "error_code", None)


async def check_files(stores: Stores) -> None:
    record = await upload(stores, expires_in_seconds=3600)
    assert await stores.files.read(DEFAULT_WORKSPACE, record.file_id) == record
    assert isinstance(await error_of(stores.files.read(OTHER, record.file_id)), NotFound)
    assert isinstance(await error_of(stores.files.delete(OTHER, record.file_id)), NotFound)
    theirs = await upload(stores, workspace_id=OTHER)
    both = [record.file_id, theirs.file_id, FileId("file_none")]
    assert await stores.files.read_all(DEFAULT_WORKSPACE, both) == {record.file_id: record}
    assert await stores.files.read_all(DEFAULT_WORKSPACE, []) == {}
    session_id = (await stores.session()).session_id
    assert await stores.files.for_session(session_id, both) == {record.file_id: record}
    assert await stores.files.for_session(SessionId("sesn_none"), both) == {}
    assert await stores.files.for_session(session_id, []) == {}
    assert await gone(stores)
    await stores.files.delete(DEFAULT_WORKSPACE, record.file_id)
    assert isinstance(await error_of(stores.files.read(DEFAULT_WORKSPACE, record.file_id)), NotFound)
    assert isinstance(await error_of(stores.files.delete(DEFAULT_WORKSPACE, record.file_id)), NotFound)
    assert await gone(stores, record)
    assert await gone(stores)


async def check_file_list(stores: Stores) -> None:
    made = []
    for number in range(5):
        if number != 2:  # two of one moment
            stores.clock.advance(1)
        made.append(await upload(stores, filename=f"{number}"))
    session = await stores.session()
    scoped = await stores.files.put_output(
        output(stores, session.session_id, "out", b"", await expected(stores))
    )
    await upload(stores, workspace_id=OTHER)
    everything = sorted([*made, scoped], key=lambda each: (each.created_at, each.file_id), reverse=True)

    async def page(scope: str | None = None, **place: Any) -> FilePage:
        return await stores.files.page(DEFAULT_WORKSPACE, FileFilter(scope_id=scope), **place)

    assert list((await page(limit=100)).files) == everything
    seen: list[FileRecord] = []
    after = None
    while True:
        found = await page(limit=2, after=after)
        seen += found.files
        if not found.has_more:
            break
        after = (seen[-1].created_at, seen[-1].file_id)
    assert seen == everything
    middle = (everything[3].created_at, everything[3].file_id)
    before = await page(limit=2, before=middle)
    assert (list(before.files), before.has_more) == (everything[1:3], True)
    assert list((await page(session.session_id, limit=100)).files) == [scoped]
    assert list((await page("sesn_other", limit=100)).files) == []
    unscoped = FileFilter(unscoped_only=True)
    found = await stores.files.page(DEFAULT_WORKSPACE, unscoped, limit=100)
    assert list(found.files) == [each for each in everything if each != scoped]
    assert list((await page(session.session_id, limit=100, after=middle)).files) == []


async def check_storage_quota(stores: Stores) -> None:
    kept = await upload(stores, b"x" * 600)
    refused = upload(stores, b"x" * 401)
    assert await error_code(refused) == "storage_quota_exceeded"
    await upload(stores, b"x" * 300, workspace_id=OTHER)
    no_room = await error_of(upload(stores, b"x" * 200))
    assert isinstance(no_room, InvalidRequest) and no_room.error_code == "storage_quota_exceeded"
    assert "600 bytes" in no_room.message and "900" not in no_room.message, "nothing of what others have"
    session = await stores.session()  # what sessions have does not count
    await stores.files.put_output(
        output(stores, session.session_id, "large", b"x" * 900, await expected(stores))
    )
    await stores.resources.add(session.session_id, mount(stores, kept), lambda _: None)
    await stores.files.delete(DEFAULT_WORKSPACE, kept.file_id)
    short = await upload(stores, b"x" * 700, expires_in_seconds=3600)
    stores.clock.advance(3600)
    await going(stores)
    assert (await stores.files.read(DEFAULT_WORKSPACE, short.file_id)).size_bytes == 700
    await upload(stores, b"x" * 700)


async def check_file_expiry(stores: Stores) -> None:
    record = await upload(stores, expires_in_seconds=3600)
    stores.clock.advance(3599)
    assert await gone(stores)
    stores.clock.advance(1)
    assert await gone(stores, record)
    left = await stores.files.read(DEFAULT_WORKSPACE, record.file_id)
    assert left == replace(record, blob_key=None)
    try:
        check_readable(left, now=stores.clock.now())
        raise AssertionError("it has expired")
    except NotFound as error:
        assert error.error_code == "file_expired"
    stores.clock.advance(timedelta(days=FILE_METADATA_DAYS).total_seconds() - 1)
    assert await gone(stores)
    assert await stores.files.read(DEFAULT_WORKSPACE, record.file_id) == left
    stores.clock.advance(1)
    assert await gone(stores)
    assert isinstance(await error_of(stores.files.read(DEFAULT_WORKSPACE, record.file_id)), NotFound)


async def check_uploads_that_end_early(stores: Stores) -> None:
    dropped, died, late = [await expected(stores) for _ in range(3)]
    await stores.files.unexpect(dropped)
    assert list(await going(stores)) == [dropped]
    await stores.unneeded_blobs.gone([dropped, died, late])  # only what is going can be gone
    stores.clock.advance(UPLOAD_GIVEN_UP_SECONDS - 1)
    assert await going(stores) == []
    stores.clock.advance(1)
    assert sorted(await going(stores)) == sorted([died, late])
    record = await upload(stores)
    assert isinstance(await error_of(stores.files.add(replace(record, blob_key=late))), Conflict)
    await stores.files.unexpect(record.blob_key or "")  # it is named by now
    assert sorted(await going(stores)) == sorted([died, late])


async def check_mounted_files(stores: Stores) -> None:
    source = await upload(stores, expires_in_seconds=3600)
    session = await stores.session()
    new = mount(stores, source)
    assert await stores.resources.add(session.session_id, new, lambda _: None) == new.resource
    assert await stores.resources.of_session(session.session_id) == (new.resource,)
    assert (await stores.sessions.read(session.session_id)).resources == (new.resource,)
    copy_id = new.copies[0].to_id
    copy = await stores.files.of_session(session.session_id, copy_id)
    assert copy == replace(
        source,
        file_id=copy_id,
        scope_id=session.session_id,
        origin="mount",
        expires_at=None,
        created_at=copy.created_at,
    )
    assert isinstance(await error_of(stores.files.delete(DEFAULT_WORKSPACE, copy_id)), Conflict)
    assert isinstance(await error_of(stores.files.of_session(session.session_id, source.file_id)), NotFound)
    # The bytes outlive the upload.
    await stores.files.delete(DEFAULT_WORKSPACE, source.file_id)
    assert await gone(stores)
    assert isinstance(
        await error_of(stores.resources.add(session.session_id, new, lambda _: None)), NotFound
    )
    again = mount(stores, copy, "/mnt/session/uploads/b")
    await stores.resources.add(session.session_id, again, lambda _: None)
    first = ResourceId(new.resource.body["id"])
    await stores.resources.remove(session.session_id, first, lambda _: None)
    assert await stores.resources.of_session(session.session_id) == (again.resource,)
    assert isinstance(await error_of(stores.files.read(DEFAULT_WORKSPACE, copy_id)), NotFound)
    assert isinstance(
        await error_of(stores.resources.remove(session.session_id, first, lambda _: None)), NotFound
    )
    assert await gone(stores)
    await stores.sessions.delete(session.session_id)
    assert await gone(stores, copy)
    page = await stores.files.page(DEFAULT_WORKSPACE, FileFilter(), limit=10)
    assert list(page.files) == []
    for action in (
        stores.resources.of_session(session.session_id),
        stores.resources.add(session.session_id, again, lambda _: None),
    ):
        assert isinstance(await error_of(action), NotFound)


async def check_a_resource_that_is_refused(stores: Stores) -> None:
    source, session = await upload(stores), await stores.session()

    def refuse(_: object) -> None:
        raise InvalidRequest("no")

    add = stores.resources.add(session.session_id, mount(stores, source), refuse)
    assert isinstance(await error_of(add), InvalidRequest)
    new = mount(stores, source)
    elsewhere = replace(new_session(stores.ids, stores.clock.now()), workspace_id=OTHER)
    await stores.sessions.create(elsewhere)
    theirs = stores.resources.add(elsewhere.session_id, new, lambda _: None)
    assert isinstance(await error_of(theirs), NotFound)
    key = await expected(stores)
    put = await stores.files.put_output(output(stores, elsewhere.session_id, "a", b"", key))
    assert put.workspace_id == OTHER
    assert await stores.resources.of_session(session.session_id) == ()
    await stores.sessions.archive(session.session_id)
    ended = stores.resources.add(session.session_id, new, lambda _: None)
    assert isinstance(await error_of(ended), Conflict)
    await stores.files.delete(DEFAULT_WORKSPACE, source.file_id)
    assert await gone(stores, source)


async def check_a_session_made_with_files(stores: Stores) -> None:
    source = await upload(stores)
    first, second = mount(stores, source), mount(stores, source, "/mnt/session/uploads/b")

    def draft(*new: NewResource) -> SessionRecord:
        record = new_session(stores.ids, stores.clock.now())
        return replace(record, resources=tuple(each.resource for each in new))

    made = await stores.sessions.create(draft(first, second), copies=[*first.copies, *second.copies])
    assert (await stores.sessions.read(made.session_id)).resources == (first.resource, second.resource)
    page = await stores.files.page(DEFAULT_WORKSPACE, FileFilter(scope_id=made.session_id), limit=10)
    assert {each.file_id for each in page.files} == {first.copies[0].to_id, second.copies[0].to_id}
    lost = draft(first)
    missing = [FileCopy(source.file_id, FileId("file_new")), FileCopy(FileId("file_no"), FileId("file_x"))]
    assert isinstance(await error_of(stores.sessions.create(lost, copies=missing)), NotFound)
    assert isinstance(await error_of(stores.sessions.read(lost.session_id)), NotFound)
    await stores.files.delete(DEFAULT_WORKSPACE, source.file_id)
    assert await gone(stores)
    await stores.sessions.delete(made.session_id)
    assert await gone(stores, source)


async def check_resource_update(stores: Stores) -> None:
    session, new = await stores.session(), mount(stores, await upload(stores))
    await stores.resources.add(session.session_id, new, lambda _: None)
    resource_id = ResourceId(new.resource.body["id"])

    def change(current: Resource) -> Resource:
        return Resource(body={**current.body, "updated_at": "now"}, private={"sealed": "x"})

    changed = await stores.resources.update(session.session_id, resource_id, change)
    assert changed == change(new.resource)
    assert await stores.resources.of_session(session.session_id) == (changed,)
    unknown = stores.resources.update(session.session_id, ResourceId("sesrsc_no"), change)
    assert isinstance(await error_of(unknown), NotFound)


async def check_outputs(stores: Stores) -> None:
    session_id = (await stores.session()).session_id

    async def put(path: str, content: bytes) -> FileRecord:
        stores.clock.advance(1)
        record = output(stores, session_id, path, content, await expected(stores))
        stored = await stores.files.put_output(record)
        if stored != record:
            await stores.files.unexpect(record.blob_key or "")
        return stored

    first = await put("a", b"1")
    assert await stores.files.outputs(session_id) == {"a": first}
    assert await put("a", b"1") == first
    assert len(await going(stores)) == 1  # what came again
    await stores.unneeded_blobs.gone(await going(stores))
    second = await put("a", b"2")
    assert second.file_id != first.file_id
    assert isinstance(await error_of(stores.files.read(DEFAULT_WORKSPACE, first.file_id)), NotFound)
    assert await gone(stores, first)
    other = await put("dir/b", b"2")
    assert await stores.files.outputs(session_id) == {"a": second, "dir/b": other}
    await stores.files.remove_outputs(session_id, ["a", "none"])
    await stores.files.remove_outputs(session_id, [])
    assert await stores.files.outputs(session_id) == {"dir/b": other}
    assert await gone(stores, second)
    await stores.files.delete(DEFAULT_WORKSPACE, other.file_id)
    assert await stores.files.outputs(session_id) == {}
    path = "".join(
        rf"\x{byte:02x}" for byte in shake_256(b"incompressible").digest(4_096)
    )  # as long as any
    longest = await put(path, b"4")
    assert await stores.files.outputs(session_id) == {path: longest}
    await stores.files.remove_outputs(session_id, [path])
    assert await stores.files.outputs(session_id) == {}
    last = await put("c", b"3")
    await stores.sessions.delete(session_id)
    assert await gone(stores, other, longest, last)
    late = output(stores, session_id, "late", b"", await expected(stores))
    assert isinstance(await error_of(stores.files.put_output(late)), NotFound)


async def check_who_mounts_what_is_deleted(stores: Stores) -> None:
    """Either is first; the bytes go exactly when nobody has them."""
    for _ in range(6):
        source, session = await upload(stores), await stores.session()
        new = mount(stores, source)
        add = error_of(stores.resources.add(session.session_id, new, lambda _: None))
        delete = error_of(stores.files.delete(DEFAULT_WORKSPACE, source.file_id))
        added, deleted = await asyncio.gather(add, delete)
        assert deleted is None
        assert isinstance(added, (NotFound, Conflict, type(None))), added
        resources = await stores.resources.of_session(session.session_id)
        assert len(resources) == (added is None)
        assert await gone(stores, *([] if added is None else [source]))
        await stores.sessions.delete(session.session_id)
        assert await gone(stores, *([source] if added is None else []))


async def check_two_who_put_one_output(stores: Stores) -> None:
    session_id = (await stores.session()).session_id

    async def put(content: bytes) -> CorralError | None:
        record = output(stores, session_id, "a", content, await expected(stores))
        return await error_of(stores.files.put_output(record))

    assert await asyncio.gather(*(put(bytes([number])) for number in range(6))) == [None] * 6
    kept = await stores.files.outputs(session_id)
    assert list(kept) == ["a"]
    assert len(await going(stores)) == 5


CHECKS: tuple[Check, ...] = (
    check_files,
    check_file_list,
    check_storage_quota,
    check_file_expiry,
    check_uploads_that_end_early,
    check_mounted_files,
    check_a_resource_that_is_refused,
    check_a_session_made_with_files,
    check_resource_update,
    check_outputs,
    check_who_mounts_what_is_deleted,
    check_two_who_put_one_output,
)
