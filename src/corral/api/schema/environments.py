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
