"""One run: a cluster, clients, faults; then silence, and the judgement of every session."""

import asyncio
import contextlib
import ctypes
import io
import json
import os
import random
import resource
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import anthropic
import httpx2

from corral.chaos import plan
from corral.chaos.cluster import Cluster, ClusterKind, cluster
from corral.chaos.driver import Clients, Dialogue
from corral.chaos.faults import Faults
from corral.chaos.laws import Broken, History, Trouble, judge
from corral.chaos.node import Node
from corral.chaos.packed import Packed
from corral.chaos.residue import left_behind, reap, secrets_in
from corral.chaos.scenarios import ROUNDS, SCENARIOS, Stage
from corral.chaos.schedule import DATABASE, KINDS, Fault, Kind, Lane, points_of, write_schedule
from corral.chaos.store import snapshots
from corral.kernel.crash import POINTS
from corral.testing.messages_api import MessagesApi

__all__ = ["Options", "Progress", "Report", "run"]

SETTLE_SECONDS: Final = 90.0  # after the last fault; a lease is 10 s, hands are missed for 30 s
COVER_SECONDS: Final = 240.0  # for the points that chance has not led to
SCENARIO_SECONDS, ROUND_SECONDS = 300.0, 120.0  # at most, on a busy machine
EVICTED: Final = 4  # sessions at a time
READ_SECONDS: Final = 60.0  # for all that is read at the end
_PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run is asked for. Faults end after `seconds`, or once there were `kills`, if that is given."""

    cluster: ClusterKind = "local"
    seconds: float = 120.0
    kills: int | None = None
    sessions: int = 12
    seed: int = 0
    faults: Sequence[Kind] = tuple(KINDS)
    turns: Sequence[plan.Kind] = plan.KINDS
    crash_points: bool = True
    database_url: str | None = None
    has_small_disk: bool = False  # of the one node, so that it can be filled
    has_network: bool = False  # of its own, with a cable to each machine that can be pulled
    scenario: str | None = None  # of `scenarios`, `kills` times, instead of a schedule
    schedule: Sequence[Fault] | None = None  # of an earlier run; None: from the seed

    def to_json(self) -> dict[str, object]:
        data = asdict(self)
        del data["schedule"], data["database_url"]
        return data


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is; for whoever shows it."""

    phase: str
    seconds: float
    kills: int
    turns: int
    sessions: int
    points_hit: int
    points: int


@dataclass(kw_only=True)
class Report:
    """What came of it. `is_whole` is the answer."""

    options: Options
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    hits: dict[str, int] = field(default_factory=dict)
    not_here: dict[str, str] = field(default_factory=dict)  # crash points that cannot be hit, and why
    kills: int = 0
    sessions: int = 0
    turns: int = 0
    calls: int = 0
    unknown: int = 0  # calls whose outcome nobody knows, as they say
    given_up: int = 0  # turns that ended with retries_exhausted
    events: int = 0
    attempts_failed: int = 0
    reconnects: int = 0
    turn_seconds: Sequence[float] = ()
    figures: dict[str, float] = field(default_factory=dict)  # of a scenario
    load: float = 0.0  # of the machine at the end, as `uptime` says it: times mean nothing without it
    memory_bytes: int = 0  # of this process at most
    violations: list[Broken] = field(default_factory=list)
    schedule_path: Path | None = None

    @property
    def is_whole(self) -> bool:
        return not self.violations

    @property
    def missed(self) -> list[str]:
        return [point for point, count in self.hits.items() if not count]


async def run(options: Options, *, root: Path, show: Callable[[Progress], None]) -> Report:
    """Do it all below `root`, which exists and is empty. What it started has ended when it returns."""
    report = Report(options=options)
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
            battle = _Battle(options, under_test, report, show)
            await battle.fight()
            await battle.stop()
            await battle.judge()
            await battle.clear_up(root)
    report.schedule_path = root / f"chaos-{options.seed}.json"
    write_schedule(report.schedule_path, options=options.to_json(), faults=battle.faults.done)
    return report


def _has_points(options: Options) -> bool:
    return options.crash_points and options.scenario is None and "crash-point" in options.faults


