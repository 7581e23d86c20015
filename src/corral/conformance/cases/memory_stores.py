"""Memory stores, memories and their versions."""

from corral.conformance.case import Target, case, check, refused, same


async def _store(to: Target) -> str:
    store = await to.beta.memory_stores.create(name=to.name("store"))
    to.later("store", lambda: to.beta.memory_stores.delete(store.id))
    return str(store.id)


@case(
    "memory_stores",
    "POST /v1/memory_stores",
    "GET /v1/memory_stores/{memory_store_id}",
    "POST /v1/memory_stores/{memory_store_id}",
    "GET /v1/memory_stores",
    "POST /v1/memory_stores/{memory_store_id}/archive",
    "DELETE /v1/memory_stores/{memory_store_id}",
)
async def a_store_lives_from_create_to_delete(to: Target) -> None:
    store_id = await _store(to)
    changed = await to.beta.memory_stores.update(store_id, description="what we know")
    same(changed.description, "what we know", "description")
    same((await to.beta.memory_stores.retrieve(store_id)).to_dict(), changed.to_dict(), "as retrieved")
    listed = [store.id for store in await to.every(to.beta.memory_stores.list(limit=100))]
    check(store_id in listed, "it is listed")
    check((await to.beta.memory_stores.archive(store_id)).archived_at, "archived_at is set")
    gone = await to.beta.memory_stores.delete(store_id)
    same((gone.id, gone.type), (store_id, "memory_store_deleted"), "the answer")
    with refused(404, "not_found_error"):
        await to.beta.memory_stores.retrieve(store_id)


@case(
    "memory_stores",
    "POST /v1/memory_stores/{memory_store_id}/memories",
    "GET /v1/memory_stores/{memory_store_id}/memories/{memory_id}",
    "POST /v1/memory_stores/{memory_store_id}/memories/{memory_id}",
    "GET /v1/memory_stores/{memory_store_id}/memories",
    "DELETE /v1/memory_stores/{memory_store_id}/memories/{memory_id}",
)
async def a_memory_is_written_guarded_and_removed(to: Target) -> None:
    store_id, memories = await _store(to), to.beta.memory_stores.memories
    made = await memories.create(store_id, path="/notes/a.md", content="one")
    with refused(409, "memory_path_conflict_error"):
        await memories.create(store_id, path="/notes/a.md", content="two")
    found = await memories.retrieve(made.id, memory_store_id=store_id, view="full")
    same((found.path, found.content), ("/notes/a.md", "one"), "path and content")
    hash_of_one = found.content_sha256
    changed = await memories.update(
        made.id,
        memory_store_id=store_id,
        content="two",
        precondition={"type": "content_sha256", "content_sha256": hash_of_one},
        view="full",
    )
    same((changed.content, changed.id), ("two", made.id), "content and id after an update")
    with refused(409, "memory_precondition_failed_error"):
        await memories.update(
            made.id,
            memory_store_id=store_id,
            content="three",
            precondition={"type": "content_sha256", "content_sha256": hash_of_one},
        )
    listed = await to.every(memories.list(store_id, path_prefix="/notes/"))
    same([each.path for each in listed], ["/notes/a.md"], "paths below the prefix")
    await memories.delete(made.id, memory_store_id=store_id)
    with refused(404, "not_found_error"):
        await memories.retrieve(made.id, memory_store_id=store_id)


@case(
    "memory_stores",
    "GET /v1/memory_stores/{memory_store_id}/memory_versions",
    "GET /v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}",
    "POST /v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}/redact",
)
async def every_change_is_a_version_and_old_ones_are_redacted(to: Target) -> None:
    store_id, versions = await _store(to), to.beta.memory_stores.memory_versions
    made = await to.beta.memory_stores.memories.create(store_id, path="/a", content="one")
    await to.beta.memory_stores.memories.update(made.id, memory_store_id=store_id, content="two")
    listed = await to.every(versions.list(store_id, memory_id=made.id))
    same([each.operation for each in listed], ["modified", "created"], "operations, newest first")
    old = await versions.retrieve(listed[1].id, memory_store_id=store_id, view="full")
    same(old.content, "one", "content of the first version")
    redacted = await versions.redact(old.id, memory_store_id=store_id)
    check(redacted.redacted_at, "redacted_at is set")
    again = await versions.retrieve(old.id, memory_store_id=store_id, view="full")
    same((again.content, again.path), (None, None), "content and path after redaction")
