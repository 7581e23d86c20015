"""The provider contract on containers of podman."""

from collections.abc import Iterator

import pytest

from corral.hands.providers.engines import EngineName
from corral.testing.contract_provider import ProviderContract
from corral.testing.lab import Lab
from tests.contract.container_suite import ContainerChecks, opened_engine


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineName]:
    with opened_engine("podman") as engine:
        yield engine


class TestPodman(ContainerChecks, ProviderContract):
    async def test_file_systems_of_the_machine_say_nothing(self, lab: Lab) -> None:
        assert await lab.bash(await lab.sandbox(), "ls -A /proc/fs | wc -l") == "0"
