"""Where rows come from: a file, a folder of files, a dataset that `datasets` saved, or one on the Hub."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from distill.basics.processes import say
from distill.pairs.aside import is_set_aside
from distill.pairs.blocks import Block
from distill.pairs.cells import cells_of
from distill.pairs.formats import blocks_of
from distill.pairs.kinds import DATA_SUFFIXES, PACKED_SUFFIXES, kind_of

# what lies beside rows and is none: of any file, under the names of earlier versions (`pairs.prompts.jsonl` of `pairs.jsonl`)
_BESIDE = (".settings.json", ".steps.json", ".coverage.json")
_EARLIER = ".prompts.jsonl"
_OF_BAD_ROWS = ".bad.jsonl"  # of a folder, too; and in a run's folder, of rows that lie elsewhere
_BESIDE_NAMES = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "run.json")
_UNSAID = (".lock", ".part")  # of a run that writes here, or was killed
# a notes.txt is no prompts; of YAML, a folder has settings
_IN_FOLDERS = tuple(suffix for suffix in DATA_SUFFIXES if suffix not in (".txt", ".text", ".yaml", ".yml"))
SAVED = "a saved dataset"
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
    """

    name: str
    kind: str
    read: Callable[[], Iterator[Block]]
    path: Path | None = None


def find_parts(
    source: str | os.PathLike[str],
    split: str | None = None,
    *,
    usual: str = "train",
    most: int | None = None,
    columns: Collection[str] = (),
) -> list[Part]:
    """The files or the split that a name stands for.

    Args:
        source: a file (packed or not); a folder of files, or one that `save_to_disk` wrote; else the id of a dataset on the Hub,
            which a configuration and a split may follow: `openai/gsm8k:main:test`.
        split: which one, where there are several. In a folder of files, it is told by their names, as the Hub does.
        usual: the split that is taken where several are there and none is asked for.
        most: rows that will be read at most; from the Hub, no more are fetched.
        columns: that are taken for something (`columns=` of `load_pairs`): what makes the only object of a file a row.

    Raises:
        ValueError: nothing of that name, no such split, or several and none asked for.
    """
    path = Path(source)
    if path.is_file():
        return [_file(path, columns)]
    if path.is_dir():
        return _folder(path, split, usual, columns)
    name, *rest = str(source).split(":")
    if _HUB.fullmatch(name) and len(rest) <= 2 and not name.lower().endswith(DATA_SUFFIXES):
        config, named = (*rest, "", "")[:2]
        return [_on_the_hub(name, config or None, named or split, usual, most)]
    raise ValueError(f"No file {source}.")


def rows_in(
    source: str | os.PathLike[str], split: str | None = None, columns: Collection[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """`(where, row)` of all rows that a name stands for, whatever they say; see `find_parts`.

    Raises:
        ValueError: as `find_parts`; a bad row (file and line are named).
    """
    for part in find_parts(source, split, columns=columns):
        cells = cells_of(part.kind)
        for block in part.read():
            for where, row in block.rows():
                if isinstance(row, ValueError):
                    raise row
                yield where, cells(row) if cells else row


def _file(path: Path, columns: Collection[str]) -> Part:
    kind = kind_of(path, columns)
    return Part(str(path), kind, lambda: blocks_of(path, kind, tuple(columns)), path)


def _folder(path: Path, split: str | None, usual: str, columns: Collection[str]) -> list[Part]:
    if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        return [_saved(path, split)]
    if (path / "dataset_dict.json").is_file():
        splits = sorted(folder.name for folder in path.iterdir() if (folder / "state.json").is_file())
        chosen = _chosen(splits, split, usual, str(path))
        _say_passed_over(path, chosen, [f"the split {name}" for name in splits if name != chosen])
        return [_saved(path / chosen, None)]
    there = [file for file in sorted(path.rglob("*")) if file.is_file() and not _is_hidden(file.relative_to(path))]
    files = [file for file in there if _holds_rows(file.name) and not _is_beside(file)]
    others = [str(file.relative_to(path)) for file in there if file not in files]
    by_split: dict[str, list[Path]] = {}
    for file in files:
        found = _SPLIT.findall(str(file.relative_to(path)))
        by_split.setdefault(_SPLITS[found[-1].lower()] if found else "", []).append(file)
    if not files:
        listed = (
            f"; it has {_some(others)}, which a folder's rows are not read from: name the file itself" if others else ""
        )
        raise ValueError(
            f"{path} is a folder without pairs or other rows; expected files ({', '.join(_IN_FOLDERS)}), or what save_pairs or "
            f"save_to_disk wrote{listed}."
        )
    alone = split is None and len(by_split) == 1
    chosen = next(iter(by_split)) if alone else _chosen(list(by_split), split, usual, str(path))
    taken = by_split.pop(chosen)
    unsplit = [str(file.relative_to(path)) for file in by_split.pop("", ())]
    _say_passed_over(path, chosen, [*(f"the split {name}" for name in by_split), *unsplit, *others])
    return [_file(file, columns) for file in taken]


def _say_passed_over(path: Path, split: str, others: Sequence[str]) -> None:
    if others:
        said = f"the split {split} is read" if split else "its files of rows are read"
        say(f"{path}: {said}. Passed over: {_some(others)}.")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _is_hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts) or name.name.endswith(_UNSAID)


def _is_beside(file: Path) -> bool:
    """Whether a file belongs to one that lies beside it: its name is that one's whole name with something behind it."""
    text = file.name.lower()
    if text.endswith(_BESIDE) or text in _BESIDE_NAMES:
        return True
    if text.endswith(_EARLIER) and file.with_name(f"{file.name[: -len(_EARLIER)]}.jsonl").is_file():
        return True
    parts = file.name.split(".")
    owners = [
        ".".join(parts[:i]) for i in range(1, len(parts) - 1)
    ]  # its own ending, or a packed copy's, is nobody else's
    return any(_holds_rows(name) and file.with_name(name).is_file() for name in owners) or (
        text.endswith(_OF_BAD_ROWS) and (file.with_name(file.name[: -len(_OF_BAD_ROWS)]).is_dir() or is_set_aside(file))
    )


def _holds_rows(name: str) -> bool:
    text = name.lower()
    stem = text.rpartition(".")[0] if text.endswith(PACKED_SUFFIXES) else text
    return stem.endswith(_IN_FOLDERS)


def _saved(path: Path, split: str | None) -> Part:
    if split is not None:
        raise ValueError(f"{path} is one dataset without splits; leave out the split {split!r}.")
    rows = datasets.load_from_disk(str(path))
    return Part(str(path), SAVED, lambda: _blocks(rows, str(path)))


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
    return Part(said, "from the Hub", lambda: _blocks(rows, said))


def _blocks(rows: Any, name: str) -> Iterator[Block]:
    number = 1
    tables: Iterable[Any] = rows.with_format("arrow").iter(10_000)
    for table in tables:
        yield Block(name, number, table=table)
        number += table.num_rows
