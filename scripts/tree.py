"""The tree of `distill/`, drawn from its sources: what each room and file is for, and which rooms each room imports from.

    python scripts/tree.py            # prints it
    python scripts/tree.py --write    # puts it into docs/explanation/design.md, between two marks

Words are first lines of docstrings, shortened at a clause. Imports are read from the sources, those inside functions too. The
rooms and their order are the list `ROOMS` in tests/test_package.py, whose tests hold that order.
"""

import argparse
import ast
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "distill"
PAGE = ROOT / "docs" / "explanation" / "design.md"
BEGIN, END = "<!-- Drawn by scripts/tree.py from here on. -->", "<!-- Drawn by scripts/tree.py up to here. -->"
WIDTH = 120


def rooms() -> list[str]:
    """The rooms of the package in the order in which they may import each other."""
    for node in ast.parse((ROOT / "tests" / "test_package.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROOMS":
            return list(ast.literal_eval(node.value))
    raise ValueError("tests/test_package.py has no list ROOMS")


def imported(path: Path) -> Iterator[str]:
    """What stands behind `distill.` in the imports of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name.removeprefix("distill.") for name in names if name.startswith("distill."))


def arrows(order: list[str]) -> dict[str, set[str]]:
    """Of each room, the other rooms it imports from."""
    found: dict[str, set[str]] = {}
    for room in order:
        names = [name.partition(".")[0] for path in (PACKAGE / room).rglob("*.py") for name in imported(path)]
        found[room] = {name for name in names if name in order and name != room}
    return found


def purpose(path: Path, width: int) -> str:
    """The first line of a file's docstring, cut to fit: where a clause ends, if that leaves most of it, or after a word."""
    said = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0].rstrip(".")
    said = said.removeprefix("distill: ")
    if len(said) <= width:
        return said
    ends = [i for i in range(width * 2 // 3, width + 1) if said[i : i + 2] in (": ", "; ", ", ", ". ", " (")]
    return said[: ends[-1]] if ends else said[:width].rpartition(" ")[0].rstrip(":;,.(") + "…"


def files(room: str) -> Iterator[str]:
    """The files of a room, two a line, read down the columns: name and what it is for."""
    folder = PACKAGE / room
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name != "__init__":
            found[name.removesuffix("__init__")] = path
    half = (len(found) + 1) // 2
    width = WIDTH // 2 - 3
    columns = []
    for names in (list(found)[:half], list(found)[half:]):
        longest = max(map(len, names), default=0)
        columns.append([f"{name:<{longest}}  {purpose(found[name], width - longest - 2)}" for name in names])
    for left, right in zip_longest(*columns, fillvalue=""):
        yield f"   {left:<{width}}   {right}".rstrip()


def tree() -> str:
    """The drawing: the package, its rooms and files in two columns, and a table of who imports whom."""
    order = rooms()
    lines = [f"{name:<14} {purpose(PACKAGE / name, WIDTH - 15)}" for name in ("__init__.py", "cli.py")]
    for number, room in enumerate(order, 1):
        lines += [f"{number:>2} {room + '/':<13}{purpose(PACKAGE / room / '__init__.py', WIDTH - 16)}"]
        lines += files(room)
    lines += ["", "A room (row) imports from the rooms (columns) with a ●:", ""]
    lines.append(" " * 16 + "".join(f"{number:>3}" for number in range(1, len(order) + 1)))
    found = arrows(order)
    for number, room in enumerate(order, 1):
        marks = ["●" if other in found[room] else "■" if other == room else "·" for other in order]
        while marks[-1] == "·":
            marks.pop()
        lines.append(f"{number:>2} {room:<13}" + "".join(f"{mark:>3}" for mark in marks))
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with the drawing of today between its marks."""
    above, _, rest = text.partition(BEGIN)
    _, mark, below = rest.partition(END)
    if not mark:
        raise ValueError(f"the page lacks the marks {BEGIN} and {END}")
    return f"{above}{BEGIN}\n\n```\n{tree()}\n```\n\n{END}{below}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    if parser.parse_args().write:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        sys.stdout.write(tree() + "\n")


if __name__ == "__main__":
    main()
