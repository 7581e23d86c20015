"""Request shapes of environments. Merge rules are in `catalog/environments.py`."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from corral.api.schema.strict import Metadata, MetadataPatch, Strict, pattern
from corral.kernel.limits import (
    AGENT_DESCRIPTION_CHARS_MAX,
    AGENT_NAME_CHARS_MAX,
    ALLOWED_HOSTS_MAX,
    ENVIRONMENT_PACKAGES_MAX,
    HOST_NAME_CHARS_MAX,
    PACKAGE_CHARS_MAX,
    SANDBOX_CPUS_MIN,
    SANDBOX_CPUS_MOST,
    SANDBOX_DISK_BYTES_MIN,
    SANDBOX_DISK_BYTES_MOST,
    SANDBOX_MEMORY_BYTES_MIN,
    SANDBOX_MEMORY_BYTES_MOST,
    SANDBOX_PROCESSES_MIN,
    SANDBOX_PROCESSES_MOST,
    TOOL_TIMEOUT_SECONDS_MAX,
)

# A leading dash would reach a package manager as an option; white space as a second argument.
Package = Annotated[
    str,
    StringConstraints(min_length=1, max_length=PACKAGE_CHARS_MAX),
    pattern(
        r"^[^\s-]\S*$", "must be one package, without white space, and no option of the package manager"
    ),
]
PackageList = Annotated[list[Package], Field(max_length=ENVIRONMENT_PACKAGES_MAX)]
Host = Annotated[str, StringConstraints(min_length=1, max_length=HOST_NAME_CHARS_MAX)]


class Packages(Strict):
    type: Literal["packages"] | None = None
    apt: PackageList | None = None
    cargo: PackageList | None = None
    gem: PackageList | None = None
    go: PackageList | None = None
    npm: PackageList | None = None
    pip: PackageList | None = None


class Unrestricted(Strict):
    type: Literal["unrestricted"]


class Limited(Strict):
    type: Literal["limited"]
    allow_mcp_servers: bool | None = None
    allow_package_managers: bool | None = None
    allowed_hosts: Annotated[list[Host], Field(max_length=ALLOWED_HOSTS_MAX)] | None = None


class Cloud(Strict):
    type: Literal["cloud"]
    networking: Annotated[Unrestricted | Limited, Field(discriminator="type")] | None = None
    packages: Packages | None = None


class SelfHosted(Strict):
    type: Literal["self_hosted"]


EnvironmentConfig = Annotated[Cloud | SelfHosted, Field(discriminator="type")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=AGENT_NAME_CHARS_MAX)]
Description = Annotated[str, StringConstraints(max_length=AGENT_DESCRIPTION_CHARS_MAX)]
Scope = Literal["organization", "account"]


class EnvironmentCreate(Strict):
    name: Name
    config: EnvironmentConfig | None = None
    description: Description | None = None
    metadata: Metadata | None = None
    scope: Scope | None = None


class EnvironmentUpdate(Strict):
    """Omitted: keep. Null keeps `name`, `config` and `scope`, which cannot be cleared."""

    name: Name | None = None
    config: EnvironmentConfig | None = None
    description: Description | None = None
    metadata: MetadataPatch | None = None
    scope: Scope | None = None


Provider = Annotated[str, pattern(r"^[a-z][a-z0-9_-]{0,63}$", "must be the name of a provider")]


class EnvironmentSandboxUpdate(Strict):
    """/corral/v1/environments/{id}/sandbox; null takes a member away."""

    provider: Provider | None = None
    cpus: Annotated[float, Field(ge=SANDBOX_CPUS_MIN, le=SANDBOX_CPUS_MOST)] | None = None
    memory_bytes: (
        Annotated[int, Field(ge=SANDBOX_MEMORY_BYTES_MIN, le=SANDBOX_MEMORY_BYTES_MOST)] | None
    ) = None
    processes: Annotated[int, Field(ge=SANDBOX_PROCESSES_MIN, le=SANDBOX_PROCESSES_MOST)] | None = None
    disk_bytes: Annotated[int, Field(ge=SANDBOX_DISK_BYTES_MIN, le=SANDBOX_DISK_BYTES_MOST)] | None = None
    command_seconds: Annotated[int, Field(ge=1, le=int(TOOL_TIMEOUT_SECONDS_MAX))] | None = None
