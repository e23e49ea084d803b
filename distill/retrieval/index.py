"""Index: chunks of documents on disk, found by their words (BM25), by vectors on request, or by both."""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import Any

from distill.basics.processes import tell
from distill.retrieval.chunks import OVERLAP, WORDS, Chunk, chunks_of
from distill.retrieval.documents import Document, Documents
from distill.retrieval.encoder import SETTINGS, Encoder, as_encoder
from distill.retrieval.passages import Passage
from distill.retrieval.store import FIELDS, Store, condition_ids, settings_in
from distill.text.words import words as words_of

MOST_WORDS = 256  # different words of a query that are looked for, the first ones
_RANKS = 60  # of fused ranks: 1 / (60 + rank), as in Cormack et al. 2009


@dataclass(frozen=True)
class Updated:
    """What an update did, in documents; `chunks` were written."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    chunks: int = 0


class Index:
    """Documents to search in, in a folder.

    A question is answered from the words it shares with a chunk and its headings (BM25, Robertson and Zaragoza 2009). With an
    encoder, chunks near it by cosine are found too, and both lists are fused by reciprocal ranks (Cormack et al. 2009).

    Args:
        folder: of the index; made, or opened if it is there.
        encoder: a name of a model of `transformers`, or an `Encoder`. An index is made with one or without; one that was made by name
            loads it by itself, with the pooling and the prefixes that it was made with.
        words, overlap: of a chunk, see `chunks_of`; by default what the index was made with.
        language: whose endings of words do not count ("mill", "mills"), as LanceDB names it; None counts them. By default what the index
            was made with, of a new one English.

    Raises:
        ValueError: an index of another version, with other settings, or a folder with other things in it.

    Example:
        >>> with Index("runs/index") as index:  # doctest: +SKIP
        ...     index.update(Documents.read("docs"))
        ...     index.search("What is a pair?", k=3)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        encoder: "str | Encoder | None" = None,
        words: int | None = None,
        overlap: int | None = None,
        language: str | EllipsisType | None = ...,
    ) -> None:
        path = Path(folder).expanduser()
        there = settings_in(path) or {}
        self._encoder = as_encoder(encoder, there, path)
        given = {"words": (words, WORDS), "overlap": (overlap, OVERLAP)}
        self._cut: Any = {
            name: there.get(name, default) if value is None else value for name, (value, default) in given.items()
        }
        chunks_of(Document("check", "A few words.", "check"), **self._cut)  # before anything is made
        of_encoder = self._encoder.settings if self._encoder else dict.fromkeys(SETTINGS)
        if there.get("encoder") and (unsaid := [name for name in SETTINGS if name not in there]):
            tell(f"The index in {path} does not say its encoder's {', '.join(unsaid)}; taken are {of_encoder}.")
            of_encoder = {name: value for name, value in of_encoder.items() if name in there}
        self._store: Store | None = Store(
            path,
            {
                **self._cut,
                "language": there.get("language", "English") if isinstance(language, EllipsisType) else language,
                "encoder": self._encoder.name if self._encoder else None,
                "width": self._encoder.width if self._encoder else 0,
                **of_encoder,
            },
        )

    def update(self, documents: "Documents | Document | Iterable[Document]") -> Updated:
        """Add documents; one whose id is there takes the place of the old version, in the same moment for all of them.

        Those that have not changed cost nothing. Documents that are not named stay; see `remove`.

        Raises:
            ValueError: something else than documents, an id twice, or another process that does not end writing.
        """
        listed = Documents([documents] if isinstance(documents, Document) else documents)
        store = self._open()
        with store.writing():
            there = store.versions()
            changed = [document for document in listed if there.get(document.id) != document.identity]
            chunks = [(document, chunk) for document in changed for chunk in chunks_of(document, **self._cut)]
            if changed:
                store.replace([document.id for document in changed], self._rows(chunks), there)
        replaced = sum(document.id in there for document in changed)
        return Updated(len(changed) - replaced, replaced, len(listed) - len(changed), len(chunks))

    def remove(self, ids: Collection[str]) -> None:
        """Take documents out, all in the same moment.

        Raises:
            ValueError: an id that is not there; nothing is removed then.
        """
        listed, store = condition_ids(ids), self._open()
        with store.writing():
            there = store.versions()
            if missing := [name for name in listed if name not in there]:
                raise ValueError(
                    f"The index has no document {missing[0]!r}"
                    + (f", nor {len(missing) - 1} more of those named" if len(missing) > 1 else "")
                    + f"; it has {len(there)} documents, whose ids are in `documents`."
                )
            if listed:
                store.replace(listed, self._rows([]), there)

    def search(self, query: str, k: int = 3) -> list[Passage]:
        """The chunks that fit a question best, the best first; none where no word of it is in any.

        With an encoder there is always a nearest one. Operators and quotes are no syntax here: a query is its words, of which the
        first 256 different ones count.

        Raises:
            ValueError: a query without text, or k below 1.
        """
        if not isinstance(query, str) or not query.strip():
            raise ValueError(f"A query is a text with words in it, not {query!r}.")
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k is {k!r}; it must be a whole number of at least 1.")
        store = self._open()
        store.refresh()
        wanted = list(dict.fromkeys(words_of(query)))[:MOST_WORDS]
        if self._encoder is None:
            return [_passage(row) for row in (store.by_words(" ".join(wanted), k) if wanted else [])]
        among = max(50, 4 * k)
        lists = [store.by_vector(self._encoder.encode([query], is_query=True)[0].tolist(), among)]
        if wanted:
            lists.append(store.by_words(" ".join(wanted), among))
        return [_passage(row) for row in _fused(lists)[:k]]

    @property
    def documents(self) -> list[str]:
        """Ids of the documents that are in it, sorted."""
        return sorted(self._open().versions())

    def __len__(self) -> int:
        """Number of chunks."""
        return len(self._open())

    def close(self) -> None:
        """Let go of the folder; the index is not used any more."""
        self._store = None

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Store:
        if self._store is None:
            raise ValueError("This index is closed; open it again with Index(folder).")
        return self._store

    def _rows(self, chunks: list[tuple[Document, Chunk]]) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = {
            name: [getattr(c, name) for _, c in chunks] for name in FIELDS if name != "version"
        }
        rows["version"] = [document.identity for document, _ in chunks]
        rows["words"] = [" ".join(words_of(f"{chunk.title} {chunk.text}")) for _, chunk in chunks]
        if self._encoder:
            texts = [f"{chunk.title}\n{chunk.text}" if chunk.title else chunk.text for _, chunk in chunks]
            rows["vector"] = list(self._encoder.encode(texts, is_query=False)) if texts else []
        return rows


def _passage(row: dict[str, Any]) -> Passage:
    return Passage(
        row["text"], row["source"], row["title"], row["date"], row["document"], float(row["score"]), chunk=row["id"]
    )


def _fused(lists: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One list of several, by the sum of their reciprocal ranks."""
    scores: dict[str, float] = {}
    rows: dict[str, dict[str, Any]] = {}
    for found in lists:
        for rank, row in enumerate(found, start=1):
            scores[row["id"]] = scores.get(row["id"], 0.0) + 1 / (_RANKS + rank)
            rows[row["id"]] = row
    return [{**rows[name], "score": score} for name, score in sorted(scores.items(), key=lambda item: -item[1])]