class _Battle:
    def __init__(
        self, options: Options, cluster: Cluster, report: Report, show: Callable[[Progress], None]
    ) -> None:
        self._options = options
        self._cluster = cluster
        self._report = report
        self._show = show
        self._began = time.monotonic()
        self._phase = "starting"
        self._read: dict[str, _Read] = {}
        self.faults = Faults(cluster, evict=self._evict, progress=self._progress)
        self._points = [
            point
            for point in (POINTS if _has_points(options) else ())
            if any(point in self._points_of(name) for name in cluster.roles)
        ]

    def _points_of(self, name: str) -> list[str]:
        return points_of(self._cluster.roles.get(name, ()), shares=self._cluster.kind == "postgres")

    def broken(self, law: str, detail: str, *, session_id: str = "") -> None:
        self._report.violations.append(Broken(law=law, session_id=session_id, detail=detail))

    # -- while it lasts ------------------------------------------------------------------------------------

    async def fight(self) -> None:
        options = self._options
        await asyncio.gather(*(node.start() for node in self._cluster.nodes.values()))
        self._clients = Clients(
            self._cluster.urls,
            api_key=self._cluster.secrets.api_key,
            seed=options.seed,
            kinds=options.turns,
        )
        enough, calm = asyncio.Event(), asyncio.Event()
        showing = asyncio.create_task(self._keep_showing())
        try:
            await self._clients.prepare()
            if options.scenario is not None:
                await self._play(options.scenario)
                return
            clients = [
                asyncio.create_task(self._clients.run(number, enough=enough), name=f"client {number}")
                for number in range(options.sessions)
            ]
            self._phase = "breaking"
            lanes = [
                asyncio.create_task(self.faults.run(faults, enough=calm), name="lane")
                for faults in self._lanes()
            ]
            await self._until_enough([*lanes, *clients])
            calm.set()
            await asyncio.gather(*lanes)
            if options.schedule is None:
                await self._cover()
            self._phase = "settling"
            await self.faults.mend()
            enough.set()
            await self._settle(clients)
            self._phase = "reading"
            await self._read_all()
        finally:
            showing.cancel()
            for task in asyncio.all_tasks():
                if task.get_name().startswith(("client ", "lane", "watch ")):
                    task.cancel()
            await self._clients.aclose()
        self._phase = "judging"

    async def _play(self, scenario: str) -> None:
        options = self._options
        self._phase = scenario
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
            self.broken("every turn has ended", f"the scenario does not get on; its clients: {waiting}")
        self._phase = "reading"
        await self._read_all()

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
        if "crash-point" not in self._options.faults:
            return
        self._phase = "covering"
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
                self.broken(
                    "every turn has ended",
                    f"{SETTLE_SECONDS:.0f} s after the last fault its client still waits: {dialogue.doing}",
                    session_id=dialogue.session_id,
                )

    async def _keep_showing(self) -> None:
        while True:
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
            reap({node.started_pid for node in self._cluster.nodes.values()})
            await asyncio.sleep(0.5)

    # -- afterwards ----------------------------------------------------------------------------------------

    async def _read_all(self) -> None:
        """What clients can read, while the servers still run."""
        gate = asyncio.Semaphore(8)
        url, key = self._cluster.urls[0], self._cluster.secrets.api_key
        async with (
            anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=3, timeout=READ_SECONDS) as api,
            httpx2.AsyncClient(base_url=url, headers={"x-api-key": key}, timeout=READ_SECONDS) as http,
        ):

            async def read(dialogue: Dialogue) -> None:
                async with gate:
                    self._read[dialogue.session_id] = await _read(api, http, dialogue.session_id)

            await asyncio.gather(*(read(dialogue) for dialogue in self._clients.dialogues))

    async def stop(self) -> None:
        """SIGTERM for every node, all at once."""
        self._phase = "stopping"

        async def stop(node: Node) -> None:
            try:
                await node.stop()
            except TimeoutError:
                self.broken("nothing is left behind", f"{node.name} did not stop when it was asked to")

        await asyncio.gather(*(stop(node) for node in self._cluster.nodes.values()))

    async def judge(self) -> None:
        """Every session by every law; and what is left of the cluster, which has been stopped."""
        report, clients = self._report, self._clients
        troubles: list[Trouble] = []
        for node in self._cluster.nodes.values():
            troubles += node.troubles
        async for dialogue, snapshot in snapshots(self._cluster, clients.dialogues):
            read = self._read[dialogue.session_id]
            history = History(
                session_id=dialogue.session_id,
                snapshot=snapshot,
                asks=dialogue.asks,
                sent=dialogue.sent,
                listed=list(read.listed),
                usage=read.usage,
                frames=dialogue.watch.shown(),
                ran=read.ran,
                calls=dialogue.calls,
                troubles=troubles,
            )
            broken = list(judge(history))
            report.violations += broken
            if broken:
                self._keep(history)
            self._count(history)
            for refusal in [*dialogue.refused, *dialogue.watch.refusals]:
                self.broken("nothing good is refused", refusal, session_id=dialogue.session_id)
            report.reconnects += max(0, dialogue.watch.connections - 1)
        for failure in self.faults.failed:
            self.broken("what dies comes up again", failure)
        report.seconds = time.monotonic() - self._began
        report.faults, report.kills = self.faults.counts, self.faults.kills
        report.load = os.getloadavg()[1]
        report.memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        report.sessions = len(clients.dialogues)
        report.turns = sum(dialogue.turns_done for dialogue in clients.dialogues)
        report.attempts_failed, report.turn_seconds = clients.attempts_failed, clients.turn_seconds
        report.hits = {point: self.faults.hits[point] for point in self._points}
        kind = self._cluster.kind
        report.not_here = {
            point: f"no process of a {kind} cluster passes it"
            for point in POINTS
            if _has_points(self._options) and point not in self._points
        }

    def _keep(self, history: History) -> None:
        """All that is known of a session that broke a law, beside the schedule."""
        known = {
            "log": [
                {"seq": event.seq, "private": event.private, **body}
                for event, body in zip(history.events, history.bodies, strict=True)
            ],
            "ran": history.ran,
            "troubles": [asdict(trouble) for trouble in history.troubles],
            "frames": [asdict(frame) for frame in history.frames or ()],
        }
        path = self._cluster.root / f"{history.session_id}.json"
        path.write_text(json.dumps(known, indent=1, default=str))

    def _count(self, history: History) -> None:
        report = self._report
        report.events += len(history.events)
        report.calls += sum(1 for _ in history.of("agent.tool_use", "agent.custom_tool_use"))
        report.unknown += sum(
            "outcome is unknown" in str(body) for _, body in history.of("agent.tool_result")
        )
        report.given_up += sum(
            body["stop_reason"]["type"] == "retries_exhausted"
            for _, body in history.of("session.status_idle")
        )

    async def clear_up(self, root: Path) -> None:
        """Look for what the stopped cluster has left, once it has had a moment to go."""
        deadline = time.monotonic() + 5.0
        while (left := list(left_behind(root))) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        for sentence in left:
            self.broken("nothing is left behind", sentence)
        known = self._cluster.secrets
        wanted = {
            "the API key": known.api_key,
            "the model's key": known.model_key,
            "a variable of the operator": known.variable,
        }
        for sentence in await asyncio.to_thread(lambda: list(secrets_in(root, wanted))):
            self.broken("secrets are nowhere", sentence)


