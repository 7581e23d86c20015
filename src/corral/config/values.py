"""How the text of a setting becomes its value. Each function raises ValueError, saying what it was not; a
program's own values (a Path, a list) pass as they are. What is secret becomes a `Secret` here."""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, cast, get_args
from urllib.parse import urlsplit

from corral.catalog.models import ModelTable
from corral.cluster.node import NodeRole
from corral.config.secret import Secret
from corral.hands.providers.choice import PROVIDERS, ProviderName
from corral.kernel.hosts import entry_of
from corral.kernel.limits import API_KEY_CHARS_MIN, WORK_LEASE_SECONDS_MAX, WORK_LEASE_SETTING_MIN

LogLevel = Literal["debug", "info", "warning", "error"]

_BUCKET: Final = re.compile(r"[A-Za-z0-9._-]+")
_REGION: Final = re.compile(r"[A-Za-z0-9-]+")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_ORIGIN: Final = re.compile(r"https?://([A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?")


def text(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise ValueError("not a text")


def port(value: object) -> int:
    if not isinstance(value, bool) and str(value).isdecimal() and int(str(value)) <= 65535:
        return int(str(value))
    raise ValueError("not a port (0 to 65535)")


def path(value: object) -> Path:
    if isinstance(value, str | Path) and str(value):
        return Path(value).expanduser()
    raise ValueError("not a path")


def flag(value: object) -> bool:
    word = str(value).lower()
    if word not in ("true", "1", "yes", "false", "0", "no"):
        raise ValueError("neither true nor false")
    return word in ("true", "1", "yes")


def secret(value: object) -> Secret:
    text = value if isinstance(value, str) else ""
    if not text.isascii() or not text.isprintable() or " " in text or not text:
        raise ValueError("not a key (printable ASCII without spaces)")
    return Secret(text)


def api_key(value: object) -> Secret:
    key = secret(value)
    if len(key.reveal()) < API_KEY_CHARS_MIN:
        raise ValueError(f"shorter than {API_KEY_CHARS_MIN} characters, so it could be guessed")
    return key


def url(value: object) -> str:
    given = text(value)
    with contextlib.suppress(ValueError):
        parts = urlsplit(given)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return given
    raise ValueError("not a URL (http://... or https://...)")


def base_url(value: object) -> str:
    """Without user, password and query: it is shown in messages."""
    given = url(value)
    parts = urlsplit(given)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("not the URL of a server: leave out user, password and query")
    return given


def database_url(value: object) -> Secret:
    text = value if isinstance(value, str) else ""
    scheme = urlsplit(text).scheme
    if scheme in ("postgresql", "postgres") or (scheme == "sqlite" and text.startswith("sqlite:///")):
        return Secret(text)
    raise ValueError("not a database URL (postgresql://user:password@host/name or sqlite:////path)")


def blob_url(value: object) -> str:
    given = text(value)
    parts = urlsplit(given)
    is_bucket = parts.scheme == "s3" and _BUCKET.fullmatch(parts.netloc)
    is_directory = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
    if (is_bucket or is_directory) and not parts.query and not parts.fragment:
        return given
    raise ValueError("not a place for blobs (s3://bucket/prefix or file:///directory)")


def region(value: object) -> str:
    if isinstance(value, str) and _REGION.fullmatch(value):  # it becomes a part of a host's name
        return value
    raise ValueError("not the name of a region")


def roles(value: object) -> tuple[NodeRole, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not words:
        raise ValueError("not a list of roles")
    if unknown := [word for word in words if word not in get_args(NodeRole)]:
        raise ValueError(f"not a list of {', '.join(get_args(NodeRole))}: {unknown[0]!r}")
    return tuple(role for role in get_args(NodeRole) if role in words)


def hosts(value: object) -> tuple[str, ...]:
    words = [word.strip() for word in value.split(",")] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise ValueError("not a list of hosts")
    for word in words:
        try:
            entry_of(word)
        except ValueError as error:
            raise ValueError(str(error) if len(words) == 1 else f"{error}: {word!r}") from None
    return tuple(word.lower() for word in words)


def names(value: object) -> tuple[str, ...]:
    found = hosts(value)
    for word in found:
        if ":" in word or "/" in word or word == "*":
            raise ValueError(f"not a list of host names (host or *.domain): {word!r}")
    return found


def origins(value: object) -> tuple[str, ...]:
    words = [word.strip() for word in value.split(",")] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise ValueError("not a list of origins")
    for word in words:
        if word != "*" and not _ORIGIN.fullmatch(word):
            raise ValueError(f"not a list of origins (https://host, http://host:port or *): {word!r}")
    return tuple(word.lower() for word in words)


def address(value: object) -> str:
    given = text(value)
    host, _, number = given.rpartition(":")
    if not _HOST.fullmatch(host) or not port(number):
        raise ValueError("not an address (host:port)")
    return given


def count(value: object) -> int:
    if not isinstance(value, bool) and str(value).isdecimal() and int(str(value)) > 0:
        return int(str(value))
    raise ValueError("not a whole number above 0")


def lease_seconds(value: object) -> int:
    seconds = count(value)
    if not WORK_LEASE_SETTING_MIN <= seconds <= WORK_LEASE_SECONDS_MAX:
        raise ValueError(f"not a number from {WORK_LEASE_SETTING_MIN} to {WORK_LEASE_SECONDS_MAX}")
    return seconds


def log_level(value: object) -> LogLevel:
    if value not in get_args(LogLevel):
        raise ValueError(f"not one of {', '.join(get_args(LogLevel))}")
    return cast(LogLevel, value)


def sandbox(value: object) -> ProviderName:
    if value not in PROVIDERS:
        raise ValueError(f"not one of {', '.join(PROVIDERS)}")
    return value


def sandboxes(value: object) -> tuple[ProviderName, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list | tuple):
        raise ValueError("not a list of kinds of sandboxes")
    return tuple(sandbox(word) for word in words)


def table(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError("a table is needed; its entries look like [[models.model]]")
    ModelTable.packaged().extended(value)
    return value
