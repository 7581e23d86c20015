"""The role `brain`: loops, the models they ask, and clean-up after ended sessions."""

import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from corral.api.dependencies import Check
from corral.app.files import files_of
from corral.app.ground import Ground
from corral.app.hands import Reach, SessionHands
from corral.app.models import anthropic_model, model_table
from corral.app.mounts import open_mounting, open_repositories
from corral.app.packages import open_layers
from corral.app.part import Part
from corral.app.repositories import open_mirrors
from corral.brain.dispatch import Dispatch
from corral.brain.ending import TurnLimits
from corral.brain.judge import ModelJudge
from corral.brain.loop import Gear
from corral.brain.models.anthropic import AnthropicModel
from corral.brain.models.files import FilledModel
from corral.brain.models.local import LocalModel
from corral.brain.models.local_install import models_dir
from corral.brain.models.replay import ReplayModel
from corral.brain.models.routing import RoutedModel
from corral.brain.variables import Variables
from corral.catalog.blobs import BlobStore
from corral.catalog.models import ModelTable
from corral.config import Config
from corral.kernel.ids import SessionId
from corral.kernel.limits import SWEEP_STALE_SECONDS
from corral.orchestrator.cleanup import clean_up
from corral.orchestrator.files import clean_files
from corral.orchestrator.memory import forget_memories
from corral.orchestrator.routing import Routing
from corral.orchestrator.skills import forget_skills
from corral.orchestrator.sweep import Sweep
from corral.orchestrator.worker import Worker
from corral.packages.layers import forget_layers
from corral.session.lease import Lease
from corral.store.cleanup import Cleanup
from corral.store.files import UnneededBlobRows
from corral.store.log import Log
from corral.store.memory.forget import MemoryForgetTable
from corral.store.session_credentials import SessionCredentials
from corral.store.skills.versions import SkillForgetTable
from corral.store.sweep import Sweeps

__all__ = ["brain_part", "open_worker"]


def open_worker(
    ground: Ground,
    *,
    event_log: Log,
    brains: Callable[[], Sequence[str]],
    hands: SessionHands,
    blobs: BlobStore,
    stack: AsyncExitStack,
) -> tuple[Worker, AnthropicModel]:
    """The worker with everything its loops share, and the provider whose key may be missing.

    brains: node ids of those that share the wakes.
    """
    config, leases = ground.config, ground.leases
    models = model_table(config)
    anthropic = anthropic_model(config, models)
    routed = RoutedModel(models, {"anthropic": anthropic, **_local_models(config)})
    model = FilledModel(routed, files_of(ground, blobs))
    stack.push_async_callback(model.aclose)
    mirrors = open_mirrors(config)
    stack.push_async_callback(mirrors.aclose)
    repositories, repository_skills = open_repositories(ground, mirrors)
    stack.push_async_callback(repository_skills.aclose)
    layers = open_layers(config, blobs)
    stack.push_async_callback(layers.aclose)
    mounting = open_mounting(ground, hands, blobs=blobs, repositories=repositories, layers=layers)
    stack.push_async_callback(mounting.aclose)
    variables = Variables(SessionCredentials(ground.database).records)
    dispatch = Dispatch(hands, mounting, variables)
    stack.push_async_callback(dispatch.aclose)

    async def claim(session_id: SessionId) -> Lease | None:
        claimed = await leases.claim(owner=ground.owner, limit=1, session_ids=[session_id])
        return claimed[0] if claimed else None

    gear = Gear(
        owner=ground.owner,
        claim=claim,
        log=event_log,
        bus=ground.bus,
        model=model,
        models=models,
        dispatch=dispatch,
        repository_skills=repository_skills,
        has_search=config.search_url is not None,
        judge=ModelJudge(model, models, name=_judge_model(config, models)),
        clock=ground.clock,
        ids=ground.ids,
        limits=TurnLimits(
            rounds_max=config.turn_rounds_max,
            seconds_max=config.turn_seconds_max,
            tokens_max=config.turn_tokens_max,
        ),
    )
    if not config.is_postgres:
        return Worker(gear, leases=leases, bus=ground.bus), anthropic
    routing = Routing(ground.start.node, brains)
    return Worker(gear, leases=leases, bus=ground.bus, is_ours=routing.is_ours), anthropic


def brain_part(
    ground: Ground, worker: Worker, anthropic: AnthropicModel, reach: Reach, *, blobs: BlobStore
) -> Part:
    cleanup = Cleanup(ground.database)

    async def look_at_sweep() -> Check:
        age = await worker.sweep_age_seconds()
        if age > SWEEP_STALE_SECONDS:
            return Check(status="failed", reason=f"the brain has not looked for work for {age:.0f} s")
        return Check(status="ok")

    async def look_for_hands() -> Check:
        probe = await reach.hands.probe()
        if not probe.is_available:
            return Check(status="failed", reason=f"no node can make a sandbox: {probe.summary}")
        return Check(status="ok")

    async def look_at_model() -> Check:
        if anthropic.problem is not None:
            return Check(status="warning", reason=anthropic.problem)
        return Check(status="ok")

    return Part(
        looks={"brain": look_at_sweep, "model": look_at_model},
        looks_elsewhere={"sandboxes": look_for_hands} if ground.config.is_postgres else {},
        duties=[
            worker.run,
            Sweep(Sweeps(ground.database), ground.bus).run,
            lambda: clean_up(cleanup, reach.hands, forget_blobs=reach.forget_blobs),
            lambda: forget_memories(MemoryForgetTable(ground.database)),
            lambda: forget_skills(SkillForgetTable(ground.database), blobs),
            lambda: forget_layers(blobs),
            lambda: clean_files(UnneededBlobRows(ground.database), blobs),
        ],
        drain=worker.drain,
        sessions=lambda: worker.running_sessions,
        gauges=lambda: {"sessions_running": worker.running_sessions},
    )


def _judge_model(config: Config, models: ModelTable) -> str | None:
    """Raises InvalidRequest for a name that no provider knows: better now than at every call."""
    return None if config.judge_model is None else models.resolve(config.judge_model).name


def _local_models(config: Config) -> dict[str, LocalModel | ReplayModel]:
    directory = config.models_dir or models_dir(os.environ)
    return {
        "local": LocalModel(directory=directory, path=config.local_model_path),
        "replay": ReplayModel(directory=config.recordings_dir),
    }
