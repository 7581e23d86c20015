"""Settings: one frozen `Config`, from flag > environment > file > default.

Every setting is a field of `Config`; its name is the key in corral.toml, `CORRAL_` + NAME in the
environment and `--name` on the command line (where a flag exists). Unknown names stop the start: a typing
mistake in a setting must not become a silent default. Secrets, and the URL that a secret is sent to, come
from the environment only: a corral.toml found in a cloned repository can neither hold nor redirect a key.

The file is `--config`, else `CORRAL_CONFIG`, else ./corral.toml, else ~/.config/corral/corral.toml.
"""

import contextlib
import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Final, Literal, cast, get_args
from urllib.parse import urlsplit

from corral.catalog.models import ModelTable
from corral.cluster.node import NodeRole
from corral.kernel.errors import CorralError
from corral.kernel.ids import CORRAL_KEY_PREFIX
from corral.kernel.limits import (
    API_KEY_CHARS_MIN,
    SANDBOXES_MAX,
    TOOL_ROUNDS_PER_TURN_MAX,
    TURN_SECONDS_MAX,
    TURN_TOKENS_MAX,
)

__all__ = [
    "SETTINGS",
    "Config",
    "LogLevel",
    "Secret",
    "Setting",
    "SettingsError",
    "default_data_dir",
    "flag_of",
    "load",
]

LogLevel = Literal["debug", "info", "warning", "error"]
ENV_PREFIX: Final = "CORRAL_"
CONFIG_ENV: Final = "CORRAL_CONFIG"
# Variables with our prefix that are no settings of the server: where the file is, and what tests use.
_OTHER_VARIABLES: Final = (CONFIG_ENV, "CORRAL_CRASH_AT", "CORRAL_FAULTS")
_TEST_PREFIX: Final = "CORRAL_TEST_"

_BUCKET: Final = re.compile(r"[A-Za-z0-9._-]+")
_REGION: Final = re.compile(r"[A-Za-z0-9-]+")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")


class SettingsError(CorralError):
    """A setting is wrong; the message names it, its source and what to write instead."""


class Secret:
    """A secret string that never shows itself: not in repr, str, logs or tracebacks."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """$XDG_DATA_HOME/corral, else ~/.local/share/corral."""
    home = environ.get("XDG_DATA_HOME") or Path(environ.get("HOME") or Path.home()) / ".local" / "share"
    return Path(home) / "corral"


# -- how the text of a setting becomes its value; each raises ValueError saying what is needed ----------
def _text(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise ValueError("not a text")


def _port(value: object) -> int:
    if not isinstance(value, bool) and str(value).isdecimal() and int(str(value)) <= 65535:
        return int(str(value))
    raise ValueError("not a port (0 to 65535)")


def _path(value: object) -> Path:
    if isinstance(value, str | Path) and str(value):
        return Path(value).expanduser()
    raise ValueError("not a path")


def _flag(value: object) -> bool:
    word = str(value).lower()
    if word not in ("true", "1", "yes", "false", "0", "no"):
        raise ValueError("neither true nor false")
    return word in ("true", "1", "yes")


def _secret(value: object) -> Secret:
    text = value if isinstance(value, str) else ""
    if not text.isascii() or not text.isprintable() or " " in text or not text:
        raise ValueError("not a key (printable ASCII without spaces)")
    return Secret(text)


def _api_key(value: object) -> Secret:
    key = _secret(value)
    if len(key.reveal()) < API_KEY_CHARS_MIN:
        raise ValueError(f"shorter than {API_KEY_CHARS_MIN} characters, so it could be guessed")
    return key


def _url(value: object) -> str:
    text = _text(value)
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return text
    raise ValueError("not a URL (http://... or https://...)")


def _database_url(value: object) -> Secret:
    text = value if isinstance(value, str) else ""
    scheme = urlsplit(text).scheme
    if scheme in ("postgresql", "postgres") or (scheme == "sqlite" and text.startswith("sqlite:///")):
        return Secret(text)
    raise ValueError("not a database URL (postgresql://user:password@host/name or sqlite:////path)")


def _blob_url(value: object) -> str:
    text = _text(value)
    parts = urlsplit(text)
    is_bucket = parts.scheme == "s3" and _BUCKET.fullmatch(parts.netloc)
    is_directory = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
    if (is_bucket or is_directory) and not parts.query and not parts.fragment:
        return text
    raise ValueError("not a place for blobs (s3://bucket/prefix or file:///directory)")


def _region(value: object) -> str:
    if isinstance(value, str) and _REGION.fullmatch(value):  # it becomes a part of a host's name
        return value
    raise ValueError("not the name of a region")


def _roles(value: object) -> tuple[NodeRole, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not words:
        raise ValueError("not a list of roles")
    if unknown := [word for word in words if word not in get_args(NodeRole)]:
        raise ValueError(f"not a list of {', '.join(get_args(NodeRole))}: {unknown[0]!r}")
    return tuple(role for role in get_args(NodeRole) if role in words)


def _address(value: object) -> str:
    text = _text(value)
    host, _, port = text.rpartition(":")
    if not _HOST.fullmatch(host) or not _port(port):
        raise ValueError("not an address (host:port)")
    return text


def _is_everywhere(address: str) -> bool:
    """Whether it is one to listen at and none to go to."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_unspecified
    return False


