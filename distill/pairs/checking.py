"""Checks of pairs: one row, where the fault is to be named; and a whole table at once, where there is none."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.basics.fingerprint import fingerprint
from distill.pairs.columns import COLUMNS, FINISH_REASONS, JSON_TEXTS, OPTIONAL, TOKEN_SOURCES, features
from distill.pairs.shown_forms import check_shown_forms
from distill.pairs.tables import PLAIN_MESSAGES, ordered
from distill.text.ends import read_end

IDS = pa.list_(pa.int32())
_LARGEST = 3e38  # finite also as the 32-bit float that log-probabilities are kept as
_TOP = features(False, OPTIONAL).arrow_schema.field("top_logprobs").type


def checked_row(row: dict[str, Any], where: str) -> dict[str, Any]:
    """A row that has a prompt, a completion and their ids, with all columns; a null is as good as none.

    Raises:
        ValueError: a value of another kind or size than `distill.pairs.columns` says; begins with `where`.
    """
    row = {name: value for name, value in row.items() if value is not None or name not in (*COLUMNS, *OPTIONAL)}
    prompt_ids, completion_ids = row.get("prompt_ids"), row.get("completion_ids")
    said = row.get("finish_reason") or "stop"  # an empty one is none, as beside a text
    finish_reason = read_end(said) if isinstance(said, str) else None
    if finish_reason is None:
        raise ValueError(f"{where}: finish_reason is {said!r:.60}, expected one of {FINISH_REASONS}.")
    for name, ids in (("prompt_ids", prompt_ids), ("completion_ids", completion_ids)):
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
            raise ValueError(f"{where}: {name} must be a list of non-negative integers, not {str(ids)[:60]}.")
    assert isinstance(completion_ids, list), "looked at above"
    if not completion_ids:
        raise ValueError(f"{where}: no completion token, so there is nothing to learn from this pair; remove it.")
    sample, teacher = row.get("sample", 0), row.get("teacher", "unknown")
    if type(sample) is not int or not 0 <= sample < 2**31 or not isinstance(teacher, str):
        raise ValueError(
            f"{where}: sample must be an integer from 0 and teacher text, not {sample!r:.60} and {teacher!r:.60}."
        )
    key = row.get("id")
    if isinstance(key, bool) or not isinstance(key, str | int | None):
        raise ValueError(f"{where}: id must be text, not {str(key)[:60]}.")
    shown = [row["teacher_prompt_ids"]] if row.get("teacher_prompt_ids") is not None else []
    found = {
        "id": str(key) if key not in (None, "") else fingerprint(prompt_ids, completion_ids, sample, teacher, *shown),
        "prompt": row["prompt"],
        "completion": row["completion"],
        "prompt_ids": prompt_ids,
        "completion_ids": completion_ids,
        "finish_reason": finish_reason,
        "sample": sample,
        "teacher": teacher,
        **_optional_columns(row, where, completion_ids),
    }
    own = {name: value for name, value in row.items() if name not in found and name not in OPTIONAL}
    if bad := [name for name in own if "\0" in name]:
        raise ValueError(f"{where}: a column is called {bad[0]!r:.60}, which Arrow cannot keep; rename it.")
    return {**found, **own}


def _optional_columns(row: dict[str, Any], where: str, completion_ids: list[int]) -> dict[str, Any]:
    found = {name: row[name] for name in OPTIONAL if row.get(name) is not None}
    for name in JSON_TEXTS:
        if name in found and not isinstance(found[name], str):
            found[name] = json.dumps(found[name], ensure_ascii=False)
    check_shown_forms(found, where)
    source, score, error = (found.get(name) for name in ("token_source", "score", "score_error"))
    if source is not None and source not in TOKEN_SOURCES:
        raise ValueError(f"{where}: token_source is {source!r:.60}, expected one of {TOKEN_SOURCES}.")
    if score is not None and not _is_number(score):
        raise ValueError(f"{where}: score must be a finite number, not {score!r:.60}.")
    if error is not None and not isinstance(error, str):
        raise ValueError(f"{where}: score_error must be text, not {error!r:.60}.")
    mask = found.get("loss_mask")
    if mask is not None:
        if not isinstance(mask, list) or not all(type(m) is int and m in (0, 1) for m in mask):
            raise ValueError(f"{where}: loss_mask must be a list of 0 and 1, not {str(mask)[:60]}.")
        if len(mask) != len(completion_ids) or not any(mask):
            raise ValueError(
                f"{where}: loss_mask has {len(mask)} places and {sum(mask)} of them are 1; it needs one for each of the "
                f"{len(completion_ids)} completion tokens, and at least one 1."
            )
    top = found.get("top_logprobs")
    if top is not None and not (isinstance(top, list) and all(_is_top(place) for place in top)):
        raise ValueError(f"{where}: top_logprobs must be a list of {{tokens, logprobs}}, not {str(top)[:60]}.")
    return found if score is None else {**found, "score": float(score)}


def _is_top(place: Any) -> bool:
    return (
        isinstance(place, dict)
        and place.keys() == {"tokens", "logprobs"}
        and all(isinstance(value, list) for value in place.values())
        and len(place["tokens"]) == len(place["logprobs"])
        and all(isinstance(token, str) for token in place["tokens"])
        and all(map(_is_number, place["logprobs"]))
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def checked_table(table: pa.Table) -> pa.Table | None:
    """What `checked_row` makes of every row, if it refuses none of them; else None, and the rows are to be looked at singly."""
    if not {"prompt", "completion", "prompt_ids", "completion_ids"} <= set(table.column_names):
        return None
    found = {name: _one_chunk(table[name]) for name in table.column_names}
    try:
        found = {
            name: column
            for name in ordered({*found, *COLUMNS})
            if (column := _checked(name, found, table.num_rows)) is not None
        }
    except (_Bad, pa.ArrowException):
        return None
    return pa.table(found)


class _Bad(Exception):
    """A row of this table is not as it should be."""


def _need(good: bool) -> None:
    if not good:
        raise _Bad


def _checked(name: str, found: dict[str, Any], rows: int) -> Any:
    """A column as pairs have it, or None where nothing fills it."""
    column: Any = found.get(name)
    if column is not None and pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if name in OPTIONAL and (column is None or column.null_count == rows):
        return None
    match name:
        case "id":
            return _ids(column, found, rows)
        case "prompt":
            return _prompt(column)
        case "completion":
            return _text(column)
        case "teacher_prompt":
            _need("teacher_prompt_ids" in found and _none_without(column, found["teacher_prompt_ids"]))
            if not _is_text(column.type):
                return _prompt(column, nulls=True)
            _need(not pc.any(pc.equal(column, ""), min_count=0).as_py())
            return column.cast(pa.string())
        case "teacher_prompt_ids":
            return _token_ids(column, least=1, nulls=True)
        case "prompt_ids" | "completion_ids":
            return _token_ids(column, least=int(name == "completion_ids"))
        case "finish_reason":
            return _one_of(_filled(column, "stop", rows), FINISH_REASONS)
        case "sample":
            return _whole_numbers(_filled(column, 0, rows))
        case "teacher":
            return _text(_filled(column, "unknown", rows))
        case "token_source":
            return _one_of(column, TOKEN_SOURCES)
        case "score":
            return _numbers(column)
        case "score_error" | "tools" | "chat_template_kwargs" | "message":
            _need(_is_text(column.type))
            return column.cast(pa.string())
        case "loss_mask":
            return _mask(column, found["completion_ids"])
        case "top_logprobs":
            return _top(column)
        case _:
            return column


def _ids(column: Any, found: dict[str, Any], rows: int) -> pa.Array:
    if column is None or pa.types.is_null(column.type):
        column = pa.nulls(rows, pa.string())
    _need(_is_text(column.type) or pa.types.is_integer(column.type))
    column = column.cast(pa.string())
    without = pc.or_kleene(pc.is_null(column), pc.equal(column, ""))
    places = np.flatnonzero(np.asarray(pc.fill_null(without, True)))
    if not len(places):
        return column
    prompts, completions = (
        found["prompt_ids"].take(places).to_pylist(),
        found["completion_ids"].take(places).to_pylist(),
    )
    if "teacher_prompt_ids" in found:
        shown = [([] if ids is None else [ids]) for ids in found["teacher_prompt_ids"].take(places).to_pylist()]
    else:
        shown = [[]] * len(places)
    samples = _filled(found.get("sample"), 0, rows).take(places).to_pylist()
    teachers = _filled(found.get("teacher"), "unknown", rows).take(places).to_pylist()
    values = column.to_pylist()
    for place, *parts, more in zip(places.tolist(), prompts, completions, samples, teachers, shown, strict=True):
        values[place] = fingerprint(*parts, *more)
    return pa.array(values, pa.string())


def _none_without(one: Any, other: Any) -> bool:
    """Whether the other has a value wherever the one has."""
    return not pc.any(pc.and_(pc.is_valid(one), pc.is_null(other)), min_count=0).as_py()


def _prompt(column: Any, nulls: bool = False) -> pa.Array:
    if _is_text(column.type):
        return _text(column)
    # messages that say more than who and what are looked at singly
    _need(
        column.type == PLAIN_MESSAGES
        and (nulls or column.null_count == 0)
        and (pc.min(pc.list_value_length(column)).as_py() or 0) > 0
    )
    turns = pc.list_flatten(column)
    _need(turns.null_count == 0 and all(pc.struct_field(turns, field).null_count == 0 for field in ("role", "content")))
    return column


def _text(column: Any) -> pa.Array:
    _need(_is_text(column.type) and column.null_count == 0)
    return column.cast(pa.string())


def _token_ids(column: Any, least: int, nulls: bool = False) -> pa.Array:
    _need(_is_list(column.type) and (nulls or column.null_count == 0))
    flat = pc.list_flatten(column)
    _need(pa.types.is_integer(flat.type) or len(flat) == 0)
    _need(flat.null_count == 0 and (pc.min(pc.list_value_length(column)).as_py() or 0) >= least)
    if len(flat):
        ends = pc.min_max(flat).as_py()
        _need(ends["min"] >= 0 and ends["max"] < 2**31)
    return column.cast(IDS)


def _mask(column: Any, completions: Any) -> pa.Array:
    _need(_is_list(column.type))
    flat = pc.list_flatten(column)
    _need(pa.types.is_integer(flat.type) and flat.null_count == 0 and bool(np.isin(np.asarray(flat), (0, 1)).all()))
    there = np.asarray(pc.is_valid(column))
    sizes = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    _need(bool((sizes == np.asarray(pc.list_value_length(completions)))[there].all()))
    rows = np.repeat(np.arange(len(sizes)), sizes)
    _need(bool((np.bincount(rows[np.asarray(flat) == 1], minlength=len(sizes)) > 0)[there].all()))
    return column.cast(pa.list_(pa.int8()))


def _top(column: Any) -> pa.Array:
    places = pc.list_flatten(column)
    _need(
        pa.types.is_struct(places.type)
        and {f.name for f in places.type} == {"tokens", "logprobs"}
        and places.null_count == 0
    )
    tokens, logprobs = (pc.struct_field(places, name) for name in ("tokens", "logprobs"))
    _need(tokens.null_count == 0 and logprobs.null_count == 0)
    _need(bool(pc.all(pc.equal(pc.list_value_length(tokens), pc.list_value_length(logprobs)), min_count=0).as_py()))
    words, numbers = pc.list_flatten(tokens), pc.list_flatten(logprobs)
    _need(words.null_count == 0 and (_is_text(words.type) or len(words) == 0))
    _numbers(numbers)
    _need(numbers.null_count == 0)
    return column.cast(_TOP)


def _numbers(column: Any) -> pa.Array:
    _need(pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or len(column) == 0)
    values = np.asarray(pc.drop_null(column), dtype=np.float64)
    _need(bool((np.abs(values) < _LARGEST).all()))  # not so for NaN
    return column.cast(pa.float64())


def _whole_numbers(column: Any) -> pa.Array:
    _need(pa.types.is_integer(column.type))
    ends = pc.min_max(column).as_py()
    _need(ends["min"] is None or (ends["min"] >= 0 and ends["max"] < 2**31))
    return column.cast(pa.int32())


def _one_of(column: Any, allowed: tuple[str, ...]) -> pa.Array:
    _need(_is_text(column.type))
    column = column.cast(pa.string())
    _need(bool(pc.all(pc.is_in(pc.drop_null(column), pa.array(allowed)), min_count=0).as_py()))
    return column


def _filled(column: Any, value: Any, rows: int) -> Any:
    if column is None or pa.types.is_null(column.type):
        return pa.repeat(pa.scalar(value), rows)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return pc.fill_null(column, value)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return found if isinstance(found, pa.Array) else found.chunk(0)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)
