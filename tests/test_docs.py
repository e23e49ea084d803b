"""The documents: links and pictures exist, no page is an orphan, code blocks import what exists, the tree is of today."""

import ast
import importlib
import pkgutil
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import tree

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def named(path):
    return path.relative_to(ROOT).as_posix()


def prose(page):
    """A page without its blocks and spans of code, which hold brackets and number signs of their own."""
    text = re.sub(r"^(```+).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`(?!\])", "", text)


def links(page):
    """(file, anchor) of every relative link and picture of a page."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = unquote(target).partition("#")
            yield ((page.parent / path).resolve() if path else page), anchor


def anchors(page):
    """What GitHub makes of a page's headings."""
    text = re.sub(r"^(```+).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_and_picture_exists(page):
    for path, anchor in links(page):
        assert path.exists(), f"{named(page)} links to {path}, which does not exist"
        assert path.is_relative_to(ROOT), f"{named(page)} links to {path}, which lies outside"
        if anchor:
            assert anchor in anchors(path), f"{named(page)} links to #{anchor}, which {named(path)} does not have"


def test_no_page_and_no_picture_is_an_orphan():
    reached, todo = set(), {ROOT / "README.md", ROOT / "docs" / "README.md"}
    while todo:
        page = todo.pop()
        reached.add(page)
        found = {path for path, _ in links(page)}
        reached |= {path for path in found if path.suffix != ".md"}
        todo |= {path for path in found if path.suffix == ".md"} - reached
    kept = {path for path in (ROOT / "docs").rglob("*") if path.is_file()}
    assert not kept - reached, f"nothing links to {', '.join(map(named, sorted(kept - reached)))}"


def test_every_page_lies_on_a_shelf():
    shelves = {path.parent.name for path in PAGES if path.parent.parent == ROOT / "docs"}
    assert shelves == {"tutorial", "how-to", "reference", "explanation"}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} == {"README.md", "log.md"}


def test_code_in_the_docs_imports_what_exists():
    count = 0
    for page in PAGES:
        for line in re.findall(r"^from distill[\w.]* import .+$", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            (node,) = ast.parse(line).body
            for alias in node.names:
                module = importlib.import_module(node.module)
                assert hasattr(module, alias.name), f"{named(page)}: {line}"
                count += 1
    assert count > 10


def test_dotted_names_in_the_code_exist():
    """`distill.room.module.name` in a docstring or a comment: what a move leaves behind."""
    wrong = []
    for path in [*(ROOT / "distill").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]:
        for name in re.findall(r"`(distill(?:\.[a-z_A-Z]\w*)+)", path.read_text(encoding="utf-8")):
            try:
                pkgutil.resolve_name(name)
            except (AttributeError, ImportError):
                wrong.append(f"{named(path)}: {name}")
    assert not wrong


def test_the_tree_in_the_design_is_of_today():
    text = tree.PAGE.read_text(encoding="utf-8")
    assert tree.page(text) == text, "the files or their imports have changed; run python scripts/tree.py --write"


def test_the_tree_fits_a_page():
    lines = tree.tree().splitlines()
    assert len(lines) <= 240
    assert max(map(len, lines)) <= 120


def test_the_tree_sees_the_arrows():
    """Also of imports inside functions, and none that are not there."""
    arrows = tree.arrows(tree.rooms())
    assert not arrows["basics"]
    assert "basics" in arrows["text"]
    assert {"signals", "objectives", "pairs"} <= arrows["trainers"]
    assert all(room not in arrows[room] for room in arrows)
