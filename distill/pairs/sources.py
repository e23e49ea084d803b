"""Where rows come from: a file, a folder of files, a dataset that `datasets` saved, or one on the Hub."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from distill.pairs.blocks import Block
from distill.pairs.formats import DATA_SUFFIXES, blocks_of, kind_of

# what lies beside pairs and is no pairs
_BESIDE = (".settings.json", ".steps.json", ".refused.jsonl", ".prompts.jsonl", ".bad.jsonl")
_BESIDE_NAMES = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "run.json")
_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"}  # fmt: skip
_SPLIT = re.compile(rf"(?:^|[-_./])({'|'.join(_SPLITS)})(?=[-_./]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """One file, or one split of a dataset: what has a shape of its own.

    Args:
        name: for people.
        kind: its format, e.g. `"JSON Lines"`.
        read: gives its rows in blocks.
        path: the file, where it is one.
        filled: its types are those of a table, which has every key of a message in all messages, null where there was none.
    """

    name: str
    kind: str
    read: Callable[[], Iterator[Block]]
    path: Path | None = None
    filled: bool = False


def find_parts(
    source: str | os.PathLike[str], split: str | None = None, *, usual: str = "train", most: int | None = None
) -> list[Part]:
    """The files or the split that a name stands for.

    Args:
        source: a file (packed or not); a folder of files, or one that `save_to_disk` wrote; else the id of a dataset on the Hub,
            which a configuration and a split may follow: `openai/gsm8k:main:test`.
        split: which one, where there are several. In a folder of files, it is told by their names, as the Hub does.
        usual: the split that is taken where several are there and none is asked for.
        most: rows that will be read at most; from the Hub, no more are fetched.

    Raises:
        ValueError: nothing of that name, no such split, or several and none asked for.
    """
    path = Path(source)
    if path.is_file():
        return [_file(path)]
    if path.is_dir():
        return _folder(path, split, usual)
    name, *rest = str(source).split(":")
    if _HUB.fullmatch(name) and len(rest) <= 2 and not name.lower().endswith(DATA_SUFFIXES):
        config, named = (*rest, "", "")[:2]
        return [_on_the_hub(name, config or None, named or split, usual, most)]
    raise ValueError(f"No file {source}.")


def _file(path: Path) -> Part:
    kind = kind_of(path)
    return Part(str(path), kind, lambda: blocks_of(path, kind), path, filled=kind in ("Parquet", "Arrow"))


def _folder(path: Path, split: str | None, usual: str) -> list[Part]:
    if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        return [_saved(path, split)]
    if (path / "dataset_dict.json").is_file():
        splits = sorted(folder.name for folder in path.iterdir() if (folder / "state.json").is_file())
        return [_saved(path / _chosen(splits, split, usual, str(path)), None)]
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and _holds_rows(file.relative_to(path))]
    by_split: dict[str, list[Path]] = {}
    for file in files:
        found = _SPLIT.findall(str(file.relative_to(path)))
        by_split.setdefault(_SPLITS[found[-1].lower()] if found else "", []).append(file)
    if not files:
        raise ValueError(
            f"{path} is a folder without pairs or other rows; expected files ({', '.join(DATA_SUFFIXES)}), or what save_pairs or "
            "save_to_disk wrote."
        )
    if split is None and len(by_split) == 1:
        return [_file(file) for file in files]
    return [_file(file) for file in by_split[_chosen(list(by_split), split, usual, str(path))]]


def _holds_rows(name: Path) -> bool:
    text = name.name.lower()
    if any(part.startswith(".") for part in name.parts) or text.endswith(_BESIDE) or text in _BESIDE_NAMES:
        return False
    stem = text.rpartition(".")[0] if text.endswith((".gz", ".bz2", ".xz", ".zst")) else text
    # a README.txt or a licence is no prompts; of YAML, a folder has settings
    return stem.endswith(tuple(s for s in DATA_SUFFIXES if s not in (".txt", ".text", ".yaml", ".yml")))


def _saved(path: Path, split: str | None) -> Part:
    if split is not None:
        raise ValueError(f"{path} is one dataset without splits; leave out the split {split!r}.")
    rows = datasets.load_from_disk(str(path))
    return Part(str(path), "a saved dataset", lambda: _blocks(rows, str(path)), filled=True)


def _chosen(there: list[str], split: str | None, usual: str, where: str) -> str:
    wanted = _SPLITS.get(split.lower(), split) if split is not None else there[0] if len(there) == 1 else usual
    for name in (split, wanted):
        if name in there:
            return str(name)
    listed = ", ".join(name or "(none)" for name in there)
    raise ValueError(
        f"{where} has the splits {listed}" + (f", but no {split!r}." if split else "; name one with split.")
    )


def _on_the_hub(name: str, config: str | None, split: str | None, usual: str, most: int | None) -> Part:
    try:
        if split is None:
            splits = datasets.get_dataset_split_names(name, config)
            split = _chosen(splits, None, usual, name)
        rows = datasets.load_dataset(name, config, split=split, streaming=most is not None)
    except (
        Exception
    ) as error:  # no file here, no connection, no such dataset, several configurations: all are told in one sentence
        raise ValueError(
            f"No file {name}, and no dataset of that name could be had from the Hub: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from None
    said = ":".join(part for part in (name, config or "", split))
    return Part(said, "from the Hub", lambda: _blocks(rows, said), filled=True)


def _blocks(rows: Any, name: str) -> Iterator[Block]:
    number = 1
    tables: Iterable[Any] = rows.with_format("arrow").iter(10_000)
    for table in tables:
        yield Block(name, number, table=table)
        number += table.num_rows
