"""`corral skills`: list, install, remove."""

import json
from pathlib import Path

from corral.catalog.skills.attached import PREBUILT
from corral.catalog.skills.layout import SKILL_MD, is_junk
from corral.cli.connect import Api
from corral.cli.outcome import Exit, Problem
from corral.cli.render import print_table
from corral.kernel.limits import SKILL_BYTES_MAX, SKILL_FILES_MAX

__all__ = ["install_skill", "list_skills", "remove_skill"]


def list_skills(api: Api, *, most: int, as_json: bool) -> None:
    skills = list(api.pages("/v1/skills", most=most))
    if as_json:
        print(json.dumps(skills, indent=2))
        return
    rows = [
        (each["id"], each["source"]["type"], each["display_name"], each["latest_version_id"])
        for each in skills
    ]
    print_table(("id", "source", "name", "latest version"), rows)


def install_skill(api: Api, source: Path, *, prebuilt: str | None, as_json: bool) -> None:
    """A new skill; or, under the name of a prebuilt one, its first or next version."""
    if prebuilt is not None and prebuilt not in PREBUILT:
        raise Problem(f"--as {prebuilt!r}: must be one of {', '.join(PREBUILT)}", exit=Exit.USAGE)
    path, fields = ("/v1/skills", {}) if prebuilt is None else ("/corral/v1/skills", {"prebuilt": prebuilt})
    files = [("files[]", file) for file in _files(source)]
    skill = api.request("POST", path, files=files, data=fields).json()
    print(json.dumps(skill, indent=2) if as_json else f"{skill['id']} {skill['latest_version_id']}")


def remove_skill(api: Api, skill_id: str) -> None:
    own = "/corral/v1/skills" if skill_id in PREBUILT else "/v1/skills"
    api.request("DELETE", f"{own}/{skill_id}")
    print(f"{skill_id} is removed; sessions that have it keep it")


def _files(source: Path) -> list[tuple[str, bytes]]:
    """Each with its path, as it is sent; of a zip, itself."""
    try:
        if source.is_file():
            return [(source.name, _read(source))]
        if not (source / SKILL_MD).is_file():
            raise Problem(f"{source} has no {SKILL_MD}", exit=Exit.USAGE)
        root, files, size = source.resolve(), [], 0
        for path in sorted(root.rglob("*")):
            name = f"{root.name}/{path.relative_to(root).as_posix()}"
            if path.is_symlink():
                raise Problem(f"{path} is a symbolic link; a skill has regular files only", exit=Exit.USAGE)
            if not path.is_file() or is_junk(name):
                continue
            files.append((name, _read(path)))
            size += len(files[-1][1])
            if len(files) > SKILL_FILES_MAX or size > SKILL_BYTES_MAX:
                raise Problem(
                    f"{source} is too large: a skill has at most {SKILL_FILES_MAX} files and"
                    f" {SKILL_BYTES_MAX} bytes",
                    exit=Exit.USAGE,
                )
        return files
    except OSError as error:
        raise Problem(f"{source} cannot be read: {error.strerror}", exit=Exit.USAGE) from error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(SKILL_BYTES_MAX + 1)
    if len(content) > SKILL_BYTES_MAX:
        raise Problem(f"{path} is too large: a skill has at most {SKILL_BYTES_MAX} bytes", exit=Exit.USAGE)
    return content
