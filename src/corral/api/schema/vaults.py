"""Request shapes of vaults and credentials. Rules are in `catalog/vaults.py` and `catalog/credentials.py`.

A secret is a `SecretStr` from here until it is sealed: it shows itself to nobody who prints it, and no
message of validation repeats a value.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints

from corral.api.schema.query import PageQuery
from corral.api.schema.strict import OMITTED, Metadata, MetadataPatch, Strict, pattern
from corral.kernel.clock import parse_rfc3339
from corral.kernel.limits import (
    CREDENTIAL_HOSTS_MAX,
    HOST_NAME_CHARS_MAX,
    MCP_URL_CHARS_MAX,
    OAUTH_TEXT_CHARS_MAX,
    SECRET_CHARS_MAX,
    SECRET_NAME_CHARS_MAX,
    VAULT_NAME_CHARS_MAX,
)

__all__ = ["CredentialCreate", "CredentialUpdate", "Token", "VaultCreate", "VaultListQuery", "VaultUpdate"]


def _never(value: Any) -> Any:
    raise ValueError("cannot be changed after the credential is made; make another one")


def _is_header_value(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().isprintable():
        raise ValueError("must not contain control characters: it is sent in a header")
    return secret


def _time(value: Any) -> datetime:
    if not isinstance(value, str):
        raise ValueError("must be a string in RFC 3339")
    try:
        return parse_rfc3339(value)
    except ValueError:
        raise ValueError("must be a time in RFC 3339 with a time zone") from None


Name = Annotated[str, StringConstraints(min_length=1, max_length=VAULT_NAME_CHARS_MAX)]
NameOrEmpty = Annotated[str, StringConstraints(max_length=VAULT_NAME_CHARS_MAX)]
SecretText = Annotated[SecretStr, Field(min_length=1, max_length=SECRET_CHARS_MAX)]
Token = Annotated[SecretText, AfterValidator(_is_header_value)]
Url = Annotated[
    str, StringConstraints(min_length=1, max_length=MCP_URL_CHARS_MAX, pattern=r"^[^\s\x00-\x1f\x7f]+$")
]
OAuthText = Annotated[str, StringConstraints(max_length=OAUTH_TEXT_CHARS_MAX)]
ClientId = Annotated[str, StringConstraints(min_length=1, max_length=OAUTH_TEXT_CHARS_MAX)]
VariableName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=SECRET_NAME_CHARS_MAX),
    pattern(
        r"^[A-Za-z_][A-Za-z0-9_]*$", "must be the name of a variable: letters, digits and _, no digit first"
    ),
]
Host = Annotated[str, StringConstraints(min_length=1, max_length=HOST_NAME_CHARS_MAX)]
Time = Annotated[datetime, BeforeValidator(_time)]
Fixed = Annotated[Any, AfterValidator(_never)]


class VaultCreate(Strict):
    display_name: Name
    metadata: Metadata | None = None


class VaultUpdate(Strict):
    """Omitted or null: keep."""

    display_name: Name | None = None
    metadata: MetadataPatch | None = None


class VaultListQuery(PageQuery):
    include_archived: bool = False


class NoClientAuth(Strict):
    type: Literal["none"]


class ClientSecretBasic(Strict):
    type: Literal["client_secret_basic"]
    client_secret: SecretText


class ClientSecretPost(Strict):
    type: Literal["client_secret_post"]
    client_secret: SecretText


class Refresh(Strict):
    client_id: ClientId
    refresh_token: SecretText
    token_endpoint: Url
    token_endpoint_auth: Annotated[
        NoClientAuth | ClientSecretBasic | ClientSecretPost, Field(discriminator="type")
    ]
    resource: OAuthText | None = None
    scope: OAuthText | None = None


class McpOAuth(Strict):
    type: Literal["mcp_oauth"]
    mcp_server_url: Url
    access_token: Token
    expires_at: Time | None = None
    refresh: Refresh | None = None


class StaticBearer(Strict):
    type: Literal["static_bearer"]
    mcp_server_url: Url
    token: Token


class AnyHost(Strict):
    type: Literal["unrestricted"]


class SomeHosts(Strict):
    type: Literal["limited"]
    allowed_hosts: Annotated[list[Host], Field(max_length=CREDENTIAL_HOSTS_MAX)]


Networking = Annotated[AnyHost | SomeHosts, Field(discriminator="type")]


class InjectionLocation(Strict):
    """Omitted inside the object: false in a new credential, kept in an update."""

    header: bool = OMITTED
    body: bool = OMITTED


class EnvironmentVariable(Strict):
    type: Literal["environment_variable"]
    secret_name: VariableName
    secret_value: SecretText
    networking: Networking
    injection_location: InjectionLocation = OMITTED


class CredentialCreate(Strict):
    auth: Annotated[McpOAuth | StaticBearer | EnvironmentVariable, Field(discriminator="type")]
    display_name: NameOrEmpty | None = None
    metadata: Metadata | None = None


class ClientSecretBasicUpdate(Strict):
    type: Literal["client_secret_basic"]
    client_secret: SecretText | None = None


class ClientSecretPostUpdate(Strict):
    type: Literal["client_secret_post"]
    client_secret: SecretText | None = None


class RefreshUpdate(Strict):
    refresh_token: SecretText | None = None
    scope: OAuthText | None = None
    token_endpoint_auth: Annotated[
        ClientSecretBasicUpdate | ClientSecretPostUpdate, Field(discriminator="type")
    ] = OMITTED
    client_id: Fixed = OMITTED
    token_endpoint: Fixed = OMITTED
    resource: Fixed = OMITTED


class McpOAuthUpdate(Strict):
    type: Literal["mcp_oauth"]
    access_token: Token | None = None
    expires_at: Time | None = None
    refresh: RefreshUpdate | None = None
    mcp_server_url: Fixed = OMITTED


class StaticBearerUpdate(Strict):
    type: Literal["static_bearer"]
    token: Token | None = None
    mcp_server_url: Fixed = OMITTED


class EnvironmentVariableUpdate(Strict):
    type: Literal["environment_variable"]
    secret_value: SecretText | None = None
    networking: Networking | None = None
    injection_location: InjectionLocation = OMITTED
    secret_name: Fixed = OMITTED


class CredentialUpdate(Strict):
    """Omitted: keep. Inside `auth` null keeps too; a null `display_name` clears it."""

    auth: Annotated[
        McpOAuthUpdate | StaticBearerUpdate | EnvironmentVariableUpdate, Field(discriminator="type")
    ] = OMITTED
    display_name: NameOrEmpty | None = None
    metadata: MetadataPatch | None = None
