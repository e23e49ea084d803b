"""The flags of every verb as `distill VERB --help` shows them, kept in recipes/help.json so that help answers at once.

python scripts/help_pages.py            # the verbs whose page is of another day; exit status 1 where there are any
python scripts/help_pages.py --write
"""

import contextlib
import importlib
import io
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from distill.cli import RECIPES, VERBS
from distill.running import parsing

FILE = Path(__file__).parents[1] / "recipes/help.json"


def pages() -> dict[str, Any]:
    """Each verb's page, from its recipe's flags of today."""
    found: dict[str, Any] = {}
    for verb in VERBS:
        recipe = importlib.import_module(f"distill.recipes.{RECIPES.get(verb, verb)}")

        def keep(page: dict[str, Any], called: str, verb: str = verb) -> str:
            found[verb] = page
            return called

        with (
            mock.patch.object(parsing, "show_page", keep),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.suppress(SystemExit),
        ):
            recipe.main(["--help"])
    return found


def main() -> None:
    """Write the file, or tell what is of another day."""
    today = json.dumps(pages(), indent=1, ensure_ascii=False) + "\n"
    if "--write" in sys.argv[1:]:
        FILE.write_text(today, encoding="utf-8")
        return
    kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    if other := [verb for verb, page in json.loads(today).items() if kept.get(verb) != page]:
        raise SystemExit(f"{FILE.name} is of another day: {', '.join(other)}. python scripts/help_pages.py --write")


if __name__ == "__main__":
    main()
