"""A store under test, whole: all ports on one database, under one manual clock."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from corral.catalog.audit import AuditStore
from corral.catalog.environment_keys import EnvironmentKeyStore
from corral.catalog.files import FileTable, UnneededBlobs
from corral.catalog.idempotency import IdempotencyStore
from corral.catalog.memory.ports import (
    Memories,
    MemoryForgetting,
    MemoryMounts,
    MemoryStores,
    MemoryVersions,
)
from corral.catalog.records import AgentStore, ApiKeyStore, EnvironmentStore
from corral.catalog.skills.ports import SkillForgetting, Skills, SkillVersions
from corral.catalog.tokens import TokenStore, ValidationQueue
from corral.catalog.vaults import CredentialStore, SessionCredentialStore, VaultKeyStore, VaultStore
from corral.catalog.workspaces import WorkspaceStore
from corral.kernel.errors import CorralError
from corral.kernel.ids import Ids
from corral.session.bus import Bus
from corral.session.cleanup import CleanupStore
from corral.session.lease import Claim, Lease, LeaseStore
from corral.session.log import SessionLog
from corral.session.record import SessionRecord, SessionStore
from corral.session.resources import SessionResources
from corral.session.work import WorkQueue
from corral.testing.clock import ManualClock
from corral.testing.sessions import Draft, new_session


@dataclass(frozen=True, kw_only=True)
class Stores:
    """A store under test: empty, all parts on one database whose clock is `clock`."""

    clock: ManualClock
    bus: Bus
    log: SessionLog
    leases: LeaseStore
    sessions: SessionStore
    agents: AgentStore
    environments: EnvironmentStore
    environment_keys: EnvironmentKeyStore
    work: WorkQueue
    vaults: VaultStore
    credentials: CredentialStore
    session_credentials: SessionCredentialStore
    tokens: TokenStore
    validations: ValidationQueue
    vault_keys: VaultKeyStore
    keys: ApiKeyStore
    workspaces: WorkspaceStore
    idempotency: IdempotencyStore
    cleanup: CleanupStore
    files: FileTable
    unneeded_blobs: UnneededBlobs
    resources: SessionResources
    memory_stores: MemoryStores
    memories: Memories
    memory_versions: MemoryVersions
    memory_mounts: MemoryMounts
    memory_forgetting: MemoryForgetting
    audit: AuditStore
    skills: Skills
    skill_versions: SkillVersions
    skill_forgetting: SkillForgetting
    ids: Ids = field(default_factory=Ids)

    async def session(self) -> SessionRecord:
        self.clock.advance(0)
        return await self.sessions.create(new_session(self.ids, self.clock.now()))

    async def leased(self) -> Lease:
        record = await self.session()
        [lease] = await self.leases.claim(owner="brain-1", limit=1, session_ids=[record.session_id])
        return lease

    async def draft(self, lease: Lease | Claim) -> Draft:
        self.clock.advance(0)
        return Draft(seen=await self.log.snapshot(lease.session_id), lease=lease, now=self.clock.now())


Check = Callable[[Stores], Awaitable[None]]


async def error_of(action: Awaitable[object]) -> CorralError | None:
    """The error that Corral raised on purpose, if it did."""
    try:
        await action
    except CorralError as error:
        return error
    return None
