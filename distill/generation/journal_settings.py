"""Settings of a journal: a file beside it says whose rows it holds."""

import json
import os
from pathlib import Path
from typing import Any

from distill.basics.disk import write_durably

FORMAT = 2
INCIDENTAL = "incidental"  # in the file of settings: what decides nothing


def check_settings(path: Path, settings: dict[str, Any], incidental: dict[str, Any]) -> None:
    """Write whose rows these are, or find it written; rows of other settings are never mixed in.

    Args:
        path: of the journal; whoever calls holds its lock.
        settings: plain values that decide the rows.
        incidental: plain values that decide nothing.

    Raises:
        ValueError: rows of other settings (each is named with both values) or of another version; damaged settings.
    """
    beside = settings_file(path)
    size = path.stat().st_size if path.exists() else 0
    if size and not beside.is_file():
        raise ValueError(
            f"{path} exists but {beside.name} does not, so its rows cannot be told from another run's; "
            f"give another path.{_earlier_name(path, beside)}"
        )
    there = _read_settings(beside) if size else {}
    if size and there.get("journal_format") != FORMAT:
        raise ValueError(
            f"{path} is a journal of format {there.get('journal_format', 1)!r}, from another version of distill; this one "
            f"reads {FORMAT}. Give another path (load_pairs reads the rows of any format), or use that version."
        )
    found = {name: value for name, value in there.items() if name != INCIDENTAL}
    wanted = {"journal_format": FORMAT, **json.loads(json.dumps(settings))}
    if found != wanted and size and _has_a_line(path):
        absent = "nothing"
        names = [n for n in {**found, **wanted} if found.get(n, absent) != wanted.get(n, absent)]
        differences = "; ".join(f"{n}: {found.get(n, absent)!r} there, {wanted.get(n, absent)!r} now" for n in names)
        undated = "template_day" in wanted and "template_day" not in found
        why = (
            " It was begun by a version that did not record the day which this chat template writes into every prompt, so "
            "nobody knows whether its prompts are these."
        )
        unnamed = "worked_examples" in wanted and "worked_examples" not in found
        before = (
            " A run that was begun by a version which counted worked examples as a part of each prompt cannot be continued: its pairs have "
            "other ids."
        )
        way = (
            "Give another path, or folder (load_pairs reads the pairs)."
            if undated or unnamed
            else "Give another path, or the old settings."
        )
        raise ValueError(f"{path} holds pairs of another run ({differences}).{why * undated}{before * unnamed} {way}")
    more = _together(there.get(INCIDENTAL), json.loads(json.dumps(incidental)), path)
    whole = {**wanted, **({INCIDENTAL: more} if more else {})}
    if whole != there:
        write_durably(settings_file(path, old=False), json.dumps(whole, indent=1))


def _earlier_name(path: Path, beside: Path) -> str:
    earlier = path.with_suffix(".settings.json")
    if earlier == beside or not earlier.is_file():
        return ""
    return (
        f" An earlier version wrote {earlier.name}, under a name that other files share; if it is this file's, rename it to "
        f"{beside.name}."
    )


def settings_there(path: str | os.PathLike[str] | None) -> dict[str, Any]:
    """The settings of a journal that is there already, without what is incidental; nothing without one.

    Raises:
        ValueError: the file of settings is damaged.
    """
    journal = None if path is None else Path(path).resolve()
    beside = (
        settings_file(journal) if journal is not None and journal.is_file() else None
    )  # not of one that was deleted
    found = _read_settings(beside) if beside is not None and beside.is_file() else {}
    return {name: value for name, value in found.items() if name not in (INCIDENTAL, "journal_format")}


def settings_file(path: Path, old: bool = True) -> Path:
    """Where the settings of a journal lie: beside it, under its whole name.

    Args:
        path: of the journal.
        old: also under the name that earlier versions gave it, without the ending, if only that one is there.
    """
    beside, earlier = path.with_name(f"{path.name}.settings.json"), path.with_suffix(".settings.json")
    is_others = path.with_suffix("").is_file()  # of a journal `pairs`, under its whole name
    return (
        earlier
        if old and path.suffix == ".jsonl" and earlier.is_file() and not beside.exists() and not is_others
        else beside
    )


def _together(before: Any, now: dict[str, Any], path: Path) -> dict[str, Any]:
    """What is incidental, of all calls: of lists and mappings every value, of the rest the last.

    Raises:
        ValueError: a name of a mapping with another value than it had: rows were read with that one.
    """
    found = dict(before) if isinstance(before, dict) else {}
    for name, value in now.items():
        earlier = found.get(name)
        if isinstance(value, list) and isinstance(earlier, list):
            value = [*earlier, *(one for one in value if one not in earlier)]
        if isinstance(value, dict) and isinstance(earlier, dict):
            if changed := [key for key in value if earlier.get(key, value[key]) != value[key]]:
                told = "; ".join(f"{key!r}: {earlier[key]!r} there, {value[key]!r} now" for key in changed)
                raise ValueError(
                    f"{path} holds pairs for which {name} said something else ({told}). Give another path, or what was said before."
                )
            value = {**earlier, **value}
        found[name] = value
    return found


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}), so nobody knows whose rows lie beside it.") from None
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} holds a {type(found).__name__}, not settings, so nobody knows whose rows lie beside it."
        )
    return found


def _has_a_line(path: Path) -> bool:
    """Whether there is a whole line."""
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")
