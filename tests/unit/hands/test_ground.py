"""What packages are installed on, as the machine says it."""

from pathlib import Path

import pytest

from corral.hands.providers import ground as asked


def test_a_runtime_that_hung_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer would be of another ground for as long as this process lives."""
    node, is_well = tmp_path / "node", tmp_path / "is_well"
    node.write_text(f"#!/bin/sh\n[ -e {is_well} ] || exec sleep 60\necho v99.0\n")
    node.chmod(0o755)
    monkeypatch.setattr(asked.shutil, "which", lambda name, path: str(node))
    monkeypatch.setattr(asked, "_SECONDS_MAX", 0.3)
    packages = {"npm": ("greet",)}
    assert asked.ground(packages).endswith("\n")
    is_well.touch()
    monkeypatch.setattr(asked, "_SECONDS_MAX", 60.0)
    assert asked.ground(packages).endswith("\nv99.0")
    is_well.unlink()
    assert asked.ground(packages).endswith("\nv99.0"), "which is kept"
