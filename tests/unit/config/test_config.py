"""Settings: precedence, typing mistakes, secrets."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from corral.config import SETTINGS, Config, Secret, SettingsError, load

MINE = "a-key-that-somebody-chose"


def resolve(
    directory: Path, toml: str = "", flags: dict[str, object] | None = None, **environ: str
) -> Config:
    (directory / "corral.toml").write_text(toml)
    return load(flags, environ={"HOME": str(directory), **environ}, directory=directory)


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    assert resolve(tmp_path).port == 8420
    assert resolve(tmp_path, "port = 1").port == 1
    assert resolve(tmp_path, "port = 1", CORRAL_PORT="2").port == 2
    assert resolve(tmp_path, "port = 1", {"port": 3}, CORRAL_PORT="2").port == 3
    assert resolve(tmp_path, "port = 1", {"port": None}, CORRAL_PORT="2").port == 2


def test_every_setting_is_described_and_has_a_default(tmp_path: Path) -> None:
    assert list(SETTINGS) == [item.name for item in fields(Config)]
    config = resolve(tmp_path)
    assert config.data_dir == tmp_path / ".local" / "share" / "corral"
    assert (config.host, config.is_loopback) == ("127.0.0.1", True)
    assert resolve(tmp_path, XDG_DATA_HOME="/x").data_dir == Path("/x/corral")


@pytest.mark.parametrize(
    ("toml", "environ", "flags", "said"),
    [
        ("prot = 1", {}, {}, "'prot' in .*corral.toml is not a setting; did you mean port\\?"),
        ("", {"CORRAL_PROT": "1"}, {}, "CORRAL_PROT is not a setting; did you mean CORRAL_PORT\\?"),
        ("", {"CORRAL_ZZZZZZZZ": "1"}, {}, "the settings are host, port"),
        ("port = 'x'", {}, {}, "'port' in .*: 'x' is not a port"),
        ("", {"CORRAL_PORT": "70000"}, {}, "CORRAL_PORT: '70000' is not a port"),
        ("", {}, {"port": -1}, "--port: -1 is not a port"),
        ("port = true", {}, {}, "True is not a port"),
        ("", {"CORRAL_INSECURE_BIND": "maybe"}, {}, "neither true nor false"),
        ("", {"CORRAL_LOG_LEVEL": "loud"}, {}, "not one of debug, info, warning, error"),
        ("host = 1", {}, {}, "1 is not a text"),
        ("port = ", {}, {}, "cannot be read"),
        ("", {"CORRAL_HOST": "0.0.0.0"}, {}, "--tls-cert and --tls-key, or --insecure-bind"),
        ("", {"CORRAL_TLS_CERT": "/nowhere"}, {}, "belong together"),
        ("tls_cert = '/nowhere'\ntls_key = '/nowhere'", {}, {}, "there is no file '/nowhere'"),
        ("api_key = 'x'", {}, {}, "taken from the environment \\(CORRAL_API_KEY\\) only"),
        ("anthropic_base_url = 'http://evil'", {}, {}, "taken from the environment"),
        ("models = 1", {}, {}, "a table is needed"),
        ("[[models.model]]\nids = ['nobodys']", {}, {}, "no model provider knows 'nobodys'"),
        ("", {"CORRAL_MODELS": "x"}, {}, "taken from corral.toml only"),
        ("[models]\nmodel = [{ids = ['claude-x'], pric = 1}]", {}, {}, "unknown key 'pric'"),
        ("", {"CORRAL_ANTHROPIC_API_KEY": "corral_x"}, {}, "one of Corral's own keys"),
        ("", {"CORRAL_API_KEY": "two words"}, {}, "CORRAL_API_KEY: the value is not a key"),
        ("", {"CORRAL_API_KEY": "x" * 15}, {}, "CORRAL_API_KEY: the value is shorter than 16"),
        ("", {"CORRAL_ANTHROPIC_BASE_URL": "proxy:80"}, {}, "CORRAL_ANTHROPIC_BASE_URL: .* not a URL"),
        ("", {"CORRAL_ANTHROPIC_BASE_URL": "http://x:y"}, {}, "not a URL"),
        ("", {"CORRAL_ANTHROPIC_BASE_URL": "https://"}, {}, "not a URL"),
        ("", {"CORRAL_LOCAL_MODEL_PATH": "/no.gguf"}, {}, "local_model_path: there is no file '/no.gguf'"),
        ("", {"CORRAL_EGRESS_CA": "/no.pem"}, {}, "CORRAL_EGRESS_CA: there is no file '/no.pem'"),
        ("", {"CORRAL_MCP_CA": "/no.pem"}, {}, "CORRAL_MCP_CA: there is no file '/no.pem'"),
        ("", {"CORRAL_MCP_PRIVATE_HOSTS": "http://a"}, {}, "'http://a' is not a host[^']*$"),
        ("", {"CORRAL_MCP_PRIVATE_HOSTS": "a,http://b"}, {}, "'a,http://b' is not a host.*: 'http://b'$"),
        ("", {"CORRAL_USER": "a"}, {}, "user and egress_user belong together"),
        ("", {"CORRAL_EGRESS_USER": "a"}, {}, "user and egress_user belong together"),
        ("user = 'a'", {}, {}, "taken from the environment \\(CORRAL_USER\\) only"),
        ("", {}, {"user": "a", "egress_user": "b", "sandbox": "docker"}, "choose bwrap or podman"),
        ("recordings_dir = '/no'", {}, {}, "recordings_dir: there is no directory '/no'"),
        ("", {"CORRAL_CONFIG": "/nowhere.toml"}, {}, "there is no settings file '/nowhere.toml'"),
    ],
)
def test_what_is_wrong_stops_the_start_and_is_named(
    tmp_path: Path, toml: str, environ: dict[str, str], flags: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        resolve(tmp_path, toml, flags, **environ)


POSTGRES = {"CORRAL_DATABASE_URL": "postgresql://corral@db/corral"}


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"CORRAL_BLOB_URL": "file://blobs/here"}, "not a place for blobs"),
        ({"CORRAL_BLOB_URL": "file:///blobs?x=1"}, "not a place for blobs"),
        ({"CORRAL_BLOB_URL": "s3://key:word@bucket/x"}, "CORRAL_BLOB_URL: the value is not a place"),
        ({"CORRAL_BLOB_URL": "s3://bucket?region=x"}, "not a place for blobs"),
        ({"CORRAL_BLOB_URL": "s3://b/x", "CORRAL_S3_REGION": "evil.example/x?"}, "name of a region"),
        ({"CORRAL_S3_ENDPOINT": "http://s3"}, "s3_endpoint is of blobs in S3: set blob_url"),
        ({"CORRAL_S3_REGION": "eu", "CORRAL_BLOB_URL": "file:///blobs"}, "s3_region is of blobs in S3"),
        ({"CORRAL_S3_ACCESS_KEY_ID": "k", "CORRAL_BLOB_URL": "s3://b"}, "access_key belong together"),
        ({"CORRAL_HANDS_LISTEN": "8421"}, "not an address"),
        ({"CORRAL_HANDS_LISTEN": "https://x:8421"}, "not an address"),
        ({"CORRAL_HANDS_LISTEN": "10.0.0.7:0"}, "not an address"),
        ({**POSTGRES, "CORRAL_HANDS_ADDRESS": "x:8421"}, "where others reach hands_listen"),
        ({**POSTGRES, "CORRAL_HANDS_LISTEN": "10.0.0.7:8421"}, "must prove who they are"),
        ({**POSTGRES, "CORRAL_HANDS_LISTEN": "0.0.0.0:8421"}, "hands_address"),
        ({**POSTGRES, "CORRAL_HANDS_LISTEN": "[::]:8421"}, "hands_address"),
        ({**POSTGRES, "CORRAL_HANDS_LISTEN": "x:1", "CORRAL_HANDS_ADDRESS": "0.0.0.0:1"}, "hands_address"),
        ({"CORRAL_HANDS_LISTEN": "10.0.0.7:8421"}, "CORRAL_DATABASE_URL=postgresql"),
        ({"CORRAL_CLUSTER_CA": "/ca.pem"}, "CORRAL_DATABASE_URL=postgresql"),
        ({**POSTGRES, "CORRAL_HANDS_LISTEN": "x:1", "CORRAL_ROLES": "egress"}, "has no role hands"),
        ({**POSTGRES, "CORRAL_ROLES": "brain"}, "set blob_url"),
        ({"CORRAL_ROLES": "brain"}, "CORRAL_DATABASE_URL=postgresql"),
    ],
)  # fmt: skip
def test_what_would_be_ignored_or_lead_nowhere_is_refused(
    tmp_path: Path, environ: dict[str, str], said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        resolve(tmp_path, **environ)
    assert "word" not in str(caught.value)


def test_what_a_node_of_many_says(tmp_path: Path) -> None:
    pem = tmp_path / "x.pem"
    pem.touch()
    config = resolve(
        tmp_path,
        **POSTGRES,
        CORRAL_ROLES="hands,egress",
        CORRAL_BLOB_URL="s3://my-bucket/corral",
        CORRAL_S3_ENDPOINT="http://s3:9000",
        CORRAL_S3_REGION="eu-central-1",
        CORRAL_S3_ACCESS_KEY_ID="k",
        CORRAL_S3_SECRET_ACCESS_KEY="s",
        CORRAL_HANDS_LISTEN="0.0.0.0:8421",
        CORRAL_HANDS_ADDRESS="hands-1.internal:8421",
        **dict.fromkeys(("CORRAL_CLUSTER_CA", "CORRAL_CLUSTER_CERT", "CORRAL_CLUSTER_KEY"), str(pem)),
    )
    assert config.roles == ("hands", "egress") and config.is_postgres
    assert resolve(tmp_path, **POSTGRES, CORRAL_ROLES="egress").blob_url is None
    assert resolve(tmp_path, **POSTGRES).blob_url is None  # one node may do all of it
    assert resolve(tmp_path, CORRAL_BLOB_URL="file:///mnt/shared/blobs").blob_url


def test_variables_of_tests_and_of_the_file_are_no_settings(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("port = 5")
    config = resolve(
        tmp_path, "port = 1", CORRAL_CONFIG=str(other), CORRAL_CRASH_AT="x", CORRAL_TEST_DATABASE_URL="x"
    )
    assert config.port == 5


def test_a_key_of_ours_is_never_taken_for_a_model_key(tmp_path: Path) -> None:
    assert resolve(tmp_path, ANTHROPIC_API_KEY="sk-1").anthropic_api_key == Secret("sk-1")
    assert resolve(tmp_path, ANTHROPIC_API_KEY="corral_1").anthropic_api_key is None
    assert resolve(tmp_path, ANTHROPIC_API_KEY=MINE, CORRAL_API_KEY=MINE).anthropic_api_key is None
    both = resolve(tmp_path, ANTHROPIC_API_KEY="sk-1", CORRAL_ANTHROPIC_API_KEY="sk-2")
    assert both.anthropic_api_key == Secret("sk-2")
    with pytest.raises(SettingsError, match="own keys"):
        resolve(tmp_path, CORRAL_API_KEY=MINE, CORRAL_ANTHROPIC_API_KEY=MINE)


def test_the_base_url_of_clients_is_not_ours(tmp_path: Path) -> None:
    assert resolve(tmp_path, ANTHROPIC_BASE_URL="http://127.0.0.1:8420").anthropic_base_url is None
    assert resolve(tmp_path, CORRAL_ANTHROPIC_BASE_URL="http://x").anthropic_base_url == "http://x"


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("localhost", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("box", False),
    ],
)
def test_only_loopback_is_open_without_more_words(tmp_path: Path, host: str, is_loopback: bool) -> None:
    config = resolve(tmp_path, CORRAL_HOST=host, CORRAL_INSECURE_BIND="yes")
    assert config.is_loopback is is_loopback


def test_secrets_show_nowhere_and_travel_by_pipe_only(tmp_path: Path) -> None:
    config = resolve(
        tmp_path,
        "[models]\nmodel = [{ids = ['claude-new'], context_window = 5}]",
        CORRAL_API_KEY="canary-1-of-some-length",
        CORRAL_ANTHROPIC_API_KEY="canary-2",
    )
    assert "canary" not in repr(config) + str(config) + f"{config.api_key}"
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert "canary" not in json.dumps(config.without_secrets().to_json())
    with pytest.raises(SettingsError) as failure:
        resolve(tmp_path, CORRAL_API_KEY="canary 3")
    assert "canary" not in str(failure.value)


def test_package_managers_are_told_no_secret(tmp_path: Path) -> None:
    """Install scripts could read it."""
    folder = tmp_path / "packages"
    with pytest.raises(SettingsError, match="no directory"):
        resolve(tmp_path, CORRAL_PACKAGES_CONFIG=str(folder))
    folder.mkdir()
    (folder / "pip.conf").write_text("[global]\nindex-url = https://ada:canary@example.com/simple/\n")
    with pytest.raises(SettingsError, match=r"pip\.conf holds credentials") as failure:
        resolve(tmp_path, CORRAL_PACKAGES_CONFIG=str(folder))
    assert "canary" not in str(failure.value)


def test_a_newer_versions_settings_are_read(tmp_path: Path) -> None:
    config = resolve(tmp_path)
    assert Config.from_json({**config.to_json(), "from_the_future": 1}) == config


@pytest.mark.parametrize("tail", ["user:hunter2@searx.example", "searx.example/?key=hunter2"])
def test_the_url_of_a_search_engine_holds_no_secret(tail: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="leave out user, password") as refused:
        resolve(tmp_path, CORRAL_SEARCH_URL=f"http://{tail}")
    assert "hunter2" not in str(refused.value)
    assert resolve(tmp_path, CORRAL_SEARCH_URL="http://127.0.0.1:8888/").search_url is not None
