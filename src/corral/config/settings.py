"""Which settings there are: `Config` holds their values, SETTINGS says of each what it means and where it
may come from."""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Final, get_args

from corral.cluster.node import NodeRole
from corral.config import values
from corral.config.secret import Secret
from corral.config.values import LogLevel
from corral.hands.providers.choice import ProviderName
from corral.kernel.errors import CorralError
from corral.kernel.limits import (
    AUDIT_DAYS,
    FILES_BYTES_MAX,
    SANDBOXES_MAX,
    TOOL_ROUNDS_PER_TURN_MAX,
    TURN_SECONDS_MAX,
    TURN_TOKENS_MAX,
    WORK_LEASE_SECONDS,
)

__all__ = ["SETTINGS", "Config", "Setting", "SettingsError", "flag_of", "parsed"]


class SettingsError(CorralError):
    """A setting is wrong; the message names it, its source and what to write instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings; SETTINGS below says what each one means and where it may come from."""

    host: str = "127.0.0.1"
    port: int = 8420
    data_dir: Path
    roles: tuple[NodeRole, ...] = get_args(NodeRole)
    user: str | None = None
    egress_user: str | None = None
    database_url: Secret | None = None
    blob_url: str | None = None
    s3_endpoint: str | None = None
    s3_region: str | None = None
    s3_access_key_id: Secret | None = None
    s3_secret_access_key: Secret | None = None
    files_bytes_max: int = FILES_BYTES_MAX
    hands_listen: str | None = None
    hands_address: str | None = None
    cluster_ca: Path | None = None
    cluster_cert: Path | None = None
    cluster_key: Path | None = None
    vault_key_file: Path | None = None
    vault_key_command: str | None = None
    sandbox: ProviderName | None = None
    sandbox_choices: tuple[ProviderName, ...] = ()
    sandbox_root: Path | None = None
    sandbox_image: str | None = None
    sandboxes_max: int = SANDBOXES_MAX
    egress_denied_hosts: tuple[str, ...] = ()
    egress_internal_hosts: tuple[str, ...] = ()
    egress_package_hosts: tuple[str, ...] = ()
    egress_ca: Path | None = None
    audit_days: int = AUDIT_DAYS
    repository_hosts: tuple[str, ...] = ("github.com",)
    repository_private_hosts: tuple[str, ...] = ()
    repository_ca: Path | None = None
    mcp_private_hosts: tuple[str, ...] = ()
    mcp_ca: Path | None = None
    web_private_hosts: tuple[str, ...] = ()
    web_ca: Path | None = None
    search_url: str | None = None
    packages_hosts: tuple[str, ...] = ("*", "*:80")
    packages_private_hosts: tuple[str, ...] = ()
    packages_ca: Path | None = None
    packages_config: Path | None = None
    turn_rounds_max: int = TOOL_ROUNDS_PER_TURN_MAX
    turn_seconds_max: int = TURN_SECONDS_MAX
    turn_tokens_max: int = TURN_TOKENS_MAX
    judge_model: str | None = None
    work_lease_seconds: int = WORK_LEASE_SECONDS
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_bind: bool = False
    api_key: Secret | None = None
    anthropic_api_key: Secret | None = None
    anthropic_base_url: str | None = None
    models_dir: Path | None = None
    local_model_path: Path | None = None
    recordings_dir: Path | None = None
    strict_headers: bool = False
    rate_limit_reads: int | None = None
    rate_limit_writes: int | None = None
    cors_origins: tuple[str, ...] = ()
    log_level: LogLevel = "info"
    models: Mapping[str, object] = field(default_factory=dict)

    def without_secrets(self) -> "Config":
        """What processes get that have no use for a key."""
        return replace(
            self,
            api_key=None,
            anthropic_api_key=None,
            database_url=None,
            s3_access_key_id=None,
            s3_secret_access_key=None,
        )

    @property
    def is_postgres(self) -> bool:
        """Whether the store is a PostgreSQL, so that nodes may share it."""
        return self.database_url is not None and self.database_url.reveal().startswith("postgres")

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False  # a name: it may resolve to anything

    def to_json(self) -> dict[str, object]:
        """Plain values, secrets revealed: only ever for a pipe between our own processes."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> "Config":
        """Inverse of `to_json`; fields it does not know are ignored (versions differ while replacing)."""
        return cls(
            **{  # type: ignore[arg-type]
                name: parsed(name, data[name], source=name)
                for name in SETTINGS
                if data.get(name) is not None
            }
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known about one field of Config. Sources: flag, env, file."""

    parse: Callable[[object], object]
    help: str
    sources: tuple[str, ...] = ("flag", "env", "file")


