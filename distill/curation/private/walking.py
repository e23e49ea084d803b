"""All texts of a row: whatever is trained on or shown, however deep it stands."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import datasets
import pyarrow as pa

from distill.pairs.columns import JSON_TEXTS

# columns that this package fills with words of its own or with numbers; what is under `top_logprobs` are pieces of tokens
NO_TEXTS = frozenset((
    "prompt_ids", "completion_ids", "teacher_prompt_ids", "loss_mask", "finish_reason", "sample", "teacher", "token_source", "score",
    "top_logprobs",
))  # fmt: skip
_FEWEST = 7  # digits of a number in an object that may be one of a phone
Swap = Callable[[str, str], str]  # (a text, what it stands under) -> the text that takes its place


def text_columns(pairs: datasets.Dataset) -> list[str]:
    """The columns that may have texts in them, the user's own among them."""
    schema = pairs.features.arrow_schema
    return [name for name in pairs.column_names if name not in NO_TEXTS and _may_say(schema.field(name).type)]


def walk_row(row: Mapping[str, Any], columns: list[str], swap: Swap) -> dict[str, Any]:
    """The columns of a row with `swap` done to every text in them: contents, names and arguments of calls, keys of objects."""
    return {name: _walk_column(name, row[name], swap) for name in columns}


def _walk_column(name: str, value: Any, swap: Swap) -> Any:
    if name in JSON_TEXTS and isinstance(value, str):
        read = json.loads(value)
        made = _walk(read, name, swap)
        return value if made == read else json.dumps(made, ensure_ascii=False)
    return _walk(value, name, swap)


def _walk(value: Any, name: str, swap: Swap) -> Any:
    if isinstance(value, str):
        return swap(value, name)
    if isinstance(value, list):
        return [_walk(one, name, swap) for one in value]
    if isinstance(value, dict):
        return {
            swap(key, "") if isinstance(key, str) else key: _walk(one, str(key), swap) for key, one in value.items()
        }
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10 ** (_FEWEST - 1):
        made = swap(str(value), name)
        return int(made) if made.isdecimal() and made[0] != "0" else value if made == str(value) else made
    return value


def _may_say(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.JsonType):
        return True
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _may_say(kind.value_type)
    if pa.types.is_struct(kind):
        return any(_may_say(kind.field(i).type) for i in range(kind.num_fields))
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
