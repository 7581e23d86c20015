"""A small set of packages as local wheels, made from what is installed here: no network is needed.

A distribution is packed again from its own RECORD; only pure Python ones, so that any Python 3 in a sandbox
can install them.
"""

import io
import tarfile
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath

PACKAGES = ("rich", "pygments", "markdown-it-py", "mdurl", "httpx2", "httpcore2", "h11", "anyio", "idna")
# An agent's usual needs: something to talk HTTP with, something to print with. 1.5 s of pip, no more.

INSTALL = (
    "PYTHONPATH=/workspace/tools python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir"
    f" --no-index --no-deps --find-links /workspace/wheels --target /tmp/site {' '.join(PACKAGES)}"
)
COMPILE = "python3 -m compileall -q /workspace/tools"  # pip itself comes compiled with any image


def archive() -> bytes:
    """A tar file for a workspace: `wheels/` with PACKAGES, `tools/` with pip."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in PACKAGES:
            wheel, content = _wheel(distribution(name))
            _add(tar, f"wheels/{wheel}", content)
        pip = distribution("pip")
        for file in _files(pip):
            _add(tar, f"tools/{file}", _read(pip, file))
    return packed.getvalue()


def _wheel(packed: Distribution) -> tuple[str, bytes]:
    files = _files(packed)
    [info] = {file.parts[0] for file in files if file.parts[0].endswith(".dist-info")}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as wheel:
        for file in files:
            wheel.writestr(str(file), _read(packed, file))
        record = [*map(str, files), f"{info}/RECORD"]
        wheel.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in record))
    return f"{info.removesuffix('.dist-info')}-py3-none-any.whl", content.getvalue()


def _files(packed: Distribution) -> list[PurePosixPath]:
    """What a wheel of it would hold: no scripts, no bytecode, nothing that its installer added."""
    added = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
    return [
        file
        for file in packed.files or ()
        if ".." not in file.parts and file.name not in added and file.suffix != ".pyc"
    ]


def _read(packed: Distribution, file: PurePosixPath) -> bytes:
    return Path(str(packed.locate_file(file))).read_bytes()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