SETTINGS: Final[Mapping[str, Setting]] = {
    "host": Setting(values.text, "address to listen on"),
    "port": Setting(values.port, "port to listen on; 0 takes a free one"),
    "data_dir": Setting(
        values.path, "directory of everything that is kept; ~/.local/share/corral unless set"
    ),
    "roles": Setting(
        values.roles, "what this node does: api, brain, hands, egress (all unless set; --role, repeatable)"
    ),
    # Not from a file: a cloned repository must not choose who runs.
    "user": Setting(
        values.text,
        "of a Corral that root starts: user, by name or number, of the server and the hands; with"
        " egress_user. Root unless set",
        ("flag", "env"),
    ),
    "egress_user": Setting(
        values.text,
        "and another one for the egress process, so that no other can read the vault's keys",
        ("flag", "env"),
    ),
    "database_url": Setting(
        values.database_url,
        "postgresql://... for many nodes; a SQLite file in data_dir unless set",
        ("env",),
    ),
    "blob_url": Setting(
        values.blob_url, "where checkpoints and files go: s3://bucket/prefix; data_dir/blobs unless set"
    ),
    "s3_endpoint": Setting(values.url, "the S3-compatible service of blob_url; AWS unless set", ("env",)),
    "s3_region": Setting(values.region, "its region; us-east-1 unless set"),
    "s3_access_key_id": Setting(values.secret, "who it knows us as", ("env",)),
    "s3_secret_access_key": Setting(values.secret, "and the secret of that key", ("env",)),
    "files_bytes_max": Setting(values.count, "bytes that all uploaded files may have together"),
    "hands_listen": Setting(
        values.address,
        "address where hands take calls from other machines; needs cluster_*; off unless set",
    ),
    "hands_address": Setting(
        values.address, "the same as other machines reach it; hands_listen unless set"
    ),
    "cluster_ca": Setting(
        values.path, "authority (PEM) whose certificates nodes trust; see `corral certs`"
    ),
    "cluster_cert": Setting(values.path, "this node's certificate (PEM)"),
    "cluster_key": Setting(values.path, "its private key (PEM)"),
    # Not from a file: a cloned repository must not name the key that secrets are sealed for, nor a command.
    "vault_key_file": Setting(
        values.path,
        "private keys of vaults, mode 0600, for the egress process alone; made in data_dir unless set",
        ("env",),
    ),
    "vault_key_command": Setting(
        values.text, "or a command of /bin/sh that prints them: a key management service's, say", ("env",)
    ),
    # Not from a file: a cloned repository must not weaken the walls.
    "sandbox": Setting(
        values.sandbox,
        "what sandboxes are made by: bwrap; gvisor, with a kernel of their own; docker or podman; or"
        " landlock, weaker, where user namespaces are forbidden; bwrap unless set",
        ("flag", "env"),
    ),
    "sandbox_choices": Setting(
        values.sandboxes,
        "more kinds of them that an environment may ask for, beside that one; none unless set",
        ("env",),
    ),
    "sandbox_root": Setting(
        values.path,
        "directory with a root file system, whose programs sandboxes have; the machine's own unless set",
        ("flag", "env"),
    ),
    "sandbox_image": Setting(
        values.text,
        "or, of docker or podman, an image that the engine has, by its name",
        ("flag", "env"),
    ),
    "sandboxes_max": Setting(values.count, "live sandboxes of this node's hands"),
    # Not from a file: a cloned repository must not widen what sandboxes may reach, nor what the server may
    # be sent to.
    "egress_denied_hosts": Setting(
        values.hosts,
        "hosts that no session reaches: host, *.domain, address, network, each with or without :port, or *",
        ("env",),
    ),
    "egress_internal_hosts": Setting(
        values.hosts,
        "hosts that sandboxes reach at private or loopback addresses, too; their environment still decides",
        ("env",),
    ),
    "egress_package_hosts": Setting(
        values.names,
        "hosts that `allow_package_managers` opens, beside those that are configured in a sandbox",
        ("env",),
    ),
    "egress_ca": Setting(
        values.path,
        "authorities (PEM) that may sign the certificates of hosts to which credentials go, beside the"
        " system's",
        ("env",),
    ),
    "audit_days": Setting(
        values.count, "days for which it is kept what sessions asked for from the network"
    ),
    "repository_hosts": Setting(
        values.hosts,
        "hosts that repositories are cloned from: host, host:port, *.domain or * for all; github.com unless"
        " set",
        ("env",),
    ),
    "repository_private_hosts": Setting(
        values.hosts, "more of them, which may be at private or loopback addresses", ("env",)
    ),
    "repository_ca": Setting(
        values.path,
        "authorities (PEM) that may sign their certificates, beside the system's",
        ("env",),
    ),
    # Not from a file, for the same reason.
    "mcp_private_hosts": Setting(
        values.hosts,
        "hosts at private or loopback addresses where MCP servers of agents may be: host, host:port,"
        " *.domain; none unless set",
        ("env",),
    ),
    "mcp_ca": Setting(
        values.path,
        "authorities (PEM) that may sign the certificates of MCP servers, beside the system's",
        ("env",),
    ),
    "web_private_hosts": Setting(
        values.hosts,
        "hosts at private or loopback addresses that web_fetch may reach: host, host:port, *.domain; none"
        " unless set",
        ("env",),
    ),
    "web_ca": Setting(
        values.path,
        "authorities (PEM) that may sign the certificates of web servers, beside the system's",
        ("env",),
    ),
    "search_url": Setting(
        values.base_url,
        "a SearXNG that web_search asks, as http://127.0.0.1:8888; it may be private, and must answer in"
        " JSON; web_search is off unless set",
        ("env",),
    ),
    # Likewise.
    "packages_hosts": Setting(
        values.hosts,
        "hosts that packages of environments are installed from: host, host:port, *.domain or *; all public"
        " ones unless set",
        ("env",),
    ),
    "packages_private_hosts": Setting(
        values.hosts, "more of them, which may be at private or loopback addresses", ("env",)
    ),
    "packages_ca": Setting(
        values.path,
        "authorities (PEM) that may sign their certificates, beside the system's",
        ("env",),
    ),
    "packages_config": Setting(
        values.path,
        "directory with the package managers' own settings (pip.conf, npmrc ...), without credentials",
        ("env",),
    ),
    "turn_rounds_max": Setting(values.count, "model replies of one turn; then it ends with an error"),
    "turn_seconds_max": Setting(values.count, "seconds of one turn; then it ends with an error"),
    "turn_tokens_max": Setting(
        values.count, "tokens of one turn, read and written; then it ends with an error"
    ),
    "judge_model": Setting(
        values.text, "model that judges calls under the policy `auto`; the session's own unless set"
    ),
    "work_lease_seconds": Setting(
        values.lease_seconds,
        "seconds until the work of a self-hosted environment's worker that is not heard of goes to another",
    ),
    "tls_cert": Setting(values.path, "certificate chain (PEM) to serve HTTPS with"),
    "tls_key": Setting(values.path, "private key of the certificate (PEM)"),
    "insecure_bind": Setting(
        values.flag, "listen beyond this machine without TLS (behind a TLS proxy of yours)"
    ),
    "api_key": Setting(
        values.api_key, "first API key of a new data directory; made and shown once unless set", ("env",)
    ),
    "anthropic_api_key": Setting(
        values.secret, "the server's own key for claude-* models; ANTHROPIC_API_KEY unless set", ("env",)
    ),
    "anthropic_base_url": Setting(
        values.url, "Messages API that claude-* models are asked at; Anthropic's unless set", ("env",)
    ),
    "models_dir": Setting(values.path, "where local models are kept; ~/.cache/corral/models unless set"),
    "local_model_path": Setting(
        values.path, "GGUF file of the model `local`; the installed one unless set"
    ),
    "recordings_dir": Setting(
        values.path, "recorded runs for the model `replay`; the bundled ones unless set"
    ),
    "strict_headers": Setting(
        values.flag,
        "judge anthropic-version and anthropic-beta as the hosted service does: 404 or 400 if wrong",
        ("env", "file"),
    ),
    "rate_limit_reads": Setting(
        values.count, "GET requests a minute of one key here; no limit unless set", ("env", "file")
    ),
    "rate_limit_writes": Setting(
        values.count,
        "other requests a minute of one key here; no limit unless set",
        ("env", "file"),
    ),
    # Not from a file: a cloned repository must not let pages in.
    "cors_origins": Setting(
        values.origins,
        "origins whose pages may use the server from a browser, as https://app.example.com; * is all",
        ("env",),
    ),
    "log_level": Setting(values.log_level, "debug, info, warning or error"),
    "models": Setting(
        values.table, "more model names, providers and prices, shaped as catalog/models.toml", ("file",)
    ),
}


# Values that no message repeats: people put keys into URLs.
_HIDDEN: Final = (values.secret, values.api_key, values.database_url, values.blob_url, values.base_url)


def flag_of(name: str) -> str:
    """The flag of `corral serve` that sets this, if it has one."""
    return "--role" if name == "roles" else f"--{name.replace('_', '-')}"  # one role each time


def parsed(name: str, value: object, *, source: str) -> object:
    """The setting's value. Raises SettingsError, which never repeats a secret."""
    parse = SETTINGS[name].parse
    try:
        return parse(value)
    except (ValueError, KeyError, TypeError, CorralError) as error:
        if parse is values.table:
            raise SettingsError(f"{source}: {error}") from None
        shown = "the value" if parse in _HIDDEN else repr(value)
        raise SettingsError(f"{source}: {shown} is {error}") from None


def _plain(value: object) -> object:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
