"""Drawing the blueprint of sandboxes, once per process that makes any."""

import os
import tempfile
from pathlib import Path

from corral.hands.providers.binary import PythonInside, find_bwrap
from corral.hands.providers.home import HOST_UID, drops_uid
from corral.hands.providers.launch import Blueprint
from corral.hands.providers.leftovers import clear_stages, end_orphans
from corral.hands.providers.system import MACHINE, System
from corral.kernel.owned_names import owned_name

__all__ = ["drawn"]


def drawn(root: Path, *, python: PythonInside, inside: Path, system: System = MACHINE) -> Blueprint:
    """What the sandboxes of this process share; what a killed process left of its own is ended first.

    root: a directory of ours that commands of these sandboxes name. inside: as for `Blueprint`.
    Blocks. Raises CannotWork.
    """
    drops = drops_uid()
    bwrap = find_bwrap(HOST_UID if drops else None)
    marks, stage = [str(root)], None
    if drops:
        where = Path("/run") if os.access("/run", os.W_OK) else Path(tempfile.gettempdir())
        marks += clear_stages(where)
        stage = where / f"corral-stage-{owned_name()}"
        stage.mkdir(mode=0o700)
        stage.chmod(0o711)
    end_orphans(marks)
    return Blueprint(bwrap=bwrap, python=python, inside=inside, stage=stage, system=system)
