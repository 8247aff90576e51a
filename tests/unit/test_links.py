"""Links between the project's own pages lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from espalier.contract.paths import ROOT

LINK = re.compile(r"\]\(([^)\s#]+)(?:#([^)\s]+))?\)")


def pages() -> list[Path]:
    found = [ROOT, *(path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != ".")]
    return sorted(
        page
        for folder in found
        if folder.name != "store"
        for page in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
    )


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        linked = page.parent / target
        assert linked.exists(), f"{target} is not there"
        if anchor:
            assert anchor in set(anchors(linked)), f"{target} has no heading #{anchor}"


def anchors(page: Path) -> Iterator[str]:
    """What its headings are called in links, as hubs of code make them."""
    for line in page.read_text().splitlines():
        if line.startswith("#"):
            words = re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower())
            yield words.replace(" ", "-")
