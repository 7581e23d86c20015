"""The model of the protocol: every state keeps the laws, each guard is needed, its names are real."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("protocol_model", DOCS / "protocol" / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


model: Any = _load()


@pytest.mark.parametrize("scene", model.SCENES)
def test_every_state_keeps_the_laws(scene: str) -> None:
    states, law = model.explore(model.Model(), model.SCENES[scene])
    assert law == ""
    assert states > 1000


@pytest.mark.parametrize("guard", model.GUARDS)
def test_every_guard_is_needed(guard: str) -> None:
    broken = set()
    for start in model.SCENES.values():
        try:
            broken.add(model.explore(model.Model(guard), start, states_max=60_000)[1])
        except AssertionError:
            continue  # without the guard it does not end
        if model.GUARDS[guard] in broken:
            return
    raise AssertionError(f"without {guard}: {broken}")


def test_the_page_names_what_exists() -> None:
    page = (DOCS / "protocol.md").read_text()
    names = re.findall(r"`(corral(?:\.\w+)+)`", page)
    assert len(names) > 8
    for name in set(names):
        parts = name.split(".")
        for cut in range(len(parts), 0, -1):
            try:
                found: Any = importlib.import_module(".".join(parts[:cut]))
            except ModuleNotFoundError:
                continue
            for part in parts[cut:]:
                found = getattr(found, part)
            break
    for guard, law in model.GUARDS.items():
        assert f"| `{guard}` | {law} |" in page
