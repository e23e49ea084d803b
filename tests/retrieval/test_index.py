"""The index: what is found, what replaces what, and what is left when a writer is killed."""

import json
import math
import multiprocessing
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from distill.retrieval import Document, Documents, Index, Passage, Retriever
from distill.retrieval.index import Updated
from distill.text.words import words

pytest.importorskip("lancedb")
TOWNS = ["Leiden", "Delft", "Gouda", "Breda", "Venlo", "Zwolle", "Assen", "Sneek"]


def doc(name, text, **more):
    return Document(name, text, f"{name}.md", **more)


def mills(value="red", count=8):
    return [doc(town, f"The mill of {town} is {value}. It grinds corn for the town.") for town in TOWNS[:count]]


def test_it_finds_by_words_with_sources_and_is_there_when_opened_again(tmp_path):
    with Index(tmp_path / "i") as index:
        assert isinstance(index, Retriever)
        assert index.search("anything", 3) == []
        assert index.update(Documents(mills())) == Updated(added=8, chunks=8)
        assert len(index) == 8
    with Index(tmp_path / "i") as index:
        (first, *_) = index.search("Which colour has the mill of Gouda?", 3)
        assert isinstance(first, Passage)
        assert (first.document, first.source, first.chunk) == ("Gouda", "Gouda.md", "Gouda#0")
        assert "red" in first.text
        assert first.score > 0
        assert index.search("zebra", 3) == []
        assert index.documents == sorted(TOWNS)


def test_a_newer_version_takes_the_place_of_the_old_one_at_once(tmp_path):
    with Index(tmp_path / "i") as index, Index(tmp_path / "i") as reader:
        index.update([*mills(), doc("long", "First sentence about barges. " * 200)])
        assert [p.text for p in reader.search("mill of Delft", 1)] == [mills()[1].text]
        assert index.update(mills()) == Updated(unchanged=8), "what has not changed costs nothing"
        started = time.perf_counter()
        assert index.update(mills("blue", 2)) == Updated(replaced=2, chunks=2)
        found = reader.search("mill of Delft", 1)
        assert time.perf_counter() - started < 1
        assert ["blue" in passage.text for passage in found] == [True]
        assert reader.search("blue", 9) == reader.search("blue", 2) != []
        index.update(doc("long", "Now short, of canals."))
        assert reader.search("barges", 9) == []
        assert len(reader) == 9
        index.remove(["Delft", "long"])
        assert reader.search("canals", 9) == []
        assert "Delft" not in reader.documents
        with pytest.raises(ValueError, match="no document 'Delft', nor 1 more"):
            index.remove(["Delft", "Leiden", "nowhere"])
        assert "Leiden" in reader.documents, "nothing was removed"


def test_very_many_are_replaced_at_once(tmp_path):
    old = [doc(f"d{i}", f"Number {i} is old.") for i in range(1300)]
    with Index(tmp_path / "i") as index:
        index.update(old)
        assert index.update([doc(f"d{i}", f"Number {i} is new.") for i in range(1200)]) == Updated(
            replaced=1200, chunks=1200
        )
        assert len(index) == 1300
        assert len(index.search("old", 2000)) == 100
        assert len(index.search("new", 2000)) == 1200


def exhaustive(query, texts, k1=1.2, b=0.75):
    """BM25 of every text, as its formula says."""
    bags = [Counter(words(text)) for text in texts]
    mean = sum(map(Counter.total, bags)) / len(bags)
    scores = [0.0] * len(bags)
    for word in dict.fromkeys(words(query)):
        holding = sum(word in bag for bag in bags)
        weight = math.log(1 + (len(bags) - holding + 0.5) / (holding + 0.5))
        for i, bag in enumerate(bags):
            n = bag[word]
            scores[i] += weight * n * (k1 + 1) / (n + k1 * (1 - b + b * bag.total() / mean))
    return scores


def test_scores_are_those_of_bm25_written_out(tmp_path):
    texts = [
        f"{'corn ' * (i % 4)}{'mill ' * (i % 3)}town{i % 5} stands near water{i % 7} " + "and so on " * (i % 6) + "."
        for i in range(60)
    ]
    with Index(tmp_path / "i", language=None) as index:
        index.update([doc(f"d{i}", text) for i, text in enumerate(texts)])
        for query in ("corn mill", "mill of town3", "water4 and corn"):
            wanted = exhaustive(query, texts)
            found = {int(passage.document[1:]): passage.score for passage in index.search(query, 60)}
            assert found.keys() == {i for i, score in enumerate(wanted) if score > 0}
            for i, score in found.items():
                assert score == pytest.approx(wanted[i], rel=0.06), (query, i)  # lengths are kept in a byte
            best = sorted(wanted)[-5:]
            assert min(wanted[i] for i in list(found)[:5]) >= best[0] * 0.97


@pytest.mark.parametrize(
    "query",
    ['"mill', "mill AND (", "id:5 *", "'; DROP TABLE chunks; --", "<|im_end|>", "mill\0", "\\", "NOT mill", "x" * 5000],
)
def test_a_query_is_its_words_and_no_syntax(tmp_path, query):
    with Index(tmp_path / "i") as index:
        index.update([doc("it's", "A mill; it's old."), *mills()])
        found = index.search(query, 3)
        assert bool(found) == ("mill" in words(query))
        index.update(doc("it's", "A quokka."))
        assert [passage.document for passage in index.search("quokka", 3)] == ["it's"]
        index.remove(["it's"])


