"""What the program that asks package managers makes of their answers."""

import subprocess
import sys
from pathlib import Path

from corral.hands import sandbox_agent

SAYS = {
    "npm": "http://npm.test:4873/",
    "gem": "*** CURRENT SOURCES ***\n\nhttps://gems.test/\nhttps://more.test/x",
    "go": "https://go.test|https://other.test/p,direct\nsum.go.test",
    "python3": "https://pip.test/simple\nhttps://files.test",
}


def asked(folder: Path) -> list[str]:
    """Run as a sandbox runs it, with these programs alone on its PATH."""
    program = f"import sys; sys.path.insert(0, {str(Path(sandbox_agent.__file__).parent.parent)!r})"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"{program}\nfrom sandbox_agent.registries import main; main()"],
        env={"PATH": str(folder)}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout.split()


def test_it_takes_their_word(tmp_path: Path) -> None:
    for name, says in SAYS.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n/bin/cat <<'E'\n{says}\nE\n")
        program.chmod(0o755)
    found = asked(tmp_path)
    assert found[:2] == ["https://pip.test/simple", "https://files.test"]
    assert {"http://npm.test:4873/", "https://gems.test/", "https://more.test/x"} <= set(found)
    assert {"https://go.test", "https://other.test/p", "https://sum.go.test"} <= set(found)


def test_who_is_not_there_or_fails_says_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "npm"
    broken.write_text("#!/bin/sh\necho https://wrong.test\nexit 1\n")
    broken.chmod(0o755)
    assert "https://wrong.test" not in asked(tmp_path)
    broken.unlink()
    asked(tmp_path)
