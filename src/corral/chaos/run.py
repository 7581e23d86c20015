"""One run: a cluster, clients, faults; then silence, and the judgement of every session."""

import asyncio
import contextlib
import ctypes
import os
import random
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx2

from corral.chaos import plan
from corral.chaos.cluster import Cluster, cluster
from corral.chaos.driver import Clients
from corral.chaos.faults import Faults
from corral.chaos.node import Node
from corral.chaos.reading import READ_SECONDS, Reading, read_all
from corral.chaos.report import Options, Progress, Report
from corral.chaos.residue import reap
from corral.chaos.scenarios import ROUNDS, SCENARIOS, Stage
from corral.chaos.schedule import DATABASE, Fault, Kind, Lane, points_of, write_schedule
from corral.chaos.verdict import judge_remains, judge_sessions
from corral.kernel.crash import POINTS
from corral.testing.messages_api import MessagesApi

__all__ = ["run"]

SETTLE_SECONDS: Final = 90.0  # after the last fault; a lease is 10 s, hands are missed for 30 s
COVER_SECONDS: Final = 240.0  # for the points that chance has not led to
SCENARIO_SECONDS, ROUND_SECONDS = 300.0, 120.0  # at most, on a busy machine
EVICTED: Final = 4  # sessions at a time
_PR_SET_CHILD_SUBREAPER: Final = 36


async def run(options: Options, *, root: Path, show: Callable[[Progress], None]) -> Report:
    """Do it all below `root`, which exists and is empty. What it started has ended when it returns."""
    report, began = Report(options=options), time.monotonic()
    show(Progress(phase="starting"))
    root.chmod(0o711)  # sandboxes and the database have users of their own, who pass through
    with _reaping():
        async with (
            MessagesApi(plan.answer, requests_kept_max=1) as model,
            cluster(
                options.cluster,
                root=root,
                model_url=model.url,
                database_url=options.database_url,
                has_small_disk=options.has_small_disk,
                has_network=options.has_network,
            ) as under_test,
        ):
            model.api_key = under_test.secrets.model_key
            await asyncio.gather(*(node.start() for node in under_test.nodes.values()))
            battle = _Battle(options, under_test, report, show, began=began)
            try:
                await battle.fight()
                await battle.stop()
                await battle.judge()
            except asyncio.CancelledError:  # by Ctrl-C
                battle.enter("stopping")
                raise
    report.schedule_path = root / f"chaos-{options.seed}.json"
    write_schedule(report.schedule_path, options=options.to_json(), faults=battle.faults.done)
    return report


def _has_points(options: Options) -> bool:
    return options.crash_points and options.scenario is None and "crash-point" in options.faults


