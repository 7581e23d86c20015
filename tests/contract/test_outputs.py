"""Outputs from a real sandbox to files, by a collector that may die anywhere."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from corral.catalog.blobs import Blob
from corral.catalog.files import FileRecord, Files
from corral.hands.client import HandsClient
from corral.hands.wire import Restored
from corral.kernel.crash import intercepted
from corral.kernel.errors import NotFound
from corral.kernel.ids import DEFAULT_WORKSPACE, EventId
from corral.kernel.limits import OUTPUTS_AGAIN_SECONDS, OUTPUTS_LOOK_SECONDS
from corral.orchestrator.outputs import OutputsCollector
from corral.session.call import Recipe, ToolCall
from corral.store.blobs import LocalBlobs
from corral.store.files import FileRows
from corral.testing.sessions import new_session
from tests.host import host_of
from tests.opened import Opened

OUT = "/mnt/session/outputs"


class CountingBlobs(LocalBlobs):
    """That count what is stored."""

    puts = 0

    @classmethod
    async def make(cls, root: Path) -> "CountingBlobs":
        await LocalBlobs.open(root)
        return cls(root)

    async def put(self, key: str, data: AsyncIterator[bytes]) -> Blob:
        self.puts += 1
        return await super().put(key, data)


class Bench:
    def __init__(self, opened: Opened, blobs: CountingBlobs, client: HandsClient) -> None:
        self.database, self.stores = opened.database, opened.stores
        self.blobs, self.client = blobs, client
        self.files = Files(self.stores.files, blobs, ids=self.stores.ids, clock=self.stores.clock)
        self._count = 0

    async def begin(self) -> None:
        record = new_session(self.stores.ids, self.stores.clock.now())
        self.session_id, self._thread_id = record.session_id, record.primary_thread_id
        await self.stores.sessions.create(record)

    async def bash(self, command: str) -> None:
        self._count += 1
        call = ToolCall(
            session_id=self.session_id,
            thread_id=self._thread_id,
            call_id=EventId(f"sevt_{self._count}"),
            name="bash",
            input={"command": command},
            recipe=Recipe(),
            placement=await self.client.placement(self.session_id),
        )
        result = await self.client.execute(call, epoch=1)
        assert not result.is_error, result.content

    async def known(self) -> dict[str, FileRecord]:
        return dict(await self.files.outputs(self.session_id))

    async def contents(self) -> dict[str, bytes]:
        return {
            path: b"".join([chunk async for chunk in self.files.read(record)])
            for path, record in (await self.known()).items()
        }

    async def collect(self, collector: OutputsCollector | None = None) -> bool:
        """One look, of a collector that knows nothing unless one is given."""
        (held,) = [each for each in await self.client.held() if each.session_id == self.session_id]
        return await (collector or OutputsCollector(self.files)).collect(self.client, held)

    @asynccontextmanager
    async def collecting(self) -> AsyncIterator[None]:
        task = asyncio.create_task(OutputsCollector(self.files).run(self.client))
        yield
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def until(self, fact: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(60):
            while not await fact():  # noqa: ASYNC110  (a file sends no events)
                await asyncio.sleep(0.02)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    opened = await Opened.open(tmp_path / "corral.db")
    (tmp_path / "h").mkdir()
    async with host_of(tmp_path / "h") as client:
        bench = Bench(opened, await CountingBlobs.make(tmp_path / "blobs"), client)
        await bench.begin()
        yield bench
    await opened.database.close()


async def test_outputs_become_files_and_follow_the_tree(bench: Bench) -> None:
    assert OUTPUTS_LOOK_SECONDS + OUTPUTS_AGAIN_SECONDS < 2, "and the look itself, on an idle machine"
    async with bench.collecting():
        await bench.bash(
            f"mkdir {OUT}/d; echo 1 > {OUT}/a.txt; echo 2 > {OUT}/d/b.md; ln -s /etc/passwd {OUT}/p"
        )

        async def shows(expected: dict[str, bytes]) -> None:
            async def fact() -> bool:
                return await bench.contents() == expected

            await bench.until(fact)

        await shows({"a.txt": b"1\n", "d/b.md": b"2\n"})
        first = await bench.known()
        record = first["a.txt"]
        assert (record.filename, record.mime_type, record.downloadable) == ("a.txt", "text/plain", True)
        assert record.scope_id == bench.session_id and record.origin == "output"
        await bench.bash(f"echo 3 > {OUT}/a.txt; mv {OUT}/d/b.md {OUT}/c.md")
        await shows({"a.txt": b"3\n", "c.md": b"2\n"})
        second = await bench.known()
        assert second["a.txt"].file_id != first["a.txt"].file_id
        with pytest.raises(NotFound):
            await bench.stores.files.read(DEFAULT_WORKSPACE, first["a.txt"].file_id)
        await bench.bash(f"rm {OUT}/c.md; (sleep 0.2; echo late > {OUT}/late; sleep 60) > /dev/null 2>&1 &")
        await bench.until(lambda: _is(bench, {"a.txt", "late"}))
        await bench.stores.files.delete(DEFAULT_WORKSPACE, (await bench.known())["late"].file_id)
        await bench.bash(f"echo 4 > {OUT}/z")
        await bench.until(lambda: _is(bench, {"a.txt", "z"}))  # what a client deleted stays away


async def _is(bench: Bench, paths: set[str]) -> bool:
    return set(await bench.known()) == paths


class Died(BaseException):
    pass


@pytest.mark.parametrize("point", ["outputs.before_file", "outputs.after_file", "outputs.before_note"])
async def test_a_collector_that_dies_anywhere_is_made_up_for(bench: Bench, point: str) -> None:
    await bench.bash(f"for i in 1 2 3; do echo $i > {OUT}/$i; done; rm -f {OUT}/old")
    passed = 0

    def die(name: str) -> None:
        nonlocal passed
        passed += name == point
        if passed == 2 or (point == "outputs.before_note" and passed):
            passed = -100
            raise Died

    with intercepted(die), pytest.raises(Died):
        await bench.collect()
    before = await bench.known()
    assert await bench.collect()
    after = await bench.known()
    assert set(after) == {"1", "2", "3"}
    assert {path: after[path].file_id for path in before} == {
        path: each.file_id for path, each in before.items()
    }
    assert await bench.collect() and await bench.known() == after


async def test_a_hostile_tree_hides_nothing_of_others_and_ends(bench: Bench) -> None:
    await bench.bash(
        f"cd {OUT}; mkfifo pipe; ln -s /proc/self/environ e; ln -s . loop; echo ok > good;"
        " printf x > \"$(printf 'bad\\377name')\"; truncate -s 600M huge;"
        " mkdir -p $(printf 'd/%.0s' $(seq 60));"
        " python3 -c \"open('n' * 250, 'w').write('n')\"; touch -d @99999999999 future"
    )
    assert await bench.collect()
    assert set(await bench.contents()) == {"good", "bad\\xffname", "n" * 250, "future"}
    # Another host, which got nothing of it: what was put out stays its user's.
    await bench.client.evict(bench.session_id)
    nothing = Restored(what="nothing")
    await bench.client.restore(bench.session_id, None, placed_at=9, restored=nothing)
    await bench.bash(f"echo new > {OUT}/new")
    assert await bench.collect()
    kept = {"good", "bad\\xffname", "n" * 250, "future"}
    assert set(await bench.contents()) == {"new", *kept}
    await bench.bash(f"mv {OUT}/new {OUT}/good")
    assert await bench.collect()
    assert set(await bench.contents()) == kept and (await bench.contents())["good"] == b"new\n"
    await bench.stores.sessions.delete(bench.session_id)
    await bench.collect()


async def test_what_has_not_changed_is_not_stored_again(bench: Bench) -> None:
    await bench.bash(f"cd {OUT}; echo same > same; echo one > other")
    assert await bench.collect() and bench.blobs.puts == 2
    before = await bench.known()
    await bench.bash(f"cd {OUT}; touch same; echo two > other")
    assert await bench.collect() and bench.blobs.puts == 3
    after = await bench.known()
    assert after["same"] == before["same"] and after["other"].file_id != before["other"].file_id


async def test_a_file_that_always_changes_is_left_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.bash(
        f"cd {OUT}; truncate -s 64M big;"
        " (while :; do touch big; done) > /dev/null 2>&1 & echo $! > /tmp/pid"
    )
    monkeypatch.setattr("corral.orchestrator.outputs.OUTPUTS_BUSY_SECONDS", 3600.0)  # it is left alone
    collector = OutputsCollector(bench.files)
    while await bench.collect(collector):  # until the loop has begun
        await bench.bash(f"touch {OUT}/big")
    assert (puts := bench.blobs.puts)
    for _ in range(3):
        assert not await bench.collect(collector)
    assert bench.blobs.puts == puts
    await bench.bash(f"kill $(cat /tmp/pid); echo fine > {OUT}/small")  # a call: it is tried again
    assert await bench.collect(collector)
    assert {path: each.size_bytes for path, each in (await bench.known()).items()} == {
        "big": 64 << 20,
        "small": 5,
    }


async def test_as_many_outputs_as_there_may_be_can_be_renamed(bench: Bench) -> None:
    table = FileRows(bench.database, outputs_max=3)
    bench.files = Files(table, bench.blobs, ids=bench.stores.ids, clock=bench.stores.clock)
    collector = OutputsCollector(bench.files, outputs_max=3)
    await bench.bash(f"cd {OUT}; touch a b c d")
    assert await bench.collect(collector) and len(await bench.known()) == 3
    await bench.bash(f"cd {OUT}; rm d; for i in *; do mv $i new-$i; done")
    assert await bench.collect(collector)
    assert set(await bench.known()) == {"new-a", "new-b", "new-c"}
