"""What every store of the audit must do. See contract_store."""

from dataclasses import replace
from datetime import timedelta

from corral.catalog.audit import AuditEntry, AuditFilter, Begun, Ended
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import (
    AUDIT_ENTRY,
    DEFAULT_WORKSPACE,
    ApiKeyId,
    CredentialId,
    SessionId,
    WorkspaceId,
)
from corral.testing.sessions import new_session
from corral.testing.stores import Stores, error_of

EVERYTHING = AuditFilter(workspace_id=None)


def begun(stores: Stores, session_id: SessionId, host: str = "example.com") -> Begun:
    stores.clock.advance(0.001)
    return Begun(
        entry_id=stores.ids.mint(AUDIT_ENTRY),
        session_id=session_id,
        created_at=stores.clock.now(),
        host=host,
        port=443,
        method="CONNECT",
        decision="allowed",
    )


async def listed(stores: Stores, where: AuditFilter = EVERYTHING, *, limit: int = 100) -> list[AuditEntry]:
    """All pages of them."""
    found: list[AuditEntry] = []
    cursor = None
    while True:
        page = await stores.audit.page(where, limit=limit, cursor=cursor)
        assert len(page.items) <= limit
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


async def an_entry_begins_and_ends(stores: Stores) -> None:
    session_id = (await stores.session()).session_id
    entry = replace(begun(stores, session_id), decision="denied", reason="no", detail="at 10.0.0.1")
    await stores.audit.add([entry], [])
    [found] = await listed(stores)
    assert found == AuditEntry(
        begun=entry, ended=None, workspace_id=DEFAULT_WORKSPACE, agent_id=found.agent_id, api_key_id=None
    )
    ended = Ended(entry_id=entry.entry_id, sent_bytes=1, received_bytes=2**40, seconds=0.5, failed="x")
    await stores.audit.add([], [ended])
    assert [each.ended for each in await listed(stores)] == [ended]


async def what_comes_twice_is_there_once(stores: Stores) -> None:
    """A server that is killed between the store and the egress process brings its page again."""
    session_id = (await stores.session()).session_id
    entries = [begun(stores, session_id) for _ in range(3)]
    ended = Ended(entry_id=entries[0].entry_id, sent_bytes=5)
    for _ in range(2):
        await stores.audit.add([*entries, entries[0]], [ended, Ended(entry_id="audit_unknown")])
    await stores.audit.add([replace(entries[0], host="other.com")], [replace(ended, sent_bytes=6)])
    found = await listed(stores)
    assert [each.begun for each in found] == entries[::-1]
    assert [each.ended for each in found] == [None, None, ended]


async def it_is_known_whose_they_are(stores: Stores) -> None:
    """Also of a session that was deleted just before; of one that nobody knows, nothing is."""
    stores.clock.advance(0)
    other = WorkspaceId("wrkspc_other")
    record = new_session(stores.ids, stores.clock.now())
    record = await stores.sessions.create(replace(record, workspace_id=other, api_key_id="apikey_1"))
    deleted = await stores.session()
    await stores.sessions.delete(deleted.session_id)
    for session_id in (record.session_id, deleted.session_id, SessionId("sesn_nobody")):
        await stores.audit.add([begun(stores, session_id)], [])
    nobody, gone, there = await listed(stores)
    assert (nobody.workspace_id, nobody.agent_id, nobody.api_key_id) == (None, None, None)
    assert (gone.workspace_id, gone.agent_id) == (DEFAULT_WORKSPACE, None)
    assert (there.workspace_id, there.api_key_id) == (other, "apikey_1")
    assert await listed(stores, AuditFilter(workspace_id=other)) == [there]
    of_key = replace(EVERYTHING, api_key_id=ApiKeyId("apikey_1"))
    assert await listed(stores, of_key) == [there]


async def pages_and_filters(stores: Stores) -> None:
    one, two = (await stores.session()).session_id, (await stores.session()).session_id
    entries = [begun(stores, (one, two)[n % 2], f"h{n % 3}.com") for n in range(12)]
    entries = [replace(e, decision="denied") if n % 4 == 0 else e for n, e in enumerate(entries)]
    credential_id = CredentialId("vcrd_1")
    entries = [replace(e, credential_id=credential_id) if n % 5 == 0 else e for n, e in enumerate(entries)]
    await stores.audit.add(entries, [])
    newest_first = entries[::-1]
    for limit in (1, 5, 12, 100):
        assert [each.begun for each in await listed(stores, limit=limit)] == newest_first
    moment = entries[6].created_at
    for where, matches in (
        (replace(EVERYTHING, session_id=one), lambda e: e.session_id == one),
        (replace(EVERYTHING, host="h1.com"), lambda e: e.host == "h1.com"),
        (replace(EVERYTHING, decision="denied"), lambda e: e.decision == "denied"),
        (replace(EVERYTHING, credential_id=credential_id), lambda e: e.credential_id == credential_id),
        (replace(EVERYTHING, created_gte=moment), lambda e: e.created_at >= moment),
        (replace(EVERYTHING, created_lt=moment), lambda e: e.created_at < moment),
        (AuditFilter(workspace_id=WorkspaceId("wrkspc_none")), lambda e: False),
    ):
        found = await listed(stores, where, limit=4)
        assert [each.begun for each in found] == [each for each in newest_first if matches(each)]
    assert isinstance(await error_of(stores.audit.page(EVERYTHING, limit=1, cursor="x")), InvalidRequest)


async def old_entries_are_forgotten(stores: Stores) -> None:
    session_id = (await stores.session()).session_id
    entries = [begun(stores, session_id) for _ in range(10)]
    await stores.audit.add(entries, [])
    assert await stores.audit.prune(before=entries[0].created_at - timedelta(days=1), keep=10) == 0
    assert await stores.audit.prune(before=entries[3].created_at, keep=10) == 3
    assert await stores.audit.prune(before=entries[0].created_at, keep=5) == 2
    assert await stores.audit.prune(before=entries[0].created_at, keep=5) == 0
    assert [each.begun for each in await listed(stores)] == entries[:4:-1]


CHECKS = (
    an_entry_begins_and_ends,
    what_comes_twice_is_there_once,
    it_is_known_whose_they_are,
    pages_and_filters,
    old_entries_are_forgotten,
)
