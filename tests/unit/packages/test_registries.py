"""The operator's settings of package managers, and those of the machine."""

from pathlib import Path

import pytest

from corral.catalog.hosts import HostList
from corral.kernel.limits import PACKAGES_CONFIG_BYTES_MAX
from corral.packages import registries

_LARGE = "#" * (PACKAGES_CONFIG_BYTES_MAX + 1)


def test_what_the_machine_says_is_left_out_where_it_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody wrote it for us: one file more or less must not keep all packages from being installed."""
    apt, pip, npm = tmp_path / "apt", tmp_path / "pip.conf", tmp_path / "npmrc"
    (apt / "sources.list.d").mkdir(parents=True)
    (apt / "sources.list.d" / "large.list").write_text(_LARGE)
    pip.write_text("[global]\ntimeout = 5\n")
    npm.write_text("//example.com/:_authToken=canary\n")
    monkeypatch.setattr(registries, "_OF_THE_MACHINE", {"apt": apt, "npmrc": npm, "pip.conf": pip})
    registries.lay_out(None, tmp_path / "into")
    files = {path.name for path in (tmp_path / "into").rglob("*") if path.is_file()}
    assert files == {"pip.conf"}


def test_half_of_a_file_of_the_operators_is_never_used(tmp_path: Path) -> None:
    (tmp_path / "npmrc").write_text(_LARGE)
    for refuse in (registries.refuse_credentials, lambda folder: registries.lay_out(folder, folder / "x")):
        with pytest.raises(OSError, match="npmrc"):
            refuse(tmp_path)


def test_hosts_that_the_operator_has_named_are_masked(tmp_path: Path) -> None:
    (tmp_path / "apt").mkdir()
    (tmp_path / "apt" / "sources.list").write_text(
        "deb [trusted=yes] http://apt.corp.example/debian x main"
    )
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://Mirror.corp.example:8443/simple\n")
    hosts = HostList(public=["*", "*.cdn.example"], private=["files.example:8443"])
    said = "https://mirror.corp.example:8443/simple/x, a.b.cdn.example, FILES.example. {}; apt.corp.example"
    kept = "files.example.org my-files.example cdn.example"
    shown = registries.masked(said.format(kept), config=tmp_path, hosts=hosts)
    assert shown == f"https://[registry]/simple/x, [registry], [registry]. {kept}; [registry]"
