"""What scenarios share: a place on the machine that nothing may appear in, and a hand inside."""

from pathlib import Path
from typing import Final

from corral.redteam.inside.ends import Held, Won
from corral.redteam.stage import Stage

__all__ = ["WHO", "Trap", "has_secret", "packed", "plant"]

WHO: Final = "limited"


class Trap:
    """A directory of the machine that everybody may write, and nobody has a reason to."""

    def __init__(self, stage: Stage) -> None:
        self.path = Path(str(stage.facts["outside"])).parent / "trap"
        self.path.mkdir(exist_ok=True)
        self.path.chmod(0o777)

    def look(self, what: str) -> None:
        """Raises Won, Held."""
        found = sorted(each.name for each in self.path.iterdir())
        if found:
            raise Won(f"{found[0]} was made on the machine")
        raise Held(what)


async def packed(stage: Stage) -> bytes:
    data = bytearray()
    async for chunk in stage.export(WHO):
        data += chunk
    return bytes(data)


def has_secret(stage: Stage, content: bytes) -> bool:
    return Path(str(stage.facts["outside_secret"])).read_bytes() in content


async def plant(stage: Stage, command: str) -> None:
    await stage.bash(WHO, command, seconds=30)
