"""`corral doctor` asks a PostgreSQL what it is."""

from pathlib import Path

from corral.cli.doctor_cluster import examine_cluster
from corral.config import Config, Secret


def test_a_database_that_is_well(database_url: str, tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, database_url=Secret(database_url), blob_url=tmp_path.as_uri())
    postgres = next(iter(examine_cluster(config)))
    assert postgres.name == "postgres"
    assert "PostgreSQL" in postgres.detail and "connections of which a node takes up to" in postgres.detail
    assert "ms apart" in postgres.detail
