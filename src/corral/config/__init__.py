"""Settings: one frozen `Config`, from flag > environment > file > default.

Every setting is a field of `Config`; its name is the key in corral.toml, `CORRAL_` + NAME in the
environment and `--name` on the command line (where a flag exists). Unknown names stop the start: a typing
mistake in a setting must not become a silent default. Secrets, and the URL that a secret is sent to, come
from the environment only: a corral.toml found in a cloned repository can neither hold nor redirect a key.

The file is `--config`, else `CORRAL_CONFIG`, else ./corral.toml, else ~/.config/corral/corral.toml.
"""

from corral.config.secret import Secret
from corral.config.settings import SETTINGS, Config, Setting, SettingsError, flag_of
from corral.config.sources import ENV_PREFIX, default_data_dir, load
from corral.config.values import LogLevel

__all__ = [
    "ENV_PREFIX",
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
