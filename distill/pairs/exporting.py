"""Pairs in the forms of other tools: messages, ShareGPT, Parquet; and what each form has no place for, said in a sentence."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets

from distill.basics.processes import say
from distill.pairs.blocks import BLOCK_ROWS, rows_of_table
from distill.pairs.columns import COLUMNS, OPTIONAL, TEACHER_PROMPT
from distill.pairs.row_names import CONVERSATIONS, SYSTEM
from distill.pairs.shown_forms import refuse_without_words
from distill.pairs.writing import PACKED, output_kind, save_pairs

FORMS = ("messages", "sharegpt", "parquet", "hub")
# ShareGPT's words for who speaks; some roles have the word of another
_FROM = {
    "user": "human", "assistant": "gpt", "system": "system", "tool": "observation", "function": "observation", "ipython": "observation",
    "developer": "system",
}  # fmt: skip
_TOKENS = ("prompt_ids", "completion_ids", "teacher_prompt_ids", "loss_mask", "token_source", "top_logprobs")
_SAID = ("prompt", "completion", "message")
# names that whoever reads the file takes for a part of the conversation, as this package does, too
_TAKEN = (*CONVERSATIONS, *SYSTEM, "functions")
_NOTES = {
    "tokens": "token ids are left out: whoever trains on {count} rows makes their own from the messages, with their own template",
    "own tokens": "token_source of {count} rows is left out: it said that their ids are what the teacher emitted, and those made anew are not",
    "top_logprobs": "top_logprobs of {count} rows are left out: they are of the tokens that are left out",
    "plain": "{count} prompts are plain text, which was continued and not asked; here each is a user's turn",
    "cut": "{count} completions were cut at the limit; `finish_reason` says which, and a tool that does not look at it teaches them as whole",
    "earlier": "{count} earlier turns of the assistant carry no loss in these pairs and are marked with weight 0; a tool that does not know the mark may train on them",
    "opened": "{count} completions began inside a trace that the prompt had opened; <think> stands before them now",
}
_FIELD = "{field} of {count} turns have no place in this form and are left out"
_CALL_FIELD = "{field} of {count} calls have no place in this form and are left out"
_ROLE = "{count} turns of the role {field} stand as {known}, which this form has for them"
_UNKNOWN_ROLE = "{count} turns are of the role {field}, which this form has no word for; it stands as it is"
_OBJECT = "{count} contents of the role {field} are objects; their JSON stands here as text"
_SHOWN = (
    "what only the teacher was shown goes along in {count} rows (teacher_prompt), a system text, say; take the columns teacher_prompt and "
    "teacher_prompt_ids away if not everybody may read it"
)
_RENAMED = "the column {field} stands as {known}, because {field} is taken for a part of the conversation"
_AS_TEXT = "values of the column {field} in {count} rows are no JSON ({known}); their text stands here"


class _Notes:
    """What a form has no place for, counted."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self._more: Counter[tuple[str, str, str]] = Counter()

    def add(self, note: str, field: str, known: str = "") -> None:
        self._more[note, field, known] += 1

    def said(self) -> list[str]:
        found = [_NOTES[name].format(count=self.rows[name]) for name in _NOTES if self.rows[name]]
        more = self._more.items()
        return [*found, *(note.format(field=field, known=known, count=n) for (note, field, known), n in more)]


