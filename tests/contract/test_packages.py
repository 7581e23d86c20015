"""Installing packages from a real registry: what comes out, what is kept, and what can go wrong."""

import asyncio
import io
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from corral.catalog.packages import Wanted
from corral.catalog.repositories import RepositoryHosts
from corral.kernel import limits
from corral.packages.installer import Bounds, Installer, PackagesFailed
from corral.packages.layers import Layers
from corral.store.blobs import LocalBlobs
from tests.registry import Registry

GREET: Wanted = {"pip": ("greet",)}
DIGEST = "0" * 64


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry.start(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def registry(running: Registry) -> Registry:
    """As it was."""
    running.files.clear()
    running.wheel("greet", "1.0", {"greet/__init__.py": ""})
    running.taken()
    return running


Open = Callable[..., Installer]


@pytest.fixture
async def opened(tmp_path: Path, registry: Registry) -> AsyncIterator[Open]:
    made: list[Installer] = []

    def open_installer(
        *, hosts: RepositoryHosts | None = None, config: Path | None = None, **bounds: float
    ) -> Installer:
        installer = Installer(
            tmp_path / "packages",
            hosts=hosts or RepositoryHosts(private=[registry.where]),
            authorities=registry.authority,
            config=config or registry.config,
            bounds=Bounds(**bounds),  # type: ignore[arg-type]
        )
        made.append(installer)
        return installer

    yield open_installer
    for installer in made:
        await installer.aclose()


async def names(archive: AsyncIterator[bytes]) -> set[str]:
    data = b"".join([chunk async for chunk in archive])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {(member.uid, member.gid) for member in tar} == {(1000, 1000)}
        return set(tar.getnames())


async def failure(installer: Installer, packages: Wanted = GREET) -> PackagesFailed:
    with pytest.raises(PackagesFailed) as caught:
        await names(installer.install(packages))
    return caught.value


async def test_a_layer_is_made_once_and_serves_until_it_is_old(
    opened: Open, registry: Registry, tmp_path: Path
) -> None:
    blobs = await LocalBlobs.open(tmp_path / "blobs")
    layers = Layers(opened(), blobs)
    found = await asyncio.gather(*(names(layers.archive(DIGEST, GREET)) for _ in range(3)))
    assert (
        any(name.endswith("/greet/__init__.py") for name in found[0]) and found[0] == found[1] == found[2]
    )
    assert len(registry.taken()) == 2, "the index and the wheel, once for all three"
    (blob,) = [each async for each in blobs.keys("layers/")]
    assert blob.key.startswith(f"layers/{DIGEST}/")
    registry.wheel("greet", "2.0", {"greet/__init__.py": "", "greet/new.py": ""})
    assert await names(Layers(opened(), blobs).archive(DIGEST, GREET)) == found[0] and not registry.taken()
    old = f"layers/{DIGEST}/{int(time.time() - limits.LAYER_FRESH_SECONDS - 1)}"
    await blobs.put(old, blobs.get(blob.key))
    await blobs.delete(blob.key)
    assert any(name.endswith("/greet/new.py") for name in await names(layers.archive(DIGEST, GREET)))


async def test_a_failure_names_its_cause_and_nothing_of_it_stays(
    opened: Open, registry: Registry, tmp_path: Path
) -> None:
    assert "'gem'" in (await failure(opened(), {"gem": ("rails",)})).message, "not on this machine"
    elsewhere = await failure(opened(hosts=RepositoryHosts(public=["*", registry.where])))
    assert "does not go" in elsewhere.message and "127.0.0.1" in str(elsewhere.detail)
    assert not registry.taken(), "a private address is reached only if it is named"
    registry.wheel("greet", "1.0", {"greet/zeros": bytes(20 * 1024**2)})
    assert "larger" in (await failure(opened(layer_bytes_max=16 * 1024**2))).message
    loop = "import os, time\nos.setsid()\nwhile True: open('/scratch/' + os.urandom(8).hex(), 'w')\n"
    registry.sdist("loops", "1.0", loop)
    assert "within 3 s" in (await failure(opened(seconds=3.0), {"pip": ("loops",)})).message
    assert not list((tmp_path / "packages" / "scratch").iterdir())


async def test_settings_with_credentials_are_refused(
    opened: Open, registry: Registry, tmp_path: Path
) -> None:
    """Install scripts could read them."""
    for name, content in (
        ("pip.conf", "[global]\nindex-url = https://ada:canary@example.com/simple/\n"),
        ("npmrc", "//example.com/:_authToken=canary\n"),
        ("go.env", "GOPROXY=https://canary@example.com\n"),
    ):
        config = tmp_path / name.partition(".")[0]
        config.mkdir()
        (config / name).write_text(content)
        failed = await failure(opened(config=config))
        assert name in str(failed.detail) and "canary" not in f"{failed.message} {failed.detail}"
    assert not registry.taken()
