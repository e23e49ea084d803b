"""Documents: texts with their sources and dates, read from Markdown, text, rows of any format, or a folder of these."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from distill.basics.fingerprint import fingerprint
from distill.basics.processes import tell
from distill.pairs.sources import rows_in
from distill.retrieval.files import NoText, files_in, is_text, suffix_of, text_of
from distill.retrieval.front_matter import front_matter

TEXT_SUFFIXES = ("", ".md", ".markdown", ".mdown", ".mkd", ".qmd", ".rst", ".txt", ".text", ".adoc", ".org")
MARKDOWN = (".md", ".markdown", ".mdown", ".mkd", ".qmd")
# In a folder; a .json or .yaml there is mostly settings, and is read where it is named itself.
ROW_SUFFIXES = (".jsonl", ".ndjson", ".jsonlines", ".csv", ".tsv", ".parquet", ".arrow")
_ROWS_ALONE = (*ROW_SUFFIXES, ".json", ".yaml", ".yml")
# What other tools call these, the first that is there is taken: LangChain, LlamaIndex, Pyserini, BEIR, dumps of web pages.
TEXTS = ("text", "content", "contents", "page_content", "body", "document", "passage")
IDS = ("id", "_id", "doc_id", "docid", "document_id")
SOURCES = ("source", "url", "link", "path", "file", "filename", "file_path", "file_name")
TITLES = ("title", "headline", "subject")
DATES = ("date", "updated", "updated_at", "modified", "last_modified", "published", "created")
_NAMED = 12  # files put aside that are named in the message; all are in `aside`


@dataclass(frozen=True)
class Document:
    """A text with where it is from.

    Args:
        id: tells it from all others; a newer version has the same one.
        text: its words.
        source: a path or an address, shown with each passage.
        title: shown with each passage.
        date: as it is written, shown with each passage.
        columns: whatever else its row or its front matter says.

    Raises:
        ValueError: no id, no words, or a value that is no text.
    """

    id: str
    text: str
    source: str
    title: str = ""
    date: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "text", "source", "title", *(("date",) if self.date is not None else ())):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise ValueError(f"The {name} of a document is {value!r}; it must be a text.")
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError(
                    f"The {name} of the document {self.id!r} holds half of a surrogate pair, which is no Unicode: {value[:40]!r}."
                ) from None
        if not self.id.strip():
            raise ValueError(f"A document from {self.source!r} has no id; a newer version could not replace it.")
        if not self.text.strip():
            raise ValueError(f"The document {self.id!r} has no words.")
        if "\0" in self.text:
            raise ValueError(f"The document {self.id!r} has a NUL in it: it is binary, no text.")

    @cached_property
    def identity(self) -> str:
        """A short hash of all it says; another one, and it is another version."""
        return fingerprint(self.id, self.text, self.source, self.title, self.date, _plain(dict(self.columns)))


class Documents:
    """Documents in their order, each id once.

    Args:
        documents: `Document`s.
        aside: files and rows that gave no document, each with why.

    Raises:
        ValueError: none; something else than a `Document`; an id that stands twice.

    Example:
        >>> documents = Documents.read("docs")  # doctest: +SKIP
        >>> len(Documents([Document("a", "The mill is 200 years old.", "notes.md")]))
        1
    """

    def __init__(self, documents: Iterable[Document], *, aside: Iterable[tuple[str, str]] = ()) -> None:
        if isinstance(documents, str | os.PathLike):
            raise ValueError(
                f"Documents takes Document objects; the file or folder {documents} is read with Documents.read(...)."
            )
        self._documents = tuple(documents)
        self.aside = tuple(aside)
        seen: dict[str, Document] = {}
        for document in self._documents:
            if not isinstance(document, Document):
                raise ValueError(f"Documents takes Document objects, not a {type(document).__name__}.")
            if other := seen.get(document.id):
                raise ValueError(
                    f"Two documents have the id {document.id!r}, from {other.source} and {document.source}; each has its own, "
                    "and of versions of one document only the newest is given."
                )
            seen[document.id] = document
        if not self._documents:
            raise ValueError("There are no documents; give at least one.")

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents)

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> Document:
        return self._documents[index]

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of all documents, whatever their order."""
        return fingerprint(sorted(document.identity for document in self._documents))

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        *,
        text: str | None = None,
        suffixes: Collection[str] = (),
        exclude: Collection[str] = (),
        file_dates: bool = False,
    ) -> "Documents":
        """Read a file, or a folder with all folders in it.

        Markdown and text (`.md`, `.rst`, `.txt`, no suffix, ...) are a document a file, whose id and source are its path
        below the folder; what stands as YAML before Markdown gives title, date and columns. Rows (JSON Lines, CSV, Parquet, ...)
        are a document each, with `text` (or what other tools call it), and `id`, `source`, `title`, `date` where they have
        them; other columns are carried. Files may be packed (`.gz`, `.bz2`, `.xz`, `.zst`).

        Hidden files are passed over. Other files of a folder (binary, of another kind, without words), links to folders and links to
        nothing are put aside, and said; a file that is named itself is refused. An id that stands in several files of a folder becomes
        `path:id` in each, which is said, too.

        Args:
            path: the file or folder.
            text: the column that holds the words of a row.
            suffixes: also read as text, e.g. `[".py"]`.
            exclude: patterns of paths below the folder that are left out, e.g. `["old/*", "*.csv"]`.
            file_dates: a file that says no date has the day it was last written. Off, because a copy or a checkout is written today.

        Raises:
            ValueError: nothing there; no documents in it; a file that cannot be read as text; a bad row, or rows without a
                column of words (file and row are named).
        """
        for name, given in (("suffixes", suffixes), ("exclude", exclude)):
            if isinstance(given, str):  # its letters would be taken for patterns: "*.csv" leaves everything out
                raise ValueError(f"{name} is the text {given!r}; give a list, such as [{given!r}].")
        start = Path(path).expanduser()
        also = {suffix if suffix.startswith(".") else f".{suffix}" for suffix in map(str.lower, suffixes)}
        aside: list[tuple[str, str]] = []
        found: list[Document] = []
        files: list[str] = []  # of each document
        if start.is_dir():
            for file in files_in(start, exclude, aside):
                name = file.relative_to(start).as_posix()
                kind = suffix_of(file)
                if kind not in also and kind not in TEXT_SUFFIXES and kind not in ROW_SUFFIXES:
                    aside.append((name, f"{kind} is not read" if is_text(file) else "binary"))
                    continue
                try:
                    if kind in ROW_SUFFIXES and kind not in also:
                        found += _of_rows(file, name, text, aside)
                    else:
                        found.append(_of_text(file, name, file_dates))
                except NoText as error:
                    aside.append((name, str(error)))
                files += [name] * (len(found) - len(files))
            found = _apart(found, files, start)
            if not found:
                raise ValueError(f"{start} is a folder without documents{_said(aside) or '; it is empty'}.{_way_out()}")
        elif start.is_file():
            kind = suffix_of(start)
            try:
                if kind in _ROWS_ALONE and kind not in also:
                    found = _of_rows(start, start.name, text, aside)
                else:
                    found = [_of_text(start, start.name, file_dates)]
            except NoText as error:
                raise ValueError(f"{start} is no document: {error}.{_way_out()}") from None
            if not found:
                raise ValueError(f"{start} has no documents{_said(aside)}.")
        else:
            raise ValueError(f"No file and no folder {start}.")
        if aside:
            tell(f"{start}: {len(found):,} documents{_said(aside)}.")
        return cls(found, aside=aside)


