"""Where settings come from, and which source wins: flag > environment > file > default."""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from corral.config.check import check
from corral.config.prices import with_prices
from corral.config.settings import SETTINGS, Config, SettingsError, flag_of, parsed
from corral.kernel.ids import CORRAL_KEY_PREFIX

__all__ = ["ENV_PREFIX", "default_data_dir", "load"]

ENV_PREFIX: Final = "CORRAL_"
CONFIG_ENV: Final = "CORRAL_CONFIG"
# Variables with our prefix that are no settings of the server: where the file is, and what tests use.
_OTHER_VARIABLES: Final = (CONFIG_ENV, "CORRAL_CRASH_AT", "CORRAL_FAULTS")
_TEST_PREFIX: Final = "CORRAL_TEST_"


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """$XDG_DATA_HOME/corral, else ~/.local/share/corral."""
    home = environ.get("XDG_DATA_HOME") or Path(environ.get("HOME") or Path.home()) / ".local" / "share"
    return Path(home) / "corral"


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
            values[name] = parsed(name, value, source=where)
    # A client's shell has one of our keys here (and our URL in ANTHROPIC_BASE_URL): not a model key.
    fallback = environ.get("ANTHROPIC_API_KEY", "")
    is_ours = fallback.startswith(CORRAL_KEY_PREFIX) or fallback == environ.get("CORRAL_API_KEY")
    if "anthropic_api_key" not in values and fallback and not is_ours:
        values["anthropic_api_key"] = parsed("anthropic_api_key", fallback, source="ANTHROPIC_API_KEY")
    config = Config(**values)  # type: ignore[arg-type]
    check(config)
    data_dir = config.data_dir.expanduser().absolute()
    return replace(config, data_dir=data_dir, models=with_prices(config.models, data_dir))


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
