"""Shapes of rows: prompt/completion, messages, ShareGPT, Alpaca, question/answer, recognised once a file and translated.

What is made of a row has `prompt` and `completion`, or `messages` (with `tools`), and all else that the row has; nothing of it is
touched here, because only what applies the chat template knows what can be shown (`distill.text`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from distill.pairs.cells import cells_of
from distill.pairs.histories import OWN_HISTORY, check_no_turns, has_turns_before, turns_before
from distill.pairs.row_names import (
    ASKED,
    ASKED_AND_ANSWERED,
    CONTEXT,
    CONVERSATIONS,
    HISTORY,
    IDS,
    MADE,
    SYSTEM,
    TOOLS,
    UNASKED,
)
from distill.pairs.turns import read_turns, said_conversation, turns_of
from distill.text.messages import check_messages
from distill.text.teacher_prompts import behind_system

Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """How the rows of a file say what a pair says.

    Args:
        name: for people.
        has_ids: the rows hold token ids, so nothing is encoded.
        made_of: its columns.
        covered: columns of the file that a pair has no room for, because it makes one of this name itself.
        translate: gives the canonical row; a ValueError says why there is none.
    """

    name: str
    has_ids: bool
    made_of: tuple[str, ...]
    covered: tuple[str, ...]
    translate: Callable[[Row], Row]


def parse_columns(text: str | Mapping[str, str] | None) -> dict[str, str]:
    """`"prompt=q,completion=a"` as `{"prompt": "q", "completion": "a"}`: which column is taken for what.

    Raises:
        ValueError: another form, or one name given twice.
    """
    if not isinstance(text, str):
        return dict(text or {})
    found = [tuple(name.strip() for name in part.split("=")) for part in text.split(",")]
    if not all(len(pair) == 2 and all(pair) for pair in found) or len(dict(found)) < len(found):  # type: ignore[arg-type]
        raise ValueError(f"columns is {text!r}; expected names and columns, each name once: prompt=q,completion=a.")
    return dict(found)  # type: ignore[arg-type]


def shape_of_pairs(rows: Sequence[Row], columns: Mapping[str, str], file: str, kind: str = "") -> Shape:
    """What the first rows of a file have in common.

    Args:
        rows: some of them.
        columns: which of its columns is taken for what (see `parse_columns`).
        file: for messages.
        kind: of the file, which says how its cells are read (see `cells`).

    Raises:
        ValueError: no column of such a name, or none of the shapes.
    """
    there = list(dict.fromkeys(name for row in rows for name in row))
    rename = _renamer(there, columns, file, kind)
    good = _renamed(rows, rename)
    # a table has all columns of its kind, and those that nobody filled say nothing
    filled = list(dict.fromkeys(name for row in good for name, value in row.items() if value is not None))
    for names in (filled, list(dict.fromkeys(name for row in good for name in row))):
        if found := _pairs_of(names, good, rename):
            return found
    raise ValueError(
        f"{file}: no columns that make a pair; it has {', '.join(map(str, there)) or 'none'}. Known are prompt/completion, messages, "
        "conversations (ShareGPT), instruction/input/output (Alpaca), question/answer and their like; name others with "
        "columns, as in prompt=q,completion=a."
    )


def _pairs_of(names: Sequence[str], rows: Sequence[Row], rename: Callable[[Row], Row]) -> Shape | None:
    if any(name in names for name in IDS):
        return Shape("prompt/completion with token ids", True, (), (), rename)
    if "prompt" in names and "completion" in names:
        return Shape("prompt/completion", False, ("prompt", "completion"), (), _then(rename, with_system))
    for name in CONVERSATIONS:
        if name in names:
            covered = tuple(n for n in MADE if n in names and n != name)
            said = said_conversation(name, [row[name] for row in rows if row.get(name)])
            return Shape(said, False, (name,), covered, _then(rename, _conversation(name, covered), with_system))
    for asked, answered in ASKED_AND_ANSWERED[1:]:
        if asked in names and answered in names:
            context = next((n for n in CONTEXT if n in names and asked == "instruction"), None)
            history = has_turns_before(rows, asked)
            used = ((HISTORY,) if history else ()) + tuple(n for n in (asked, context, answered) if n)
            covered = tuple(n for n in MADE if n in names and n not in used)
            said = _said(used, rows) + (" (Alpaca)" if asked == "instruction" and answered == "output" else "")
            make = _asked(asked, context, answered, history, covered)
            return Shape(said, False, used, covered, _then(rename, make, with_system))
    return None


def shape_of_prompts(rows: Sequence[Row], columns: Mapping[str, str], file: str, kind: str = "") -> Shape:
    """As `shape_of_pairs`, of rows that are asked: what is made of a row is its `prompt`, a text or messages."""
    there = list(dict.fromkeys(name for row in rows for name in row))
    rename = _renamer(there, columns, file, kind)
    good = _renamed(rows, rename)
    filled = [n for row in good for n, value in row.items() if value is not None]
    names = list(dict.fromkeys(name for row in good for name in row))
    order = ("prompt", *CONVERSATIONS, *ASKED[1:])
    name = next((name for among in (filled, names) for name in order if name in among), None)
    if name is None:
        raise ValueError(
            f"{file}: no column that is a prompt; it has {', '.join(map(str, there)) or 'none'}. Known are "
            f"{', '.join(order)}; name another one with columns, as in prompt=q."
        )
    if name in CONVERSATIONS:
        said = f"{said_conversation(name, [row[name] for row in good if row.get(name)])}, up to the last question"
        covered = tuple(n for n in MADE if n in names and n != name)
        return Shape(
            said, False, (name,), covered, _then(rename, _conversation(name, covered), partial(asked_of, talk=True))
        )
    context = next((n for n in CONTEXT if n in names and name == "instruction"), None)
    # a prompt beside its completion is whole, as it is for a training
    history = None if {"prompt", "completion"} <= {*names} else has_turns_before(good, name)
    used = ((HISTORY,) if history else ()) + tuple(n for n in (name, context) if n)
    said = "lines" if name == "text" and names == ["text"] else _said(used, good)
    return Shape(said, False, used, (), _then(rename, _asked(name, context, None, history, ()), asked_of))


def _said(used: Sequence[str], rows: Sequence[Row]) -> str:
    """Columns for people; the rows need not have a history so far."""
    return "/".join(name for name in used if name != HISTORY or any(HISTORY in row for row in rows))


def _renamer(there: Sequence[str], columns: Mapping[str, str], file: str, kind: str) -> Callable[[Row], Row]:
    if missing := [name for name in columns.values() if name not in there]:
        raise ValueError(f"{file}: no column {', '.join(missing)}; it has {', '.join(map(str, there)) or 'none'}.")
    taken, cells = {name: target for target, name in columns.items()}, cells_of(kind)

    def rename(row: Row) -> Row:
        # a column that another one is named for makes room for it
        named = {taken.get(name, name): value for name, value in row.items() if name in taken or name not in columns}
        return cells(named) if cells else named

    return rename


def _renamed(rows: Sequence[Row], rename: Callable[[Row], Row]) -> list[Row]:
    """Those with cells that can be read; of the others one is told in its place, with its line."""
    good: list[Row] = []
    for row in rows:
        with suppress(ValueError):
            good.append(rename(row))
    return good or [dict(row) for row in rows]


def _then(*steps: Callable[[Row], Row]) -> Callable[[Row], Row]:
    def translate(row: Row) -> Row:
        for step in steps:
            row = step(row)
        return row

    return translate


def _asked(
    asked: str, context: str | None, answered: str | None, history: bool | None, covered: Sequence[str]
) -> Callable[[Row], Row]:
    """What makes a prompt of a row; `history`: whether one is asked before it, None: a prompt that is whole takes none."""
    used = [name for name in (asked, context, answered) if name]

    def translate(row: Row) -> Row:
        if missing := [name for name in (asked, answered) if name and row.get(name) is None]:
            raise ValueError(
                f"no {' and no '.join(map(repr, missing))}; the row has {', '.join(map(str, row)) or 'no keys'}."
            )
        made: Row = {"prompt": row[asked]}
        if context and row.get(context):
            if not isinstance(row[asked], str) or not isinstance(row[context], str):
                raise ValueError(
                    f"{asked} and {context} must be texts, not {str(row[asked])[:30]!r} and {str(row[context])[:30]!r}."
                )
            made["prompt"] = f"{row[asked]}\n{row[context]}"
        if answered:
            made["completion"] = row[answered]
        others = {name: value for name, value in row.items() if name not in used and name not in covered}
        if history is False and isinstance(row[asked], str):
            check_no_turns(others.get(HISTORY))
        if history and HISTORY in others and (turns := turns_before(others.pop(HISTORY))):
            if not isinstance(made["prompt"], str):
                raise ValueError(
                    f"{asked} is {str(row[asked])[:30]!r}, and a history stands before a text. {OWN_HISTORY}"
                )
            talk = [*turns, {"role": "user", "content": made["prompt"]}]
            if answered:
                made = {"messages": [*talk, {"role": "assistant", "content": made["completion"]}]}
            else:
                made = {"prompt": talk}
        return {**others, **made}

    return translate


def unasked(names: Iterable[str]) -> str:
    """What is said of columns that a question may not be understood without, with a blank before it; nothing where there are none."""
    found = [name for name in names if name in UNASKED]
    return (
        f" Not asked: {', '.join(found)}; a question that needs it is another one without it, so give a column that has both (--columns "
        "prompt=NAME)."
        if found
        else ""
    )


def _conversation(name: str, covered: Sequence[str]) -> Callable[[Row], Row]:
    def translate(row: Row) -> Row:
        if row.get(name) is None:
            raise ValueError(f"no {name}; the row has {', '.join(map(str, row)) or 'no names'}.")
        messages = turns_of(row[name]) if isinstance(row[name], str) else row[name]
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise ValueError(f"{name} must be a list of messages, not {str(messages)[:80]!r}.")
        others = {n: value for n, value in row.items() if n != name and n not in covered}
        return {**others, "messages": read_turns(messages)}

    return translate


def with_system(row: Mapping[str, Any]) -> Row:
    """A system text under its other name (OpenOrca) under the one that the chat template's words go by.

    Raises:
        ValueError: there are two that differ.
    """
    other = row.get("system_prompt")
    if other is None or other == "":
        return dict(row)
    if row.get("system") not in (None, "", other):
        raise ValueError("system and system_prompt differ; keep one of them.")
    return {**{name: value for name, value in row.items() if name != "system_prompt"}, "system": other}


def asked_of(row: Row, talk: bool = False) -> Row:
    """The prompt of a row that is asked: a system text stands before it, an answer at the end of a conversation is left out."""
    row = with_system(row)
    prompt = row["messages"] if talk else row["prompt"]
    for name in (*TOOLS, "chat_template_kwargs"):
        if row.get(name) not in (None, "", [], {}, "[]", "{}"):
            raise ValueError(
                f"the row has {name}, which cannot be asked with a prompt here; take the column out, or give it another name."
            )
    if talk:
        while prompt and isinstance(prompt[-1], dict) and prompt[-1].get("role") == "assistant":
            prompt = prompt[:-1]
    if not prompt:
        raise ValueError("the prompt is empty.")
    if not isinstance(prompt, str):
        check_messages(prompt)
    if system := row.get("system"):
        if not isinstance(system, str):
            raise ValueError(f"system must be text, not {str(system)[:60]!r}.")
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if turns[0].get("role") != "system":
            turns = [{"role": "system", "content": system}, *turns]
        elif turns[0].get("content") != system:
            raise ValueError("the row has a system text and another one as its first message; keep one of them.")
        prompt = turns
        shown: Any = row.get("teacher_prompt")
        if _is_prompt(shown):
            row = {**row, "teacher_prompt": behind_system(shown, system)}
    asked = (*(("messages",) if talk else ()), *SYSTEM, *TOOLS, "chat_template_kwargs")
    return {**{name: value for name, value in row.items() if name not in asked}, "prompt": prompt}


def _is_prompt(value: Any) -> bool:
    """Whether it has the looks of a prompt with something in it; what else is wrong is told where it is asked."""
    return bool(value) and (isinstance(value, str) or (isinstance(value, list) and isinstance(value[0], dict)))
