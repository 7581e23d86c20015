"""The provider contract on containers of docker."""

import os
from collections.abc import Iterator

import pytest

from corral.hands.providers.engines import EngineName
from corral.testing.contract_provider import ProviderContract
from tests.contract.container_suite import ContainerChecks, opened_engine
from tests.contract.ordinary_user import contract_as_ordinary_user


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineName]:
    with opened_engine("docker") as engine:
        yield engine


class TestDocker(ContainerChecks, ProviderContract):
    pass


@pytest.mark.timeout(900)
async def test_the_contract_as_an_ordinary_user_who_may_use_the_daemon(engine: EngineName) -> None:
    """Sandboxes have its uid then: what differs is whose the files are, and the wall `user`."""
    address = os.environ.get("DOCKER_HOST", "")
    if not address.startswith("unix:///var/tmp/corral-docker-"):
        pytest.skip("the daemon here is not of this test, and may not be opened to others")
    chosen = "probe or every_tool or privileges or moves or uploads"
    await contract_as_ordinary_user(
        f"{__file__}::TestDocker", "-k", chosen, environment={"DOCKER_HOST": address}
    )
