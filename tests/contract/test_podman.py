"""The core of the provider contract on containers of podman: what depends on the engine. `test_docker` has
all of it."""

from collections.abc import Iterator

import pytest

from corral.hands.providers.engines import EngineName
from corral.testing.contract_provider import ProviderContract
from tests.contract.container_suite import ContainerChecks, opened_engine


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineName]:
    with opened_engine("podman") as engine:
        yield engine


class TestPodman(ContainerChecks):
    test_probe = ProviderContract.test_probe_is_available
    test_tools = ProviderContract.test_every_tool_works
    test_cancel = ProviderContract.test_cancel_kills_within_the_grace
    test_survival = ProviderContract.test_workspace_survives_the_sandbox
    test_end = ProviderContract.test_nothing_is_left_running
    test_moving = ProviderContract.test_what_a_session_keeps_moves_to_another_workspace
    test_removal = ProviderContract.test_remove_workspace_removes_everything
    test_archives = ProviderContract.test_archives_round_trip
    test_uploads = ProviderContract.test_uploads_come_while_it_lives_and_are_read_only
    test_stores = ProviderContract.test_memory_stores_are_mounted_by_their_mode
    test_host = ProviderContract.test_the_host_cannot_be_seen
    test_descriptors = ProviderContract.test_no_descriptor_of_ours_is_inherited
    test_processes = ProviderContract.test_only_own_processes_are_seen
    test_network = ProviderContract.test_there_is_no_network
    test_privileges = ProviderContract.test_privileges_cannot_be_gained
    test_fork_bomb = ProviderContract.test_a_fork_bomb_is_bounded
    test_sizes = ProviderContract.test_descriptors_and_file_sizes_are_bounded
    test_flood = ProviderContract.test_a_flood_of_output_is_bounded
    test_hog = ProviderContract.test_a_memory_hog_is_bounded
    test_bounds = ProviderContract.test_an_environment_has_bounds_of_its_own
    test_processors = ProviderContract.test_processors_have_a_bound
