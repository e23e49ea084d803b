"""Shapes of rows: prompt/completion, messages, ShareGPT, Alpaca, question/answer, recognised once a file and translated.

What is made of a row has `prompt` and `completion`, or `messages` (with `tools`), and all else that the row has; nothing of it is
touched here, because only what applies the chat template knows what can be shown (`distill.text`).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IDS = ("prompt_ids", "completion_ids")
_CONVERSATIONS = ("messages", "conversations", "conversation")
_CONTEXT = ("input", "context")  # what Alpaca and Dolly put below an instruction
# (what is asked, what is answered), the more telling names first
_ASKED_AND_ANSWERED = (
    ("prompt", "completion"), ("instruction", "output"), ("instruction", "response"), ("question", "answer"),
    ("question", "response"), ("problem", "solution"), ("problem", "answer"), ("query", "response"), ("query", "answer"),
    ("prompt", "response"), ("prompt", "output"), ("prompt", "answer"), ("input", "output"),
)  # fmt: skip
_ASKED = ("prompt", "question", "problem", "instruction", "query", "input", "text")
_MADE = ("prompt", "completion", "messages", *IDS)
_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bing": "assistant", "bard": "assistant", "system": "system", "tool": "tool", "observation": "tool",
    "function_response": "tool", "function_call": "function_call", "tool_call": "function_call",
}  # fmt: skip
# columns of a CSV file, where everything is text, that are something else
_NUMBERS: dict[str, Callable[[str], Any]] = {"sample": int, "score": float}
_JSON = (*IDS, "teacher_prompt_ids", "loss_mask", "tools", "top_logprobs", "chat_template_kwargs")

_PROSE = ("prompt", "completion", "teacher_prompt")  # texts, or messages as JSON

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


def shape_of_pairs(rows: Sequence[Row], columns: Mapping[str, str], file: str, table: bool) -> Shape:
    """What the first rows of a file have in common.

    Args:
        rows: some of them.
        columns: which of its columns is taken for what (see `parse_columns`).
        file: for messages.
        table: its cells are text (CSV), so numbers and lists are to be read from it.

    Raises:
        ValueError: no column of such a name, or none of the shapes.
    """
    there = list(dict.fromkeys(name for row in rows for name in row))
    rename = _renamer(there, columns, file, table)
    names = list(dict.fromkeys(name for row in map(rename, rows) for name in row))
    if any(name in names for name in IDS):
        return Shape("prompt/completion with token ids", True, (), (), rename)
    for asked, answered in _ASKED_AND_ANSWERED[:1]:
        if asked in names and answered in names:
            return Shape(f"{asked}/{answered}", False, (asked, answered), (), rename)
    for name in _CONVERSATIONS:
        if name in names:
            covered = tuple(n for n in _MADE if n in names and n != name)
            said = _said_conversation(name, [row[name] for row in map(rename, rows) if row.get(name)])
            return Shape(said, False, (name,), covered, _then(rename, _conversation(name, covered), _system))
    for asked, answered in _ASKED_AND_ANSWERED[1:]:
        if asked in names and answered in names:
            context = next((n for n in _CONTEXT if n in names and asked == "instruction"), None)
            used = tuple(n for n in (asked, context, answered) if n)
            covered = tuple(n for n in _MADE if n in names and n not in used)
            said = "/".join(used) + (" (Alpaca)" if asked == "instruction" and answered == "output" else "")
            return Shape(said, False, used, covered, _then(rename, _asked(asked, context, answered, covered), _system))
    raise ValueError(
        f"{file}: no columns that make a pair; it has {', '.join(map(str, there)) or 'none'}. Known are prompt/completion, messages, "
        "conversations (ShareGPT), instruction/input/output (Alpaca), question/answer and their like; name others with "
        "columns, as in prompt=q,completion=a."
    )


def shape_of_prompts(rows: Sequence[Row], columns: Mapping[str, str], file: str, table: bool) -> Shape:
    """As `shape_of_pairs`, of rows that are asked: what is made of a row is its `prompt`, a text or messages."""
    there = list(dict.fromkeys(name for row in rows for name in row))
    rename = _renamer(there, columns, file, table)
    names = list(dict.fromkeys(name for row in map(rename, rows) for name in row))
    order = ("prompt", *_CONVERSATIONS, *_ASKED[1:])
    name = next((name for name in order if name in names), None)
    if name is None:
        raise ValueError(
            f"{file}: no column that is a prompt; it has {', '.join(map(str, there)) or 'none'}. Known are "
            f"{', '.join(order)}; name another one with columns, as in prompt=q."
        )
    if name in _CONVERSATIONS:
        said = _said_conversation(name, [row[name] for row in map(rename, rows) if row.get(name)])
        covered = tuple(n for n in _MADE if n in names and n != name)
        return Shape(
            f"{said}, up to the last question",
            False,
            (name,),
            covered,
            _then(rename, _conversation(name, covered), _asked_of),
        )
    context = next((n for n in _CONTEXT if n in names and name == "instruction"), None)
    said = "/".join(n for n in (name, context) if n)
    return Shape(
        "lines" if name == "text" and names == ["text"] else said,
        False,
        (name,),
        (),
        _then(rename, _asked(name, context, None, ()), _asked_of),
    )


def _renamer(there: Sequence[str], columns: Mapping[str, str], file: str, table: bool) -> Callable[[Row], Row]:
    if missing := [name for name in columns.values() if name not in there]:
        raise ValueError(f"{file}: no column {', '.join(missing)}; it has {', '.join(map(str, there)) or 'none'}.")
    taken = {name: target for target, name in columns.items()}

    def rename(row: Row) -> Row:
        # a column that another one is named for makes room for it
        named = {taken.get(name, name): value for name, value in row.items() if name in taken or name not in columns}
        return _typed(named) if table else named

    return rename


def _typed(row: Row) -> Row:
    """A row of texts, with numbers, lists and objects where a pair has them; an empty cell of these is none."""
    found = dict(row)
    for name in (*_NUMBERS, *_JSON, *_CONVERSATIONS, *_PROSE):
        value = found.get(name)
        empty = name == "teacher_prompt" and value == ""  # which a teacher may have been shown, or nothing of its own
        if value is None or (name in _PROSE and not empty and not value.lstrip().startswith('[{"')):
            continue
        if not value.strip():
            del found[name]
            continue
        try:
            found[name] = _NUMBERS[name](value) if name in _NUMBERS else json.loads(value)
        except ValueError:
            if name not in _PROSE:
                raise ValueError(f"{name} is {value[:60]!r}, which cannot be read.") from None
    return found


def _then(*steps: Callable[[Row], Row]) -> Callable[[Row], Row]:
    def translate(row: Row) -> Row:
        for step in steps:
            row = step(row)
        return row

    return translate


def _asked(asked: str, context: str | None, answered: str | None, covered: Sequence[str]) -> Callable[[Row], Row]:
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
        return {**{name: value for name, value in row.items() if name not in used and name not in covered}, **made}

    return translate


def _conversation(name: str, covered: Sequence[str]) -> Callable[[Row], Row]:
    def translate(row: Row) -> Row:
        if row.get(name) is None:
            raise ValueError(f"no {name}; the row has {', '.join(map(str, row)) or 'no names'}.")
        messages = _parsed(row[name]) if isinstance(row[name], str) else row[name]
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise ValueError(f"{name} must be a list of messages, not {str(messages)[:80]!r}.")
        others = {n: value for n, value in row.items() if n != name and n not in covered}
        return {**others, "messages": [_message(m) for m in messages]}

    return translate


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _message(message: Row) -> Row:
    """One of ShareGPT's turns (`from`, `value`) as one with `role` and `content`; any other as it is."""
    if "from" not in message or "role" in message:
        return message
    said = _ROLES.get(str(message["from"]).lower())
    if said is None or "value" not in message:
        raise ValueError(
            f"a turn is from {message['from']!r} and has {', '.join(message)}; known are from and value, by {', '.join(_ROLES)}."
        )
    others = {name: value for name, value in message.items() if name not in ("from", "value")}
    value = message["value"]
    if said != "function_call":
        return {"role": said, "content": value, **others}
    try:
        calls = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"a function call is no JSON: {str(value)[:60]!r}.") from None
    listed = calls if isinstance(calls, list) else [calls]
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": call} for call in listed],
        **others,
    }