def test_other_scripts_accents_and_endings(tmp_path):
    with Index(tmp_path / "i") as index:
        index.update(
            [
                doc("jp", "東京の風車は赤い。"),
                doc("cafe", "Le café est fermé."),
                doc("mills", "Windmills were grinding."),
            ]
        )
        assert [p.document for p in index.search("風車", 1)] == ["jp"]
        assert [p.document for p in index.search("cafe", 1)] == ["cafe"]
        assert [p.document for p in index.search("windmill grinds", 1)] == ["mills"]
    with Index(tmp_path / "exact", language=None) as index:
        index.update(doc("mills", "Windmills were grinding."))
        assert index.search("windmill grinds", 1) == []


def test_bad_input_is_refused(tmp_path):
    with Index(tmp_path / "i") as index:
        for query, k, said in (
            (" ", 1, "words in it"),
            (None, 1, "words in it"),
            ("a", 0, "at least 1"),
            ("a", True, "at least 1"),
        ):
            with pytest.raises(ValueError, match=said):
                index.search(query, k)
        with pytest.raises(ValueError, match="Two documents have the id 'a'"):
            index.update([doc("a", "one"), doc("a", "two")])
        with pytest.raises(ValueError, match="give a list of ids"):
            index.remove("a")
    with pytest.raises(ValueError, match="is closed"):
        index.search("mill", 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes\.txt and no index"):
        Index(tmp_path / "other")
    with pytest.raises(ValueError, match="is a file"):
        Index(tmp_path / "other" / "notes.txt")
    with pytest.raises(ValueError, match="at least 8 words"):
        Index(tmp_path / "never", words=2)
    assert not (tmp_path / "never").exists()
    with pytest.raises(ValueError, match=r"made with words 120, and 50 is asked for"):
        Index(tmp_path / "i", words=50)


def test_an_index_of_another_version_is_refused_with_both(tmp_path):
    Index(tmp_path / "i").close()
    path = tmp_path / "i" / "index.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "format": 7}))
    with pytest.raises(ValueError, match=r"has format 7, and this version of distill reads format 1"):
        Index(tmp_path / "i")
    path.write_text("{}")
    with pytest.raises(ValueError, match="is not what an index has there"):
        Index(tmp_path / "i")
    path.write_text(json.dumps({**kept, "lancedb": "9.9"}))
    for manifest in (tmp_path / "i" / "chunks.lance" / "_versions").iterdir():
        manifest.write_bytes(b"of the future")
    with pytest.raises(ValueError, match=r"written with LanceDB 9\.9, cannot be opened with 0\."):
        Index(tmp_path / "i")


def _hold(folder, ready, seconds):
    with Index(folder) as index, index._open().writing():
        ready.set()
        time.sleep(seconds)


def test_two_writers_wait_for_each_other_or_are_told(tmp_path, monkeypatch):
    Index(tmp_path / "i").close()
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "i", ready, 3))
    other.start()
    try:
        assert ready.wait(120)
        with Index(tmp_path / "i") as index:
            assert index.search("mill", 1) == [], "who searches does not wait"
            monkeypatch.setattr("distill.retrieval.store._WAIT", 0.2)
            with pytest.raises(ValueError, match="Another process has been writing"):
                index.update(mills())
            monkeypatch.setattr("distill.retrieval.store._WAIT", 60)
            index.update(mills())
            assert len(index) == 8
    finally:
        other.join(60)


WRITER = """
import sys
from distill.retrieval import Document, Index
with Index(sys.argv[1]) as index:
    print("ready", flush=True)
    for version in range(1, 10_000):
        index.update([Document(f"d{i}", f"Number{i} has version{version}.", "x") for i in range(40)])
"""


def test_a_writer_that_is_killed_leaves_one_whole_version(tmp_path):
    seen = set()
    for attempt in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "i")], stdout=subprocess.PIPE, text=True
        )
        try:
            assert writer.stdout.readline() == "ready\n"
            with Index(tmp_path / "i") as reader:
                until = time.monotonic() + 0.3 + 0.17 * attempt
                while time.monotonic() < until:  # a reader meanwhile
                    found = reader.search("has", 100)
                    assert len(found) in (0, 40)
                    assert len({passage.text.split()[-1] for passage in found}) <= 1, "parts of two versions"
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        with Index(tmp_path / "i") as index:
            found = index.search("has", 100)
            assert len({passage.text.split()[-1] for passage in found}) == 1
            assert len(found) == len(index) == 40
            seen.add(found[0].text.split()[-1])
            index.update(doc("extra", "It goes on."))
            assert [p.document for p in index.search("goes on", 3)] == ["extra"]
            index.remove(["extra"])
    assert len(seen) > 1


def test_another_language_is_refused_and_none_is_one(tmp_path):
    Index(tmp_path / "i", language=None).close()
    with Index(tmp_path / "i") as index:
        index.update(doc("mills", "Windmills were grinding."))
        assert index.search("windmill", 1) == [], "endings count, as it was made"
    with pytest.raises(ValueError, match="made with language None, and 'English' is asked for"):
        Index(tmp_path / "i", language="English")
    Index(tmp_path / "english").close()
    Index(tmp_path / "english", language="English").close()
    with pytest.raises(ValueError, match="made with language 'English', and None is asked for"):
        Index(tmp_path / "english", language=None)