@dataclass(frozen=True, kw_only=True)
class _Read:
    listed: Packed
    usage: dict[str, object]
    ran: Sequence[str] | None


async def _read(api: anthropic.AsyncAnthropic, http: httpx2.AsyncClient, session_id: str) -> _Read:
    listed = Packed()
    page = ""
    while True:
        query = {"limit": "1000", "order": "asc", **({"page": page} if page else {})}
        answer = (
            (await http.get(f"/v1/sessions/{session_id}/events", params=query)).raise_for_status().json()
        )
        for event in answer["data"]:
            listed.append(event)
        page = answer.get("next_page") or ""
        if not page:
            break
    session = await api.beta.sessions.retrieve(session_id)
    until = time.monotonic() + READ_SECONDS
    while (response := await http.get(f"/corral/v1/sessions/{session_id}/workspace")).is_server_error:
        if time.monotonic() > until:
            response.raise_for_status()  # what is not read is not judged
        await asyncio.sleep(0.5)
    ran: list[str] | None = None
    if response.status_code == 200:
        ran = []
        with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
            for member in archive:
                if Path(member.name).name == plan.RAN and (file := archive.extractfile(member)):
                    ran = file.read().decode().split()
    assert session.usage is not None
    return _Read(listed=listed, usage=session.usage.model_dump(), ran=ran)


@contextlib.contextmanager
def _reaping() -> Iterator[None]:
    """Become the parent of whatever loses its own, so that nothing that outlives a node is missed."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0)
