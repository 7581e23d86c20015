"""Settings that contradict each other, or name what is not there."""

import contextlib
import ipaddress
from typing import get_args

from corral.cluster.node import NodeRole
from corral.config.settings import Config, SettingsError
from corral.kernel.ids import CORRAL_KEY_PREFIX
from corral.packages.registries import HoldsCredentials, refuse_credentials

__all__ = ["check"]


def check(config: Config) -> None:
    """Raises SettingsError for the first."""
    if (config.tls_cert is None) != (config.tls_key is None):
        raise SettingsError("tls_cert and tls_key belong together: set both or neither")
    for path in (config.tls_cert, config.tls_key):
        if path is not None and not path.is_file():
            raise SettingsError(f"there is no file {str(path)!r}")
    if config.vault_key_file is not None and config.vault_key_command is not None:
        raise SettingsError("vault_key_file and vault_key_command are two ways to the same: set one")
    for name in ("egress_ca", "repository_ca", "mcp_ca", "web_ca", "packages_ca"):
        authorities = getattr(config, name)
        if authorities is not None and not authorities.is_file():
            raise SettingsError(f"CORRAL_{name.upper()}: there is no file {str(authorities)!r}")
    if config.packages_config is not None and not config.packages_config.is_dir():
        raise SettingsError(f"packages_config: there is no directory {str(config.packages_config)!r}")
    if (config.user is None and config.egress_user is not None) or (
        config.egress_user is None and config.user is not None and "egress" in config.roles
    ):
        raise SettingsError("user and egress_user belong together: set both, or neither")
    if config.user is not None and "docker" in (config.sandbox, *config.sandbox_choices):
        raise SettingsError(
            "the docker daemon makes root of whoever reaches it, so hands that use it could read all that"
            " user and egress_user are to keep apart: choose bwrap or podman, or unset user and egress_user"
        )
    _check_packages(config)
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


def _check_packages(config: Config) -> None:
    try:
        if config.packages_config is not None:
            refuse_credentials(config.packages_config)
    except (HoldsCredentials, OSError) as error:
        raise SettingsError(f"packages_config: {error}") from error


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


def _is_everywhere(address: str) -> bool:
    """Whether it is one to listen at and none to go to."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_unspecified
    return False
