"""The store of an index: one LanceDB table in a folder, changed in whole versions, by one writer at a time."""

import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.compute

from distill.basics.disk import make_folder, write_durably

FORMAT = 1
FIELDS = ("id", "document", "version", "text", "source", "title", "date")
_TABLE, _SETTINGS, _WORDS = "chunks", "index.json", "words"
# Rows behind the last index are read one by one, and make a query slower: 249 of 10,000 trebled it. So they are few.
_UNINDEXED = 200
_WAIT = 60.0  # seconds for another writer
_NAMED = 500  # ids in one condition


class Store:
    """Chunks on disk with an index of their words, and of their vectors.

    A change is one commit: whoever reads has the version before it or the one after, also when the writer is killed.

    Args:
        folder: made if it is not there.
        settings: of the index; those that lie in the folder must be the same. Their `width` is the number of values of a vector, 0
            where there are none.

    Raises:
        ValueError: no LanceDB; a folder with other things in it; an index of another version or with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        lancedb = _lancedb()
        self.folder = folder
        found = settings_in(folder)
        self._lock = filelock.FileLock(folder / ".lock")
        if found is None:
            make_folder(folder)
            with self.writing():
                if settings_in(folder) is None:
                    self._table = self._made(lancedb, settings)
        _check_same(folder, settings_in(folder) or {}, settings)
        try:
            self._table = lancedb.connect(str(folder)).open_table(_TABLE)
        except Exception as error:  # LanceDB raises of many kinds for a table that it cannot read
            written = (settings_in(folder) or {}).get("lancedb")
            raise ValueError(
                f"The index in {folder}, written with LanceDB {written}, cannot be opened with {lancedb.__version__}: "
                f"{_first_line(error)}. Install that version, or make the index again in another folder."
            ) from None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While no other process writes.

        Raises:
            ValueError: another one did not end within a minute.
        """
        try:
            with self._lock.acquire(timeout=_WAIT):
                yield
        except filelock.Timeout:
            raise ValueError(
                f"Another process has been writing to the index in {self.folder} for {_WAIT:.0f} s; let it end, then try again. "
                "Whoever only searches need not wait."
            ) from None

    def versions(self) -> dict[str, str]:
        """Of each document, the hash of the version that is kept."""
        self._table.checkout_latest()
        table = self._table.search().select(["document", "version"]).limit(max(1, len(self))).to_arrow()
        return dict(zip(table["document"].to_pylist(), table["version"].to_pylist(), strict=True))

    def replace(self, documents: Sequence[str], rows: dict[str, list[Any]], there: Collection[str]) -> None:
        """Put these rows in place of all rows of these documents, in one commit; the caller is `writing`.

        Args:
            documents: ids of documents; those without rows are removed.
            rows: columns: `FIELDS`, `words`, and `vector` where there are vectors.
            there: ids of the documents that are kept, since `writing` began (`versions`).
        """
        table = pa.table(rows, schema=self._table.schema)
        known = [name for name in documents if name in there]
        merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        if len(known) > _NAMED:
            # A condition with very many names is slow to read, so all that stays is written again instead.
            kept = self._table.search().limit(len(self)).to_arrow().select(self._table.schema.names)
            changed = pa.array(documents, pa.string())
            stays = pa.compute.invert(pa.compute.is_in(kept["document"], value_set=changed))
            rest = kept.filter(stays).cast(self._table.schema)
            merge.when_not_matched_by_source_delete().execute(pa.concat_tables([rest, table]))
        elif known:
            gone = f"document IN ({', '.join(map(_quoted, known))})"
            if table.num_rows:
                merge.when_not_matched_by_source_delete(gone).execute(table)
            else:
                self._table.delete(gone)
        elif table.num_rows:
            self._table.add(table)
        stats = self._table.index_stats(f"{_WORDS}_idx")
        if stats is None or stats.num_unindexed_rows > _UNINDEXED:
            self._table.optimize()

    def by_words(self, words: str, k: int) -> list[dict[str, Any]]:
        """The best rows by BM25, each with its `score`; `refresh` decides of which version."""
        found = self._table.search(words, query_type="fts", fts_columns=_WORDS).limit(k)
        return [{**row, "score": row["_score"]} for row in found.select([*FIELDS, "_score"]).to_list()]

    def by_vector(self, vector: Sequence[float], k: int) -> list[dict[str, Any]]:
        """The nearest rows by cosine, each with its `score`; every vector is looked at."""
        found = self._table.search(list(vector), vector_column_name="vector").distance_type("cosine").limit(k)
        return [{**row, "score": 1 - row["_distance"]} for row in found.select([*FIELDS, "_distance"]).to_list()]

    def refresh(self) -> None:
        """From now on read the newest version."""
        self._table.checkout_latest()

    def __len__(self) -> int:
        self._table.checkout_latest()
        return int(self._table.count_rows())

    def _made(self, lancedb: Any, settings: dict[str, Any]) -> Any:
        others = [path.name for path in self.folder.iterdir() if path.name not in (".lock", f"{_TABLE}.lance")]
        if others:
            raise ValueError(
                f"{self.folder} holds {', '.join(sorted(others)[:5])} and no index; give it a folder of its own."
            )
        kinds = [pa.field(name, pa.string()) for name in (*FIELDS, _WORDS)]
        if settings["width"]:
            kinds.append(pa.field("vector", pa.list_(pa.float32(), settings["width"])))
        table = lancedb.connect(str(self.folder)).create_table(_TABLE, schema=pa.schema(kinds), mode="overwrite")
        language = settings["language"]
        table.create_fts_index(
            _WORDS,
            base_tokenizer="whitespace",  # words are told apart before
            language=language or "English",
            stem=language is not None,
            remove_stop_words=False,  # a question may be of stop words alone
            ascii_folding=True,
            max_token_length=None,
        )
        written = {"format": FORMAT, "lancedb": lancedb.__version__, **settings}
        write_durably(self.folder / _SETTINGS, json.dumps(written, indent=1) + "\n")  # last: with it, this is an index
        return table


def settings_in(folder: Path) -> dict[str, Any] | None:
    """What the index in a folder was made with; None where there is none.

    Raises:
        ValueError: an index of another format.
    """
    path = folder / _SETTINGS
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; an index is a folder.")
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        written = found["format"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not what an index has there; name the folder of an index, or a new one.") from None
    if written != FORMAT:
        raise ValueError(
            f"The index in {folder} has format {written}, and this version of distill reads format {FORMAT}; make it again from its "
            "documents in another folder, or use the version that wrote it."
        )
    return dict(found)


def _check_same(folder: Path, found: dict[str, Any], settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        if found.get(name) != value:
            raise ValueError(
                f"The index in {folder} was made with {name} {found.get(name)!r}, and {value!r} is asked for; leave it out, or make "
                "another index in another folder."
            )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0][:200]


def _lancedb() -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")  # else it warns of every index that is new
    try:
        import lancedb
    except ImportError:
        raise ValueError("An index needs LanceDB: pip install 'distill[retrieval]'.") from None
    return lancedb


def condition_ids(ids: Collection[str]) -> list[str]:
    """Ids as a list, checked to be texts.

    Raises:
        ValueError: one text, which would be taken for its letters, or what is no text.
    """
    if isinstance(ids, str):
        raise ValueError(f"ids is the text {ids!r}; give a list of ids.")
    listed = list(dict.fromkeys(ids))
    if wrong := [name for name in listed if not isinstance(name, str)]:
        raise ValueError(f"An id of a document is a text, not {wrong[0]!r}.")
    return listed
