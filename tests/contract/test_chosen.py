"""Environments that ask for a kind of sandbox, on a host that offers more than one."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from corral.catalog.sandbox import SANDBOX
from corral.hands.keeper.landlock import abi
from corral.hands.providers.choice import ProviderName, provider_of
from corral.kernel.errors import SandboxUnavailable
from corral.session.call import Recipe
from corral.testing.lab import Lab

pytestmark = pytest.mark.skipif(abi() == 0, reason="this kernel has no Landlock")


@pytest.fixture
async def lab(open_dir: Path) -> AsyncIterator[Lab]:
    provider = provider_of("bwrap", state_dir=open_dir, is_warm=False, choices=["landlock", "bwrap"])
    async with Lab.open(provider, root=open_dir) as lab:
        yield lab


def asking_for(provider: str) -> Recipe:
    return Recipe(environment={"type": "cloud", SANDBOX: {"provider": provider}})


async def test_an_environment_gets_the_kind_it_asks_for_and_others_the_nodes_own(lab: Lab) -> None:
    own = await lab.sandbox("sesn_own")
    assert await lab.bash(own, "pwd") == "/workspace" == lab.seen("/workspace", "sesn_own")
    other = await lab.sandbox("sesn_other", recipe=asking_for("landlock"))
    moved = lab.seen("/workspace", "sesn_other")
    assert await lab.bash(other, "pwd; echo kept > a") == moved != "/workspace"
    assert (
        await lab.bash(await lab.sandbox("sesn_named", recipe=asking_for("bwrap")), "pwd") == "/workspace"
    )
    await other.destroy()
    there = await lab.workspace("sesn_moved")
    await lab.provider.unpack(there, lab.provider.pack(lab.root / "sesn_other"))
    assert await lab.bash(await lab.sandbox("sesn_moved"), "cat a") == "kept", "whoever made it"


@pytest.mark.parametrize("choices", [(), ("landlock",)])
async def test_what_is_not_offered_is_refused(tmp_path: Path, choices: Sequence[ProviderName]) -> None:
    """Also where nothing is offered beside the node's own."""
    provider = provider_of("bwrap", state_dir=tmp_path, is_warm=False, choices=choices)
    async with Lab.open(provider, root=tmp_path) as lab:
        with pytest.raises(SandboxUnavailable, match="'docker'") as caught:
            await lab.sandbox(recipe=asking_for("docker"))
    assert not caught.value.retryable and "CORRAL_SANDBOX_CHOICES" in str(caught.value)
