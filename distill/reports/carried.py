"""What goes along with a student into another form: its card, which then says so, and the files beside it."""

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from distill.reports.card import CARD, PROVENANCE

# of a student's folder, what is neither weights nor tokenizer and belongs to it
_BESIDE = re.compile(r"(?i)^(license|licence|notice|terms|use_policy|copying)\b.*")
_FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)


def carry_card(source: Path, folder: Path, sentence: str, **front_matter: Any) -> list[str]:
    """Copy a student's card, its facts and its licence into the folder of what was made of it.

    The card's body stays as it is; behind it stands what was done. Nothing that is there already is written over.

    Args:
        source: the student's folder.
        folder: of the new form.
        sentence: what was done, for people.
        front_matter: fields of the card's front matter that are others now (`library_name`, say).

    Returns:
        Names of the files that went along; none of a student without a card.
    """
    found = []
    for file in sorted(source.iterdir() if source.is_dir() else ()):
        if not file.is_file() or (folder / file.name).exists():
            continue
        if file.name == CARD:
            text = file.read_text(encoding="utf-8", errors="replace")
            (folder / CARD).write_text(
                _changed(text, front_matter) + f"\n## This copy\n\n{sentence}\n", encoding="utf-8"
            )
        elif file.name == PROVENANCE or _BESIDE.match(file.name):
            shutil.copy2(file, folder / file.name)
        else:
            continue
        found.append(file.name)
    return found


def _changed(text: str, fields: dict[str, Any]) -> str:
    begin = _FRONT.match(text)
    known = yaml.safe_load(begin[1]) if begin else {}
    if not isinstance(known, dict):  # no front matter as the Hub knows it: leave it alone
        return text
    if "base_model" not in known:
        fields.pop("base_model_relation", None)
    known |= fields
    body = text[begin.end() :] if begin else text
    front = yaml.safe_dump(known, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n{body.rstrip()}\n"
