"""The provider contract on gVisor, as whoever runs the tests and as an ordinary user, and what is its own.

Sandboxes have a root file system here in which `ls` and `stat` are those of busybox: the runsc of Debian 12
refuses what Debian 12's own ask of it, and tests are to run with whatever runsc there is.
"""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.hands.providers.gvisor import GvisorProvider
from corral.hands.providers.system import System
from corral.testing.contract_provider import ProviderContract
from corral.testing.lab import Lab
from tests.contract.ordinary_user import contract_as_ordinary_user
from tests.root_system import made_root

pytestmark = pytest.mark.skipif(shutil.which("runsc") is None, reason="there is no runsc")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a Python, and what the contract's commands need."""
    essential = "coreutils dash debianutils diffutils findutils grep hostname libc-bin sed tar util-linux"
    root = made_root(tmp_path_factory.mktemp("root") / "root", *essential.split(), "curl", "python3")
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("there is no busybox (`apt install busybox-static`)")
    shutil.copy2(busybox, root / "usr/bin/busybox")
    for name in ("ls", "stat"):
        (root / "usr/bin" / name).unlink()
        (root / "usr/bin" / name).symlink_to("busybox")
    return root


class TestGvisor(ProviderContract):
    @pytest.fixture
    async def lab(self, tmp_path: Path, root: Path) -> AsyncIterator[Lab]:
        provider = GvisorProvider(state_dir=tmp_path, pool_size=0, system=System.at(root))
        async with Lab.open(provider, root=tmp_path) as lab:
            yield lab


@pytest.mark.timeout(300)
async def test_the_whole_contract_as_an_ordinary_user() -> None:
    await contract_as_ordinary_user(f"{__file__}::TestGvisor")
