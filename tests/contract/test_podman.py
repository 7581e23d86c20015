"""The provider contract on containers of podman."""

from collections.abc import Iterator

import pytest

from corral.hands.providers.engines import EngineName
from corral.testing.contract_provider import ProviderContract
from tests.contract.container_suite import ContainerChecks, opened_engine


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineName]:
    with opened_engine("podman") as engine:
        yield engine


class TestPodman(ContainerChecks, ProviderContract):
    pass