def export_pairs(
    pairs: datasets.Dataset, form: str, output: str | os.PathLike[str], *, private: bool = True
) -> list[str]:
    """Write pairs in another tool's form; replaces nothing that exists.

    Ids and the user's own columns go along. Parquet and the Hub take pairs as they are, with their tokens. In the others an earlier turn of
    the assistant has `weight: 0`, because a pair trains on its completion alone.

    Args:
        pairs: see `distill.pairs.columns`.
        form: `"messages"` (`{"id", "messages": [{"role", "content"}]}`), `"sharegpt"` (`{"id", "conversations": [{"from", "value"}]}`),
            `"parquet"`, or `"hub"`.
        output: the file; for the Hub, the dataset's id there (`you/name`).
        private: on the Hub, for nobody but its owner.

    Returns:
        What the form has no place for, in sentences, and that what only the teacher was shown goes along; none where there is nothing to say. For
        the Hub this is said before anything is uploaded.

    Raises:
        ValueError: no such form, a path that exists or is of another format; pairs whose completion has several turns, which stand
            there as one text; pairs that say in tokens alone what the teacher was shown; a number that JSON has not.

    Example:
        >>> export_pairs(pairs, "messages", "messages.jsonl")
    """
    if form not in FORMS:
        raise ValueError(f"to is {form!r}; it must be one of {', '.join(FORMS)}.")
    if form == "hub":
        if os.fspath(output).count("/") != 1:
            raise ValueError(f"{output} is no id of a dataset on the Hub; give one such as you/name.")
        _check_visibility(os.fspath(output), private)
        for note in _shown(pairs):  # before they are there, because afterwards is late
            say(f"Note: {note}.")
        pairs.push_to_hub(os.fspath(output), private=private)
        return []
    wanted = "Parquet" if form == "parquet" else "JSON Lines"
    if output_kind(output) != wanted:
        raise ValueError(
            f"{output}: {form} is written as {'.parquet' if form == 'parquet' else '.jsonl'}; give such a name."
        )
    if form == "parquet":
        save_pairs(pairs, output)
        return _shown(pairs)
    return [*_write_talks(pairs, form, Path(output)), *_shown(pairs)]


def _check_visibility(name: str, private: bool) -> None:
    """Refuse a repository that is there already and seen by others than was said: uploading leaves it as it is, and says nothing.

    Raises:
        ValueError: it is public, and the pairs shall be private; or the other way round.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        is_private = bool(HfApi().repo_info(name, repo_type="dataset").private)
    except RepositoryNotFoundError:
        return
    if is_private is not private:
        is_now, said, flag = ("private", "public", "--private") if is_private else ("public", "private", "--no_private")
        raise ValueError(
            f"The dataset {name} on the Hub is {is_now}, and these pairs would be {said}. Give {flag} if {is_now} is right, or another name."
        )


def _shown(pairs: datasets.Dataset) -> list[str]:
    columns = [name for name in TEACHER_PROMPT if name in pairs.column_names]
    count = max(
        (len(pairs) - table.null_count for table in pairs.select_columns(columns).with_format("arrow")[:].columns),
        default=0,
    )
    return [_SHOWN.format(count=count)] if count else []


def _write_talks(pairs: datasets.Dataset, form: str, target: Path) -> list[str]:
    if target.exists():
        raise ValueError(f"{target} exists already; give a new path, or remove it first.")
    notes = _Notes()
    names = _new_names(pairs.column_names, notes)
    part = target.with_name(target.name + ".part")
    try:
        with _opened(part, target.suffix) as file:
            for row in _rows(pairs):
                talk = _talk(row, notes)
                said = {"messages": talk} if form == "messages" else {"conversations": _as_sharegpt(talk, notes)}
                file.write(_line({"id": row["id"], **said, **_others(row, names)}, notes))
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    os.replace(part, target)
    notes.rows["tokens"] = len(pairs)
    return notes.said()


def _new_names(columns: list[str], notes: _Notes) -> dict[str, str]:
    """Names for the user's own columns that would be taken for something else."""
    names: dict[str, str] = {}
    for name in columns:
        if name in _TAKEN and name not in COLUMNS:
            new = f"own_{name}"
            while new in columns or new in names.values():
                new = f"own_{new}"
            names[name] = new
            notes.add(_RENAMED, name, new)
    return names


def _line(row: dict[str, Any], notes: _Notes) -> bytes:
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError):
        text = json.dumps({name: _as_json(name, value, notes) for name, value in row.items()}, ensure_ascii=False)
    return (text + "\n").encode()


def _as_json(name: str, value: Any, notes: _Notes) -> Any:
    """A value as JSON has it.

    Raises:
        ValueError: NaN or Infinity; names the column.
    """
    kinds: dict[str, None] = {}

    def text_of(one: Any) -> str:
        kinds[type(one).__name__] = None
        return str(one)

    try:
        made = json.loads(json.dumps(value, ensure_ascii=False, allow_nan=False, default=text_of))
    except ValueError:
        raise ValueError(
            f"The column {name} has NaN or Infinity, which JSON has not; export to .parquet, or make them null."
        ) from None
    if kinds:
        notes.add(_AS_TEXT, name, " and ".join(kinds))
    return made


