"""Links between the files of the documentation lead somewhere, fragments too."""

from pathlib import Path

import pytest

from tests.unit.docs.markdown import ROOT, anchors, links, name_of, pages


@pytest.mark.parametrize("path", pages(), ids=name_of)
def test_links_resolve(path: Path) -> None:
    for link in links(path):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        target, _, fragment = link.partition("#")
        to = (path.parent / target).resolve() if target else path
        assert to.exists(), f"{link}: there is no {target}"
        assert to.is_relative_to(ROOT), f"{link} leaves the repository"
        if fragment:
            assert fragment in anchors(to), f"{link}: {name_of(to)} has no heading for it"


def test_every_page_of_docs_can_be_reached() -> None:
    """From the README, by links."""
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        targets = (link.partition("#")[0] for link in links(path) if "://" not in link)
        waiting += [
            found for target in targets if (found := (path.parent / target).resolve()).suffix == ".md"
        ]
    assert {name_of(path) for path in pages()} - {name_of(path) for path in reached} == set()
