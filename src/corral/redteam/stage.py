"""A place where attempts are made: sandboxes of one provider, and whoever attacks from them."""

import base64
import io
import json
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from corral.hands.ports import Capabilities
from corral.kernel.errors import CorralError
from corral.session.content import Json

__all__ = ["ALLOWED", "ATTACKERS", "SCRIPT", "Broken", "Stage", "script"]

SCRIPT: Final = "redteam.py"
TOLD: Final = "redteam.json"
ATTACKERS: Final = ("limited", "unrestricted", "last")
"""Sandboxes that attempts are made in, by the networking of their session; the last one may be ended."""
ALLOWED: Final = ("allowed.test", "*.wild.test")
"""Hosts that the limited ones may reach."""


class Broken(CorralError):
    """The stage could not be set. The message says what is wrong."""


class Stage(Protocol):
    """facts: what attempts are told. kind, capabilities: of the provider."""

    kind: str
    capabilities: Capabilities
    facts: dict[str, Json]

    async def bash(self, who: str, command: str, *, seconds: float) -> str:
        """What a command says in the sandbox of an attacker. Raises Broken if there was no answer."""

    async def write(self, who: str, path: str, text: str) -> None:
        """A file in its working directory. Raises Broken."""

    async def restart(self, who: str) -> None:
        """End the sandbox; the next command starts another on the same files."""

    def home(self, who: str) -> Path:
        """Where its workspace lies on this machine."""

    def seen(self, who: str, path: str) -> str:
        """What commands in it call a documented path."""

    def export(self, who: str) -> AsyncIterator[bytes]:
        """Its workspace as the host packs it."""

    async def bring(self, who: str, archive: AsyncIterator[bytes]) -> None:
        """Have the host unpack an archive in it. Raises CorralError for one that is refused."""

    async def outputs(self, who: str) -> Sequence[tuple[str, bytes]]:
        """What the host reads of what it put out: names and contents."""

    def trips(self) -> Mapping[str, str]:
        """What was reached of this stage's own -> how that shows, as `Outside.trips`."""


def script() -> str:
    """The attempts as one Python program: our package, of which nothing but them is there."""
    root = Path(__file__).parent
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in ("corral", "corral/redteam"):
            archive.writestr(f"{package}/__init__.py", "")
        for path in sorted((root / "inside").rglob("*.py")):
            archive.writestr(f"corral/redteam/{path.relative_to(root)}", path.read_bytes())
    data = base64.b85encode(packed.getvalue()).decode()
    return (
        "import base64, sys\n"
        f"packed = base64.b85decode({data!r})\n"
        "name = sys.argv[0] + '.zip'\n"
        "with open(name, 'wb') as file:\n"
        "    file.write(packed)\n"
        "sys.path.insert(0, name)\n"
        "from corral.redteam.inside.run import main\n"
        "main()\n"
    )


def told(facts: Mapping[str, Json]) -> str:
    return json.dumps(facts, sort_keys=True)
