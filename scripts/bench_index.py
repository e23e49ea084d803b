"""Stores for an index, side by side: what each does with 100,000 chunks of real text.

    python scripts/bench_index.py                  (the texts of this Python's packages; kept in runs/bench_index)
    python scripts/bench_index.py --documents FOLDER --chunks 20000 --stores index fts5

Stores: `index` is `distill.retrieval.Index` (LanceDB), `fts5` SQLite's full text, `fts5-rare` the same without words that stand in more
than one chunk of twenty, `bm25s` arrays of scores (pip install bm25s). Each runs in a process of its own. Queries are runs of 5 to 12 words of a chunk; every second one
has half of them in another order behind three words of a question. Recall is against BM25 written out over the words that the store itself
counts: the share of its five best that are among the store's five (`agree`), and how often the chunk that the query was drawn from is among them
(`own`, beside what exhaustive BM25 finds).
"""

import argparse
import ast
import json
import math
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distill.retrieval import Document, Documents, Index, chunks_of
from distill.retrieval.store import FIELDS
from distill.text.words import words

QUERIES, K = 300, 5
ASKING = ["what", "is", "the", "how", "does", "of", "in", "when", "which"]
Found = Callable[[str], list[str]]


def texts(folder: str | None) -> Iterator[Document]:
    """Documents of a folder; without one, the docstrings of the installed packages, each once."""
    if folder:
        yield from Documents.read(folder)
        return
    seen: set[str] = set()
    for name in ("purelib", "stdlib"):
        root = Path(sysconfig.get_paths()[name])
        for file in [path for link in (root, *_linked(root)) for path in sorted(link.rglob("*.py"))]:
            try:
                tree = ast.parse(file.read_bytes())
            except (SyntaxError, ValueError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    said = ast.get_docstring(node) or ""
                    if len(said) > 60 and said not in seen and "\0" not in said:
                        seen.add(said)
                        where = f"{file}:{getattr(node, 'lineno', 0)}"
                        try:
                            yield Document(where, said, where)
                        except ValueError:  # half of a surrogate pair
                            continue


def _linked(root: Path) -> list[Path]:
    return [Path(line) for file in root.glob("*.pth") for line in file.read_text().splitlines() if Path(line).is_dir()]


def make_corpus(args: argparse.Namespace, path: Path) -> None:
    """As many documents as give the chunks, one a line; said with what cutting them cost."""
    count, characters, cutting = 0, 0, 0.0
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        for document in texts(args.documents):
            started = time.process_time()
            count += len(chunks_of(document, overlap=0))
            cutting += time.process_time() - started
            characters += len(document.text)
            file.write(json.dumps([document.id, document.text]) + "\n")
            if count >= args.chunks:
                break
    part.replace(path)
    print(
        f"{count:,} chunks of {characters / 1e6:.1f} million characters, cut in {cutting:.1f} CPU seconds", flush=True
    )


def load(path: Path) -> list[Document]:
    """The documents of a corpus."""
    with path.open(encoding="utf-8") as file:
        return [Document(name, text, name) for name, text in map(json.loads, file)]


def queries_of(chunks: list[Any]) -> list[tuple[str, str]]:
    """Queries, and the chunk each was drawn from."""
    draw, found = random.Random(0), list[tuple[str, str]]()
    while len(found) < QUERIES:
        chunk = draw.choice(chunks)
        said = words(chunk.text)
        if len(said) < 30:
            continue
        size = draw.randint(5, 12)
        start = draw.randrange(len(said) - size)
        some = said[start : start + size]
        if len(found) % 2:
            some = draw.choices(ASKING, k=3) + draw.sample(some, len(some) // 2 + 1)
        found.append((" ".join(some), chunk.id))
    return found


class Exhaustive:
    """BM25 (Lucene's form) of every chunk for a query, over the words given."""

    def __init__(self, bags: list[list[str]], k1: float = 1.2, b: float = 0.75) -> None:
        self.k1, self.b, self.sizes = k1, b, [len(bag) for bag in bags]
        self.mean = sum(self.sizes) / len(self.sizes)
        self.holding: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for i, bag in enumerate(bags):
            for word, n in Counter(bag).items():
                self.holding[word].append((i, n))

    def best(self, query: list[str], k: int) -> tuple[list[int], dict[int, float]]:
        """Numbers of the best chunks, and the scores of all that hold a word."""
        scores: dict[int, float] = defaultdict(float)
        for word in dict.fromkeys(query):
            there = self.holding.get(word, [])
            weight = math.log(1 + (len(self.sizes) - len(there) + 0.5) / (len(there) + 0.5))
            for i, n in there:
                scores[i] += (
                    weight * n * (self.k1 + 1) / (n + self.k1 * (1 - self.b + self.b * self.sizes[i] / self.mean))
                )
        return sorted(scores, key=lambda i: -scores[i])[:k], scores


def size_of(path: Path) -> float:
    """MB of a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def index(
    folder: Path, documents: list[Document]
) -> tuple[Found, Callable[[Document], Any], Callable[[str], list[str]]]:
    """LanceDB, as `Index` uses it."""
    made = Index(folder / "index", overlap=0)
    made.update(documents)
    table: Any = made._open()._table

    def tell(text: str) -> list[str]:
        return [token.text for token in table.tokenize(" ".join(words(text)), column="words")]

    return lambda query: [p.chunk for p in made.search(query, K)], made.update, tell


def fts5(folder: Path, documents: list[Document], rare: bool = False) -> tuple[Found, Callable[[Document], Any], Any]:
    """SQLite; a word counts as it stands, so that exhaustive BM25 counts the same ones."""
    db = sqlite3.connect(folder / "fts.db")
    for line in (
        "pragma journal_mode=wal", "pragma synchronous=normal", "pragma cache_size=-65536",
        f"create table chunks(n integer primary key, {', '.join(FIELDS)})", "create index of_document on chunks(document)",
        "create virtual table found using fts5(words, tokenize=\"unicode61 remove_diacritics 0 tokenchars '_'\")",
        "create virtual table counts using fts5vocab(found, row)",
    ):  # fmt: skip
        db.execute(line)

    def put(some: list[Document]) -> None:
        with db:
            for document in some:
                old = [row[0] for row in db.execute("select n from chunks where document=?", (document.id,))]
                db.executemany("delete from found where rowid=?", [(n,) for n in old])
                db.execute("delete from chunks where document=?", (document.id,))
                for c in chunks_of(document, overlap=0):
                    row = db.execute("insert into chunks values(null,?,?,?,?,?,?,?)", (c.id, c.document, document.identity, c.text, c.source, c.title, c.date))  # fmt: skip
                    db.execute("insert into found(rowid, words) values(?,?)", (row.lastrowid, " ".join(words(f"{c.title} {c.text}"))))  # fmt: skip

    put(documents)
    total = db.execute("select count(*) from chunks").fetchone()[0]
    common = {row[0] for row in db.execute("select term from counts where doc > ?", (total // 20,))} if rare else set()

    def search(query: str) -> list[str]:
        wanted = list(dict.fromkeys(words(query)))
        wanted = [word for word in wanted if word not in common] or wanted
        match = " OR ".join(f'"{word}"' for word in wanted)
        asked = "select c.id from found join chunks c on c.n=found.rowid where found match ? order by rank limit ?"
        return [row[0] for row in db.execute(asked, (match, K))]

    return search, lambda document: put([document]), None


def bm25s(folder: Path, documents: list[Document]) -> tuple[Found, Callable[[Document], Any], Any]:
    """Arrays of scores; a change makes them all anew."""
    import bm25s as library

    ids: list[str] = []
    made: Any = None

    def build(some: list[Document]) -> None:
        nonlocal made
        chunks = [chunk for document in some for chunk in chunks_of(document, overlap=0)]
        ids[:] = [chunk.id for chunk in chunks]
        made = library.BM25(k1=1.2)
        made.index([words(f"{chunk.title} {chunk.text}") for chunk in chunks], show_progress=False)
        made.save(str(folder / "bm25s"), corpus=[{"id": chunk.id, "text": chunk.text} for chunk in chunks])

    build(documents)

    def search(query: str) -> list[str]:
        known = [word for word in dict.fromkeys(words(query)) if word in made.vocab_dict]
        return [ids[i] for i in made.retrieve([known], k=K, show_progress=False)[0][0]] if known else []

    def change(document: Document) -> None:
        build([document if old.id == document.id else old for old in documents])

    return search, change, words


STORES: dict[str, Callable[[Path, list[Document]], Any]] = {
    "index": index, "fts5": fts5, "fts5-rare": lambda folder, some: fts5(folder, some, rare=True), "bm25s": bm25s,
}  # fmt: skip


def measure(name: str, corpus: Path) -> None:
    """One store; prints a row of the table."""
    documents = load(corpus)
    chunks = [chunk for document in documents for chunk in chunks_of(document, overlap=0)]
    asked = queries_of(chunks)
    with tempfile.TemporaryDirectory() as place:
        folder, started, cpu = Path(place), time.perf_counter(), time.process_time()
        search, change, tell = STORES[name](folder, documents)
        build, cpu = time.perf_counter() - started, time.process_time() - cpu
        taken, answers = [], []
        for query, _ in asked:
            started = time.perf_counter()
            answers.append(search(query))
            taken.append(1000 * (time.perf_counter() - started))
        mb = size_of(folder)
        changes = []
        for i in range(1 if name == "bm25s" else 15):
            document = documents[i * (len(documents) // 20)]
            started = time.perf_counter()
            change(Document(document.id, f"quagga{i} stands here. {document.text}", document.source))
            assert search(f"quagga{i}")[:1] == [f"{document.id}#0"], "the new version is found"
            changes.append(1000 * (time.perf_counter() - started))
    scorer = Exhaustive([(tell or words)(f"{chunk.title} {chunk.text}") for chunk in chunks])
    number = {chunk.id: i for i, chunk in enumerate(chunks)}
    agree, own, best_own = 0.0, 0, 0
    for (query, of), found in zip(asked, answers, strict=True):
        best, scores = scorer.best((tell or words)(query), K)
        least = scores[best[-1]] * 0.999
        agree += sum(scores.get(number[one], 0.0) >= least for one in found) / len(
            best
        )  # equal scores are equally good
        own += of in found
        best_own += number[of] in best
    p99 = statistics.quantiles(taken, n=100)[98]
    print(
        f"| {name} | {build:.1f} ({cpu:.1f}) | {statistics.median(taken):.1f} | {p99:.1f} | {100 * agree / QUERIES:.1f} | "
        f"{100 * own / QUERIES:.1f} of {100 * best_own / QUERIES:.1f} | {statistics.median(changes):.0f} | {mb:.0f} |",
        flush=True,
    )


WRITER = """
import sys
from distill.retrieval import Document, Index
index = Index(sys.argv[1])
print("ready", flush=True)
version = 0
while True:
    version += 1
    index.update([Document(f"d{i}", f"Number{i} has version{version}.", "x") for i in range(100)])
"""


def kills(times: int) -> None:
    """A writer of 100 documents a version, killed at a random moment; a reader meanwhile."""
    draw, reads, versions = random.Random(0), 0, set[str]()
    with tempfile.TemporaryDirectory() as place:
        for _ in range(times):
            writer = subprocess.Popen([sys.executable, "-c", WRITER, place + "/i"], stdout=subprocess.PIPE)
            assert writer.stdout is not None
            writer.stdout.readline()
            until = time.monotonic() + draw.uniform(0.05, 1)
            with Index(place + "/i") as reader:
                while time.monotonic() < until:
                    found = reader.search("has", 500)
                    assert len(found) in (0, 100)
                    assert len({p.text.split()[-1] for p in found}) <= 1, "parts of two versions"
                    reads += 1
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            with Index(place + "/i") as after:
                found = after.search("has", 500)
                assert len({p.text.split()[-1] for p in found}) <= 1
                assert len(found) == len(after) in (0, 100)
                versions.update(p.text.split()[-1] for p in found)
    print(
        f"{times} writers killed: {len(versions)} versions were left, each whole; {reads} searches meanwhile saw one version each"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", help="a folder; by default the docstrings of the installed packages")
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--stores", nargs="*", default=list(STORES), choices=STORES)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench_index"))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    corpus = args.folder / f"corpus-{args.chunks}.jsonl"
    if not corpus.is_file():
        make_corpus(args, corpus)
    print(
        "| store | build s (CPU) | query ms | p99 | agree@5 % | own@5 % | change ms | MB |\n|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for name in args.stores:
        subprocess.run([sys.executable, __file__, "measure", name, str(corpus)], check=True)
    if args.kills:
        kills(args.kills)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