class _Battle:
    def __init__(
        self,
        options: Options,
        cluster: Cluster,
        report: Report,
        show: Callable[[Progress], None],
        *,
        began: float,
    ) -> None:
        self._options = options
        self._cluster = cluster
        self._report = report
        self._show = show
        self._began = began
        self._phase = ""
        self._clients = Clients(
            cluster.urls, api_key=cluster.secrets.api_key, seed=options.seed, kinds=options.turns
        )
        self._readings: Mapping[str, Reading] = {}
        self.faults = Faults(cluster, evict=self._evict, progress=self._progress)
        self._points = [
            point
            for point in (POINTS if _has_points(options) else ())
            if any(point in self._points_of(name) for name in cluster.roles)
        ]

    def _points_of(self, name: str) -> list[str]:
        return points_of(self._cluster.roles.get(name, ()), shares=self._cluster.kind == "postgres")

    def enter(self, phase: str) -> None:
        """Say at once what happens from here on."""
        self._phase = phase
        self._show_progress()

    # -- while it lasts ------------------------------------------------------------------------------------

    async def fight(self) -> None:
        options = self._options
        enough, calm = asyncio.Event(), asyncio.Event()
        showing = asyncio.create_task(self._keep_showing())
        self.enter("preparing")
        try:
            await self._clients.prepare()
            if options.scenario is not None:
                await self._play(options.scenario)
                return
            clients = [
                asyncio.create_task(self._clients.run(number, enough=enough), name=f"client {number}")
                for number in range(options.sessions)
            ]
            self.enter("breaking")
            lanes = [
                asyncio.create_task(self.faults.run(faults, enough=calm), name="lane")
                for faults in self._lanes()
            ]
            await self._until_enough([*lanes, *clients])
            calm.set()
            await asyncio.gather(*lanes)
            if options.schedule is None:
                await self._cover()
            self.enter("settling")
            await self.faults.mend()
            enough.set()
            await self._settle(clients)
            await self._read()
        finally:
            showing.cancel()
            for task in asyncio.all_tasks():
                if task.get_name().startswith(("client ", "lane", "watch ")):
                    task.cancel()
            await self._clients.aclose()

    async def _play(self, scenario: str) -> None:
        options = self._options
        self.enter(scenario)
        stage = Stage(
            cluster=self._cluster,
            clients=self._clients,
            faults=self.faults,
            rounds=options.kills or ROUNDS[scenario],
            sessions=options.sessions,
            seed=options.seed,
            figures=self._report.figures,
        )
        try:
            async with asyncio.timeout(SCENARIO_SECONDS + stage.rounds * ROUND_SECONDS):
                await SCENARIOS[scenario](stage)
        except TimeoutError:
            waiting = "; ".join(dialogue.doing for dialogue in self._clients.dialogues)
            self._report.broken(
                "every turn has ended", f"the scenario does not get on; its clients: {waiting}"
            )
        await self._read()

    def _lanes(self) -> Iterator[Iterator[Fault]]:
        options = self._options
        lanes = [*self._cluster.nodes, *([DATABASE] if self._cluster.postgres else [])]
        if options.schedule is not None:
            for name in lanes:
                yield iter([fault for fault in options.schedule if fault.lane == name])
            return
        unreachable: set[Kind] = set() if self._cluster.has_small_disk else {"fill-disk"}
        if self._cluster.network is None:
            unreachable |= {"partition"}
        if not self._cluster.proxies:
            unreachable |= {"evict"}  # one node keeps its workspaces
            unreachable |= {"cut-connections", "freeze-connections"}
        kinds = [kind for kind in options.faults if kind not in unreachable]
        if not options.crash_points:
            kinds = [kind for kind in kinds if kind != "crash-point"]
        for name in lanes:
            roles = self._cluster.roles.get(name, ())
            yield Lane(
                name=name,
                seed=options.seed,
                kinds=kinds,
                roles=roles,
                points=self._points_of(name) if options.crash_points else (),
                gap_seconds=20.0 if name == DATABASE else 0.4 if len(lanes) == 1 else 1.5,
            ).faults()

    async def _until_enough(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Until the time is over or the kills are done; a task that fails is a mistake of ours."""
        options = self._options
        until = time.monotonic() + options.seconds
        lanes = [task for task in tasks if task.get_name() == "lane"]
        while not all(task.done() for task in lanes):
            for task in tasks:
                if task.done() and (error := task.exception()) is not None:
                    raise error
            if options.kills is not None and self.faults.kills >= options.kills:
                return
            if options.kills is None and options.schedule is None and time.monotonic() > until:
                return
            await asyncio.sleep(0.2)

    async def _cover(self) -> None:
        """Every crash point is hit at least once: those that chance has not led to are insisted on."""
        if not self._points:
            return
        self.enter("covering")
        until = time.monotonic() + COVER_SECONDS
        able = {
            point: [name for name in self._cluster.roles if point in self._points_of(name)]
            for point in self._points
        }
        tried: set[str] = set()

        async def cover(name: str) -> None:
            """One node's part: what it can pass and nobody else is trying just now."""
            number = 0
            while time.monotonic() < until:
                left = [point for point in able if not self.faults.hits[point] and name in able[point]]
                if not left:
                    return
                free = [point for point in left if point not in tried]
                if not free:
                    await asyncio.sleep(0.5)
                    continue
                point = free[number % len(free)]
                tried.add(point)
                if number % 3 == 2 and "kill-all" in self._options.faults:  # or its supervisor waits longer
                    await self.faults.perform(Fault(lane=name, after=0.0, kind="kill-all"))
                await self.faults.perform(Fault(lane=name, after=0.0, kind="crash-point", point=point))
                tried.discard(point)
                number += 1

        await asyncio.gather(*(cover(name) for name in self._cluster.nodes))

    def _progress(self) -> int:
        """Events that clients have seen."""
        return sum(dialogue.watch.count for dialogue in self._clients.dialogues)

    async def _evict(self) -> None:
        """As `corral sandboxes evict` would: a session that is busy refuses, and that is fine."""
        dialogues = [dialogue for dialogue in self._clients.dialogues if not dialogue.is_over]
        key = self._cluster.secrets.api_key
        async with httpx2.AsyncClient(headers={"x-api-key": key}, timeout=READ_SECONDS) as http:
            for dialogue in random.sample(dialogues, min(EVICTED, len(dialogues))):
                url = random.choice(self._cluster.urls)
                with contextlib.suppress(httpx2.HTTPError):
                    await http.post(f"{url}/corral/v1/sandboxes/{dialogue.session_id}/evict")

    async def _settle(self, clients: Sequence[asyncio.Task[None]]) -> None:
        _, late = await asyncio.wait(clients, timeout=SETTLE_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        for dialogue in self._clients.dialogues:
            if not dialogue.is_over and not dialogue.refused:
                self._report.broken(
                    "every turn has ended",
                    f"{SETTLE_SECONDS:.0f} s after the last fault its client still waits: {dialogue.doing}",
                    session_id=dialogue.session_id,
                )

    def _show_progress(self) -> None:
        self._show(
            Progress(
                phase=self._phase,
                seconds=time.monotonic() - self._began,
                kills=self.faults.kills,
                turns=sum(dialogue.turns_done for dialogue in self._clients.dialogues),
                sessions=len(self._clients.dialogues),
                points_hit=sum(1 for point in self._points if self.faults.hits[point]),
                points=len(self._points),
            )
        )

    async def _keep_showing(self) -> None:
        while True:
            self._show_progress()
            reap({node.started_pid for node in self._cluster.nodes.values()})
            await asyncio.sleep(0.5)

    # -- afterwards ----------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """What clients can read, while the servers still run."""
        self.enter("reading")
        self._readings = await read_all(
            self._cluster.urls[0],
            api_key=self._cluster.secrets.api_key,
            session_ids=[dialogue.session_id for dialogue in self._clients.dialogues],
        )

    async def stop(self) -> None:
        """SIGTERM for every node, all at once."""
        self.enter("stopping")

        async def stop(node: Node) -> None:
            try:
                await node.stop()
            except TimeoutError:
                self._report.broken(
                    "nothing is left behind", f"{node.name} did not stop when it was asked to"
                )

        await asyncio.gather(*(stop(node) for node in self._cluster.nodes.values()))

    async def judge(self) -> None:
        """Of the cluster, which has been stopped; and the figures of the report."""
        self.enter("judging")
        report = self._report
        await judge_sessions(report, cluster=self._cluster, clients=self._clients, readings=self._readings)
        for failure in self.faults.failed:
            report.broken("what dies comes up again", failure)
        report.seconds = time.monotonic() - self._began
        report.faults, report.kills = self.faults.counts, self.faults.kills
        report.load = os.getloadavg()[1]
        report.memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        report.hits = {point: self.faults.hits[point] for point in self._points}
        kind = self._cluster.kind
        report.not_here = {
            point: f"no process of a {kind} cluster passes it"
            for point in POINTS
            if _has_points(self._options) and point not in self._points
        }
        await judge_remains(report, cluster=self._cluster)


@contextlib.contextmanager
def _reaping() -> Iterator[None]:
    """Become the parent of whatever loses its own, so that nothing that outlives a node is missed."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0)
