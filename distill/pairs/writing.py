"""Writing pairs: JSON Lines (plain or packed), Parquet, or the Arrow folder of `datasets`; many rows at a time."""

import gzip
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from distill.pairs.kinds import DATA_SUFFIXES
from distill.pairs.tables import ANY_MESSAGES, JSON

FOLDER, LINES, PARQUET = "a folder", "JSON Lines", "Parquet"
PACKED: dict[str, Callable[[Path], Any]] = {
    ".gz": partial(gzip.open, mode="wb"),
    ".zst": lambda path: pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd"),
}
_TOGETHER = 1000


def save_pairs(pairs: datasets.Dataset, path: str | os.PathLike[str]) -> None:
    """Write pairs, all their columns; replaces nothing that exists.

    Args:
        pairs: any dataset.
        path: `.jsonl` (also `.jsonl.gz`, `.jsonl.zst`), `.parquet`, or a name without a format's ending: an Arrow folder.

    Raises:
        ValueError: the path exists already, or its ending is that of a format that is not written; a number that JSON has not.
    """
    target, kind = Path(path), output_kind(path)
    if target.exists():
        raise ValueError(f"{target} exists already; give a new path, or remove it first.")
    if kind == FOLDER:
        pairs.save_to_disk(str(target))
        return
    part = target.with_name(target.name + ".part")
    if kind == PARQUET:
        pairs.to_parquet(str(part))
    else:
        with PACKED.get(target.suffix.lower(), lambda path: path.open("wb"))(part) as file:
            for table in pairs.with_format("arrow").iter(_TOGETHER):
                file.write("".join(f"{line}\n" for line in json_lines(table)).encode("utf-8"))
    os.replace(part, target)


def output_kind(path: str | os.PathLike[str]) -> str:
    """In which form `save_pairs` writes a path.

    Raises:
        ValueError: the name is that of a format that is not written, and a folder of that name would mislead.
    """
    name = Path(path).name.lower()
    packed = next((suffix for suffix in (".gz", ".bz2", ".xz", ".zst") if name.endswith(suffix)), "")
    bare = name.removesuffix(packed)
    if bare.endswith((".jsonl", ".ndjson")) and (not packed or packed in PACKED):
        return LINES
    if bare.endswith(".parquet") and not packed:
        return PARQUET
    if packed or bare.endswith(DATA_SUFFIXES):
        raise ValueError(
            f"{path}: pairs are written as .jsonl (or .jsonl.gz, .jsonl.zst), as .parquet, or as an Arrow folder, whose name has no such "
            "ending."
        )
    return FOLDER


def json_lines(table: pa.Table) -> Iterator[str]:
    """Each row as a JSON object, as `json.dumps(row, ensure_ascii=False)` would write it.

    Raises:
        ValueError: NaN or Infinity.
    """
    names = [f"{encode_basestring(name)}: " for name in table.column_names]
    columns = [_as_json(name, table[name].combine_chunks()) for name in table.column_names]
    for row in zip(*columns, strict=True):
        yield "{" + ", ".join(map(str.__add__, names, row)) + "}"


def _as_json(name: str, column: Any) -> list[str]:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return ["null" if value is None else encode_basestring(value) for value in column.to_pylist()]
    if pa.types.is_list(kind) and pa.types.is_integer(kind.value_type):
        # Arrow writes the numbers and joins them: an id a time in Python would be most of the work
        texts = pc.binary_join(column.cast(pa.list_(pa.string())), ", ").to_pylist()
        return ["null" if text is None else f"[{text}]" for text in texts]
    try:
        if kind == JSON:
            return list(map(_stored, column.to_pylist()))
        if kind == ANY_MESSAGES:
            return ["null" if value is None else f"[{', '.join(map(_stored, value))}]" for value in column.to_pylist()]
        return [json.dumps(value, ensure_ascii=False, allow_nan=False, default=str) for value in column.to_pylist()]
    except ValueError:
        raise ValueError(
            f"The column {name} has NaN or Infinity, which JSON has not; write .parquet, or make them null."
        ) from None


def _stored(text: str | None) -> str:
    """JSON that is stored as its text; a table's NaN may be in it, by the name that Python gives it."""
    if text is not None and ("NaN" in text or "Infinity" in text):
        json.loads(text, parse_constant=_refuse)
    return "null" if text is None else text


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
