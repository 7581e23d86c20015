"""`corral doctor` on a node of many."""

from dataclasses import replace
from pathlib import Path

import pytest

from corral.cli.certs import make_certs
from corral.cli.doctor_cluster import examine_cluster
from corral.cli.finding import Finding
from corral.config import Config, Secret


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A node whose certificate names 127.0.0.1; nothing listens where its database should be."""
    make_certs(tmp_path / "certs", ["127.0.0.1"])
    return Config(
        data_dir=tmp_path,
        database_url=Secret("postgresql://corral:canary@127.0.0.1:1/corral"),
        blob_url=(tmp_path / "blobs").as_uri(),
        hands_listen="127.0.0.1:8421",
        cluster_ca=tmp_path / "certs" / "ca.pem",
        cluster_cert=tmp_path / "certs" / "127.0.0.1.pem",
        cluster_key=tmp_path / "certs" / "127.0.0.1.key",
    )


def found(config: Config) -> dict[str, Finding]:
    return {each.name: each for each in examine_cluster(config)}


def test_a_node_alone_has_no_cluster_to_examine(tmp_path: Path) -> None:
    assert found(Config(data_dir=tmp_path)) == {}


def test_what_is_well_is_said_and_a_database_that_is_away_fails(config: Config) -> None:
    findings = found(config)
    assert {name: each.state for name, each in findings.items()} == {
        "postgres": "failed", "blobs": "ok", "certificate": "ok", "hands address": "ok",
    }  # fmt: skip
    assert "CORRAL_DATABASE_URL" in findings["postgres"].remedy
    assert "canary" not in repr(findings)
    assert not list((config.data_dir / "blobs").rglob("probe/*"))


def test_a_certificate_that_does_not_name_the_address_fails_with_the_command(config: Config) -> None:
    finding = found(replace(config, hands_address="10.0.0.5:8421"))["certificate"]
    assert finding.state == "failed"
    assert finding.remedy == "make a new one with `corral certs DIR --host 10.0.0.5`"


def test_a_certificate_of_another_authority_fails(config: Config, tmp_path: Path) -> None:
    make_certs(tmp_path / "other", ["127.0.0.1"])
    finding = found(replace(config, cluster_ca=tmp_path / "other" / "ca.pem"))["certificate"]
    assert finding.state == "failed"
    assert "not issued by the authority" in finding.detail


def test_a_name_that_means_nothing_fails(config: Config) -> None:
    finding = found(replace(config, hands_address="nowhere.invalid:8421"))["hands address"]
    assert finding.state == "failed"
    assert "CORRAL_HANDS_ADDRESS" in finding.remedy


def test_blobs_of_its_own_are_a_warning(config: Config) -> None:
    assert found(replace(config, blob_url=None))["blobs"].state == "warning"
