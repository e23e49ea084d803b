"""Chunks: exact places, every word, cut where the text pauses."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.retrieval import Document, chunks_of
from distill.text.words import words

PIECES = st.sampled_from(
    ["# Head\n", "## Sub\n", "Head\n====\n", "A short sentence. ", "It ends here!\n", "\n\n", "- an item of a list\n",
     "| a | b |\n", "```python\n", "```\n", "# no heading in code\n", "x" * 90 + " ", "日本語の文です。", "Dr. Smith came. ", "\t", "~~~\n"]
)  # fmt: skip


def document(text, **more):
    return Document("d", text, "d.md", **more)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=60).map("".join).filter(str.strip), st.integers(8, 60), st.integers(0, 4))
def test_every_word_is_in_a_piece_at_its_exact_place(text, most, overlap):
    found = chunks_of(document(text), words=most, overlap=overlap)
    covered = set()
    for chunk in found:
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.text == chunk.text.strip()
        covered.update(range(chunk.start, chunk.end))
        assert (
            len(re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]{1,16}", chunk.text)) <= most
        )
    assert all(i in covered for i, sign in enumerate(text) if not sign.isspace())
    assert len({chunk.id for chunk in found}) == len(found)
    starts = [chunk.start for chunk in found]
    assert starts == sorted(set(starts)), "each piece begins behind the one before"
    ends = [chunk.end for chunk in found]
    assert ends == sorted(set(ends)), "each says something new"


def test_a_piece_ends_with_a_sentence():
    text = " ".join(f"Sentence number {i} says that Dr. Smith has {i} mills, e.g. in Leiden." for i in range(40))
    for chunk in chunks_of(document(text), words=50, overlap=0):
        assert chunk.text.startswith("Sentence number")
        assert chunk.text.endswith("in Leiden.")


def test_a_sentence_longer_than_a_piece_is_cut_between_words():
    text = " ".join(f"word{i}" for i in range(100))
    found = chunks_of(document(text), words=30, overlap=0)
    assert [len(chunk.text.split()) for chunk in found] == [30, 30, 30, 10]
    assert " ".join(chunk.text for chunk in found) == text


def test_a_line_without_blanks_is_no_single_word():
    assert len(chunks_of(document("A" * 16 * 100), words=20, overlap=0)) == 5
    assert len(chunks_of(document("山" * 100), words=20, overlap=0)) == 5


def test_overlap_repeats_whole_sentences():
    text = " ".join(f"Fact {i} has five words." for i in range(30))
    found = chunks_of(document(text), words=20, overlap=5)
    for one, other in pairwise(found):
        assert one.text.split(". ")[-1] == other.text.split(". ")[0].rstrip(".") + "."


def test_headings_are_titles_and_code_has_none():
    long = "One more sentence stands here. " * 12
    text = f"# Guide\n\n{long}\n\n## Install\n\n{long}\n\n```sh\n# not a heading\nmake\n```\n\nNotes\n-----\n\n{long}"
    found = chunks_of(document(text, title="Guide"), words=40, overlap=0)
    titles = list(dict.fromkeys(chunk.title for chunk in found))
    assert titles == ["Guide", "Guide > Install", "Guide > Notes"]
    assert all(chunk.text.startswith("## Install") for chunk in found if "## Install" in chunk.text)


def test_short_sections_stand_together_and_a_heading_with_what_is_below():
    text = "# Words\n\n## teacher\n\nIs imitated.\n\n## student\n\nIs trained.\n"
    (only,) = chunks_of(document(text))
    assert only.title == "Words"
    text = "# A\n\n" + "Filler stands here. " * 9 + "\n\n## B\n\n### C\n\n" + "Body of C is long. " * 30
    assert not [
        chunk for chunk in chunks_of(document(text), words=40, overlap=0) if chunk.text.endswith(("# B", "# C"))
    ]


@pytest.mark.parametrize(("most", "overlap"), [(7, 0), (20, 11), (20, -1)])
def test_sizes_that_make_no_sense_are_refused(most, overlap):
    with pytest.raises(ValueError, match="at least 8 words"):
        chunks_of(document("Some words."), words=most, overlap=overlap)


def test_a_book_without_paragraphs_is_cut_in_time():
    text = "word and more of them, " * 100_000
    assert len(words(text)) == 500_000
    assert len(chunks_of(document(text), overlap=0)) == -(-500_000 // 120)