def _system(row: Row) -> Row:
    """A system text under its other name (OpenOrca) under the one that the chat template's words go by."""
    if not isinstance(row.get("system_prompt"), str) or row.get("system"):
        return row
    return {**{name: value for name, value in row.items() if name != "system_prompt"}, "system": row["system_prompt"]}


def _said_conversation(name: str, values: Sequence[Any]) -> str:
    turns = [turn for value in values if isinstance(value, list) for turn in value if isinstance(turn, dict)]
    return f"{name} (ShareGPT)" if any("from" in turn for turn in turns) else f"{name} (role, content)"


def _asked_of(row: Row) -> Row:
    """The prompt of a row that is asked: a system text stands before it, an answer at its end is left out."""
    prompt = row["messages"] if "messages" in row else row["prompt"]
    if row.get("tools"):
        raise ValueError(
            "the row has tools, which cannot be asked with a prompt here; leave the column out, or ask without them."
        )
    if isinstance(prompt, list) and "messages" in row:
        while prompt and isinstance(prompt[-1], dict) and prompt[-1].get("role") == "assistant":
            prompt = prompt[:-1]
    if not prompt:
        raise ValueError("the prompt is empty.")
    system = next((row[name] for name in ("system", "system_prompt") if row.get(name)), None)
    if isinstance(system, str):
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if turns[0].get("role") != "system":
            turns = [{"role": "system", "content": system}, *turns]
        elif turns[0].get("content") != system:
            raise ValueError("the row has a system text and another one as its first message; keep one of them.")
        prompt = turns
    return {**row, "prompt": prompt}
