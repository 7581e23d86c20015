"""A store opened for a test, and the database below it."""

from dataclasses import dataclass
from pathlib import Path

from corral.kernel.ids import Ids
from corral.store.audit import Audit
from corral.store.bus import LocalBus
from corral.store.catalog import Agents, Environments
from corral.store.cleanup import Cleanup
from corral.store.database import Database
from corral.store.environment_keys import EnvironmentKeys
from corral.store.files import FileRows, UnneededBlobRows
from corral.store.idempotency import Idempotency
from corral.store.keys import ApiKeys
from corral.store.lease import Leases
from corral.store.log import Log
from corral.store.memory.forget import MemoryForgetTable
from corral.store.memory.memories import MemoryTable
from corral.store.memory.mounts import MemoryMountTable
from corral.store.memory.stores import MemoryStoreTable
from corral.store.memory.versions import MemoryVersionTable
from corral.store.session_credentials import SessionCredentials
from corral.store.session_resources import Resources
from corral.store.sessions import Sessions
from corral.store.skills.skills import SkillTable
from corral.store.skills.versions import SkillForgetTable, SkillVersionTable
from corral.store.tokens import Tokens
from corral.store.validations import Validations
from corral.store.vault_keys import VaultKeys
from corral.store.vaults import Credentials, Vaults
from corral.store.work import WorkTable
from corral.store.workspaces import Workspaces
from corral.testing.clock import ManualClock
from corral.testing.contract_files import QUOTA_BYTES
from corral.testing.stores import Stores


@dataclass(frozen=True, kw_only=True)
class Opened:
    database: Database
    stores: Stores

    @classmethod
    async def open(cls, where: Path | str) -> "Opened":
        """Under a manual clock."""
        clock, bus, ids = ManualClock(), LocalBus(), Ids()
        database = await Database.open(where, clock=clock)
        stores = Stores(
            clock=clock,
            bus=bus,
            log=Log(database, bus),
            leases=Leases(database),
            sessions=Sessions(database, bus, clock),
            agents=Agents(database),
            environments=Environments(database),
            environment_keys=EnvironmentKeys(database),
            work=WorkTable(database),
            vaults=Vaults(database),
            credentials=Credentials(database),
            session_credentials=SessionCredentials(database),
            tokens=Tokens(database),
            validations=Validations(database),
            vault_keys=VaultKeys(database),
            keys=ApiKeys(database),
            workspaces=Workspaces(database),
            idempotency=Idempotency(database),
            cleanup=Cleanup(database),
            files=FileRows(database, bytes_max=QUOTA_BYTES),
            unneeded_blobs=UnneededBlobRows(database),
            resources=Resources(database, clock),
            memory_stores=MemoryStoreTable(database),
            memories=MemoryTable(database, ids),
            memory_versions=MemoryVersionTable(database),
            memory_mounts=MemoryMountTable(database, ids),
            memory_forgetting=MemoryForgetTable(database),
            audit=Audit(database),
            skills=SkillTable(database),
            skill_versions=SkillVersionTable(database),
            skill_forgetting=SkillForgetTable(database),
            ids=ids,
        )
        return cls(database=database, stores=stores)
