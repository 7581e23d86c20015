"""Mounts on many hosts: a session that moves finds its files where it goes, brought by whoever asks."""

from collections.abc import AsyncIterator, Mapping, Sequence

from corral.hands.mounting import Mounting
from corral.hands.router import HandsRouter
from corral.kernel.ids import SessionId
from corral.kernel.limits import NODE_LOST_SECONDS
from corral.session.call import Mount, Recipe
from corral.session.content import Json
from corral.session.mounts import Attached, MountsMissing, file_archive
from corral.testing.lab import in_chunks
from tests.crash.hosts import HandsCluster, Host

FILE = Mount(
    mount_id="sesrsc_1", kind="file", path="/mnt/session/uploads/a.txt", digest="1", mode="read_only"
)


class Source:
    def __init__(self) -> None:
        self.opened = 0

    async def mounts(self, attached: Attached) -> Sequence[Mount]:
        return [FILE]

    async def open(self, session_id: SessionId, mount: Mount) -> AsyncIterator[bytes]:
        self.opened += 1
        async for chunk in file_archive(in_chunks(b"hello"), size_bytes=5):
            yield chunk


async def resources(session_id: SessionId) -> Sequence[Mapping[str, Json]]:
    return ()


def upload(host: Host, session_id: SessionId) -> bytes:
    """Where the local provider keeps it."""
    home = host.files(session_id)
    return (home.parent / f".{home.name}" / "uploads" / "a.txt").read_bytes()


async def run(cluster: HandsCluster, router: HandsRouter, mounting: Mounting, session_id: SessionId) -> int:
    """One call with the file in its recipe; how often it had to be brought."""
    call = cluster.bash(session_id, await router.placement(session_id), "true")
    mounts = tuple(await mounting.of(session_id, {}, {}))
    call = type(call)(
        **{name: getattr(call, name) for name in call.__slots__ if name != "recipe"},
        recipe=Recipe(mounts=mounts),
    )
    brought = 0
    while True:
        try:
            assert not (await router.execute(call, epoch=1)).is_error
            return brought
        except MountsMissing as error:
            assert error.missing == [FILE.mount_id]
            await mounting.bring(session_id, mounts, epoch=1)
            brought += 1


async def test_files_go_where_the_session_goes(cluster: HandsCluster) -> None:
    first, session_id, source = await cluster.start("a"), await cluster.session(), Source()
    router = cluster.router()
    mounting = Mounting(router, resources=resources, sources={"file": source})
    assert await run(cluster, router, mounting, session_id) == 1
    assert await run(cluster, router, mounting, session_id) == 0
    assert upload(first, session_id) == b"hello"
    await cluster.keep(first)
    second = await cluster.start("b")
    await first.kill()
    first.age_seconds = NODE_LOST_SECONDS + 1
    assert await run(cluster, router, mounting, session_id) == 1
    assert upload(second, session_id) == b"hello" and source.opened == 2
    other = cluster.router()  # of another brain, which has brought nothing
    assert (
        await run(
            cluster, other, Mounting(other, resources=resources, sources={"file": source}), session_id
        )
        == 0
    )