def _apart(documents: list[Document], files: list[str], folder: Path) -> list[Document]:
    """The same documents; an id that stands in several files has the path of each before it.

    `id: intro` in the pages of a site, or rows that are counted from 0 in each file, are ids inside a file alone.
    """
    where: dict[str, set[str]] = {}
    for document, file in zip(documents, files, strict=True):
        where.setdefault(document.id, set()).add(file)
    shared = [name for name, there in where.items() if len(there) > 1]
    if not shared:
        return documents
    tell(
        f"{folder}: {len(shared):,} ids stand in several files and have the path before them, such as {shared[0]!r} in "
        f"{', '.join(sorted(where[shared[0]])[:3])}."
    )
    return [
        replace(document, id=f"{file}:{document.id}") if len(where[document.id]) > 1 else document
        for document, file in zip(documents, files, strict=True)
    ]


def _of_text(file: Path, name: str, file_dates: bool) -> Document:
    words, columns = text_of(file), dict[str, Any]()
    if suffix_of(file) in MARKDOWN:
        words, columns = front_matter(words, name)
    if not words.strip():
        raise NoText("it has no words")
    said = _about(columns)
    date = said.get("date")
    if date is None and file_dates:
        import datetime

        date = datetime.date.fromtimestamp(file.stat().st_mtime).isoformat()
    return Document(said.get("id", name), words, said.get("source", name), said.get("title", ""), date, columns)


