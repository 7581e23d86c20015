"""Installing packages from a real registry: what comes out, what is kept, and what can go wrong."""

import asyncio
import io
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from corral.catalog.hosts import HostList
from corral.catalog.packages import Wanted
from corral.egress.policy import OperatorHosts
from corral.hands.way_out import Egress
from corral.kernel import limits
from corral.kernel.ids import SessionId, WorkspaceId
from corral.packages.installer import Bounds, Installer, PackagesFailed
from corral.packages.layers import Layers
from corral.store.blobs import LocalBlobs
from tests.gateway import Gateway
from tests.registry import Registry

GREET: Wanted = {"pip": ("greet",)}
DIGEST = "0" * 64
SESSION = SessionId("sesn_1")


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
async def gateway() -> AsyncIterator[Gateway]:
    """The way out of the server; `opened` says what it is for."""
    names = {"localhost": ["127.0.0.1"]}
    async with Gateway.start(names=names, operator=OperatorHosts(errands={})) as gateway:
        yield gateway


@pytest.fixture
async def opened(tmp_path: Path, registry: Registry, gateway: Gateway) -> AsyncIterator[Open]:
    """hosts: from now on, of all."""
    made: list[Installer] = []

    def open_installer(
        *, hosts: HostList | None = None, config: Path | None = None, **bounds: float
    ) -> Installer:
        hosts = hosts or HostList(private=[registry.where])
        gateway.open("packages", hosts)
        installer = Installer(
            tmp_path / "packages",
            hosts=hosts,
            egress=Egress(gateway.data_dir),
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
        await names(installer.install(packages, session_id=SESSION))
    return caught.value


async def test_a_layer_is_made_once_and_serves_until_it_is_old(
    opened: Open, registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    blobs = await LocalBlobs.open(tmp_path / "blobs")
    layers = Layers(opened(), blobs)
    found = await asyncio.gather(
        *(names(layers.archive(DIGEST, GREET, session_id=SESSION)) for _ in range(3))
    )
    assert (
        any(name.endswith("/greet/__init__.py") for name in found[0]) and found[0] == found[1] == found[2]
    )
    assert len(registry.taken()) == 2, "the index and the wheel, once for all three"
    assert "packages of pip installed" in caplog.text and "greet" not in caplog.text
    (blob,) = [each async for each in blobs.keys("layers/") if not each.key.endswith(".sha256")]
    assert blob.key.startswith(f"layers/{DIGEST}/")
    registry.wheel("greet", "2.0", {"greet/__init__.py": "", "greet/new.py": ""})
    assert (
        await names(Layers(opened(), blobs).archive(DIGEST, GREET, session_id=SESSION)) == found[0]
        and not registry.taken()
    )
    old = f"layers/{DIGEST}/{int(time.time() - limits.LAYER_FRESH_SECONDS - 1)}"
    await blobs.put(old, blobs.get(blob.key))
    await blobs.put(f"{old}.sha256", blobs.get(f"{blob.key}.sha256"))
    await blobs.delete(blob.key)
    assert any(
        name.endswith("/greet/new.py")
        for name in await names(layers.archive(DIGEST, GREET, session_id=SESSION))
    )


async def test_a_failure_names_its_cause_and_nothing_of_it_stays(
    opened: Open, registry: Registry, tmp_path: Path
) -> None:
    assert "'gem'" in (await failure(opened(), {"gem": ("rails",)})).message, "not on this machine"
    elsewhere = await failure(opened(hosts=HostList(public=["*", registry.where])))
    assert "does not go" in elsewhere.message and "not public" in str(elsewhere.detail)
    assert not registry.taken(), "a private address is reached only if it is named"
    registry.wheel("greet", "1.0", {"greet/zeros": bytes(20 * 1024**2)})
    assert "larger" in (await failure(opened(layer_bytes_max=16 * 1024**2))).message
    loop = "import os, time\nos.setsid()\nwhile True: open('/scratch/' + os.urandom(8).hex(), 'w')\n"
    registry.sdist("loops", "1.0", loop)
    assert "within 3 s" in (await failure(opened(seconds=3.0), {"pip": ("loops",)})).message
    assert not list((tmp_path / "packages" / "scratch").iterdir())


async def test_what_is_installed_is_in_the_audit_and_what_the_operator_denies_is_not_installed(
    opened: Open, registry: Registry, gateway: Gateway, tmp_path: Path
) -> None:
    await names(opened().install(GREET, session_id=SESSION))
    for entry in (entries := await gateway.ended()):
        assert (entry["session_id"], entry["host"], entry["port"]) == (SESSION, "localhost", registry.port)
        assert (entry["method"], entry["decision"]) == ("CONNECT", "allowed")
    assert sum(entry["received_bytes"] for entry in entries) > 0
    registry.taken()
    hosts = HostList(private=[registry.where])
    operator = OperatorHosts(denied=("localhost",), errands={"packages": hosts})
    async with Gateway.start(names={"localhost": ["127.0.0.1"]}, operator=operator) as strict:
        installer = Installer(
            tmp_path / "denied", hosts=hosts, egress=Egress(strict.data_dir), config=registry.config
        )
        failed = await failure(installer)
        await installer.aclose()
        assert "does not go" in failed.message and "operator of this server denies" in str(failed.detail)
        for entry in (entries := await strict.entries()):
            assert (entry["session_id"], entry["host"], entry["decision"]) == (
                SESSION,
                "localhost",
                "denied",
            )
    assert entries and not registry.taken()


async def test_without_an_egress_process_nothing_is_installed(
    opened: Open, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.confine.way.EGRESS_AWAY_SECONDS", 0.3)
    installer = opened()
    await gateway.end()
    failed = await failure(installer)
    assert "egress process is away" in failed.message and "has been away" in str(failed.detail)
    await gateway.serve()


async def test_it_is_known_which_package_managers_are_there(opened: Open, registry: Registry) -> None:
    missing = await opened().missing()
    assert missing["gem"] == "gem" and "pip" not in missing
    for manager in missing:
        assert missing[manager] in (await failure(opened(), {manager: ("any",)})).message


async def test_packages_of_the_system_are_really_installed(opened: Open, registry: Registry) -> None:
    """Their programs are there, also those of others that they replace; their scripts ran, as root of
    nothing but what is theirs."""
    ave = "update-alternatives --install /usr/bin/ave-caesar ave-caesar /usr/bin/ave 1"
    said = "{ id -u; id -un; cat /proc/net/dev; } > /usr/share/ave/said"
    own = {"usr/bin/ave": "#!/bin/sh\necho ave\n", "usr/bin/true": "#!/bin/sh\n", "usr/share/ave/x": ""}
    registry.deb("ave", "1.0", own, postinst=f"{ave}; {said}; rm /usr/bin/env")
    gem = "#!/bin/sh\nmkdir -p /opt/corral/packages/gem\nave > /opt/corral/packages/gem/said\n"
    registry.deb("gems", "1.0", {"usr/bin/gem": gem})
    registry.deb("broken", "1.0", {}, postinst="echo cannot >&2; exit 7")
    wanted = {"apt": ("ave=1.0", "gems"), "gem": ("any",)}
    data = b"".join([chunk async for chunk in opened().install(wanted, session_id=SESSION)])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {member.name.removeprefix("./apt/"): member for member in tar}
        assert {"usr/bin/ave", "usr/bin/true", "etc/alternatives/ave-caesar"} <= set(found)
        assert "./gem/said" in found, "what is installed with them has them"
        assert found["usr/bin/ave-caesar"].linkname == "/etc/alternatives/ave-caesar"
        told = tar.extractfile(found["usr/share/ave/said"])
        assert told is not None and told.read().count(b":") == 1, "no network but its own"
        assert not {name for name in found if name.startswith(("etc/passwd", "etc/apt", "var/lib/dpkg"))}
        assert all(member.isreg() or member.isdir() or member.issym() for member in found.values())
    failed = await failure(opened(), {"apt": ("broken",)})
    assert "cannot" in failed.message and "7" in failed.message


async def test_settings_with_credentials_are_refused(
    opened: Open, registry: Registry, tmp_path: Path
) -> None:
    """Install scripts could read them."""
    for name, content in (
        ("pip.conf", "[global]\nindex-url = https://ada:canary@example.com/simple/\n"),
        ("npmrc", "//example.com/:_authToken=canary\n"),
        ("go.env", "GOPROXY=https://canary@example.com\n"),
        ("gemrc", ":rubygems_api_key: canary\n"),
        ("cargo.toml", "#" * (limits.PACKAGES_CONFIG_BYTES_MAX + 1)),
    ):
        config = tmp_path / name.partition(".")[0]
        config.mkdir()
        (config / name).write_text(content)
        failed = await failure(opened(config=config))
        assert name in str(failed.detail) and "canary" not in f"{failed.message} {failed.detail}"
    assert not registry.taken()


async def test_what_install_scripts_may_take_has_bounds(opened: Open, registry: Registry) -> None:
    asked = "resource.getrlimit(resource.RLIMIT_NPROC), resource.getrlimit(resource.RLIMIT_DATA)"
    registry.sdist("asks", "1.0", f"import resource\nraise SystemExit(str([{asked}]))\n")
    said = (await failure(opened(), {"pip": ("asks",)})).message
    most = (limits.SANDBOX_PROCESSES_MAX, limits.SANDBOX_MEMORY_BYTES)
    assert str([(bound, bound) for bound in most]) in said
    files = "import os, time\nfor n in range(5000): open(f'/scratch/home/{n}', 'w')\ntime.sleep(600)\n"
    registry.sdist("crowds", "1.0", files)
    crowded = opened(seconds=60.0, layer_entries_max=1000)
    assert "larger" in (await failure(crowded, {"pip": ("crowds",)})).message, "files may be empty"


async def test_users_are_not_told_where_packages_come_from(opened: Open, registry: Registry) -> None:
    registry.sdist("names", "1.0", f"raise SystemExit('see https://{registry.where}/names/')\n")
    failed = await failure(opened(), {"pip": ("names",)})
    host = registry.where.partition(":")[0]
    assert "see https://[registry]/names/" in failed.message and host not in failed.message
    assert registry.where in str(failed.detail), "the operator is"


async def test_nobody_on_the_machine_reads_what_is_installed_and_lists_may_be_long(
    opened: Open, registry: Registry
) -> None:
    words = "open('/proc/1/cmdline').read()"
    look = f"words = {words}\nraise SystemExit('leaked' if '\"tells\"' in words else 'kept')\n"
    registry.sdist("tells", "1.0", look)
    said = (await failure(opened(), {"pip": ("tells",)})).message
    assert "kept" in said and "leaked" not in said
    many = tuple(f"{number:04}".ljust(limits.PACKAGE_CHARS_MAX, "x") for number in range(256))
    assert (await failure(opened(), {"pip": many})).message.startswith("pip could not install")


async def until(done: Callable[[], bool]) -> None:
    def wait() -> None:
        end = time.monotonic() + 60
        while not done():
            assert time.monotonic() < end, "it does not come"
            time.sleep(0.05)

    await asyncio.to_thread(wait)


async def test_no_workspace_takes_all_of_a_node(opened: Open, registry: Registry, tmp_path: Path) -> None:
    layers = Layers(opened(at_once=2), await LocalBlobs.open(tmp_path / "blobs"))
    mine, other = WorkspaceId("wrkspc_mine"), WorkspaceId("wrkspc_other")
    registry.sdist("slow", "1.0", "import time\ntime.sleep(600)\n")

    def hog(digest: str, packages: Wanted) -> asyncio.Task[set[str]]:
        return asyncio.create_task(
            names(layers.archive(digest, packages, workspace_id=mine, session_id=SESSION))
        )

    first = hog("1" * 64, {"pip": ("slow",)})
    await until(lambda: any("slow" in path for path in registry.taken()))
    second = hog(DIGEST, GREET)
    await until(lambda: len(layers._making) == 2)
    async with asyncio.timeout(60):  # what waits for its turn is waited for by its own workspace alone
        found = await names(layers.archive(DIGEST, GREET, workspace_id=other, session_id=SESSION))
    assert any(name.endswith("/greet/__init__.py") for name in found)
    assert not first.done() and not second.done()
    await layers.aclose()
    await asyncio.gather(first, second, return_exceptions=True)


async def test_failures_are_not_remembered_for_ever(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.packages.layers.PACKAGES_RETRY_SECONDS", 0.0)
    layers = Layers(opened(), await LocalBlobs.open(tmp_path / "blobs"))
    for number in range(3):
        with pytest.raises(PackagesFailed):
            await names(layers.archive(f"{number}" * 64, {"gem": ("rails",)}, session_id=SESSION))
    assert len(layers._failed_at) == 1
