"""Which engines of containers there are, and what their commands are told."""

from typing import Final, Literal, get_args

__all__ = ["ENGINES", "ENGINE_VARIABLES", "EngineName"]

EngineName = Literal["docker", "podman"]
ENGINES: Final[tuple[EngineName, ...]] = get_args(EngineName)

ENGINE_VARIABLES: Final = (
    *("PATH", "HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DBUS_SESSION_BUS_ADDRESS"),
    *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"),
    *("CONTAINER_HOST", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"),
)
"""What of the operator's environment says where an engine is, and how it is set."""
