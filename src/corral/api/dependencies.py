"""What the API needs, as ports. Built once, in `app`."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from corral.api.admission import Admission
from corral.api.edge import Edge
from corral.catalog.audit import AuditStore
from corral.catalog.blobs import BlobStore
from corral.catalog.environment_keys import EnvironmentKeyStore
from corral.catalog.files import Files
from corral.catalog.hosts import HostList
from corral.catalog.idempotency import IdempotencyStore
from corral.catalog.memory.ports import Memories, MemoryStores, MemoryVersions
from corral.catalog.models import ModelTable, TokenCounter
from corral.catalog.records import AgentStore, ApiKeyStore, EnvironmentStore
from corral.catalog.skills.ports import Skills, SkillVersions
from corral.catalog.tokens import CredentialValidation
from corral.catalog.vaults import CredentialStore, VaultKeyStore, VaultStore
from corral.catalog.workspaces import WorkspaceStore
from corral.kernel.clock import Clock
from corral.kernel.ids import Ids
from corral.session.bus import Bus
from corral.session.content import Json
from corral.session.kill import KillStore
from corral.session.log import SessionLog
from corral.session.record import SessionStore
from corral.session.resources import SessionResources
from corral.session.sandboxes import SandboxDesk
from corral.session.work import WorkQueue
from corral.session.workspace import Workspaces


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One readiness check, made in the background. `warning` is reported and does not fail."""

    status: Literal["ok", "warning", "failed"]
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Operations:
    """What every server process answers, whatever its roles: is it well, and who asks.

    workspace_records: which workspaces there are; `workspaces` are those that sandboxes see.
    readiness:     the latest result of each check, by name; cheap, called per request.
    status:        what `GET /corral/v1/status` answers.
    metrics:       the text of `GET /metrics`; cheap enough for anybody who asks often.
    admission:     whether this process takes more requests and more work.
    allowed_hosts: names beyond loopback under which clients reach this server; {"*"} turns the check
                   against DNS rebinding off.
    edge:          what the operator decided about headers, rates and browsers.
    """

    api_keys: ApiKeyStore
    workspace_records: WorkspaceStore
    ids: Ids
    clock: Clock
    readiness: Callable[[], Mapping[str, Check]]
    status: Callable[[], Awaitable[Mapping[str, Json]]]
    metrics: Callable[[], Awaitable[bytes]]
    allowed_hosts: frozenset[str] = frozenset()
    admission: Admission = field(default_factory=Admission)
    edge: Edge = field(default_factory=Edge)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dependencies(Operations):
    """What the whole API needs besides."""

    log: SessionLog
    sessions: SessionStore
    agents: AgentStore
    environments: EnvironmentStore
    files: Files
    resources: SessionResources
    environment_keys: EnvironmentKeyStore
    work: WorkQueue
    memory_stores: MemoryStores
    memories: Memories
    memory_versions: MemoryVersions
    skills: Skills
    skill_versions: SkillVersions
    blobs: BlobStore
    vaults: VaultStore
    credentials: CredentialStore
    vault_keys: VaultKeyStore
    validation: CredentialValidation
    idempotency: IdempotencyStore
    kills: KillStore
    bus: Bus
    models: ModelTable
    token_counter: TokenCounter
    workspaces: Workspaces
    sandboxes: SandboxDesk
    audit: AuditStore
    repository_hosts: HostList = field(default_factory=HostList)  # none allowed
    has_search: bool = False  # a search engine to ask: agents may have `web_search`