def _of_rows(file: Path, name: str, text: str | None, aside: list[tuple[str, str]]) -> list[Document]:
    found: list[Document] = []
    usual = text
    for number, (where, row) in enumerate(rows_in(file), start=1):
        # the column of the rows before, so that one which is empty here is not made up for by a name or a number beside it
        column = usual if text or usual in row else next((one for one in TEXTS if one in row), None)
        if column is None or column not in row:
            missing = f"no column {text or ', '.join(TEXTS)}"
            if number > 1:
                aside.append((f"{name}, row {number}", missing))
                continue
            raise ValueError(
                f"{where}: {missing}; this row has {', '.join(map(str, row)) or 'nothing'}. "
                "Name the one that holds the words with text=, or leave the file out with exclude=."
            )
        usual = usual or column
        words = row.get(column)
        if words is None or (isinstance(words, str) and not words.strip()):
            aside.append((f"{name}, row {number}", f"its {column} is empty"))
            continue
        said = _about({**row.get("metadata", {}), **row} if isinstance(row.get("metadata"), dict) else row)
        others = {key: value for key, value in row.items() if key != column}
        try:
            found.append(
                Document(
                    said.get("id", f"{name}:{number}"),
                    words,
                    said.get("source", name),
                    said.get("title", ""),
                    said.get("date"),
                    others,
                )
            )
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return found


def _about(row: Mapping[str, Any]) -> dict[str, str]:
    """Id, source, title and date, as far as a row or front matter says them."""
    found: dict[str, str] = {}
    for name, spellings in (("id", IDS), ("source", SOURCES), ("title", TITLES), ("date", DATES)):
        for spelling in spellings:
            value = row.get(spelling)
            if value is not None and not isinstance(value, dict | list | bool) and str(value).strip():
                found[name] = value.isoformat() if hasattr(value, "isoformat") else str(value)
                break
    return found


def _said(aside: Collection[tuple[str, str]]) -> str:
    if not aside:
        return ""
    listed = ", ".join(f"{name} ({why})" for name, why in list(aside)[:_NAMED])
    more = f" and {len(aside) - _NAMED:,} more" if len(aside) > _NAMED else ""
    return f"; put aside {len(aside):,}: {listed}{more}"


def _way_out() -> str:
    return (
        f" Read are texts ({', '.join(suffix for suffix in TEXT_SUFFIXES if suffix)}, no suffix, others with suffixes=) and rows "
        f"({', '.join(ROW_SUFFIXES)}); make text of anything else first."
    )


def _plain(value: Any) -> Any:
    """Plain values of whatever a table or YAML holds, for a hash."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