def _count(value: object) -> int:
    if not isinstance(value, bool) and str(value).isdecimal() and int(str(value)) > 0:
        return int(str(value))
    raise ValueError("not a whole number above 0")


def _log_level(value: object) -> LogLevel:
    if value not in get_args(LogLevel):
        raise ValueError(f"not one of {', '.join(get_args(LogLevel))}")
    return cast(LogLevel, value)


def _table(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError("a table is needed; its entries look like [[models.model]]")
    ModelTable.packaged().extended(value)
    return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings; SETTINGS below says what each one means and where it may come from."""

    host: str = "127.0.0.1"
    port: int = 8420
    data_dir: Path
    roles: tuple[NodeRole, ...] = get_args(NodeRole)
    database_url: Secret | None = None
    blob_url: str | None = None
    s3_endpoint: str | None = None
    s3_region: str | None = None
    s3_access_key_id: Secret | None = None
    s3_secret_access_key: Secret | None = None
    hands_listen: str | None = None
    hands_address: str | None = None
    cluster_ca: Path | None = None
    cluster_cert: Path | None = None
    cluster_key: Path | None = None
    sandboxes_max: int = SANDBOXES_MAX
    turn_rounds_max: int = TOOL_ROUNDS_PER_TURN_MAX
    turn_seconds_max: int = TURN_SECONDS_MAX
    turn_tokens_max: int = TURN_TOKENS_MAX
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_bind: bool = False
    api_key: Secret | None = None
    anthropic_api_key: Secret | None = None
    anthropic_base_url: str | None = None
    models_dir: Path | None = None
    local_model_path: Path | None = None
    recordings_dir: Path | None = None
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
                name: _parse(name, data[name], source=name)
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
    "host": Setting(_text, "address to listen on"),
    "port": Setting(_port, "port to listen on; 0 takes a free one"),
    "data_dir": Setting(_path, "directory of everything that is kept; ~/.local/share/corral unless set"),
    "roles": Setting(
        _roles, "what this node does: api, brain, hands, egress (all unless set; --role, repeatable)"
    ),
    "database_url": Setting(
        _database_url, "postgresql://... for many nodes; a SQLite file in data_dir unless set", ("env",)
    ),
    "blob_url": Setting(
        _blob_url, "where checkpoints and files go: s3://bucket/prefix; data_dir/blobs unless set"
    ),
    "s3_endpoint": Setting(_url, "the S3-compatible service of blob_url; AWS unless set", ("env",)),
    "s3_region": Setting(_region, "its region; us-east-1 unless set"),
    "s3_access_key_id": Setting(_secret, "who it knows us as", ("env",)),
    "s3_secret_access_key": Setting(_secret, "and the secret of that key", ("env",)),
    "hands_listen": Setting(
        _address, "address where hands take calls from other machines; needs cluster_*; off unless set"
    ),
    "hands_address": Setting(_address, "the same as other machines reach it; hands_listen unless set"),
    "cluster_ca": Setting(_path, "authority (PEM) whose certificates nodes trust; see `corral certs`"),
    "cluster_cert": Setting(_path, "this node's certificate (PEM)"),
    "cluster_key": Setting(_path, "its private key (PEM)"),
    "sandboxes_max": Setting(_count, "live sandboxes of this node's hands"),
    "turn_rounds_max": Setting(_count, "model replies of one turn; then it ends with an error"),
    "turn_seconds_max": Setting(_count, "seconds of one turn; then it ends with an error"),
    "turn_tokens_max": Setting(_count, "tokens of one turn, read and written; then it ends with an error"),
    "tls_cert": Setting(_path, "certificate chain (PEM) to serve HTTPS with"),
    "tls_key": Setting(_path, "private key of the certificate (PEM)"),
    "insecure_bind": Setting(_flag, "listen beyond this machine without TLS (behind a TLS proxy of yours)"),
    "api_key": Setting(
        _api_key, "first API key of a new data directory; made and shown once unless set", ("env",)
    ),
    "anthropic_api_key": Setting(
        _secret, "the server's own key for claude-* models; ANTHROPIC_API_KEY unless set", ("env",)
    ),
    "anthropic_base_url": Setting(
        _url, "Messages API that claude-* models are asked at; Anthropic's unless set", ("env",)
    ),
    "models_dir": Setting(_path, "where local models are kept; ~/.cache/corral/models unless set"),
    "local_model_path": Setting(_path, "GGUF file of the model `local`; the installed one unless set"),
    "recordings_dir": Setting(_path, "recorded runs for the model `replay`; the bundled ones unless set"),
    "log_level": Setting(_log_level, "debug, info, warning or error"),
    "models": Setting(
        _table, "more model names, providers and prices, shaped as catalog/models.toml", ("file",)
    ),
}


def load(
    flags: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    config_file: Path | None = None,
    directory: Path | None = None,
) -> Config:
    """Resolve every setting. `flags`: by field name; None means "not given".

    Raises SettingsError for an unknown key or variable, a value that cannot be read, or settings that
    contradict each other.
    """
    values: dict[str, object] = {"data_dir": default_data_dir(environ)}
    for source, settings in (
        ("file", _from_file(config_file, environ, directory or Path.cwd())),
        ("env", _from_environment(environ)),
        ("flag", {name: (flag_of(name), value) for name, value in (flags or {}).items()}),
    ):
        for name, (where, value) in settings.items():
            if name not in SETTINGS:
                raise SettingsError(f"{where} is not a setting{_close(name, where)}")
            if value is None:
                continue
            if source not in SETTINGS[name].sources:
                only = "corral.toml" if source == "env" else f"the environment ({ENV_PREFIX}{name.upper()})"
                raise SettingsError(f"{where} is taken from {only} only")
            values[name] = _parse(name, value, source=where)
    # A client's shell has one of our keys here (and our URL in ANTHROPIC_BASE_URL): not a model key.
    fallback = environ.get("ANTHROPIC_API_KEY", "")
    is_ours = fallback.startswith(CORRAL_KEY_PREFIX) or fallback == environ.get("CORRAL_API_KEY")
    if "anthropic_api_key" not in values and fallback and not is_ours:
        values["anthropic_api_key"] = _parse("anthropic_api_key", fallback, source="ANTHROPIC_API_KEY")
    config = Config(**values)  # type: ignore[arg-type]
    _check(config)
    return replace(config, data_dir=config.data_dir.expanduser().absolute())


def flag_of(name: str) -> str:
    """The flag of `corral serve` that sets this, if it has one."""
    return "--role" if name == "roles" else f"--{name.replace('_', '-')}"  # one role each time


def _check(config: Config) -> None:
    if (config.tls_cert is None) != (config.tls_key is None):
        raise SettingsError("tls_cert and tls_key belong together: set both or neither")
    for path in (config.tls_cert, config.tls_key):
        if path is not None and not path.is_file():
            raise SettingsError(f"there is no file {str(path)!r}")
    _check_blobs(config)
    _check_cluster(config)
    if config.local_model_path is not None and not config.local_model_path.is_file():
        raise SettingsError(f"local_model_path: there is no file {str(config.local_model_path)!r}")
    if config.recordings_dir is not None and not config.recordings_dir.is_dir():
        raise SettingsError(f"recordings_dir: there is no directory {str(config.recordings_dir)!r}")
    if not config.is_loopback and config.tls_cert is None and not config.insecure_bind:
        raise SettingsError(
            f"--host {config.host} can be reached from other machines, and API keys would cross the "
            "network in clear. Give --tls-cert and --tls-key, or --insecure-bind behind a TLS proxy"
        )
    model_key = config.anthropic_api_key
    if model_key and (model_key == config.api_key or model_key.reveal().startswith(CORRAL_KEY_PREFIX)):
        raise SettingsError("CORRAL_ANTHROPIC_API_KEY holds one of Corral's own keys, not a model key")


def _check_blobs(config: Config) -> None:
    if not (config.blob_url or "").startswith("s3:"):
        for name in ("s3_endpoint", "s3_region", "s3_access_key_id", "s3_secret_access_key"):
            if getattr(config, name) is not None:
                raise SettingsError(
                    f"{name} is of blobs in S3: set blob_url=s3://bucket/prefix, or unset it"
                )
    if (config.s3_access_key_id is None) != (config.s3_secret_access_key is None):
        raise SettingsError(
            "s3_access_key_id and s3_secret_access_key belong together: set both or neither"
        )


def _check_cluster(config: Config) -> None:
    """What concerns nodes of many."""
    if set(config.roles) != set(get_args(NodeRole)):
        if not config.is_postgres:
            raise SettingsError(
                "a node with some of the roles needs a PostgreSQL that it shares with the others: set"
                " CORRAL_DATABASE_URL=postgresql://..., or leave --role out"
            )
        if set(config.roles) != {"egress"} and config.blob_url is None:
            raise SettingsError(
                "nodes that share the roles hand workspaces to each other as blobs: set blob_url to a place"
                " that all of them reach (s3://bucket/prefix, or file:///directory on one machine)"
            )
    parts = (config.cluster_ca, config.cluster_cert, config.cluster_key)
    if any((*parts, config.hands_listen, config.hands_address)) and not config.is_postgres:
        raise SettingsError(
            "hands_* and cluster_* are for nodes of many, which share a PostgreSQL: set"
            " CORRAL_DATABASE_URL=postgresql://..., or unset them"
        )
    if any(parts) and not all(parts):
        raise SettingsError("cluster_ca, cluster_cert and cluster_key belong together: set all or none")
    for path in parts:
        if path is not None and not path.is_file():
            raise SettingsError(f"there is no file {str(path)!r}; see `corral certs`")
    if config.hands_listen is not None and "hands" not in config.roles:
        raise SettingsError(
            "hands_listen is set, and this node has no role hands: unset it, or add the role"
        )
    if config.hands_address is not None and config.hands_listen is None:
        raise SettingsError("hands_address is where others reach hands_listen: set that, or unset this one")
    address = config.hands_address or config.hands_listen
    if address is not None and _is_everywhere(address):
        raise SettingsError(
            f"other machines cannot reach hands at {address}: set hands_address to host:port as they reach"
            " this one"
        )
    if config.hands_listen is not None and config.cluster_ca is None:
        raise SettingsError(
            "hands_listen is for other machines, which must prove who they are: set cluster_ca,"
            " cluster_cert and cluster_key; see `corral certs`"
        )


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[str, object]]:
    names = [name for name in environ if name.startswith(ENV_PREFIX) and not name.startswith(_TEST_PREFIX)]
    return {
        name.removeprefix(ENV_PREFIX).lower(): (name, environ[name] or None)
        for name in names
        if name not in _OTHER_VARIABLES
    }


def _from_file(
    given: Path | None, environ: Mapping[str, str], directory: Path
) -> dict[str, tuple[str, object]]:
    named = given or (Path(environ[CONFIG_ENV]) if environ.get(CONFIG_ENV) else None)
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or Path.home()) / ".config")
    for path in (named,) if named else (directory / "corral.toml", home / "corral" / "corral.toml"):
        try:
            data = tomllib.loads(path.read_text())
        except FileNotFoundError:
            if named:
                raise SettingsError(f"there is no settings file {str(path)!r}") from None
            continue
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{path} cannot be read: {error}") from error
        return {name: (f"{name!r} in {path}", value) for name, value in data.items()}
    return {}


def _close(name: str, where: str) -> str:
    matches = difflib.get_close_matches(name, SETTINGS, n=1, cutoff=0.5)
    if not matches:
        return f"; the settings are {', '.join(SETTINGS)}"
    match = f"{ENV_PREFIX}{matches[0].upper()}" if where.startswith(ENV_PREFIX) else matches[0]
    return f"; did you mean {match}?"


def _parse(name: str, value: object, *, source: str) -> object:
    """The setting's value. Raises SettingsError, which never repeats a secret."""
    parse = SETTINGS[name].parse
    try:
        return parse(value)
    except (ValueError, KeyError, TypeError, CorralError) as error:
        if parse is _table:
            raise SettingsError(f"{source}: {error}") from None
        hidden = (_secret, _api_key, _database_url, _blob_url)  # people put keys into URLs
        shown = "the value" if parse in hidden else repr(value)
        raise SettingsError(f"{source}: {shown} is {error}") from None


def _plain(value: object) -> object:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
