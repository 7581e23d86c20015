"""The role `api`: the stores behind the routes."""

from contextlib import AsyncExitStack
from dataclasses import fields

from fastapi import FastAPI

from corral.api.application import create_api
from corral.api.dependencies import Dependencies, Operations
from corral.app.errands import repository_hosts
from corral.app.files import files_of
from corral.app.ground import Ground
from corral.app.hands import Reach
from corral.app.models import LateCounter, model_table
from corral.app.validation import validation_of
from corral.catalog.blobs import BlobStore
from corral.store.audit import Audit
from corral.store.catalog import Agents, Environments
from corral.store.environment_keys import EnvironmentKeys
from corral.store.idempotency import Idempotency
from corral.store.kill import Kills
from corral.store.log import Log
from corral.store.memory.memories import MemoryTable
from corral.store.memory.stores import MemoryStoreTable
from corral.store.memory.versions import MemoryVersionTable
from corral.store.session_resources import Resources
from corral.store.sessions import Sessions
from corral.store.skills.skills import SkillTable
from corral.store.skills.versions import SkillVersionTable
from corral.store.vault_keys import VaultKeys
from corral.store.vaults import Credentials, Vaults
from corral.store.work import WorkTable

__all__ = ["open_api"]


def open_api(
    ground: Ground,
    operations: Operations,
    *,
    event_log: Log,
    reach: Reach,
    blobs: BlobStore,
    stack: AsyncExitStack,
) -> FastAPI:
    """The whole API; `operations` is what every node answers."""
    database = ground.database
    models = model_table(ground.config)
    shared = {each.name: getattr(operations, each.name) for each in fields(Operations)}
    return create_api(
        Dependencies(
            **shared,
            log=event_log,
            sessions=Sessions(database, ground.bus, ground.clock),
            agents=Agents(database),
            environments=Environments(database),
            files=files_of(ground, blobs),
            resources=Resources(database, ground.clock),
            environment_keys=EnvironmentKeys(database),
            work=WorkTable(database, lease_seconds=ground.config.work_lease_seconds),
            memory_stores=MemoryStoreTable(database),
            memories=MemoryTable(database, ground.ids),
            memory_versions=MemoryVersionTable(database),
            skills=SkillTable(database),
            skill_versions=SkillVersionTable(database),
            blobs=blobs,
            vaults=Vaults(database),
            credentials=Credentials(database),
            vault_keys=VaultKeys(database),
            validation=validation_of(ground),
            idempotency=Idempotency(database),
            kills=Kills(database, ground.bus),
            bus=ground.bus,
            models=models,
            token_counter=LateCounter(ground.config, models, stack),
            workspaces=reach.hands,
            sandboxes=reach.desk,
            audit=Audit(database),
            repository_hosts=repository_hosts(ground.config),
            has_search=ground.config.search_url is not None,
        )
    )