def _opened(path: Path, suffix: str) -> Any:
    opener: Callable[[Path], Any] = PACKED.get(suffix.lower(), lambda path: path.open("wb"))
    return opener(path)


def _rows(pairs: datasets.Dataset) -> Iterator[dict[str, Any]]:
    for table in pairs.with_format("arrow").iter(BLOCK_ROWS):
        yield from rows_of_table(table)


def _talk(row: dict[str, Any], notes: _Notes) -> list[dict[str, Any]]:
    """The whole conversation of a pair."""
    refuse_without_words(row, "this form has no tokens")
    mask = row.get("loss_mask")
    if mask is not None and 0 in mask:
        raise ValueError(
            f"Pair {row['id']} has several turns in its completion, of which some carry no loss; they stand there as one text, so they "
            "cannot be told apart. Export the conversations they were made from, or load those with turns='each'."
        )
    prompt = row["prompt"]
    if isinstance(prompt, str):
        notes.rows["plain"] += 1
        prompt = [{"role": "user", "content": prompt}]
    earlier = [i for i, message in enumerate(prompt) if message["role"] == "assistant"]
    if earlier:  # whether the file that the pair is of marked them or not: a pair trains on its completion alone
        notes.rows["earlier"] += len(earlier)
        prompt = [{**message, "weight": 0} if i in earlier else message for i, message in enumerate(prompt)]
    notes.rows["own tokens"] += row.get("token_source") == "teacher"
    notes.rows["top_logprobs"] += row.get("top_logprobs") is not None
    notes.rows["cut"] += row["finish_reason"] == "length"
    if row.get("message"):
        return [*prompt, json.loads(row["message"])]
    said = row["completion"]
    if "</think>" in said and "<think>" not in said.partition("</think>")[0]:
        notes.rows["opened"] += 1
        said = f"<think>\n{said}"
    return [*prompt, {"role": "assistant", "content": said}]


def _others(row: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name not in (*_TOKENS, *_SAID, "id")}
    for name in ("tools", "chat_template_kwargs"):
        if isinstance(kept.get(name), str):
            kept[name] = json.loads(kept[name])
    kept = {name: value for name, value in kept.items() if value is not None or name not in (*COLUMNS, *OPTIONAL)}
    return {names.get(name, name): value for name, value in kept.items()}


def _as_sharegpt(talk: list[dict[str, Any]], notes: _Notes) -> list[dict[str, Any]]:
    """Turns with `from` and `value`; words and the calls behind them are two of them, which `load_pairs` reads as one."""
    turns: list[dict[str, Any]] = []
    for message in talk:
        role, content, calls = message["role"], message.get("content"), message.get("tool_calls")
        for field, value in message.items():
            if field not in ("role", "content", "tool_calls", "weight") and value is not None:
                notes.add(_FIELD, field)
        known = _FROM.get(role)
        if known is None:
            notes.add(_UNKNOWN_ROLE, role)
        elif role not in ("user", "assistant", "system", "tool"):
            notes.add(_ROLE, role, known)
        if content is not None and not isinstance(content, str):
            notes.add(_OBJECT, role)
            content = json.dumps(content, ensure_ascii=False, allow_nan=False)
        mark = {"weight": message["weight"]} if "weight" in message else {}
        if content or not calls:
            turns.append({"from": known or role, "value": content or "", **mark})
        if calls:
            listed = [_bare(call, notes) for call in calls]
            value = listed[0] if len(listed) == 1 else listed
            turns.append({"from": "function_call", "value": json.dumps(value, ensure_ascii=False), **mark})
    return turns


def _bare(call: dict[str, Any], notes: _Notes) -> Any:
    """A call's name and arguments."""
    if "function" not in call:
        return call
    for field, value in call.items():
        if field != "function" and value is not None and (field, value) != ("type", "function"):
            notes.add(_CALL_FIELD, field)
    return call["function"]
