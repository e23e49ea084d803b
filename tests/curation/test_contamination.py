"""Evaluation questions inside pairs: found where they are, and only there."""

import json
import random

import pytest
from conftest import build_pairs
from test_duplicates import pairs_of

from distill.curation.contamination import drop_contaminated, find_contamination, read_evaluation
from distill.curation.phrases import PhraseIndex
from distill.text.words import words

QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many in all?"
)
OTHER = "A robe takes 2 bolts of blue fiber and half that much white fiber; how many bolts in total does it take?"


def naive_shares(text, question, n):
    """What `find_contamination` computes, word by word."""
    text, question = words(text), words(question)
    grams = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
    covered = {
        j
        for i in range(len(question) - n + 1)
        if tuple(question[i : i + n]) in grams
        for j in range(i, i + n)
    }  # fmt: skip
    return len(covered) / len(question)


def test_a_question_is_found_in_prompts_and_completions_whatever_its_spelling():
    pairs = pairs_of(
        ("Solve this: " + QUESTION.upper().replace(",", " ;"), "72"),
        ("Name a colour.", "Blue."),
        ("What is your favourite exercise?", f"I like this one:\n{QUESTION}"),
    )
    (overlap,) = find_contamination(pairs, {"gsm8k": [OTHER, QUESTION]})
    assert (overlap.name, overlap.questions, overlap.found, overlap.rows) == ("gsm8k", 2, 1, (0, 2))
    assert overlap.rows_by_part == {"prompt": 1, "completion": 1}
    first = overlap.hits[0]
    assert (first.id, first.part, first.question, first.share) == ("row0", "prompt", 1, 1.0)
    assert first.common == "natalia sold clips to 48 of her friends"
    assert str(overlap) == "gsm8k: 1 of 2 questions found, in 2 pairs (1 by the prompt, 1 by the completion)."
    clean, step = drop_contaminated(pairs, {"gsm8k": [OTHER, QUESTION]})
    assert clean["id"][:] == ["row1"]
    assert step.removed == 2
    assert "'natalia sold clips to 48 of her friends'" in step.examples[0]
    json.dumps(step.as_dict())


@pytest.mark.parametrize("n", [3, 8])
def test_shares_are_those_of_the_naive_count(n):
    rng = random.Random(n)
    vocabulary = ["a", "b", "c", "d", "e", "f", "g"]
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(1, 60))) for _ in range(60)]
    questions = [" ".join(rng.choices(vocabulary, k=rng.randint(n, 30))) for _ in range(20)]
    for i in range(0, 60, 4):  # some real overlap for the longer n, too
        texts[i] = f"{texts[i]} {questions[i % 20][: rng.randint(10, 60)]} {texts[i + 1]}"
    pairs = pairs_of(*((text, "none") for text in texts))
    (overlap,) = find_contamination(pairs, {"set": questions}, n=n, share=0, common=10**9)
    found = {(hit.row, hit.question): hit.share for hit in overlap.hits}
    expected = {(r, q): naive_shares(t, asked, n) for r, t in enumerate(texts) for q, asked in enumerate(questions)}
    assert found == pytest.approx({key: share for key, share in expected.items() if share})
    assert len(found) >= 14


def test_half_a_question_is_enough_and_a_phrase_of_it_is_not():
    asked = words(QUESTION)
    pairs = pairs_of((" ".join(asked[:12]), "x"), (" ".join(asked[:9]), "x"))
    against = {"gsm8k": [QUESTION]}
    assert find_contamination(pairs, against)[0].rows == (0,)
    assert find_contamination(pairs, against, share=0)[0].rows == (0, 1)
    assert find_contamination(pairs, against, n=13, share=0)[0].rows == ()


def test_questions_shorter_than_n_words_are_compared_whole():
    short, tiny = "Who wrote the Iliad, originally?", "What is rain?"
    pairs = pairs_of(
        ("Tell me: who wrote the Iliad originally", "Homer."),
        ("Who wrote the Iliad?", "Homer, originally."),
        ("What is rain?", "Water."),
        ("What is rain and what is snow?", "What is rain?"),
    )
    (overlap,) = find_contamination(pairs, {"qa": [short, tiny, "?!"]})
    assert [(hit.row, hit.question) for hit in overlap.hits] == [(0, 0), (2, 1)]
    assert overlap.not_compared == 1


def test_the_wording_that_many_questions_of_a_set_share_is_not_counted():
    frame = "Choose the one correct answer to the question that is given below:"
    questions = [
        f"{frame} is {word}?" for word in ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op", "qr", "st", "uv", "wx"]
    ]
    pairs = pairs_of((f"{frame} what do you think about it", "x"))
    assert find_contamination(pairs, {"mc": questions})[0].rows == ()
    assert find_contamination(pairs, {"mc": questions}, common=20)[0].found == 12
    assert find_contamination(pairs, {"mc": [questions[0]] * 12})[0].found == 12  # one question, repeated


def test_sets_are_counted_each_by_itself_and_long_files_in_chunks(monkeypatch):
    monkeypatch.setattr("distill.curation.contamination._ROWS_AT_ONCE", 2)
    pairs = pairs_of(("a", "b"), (QUESTION, "b"), (OTHER, "b"), ("a", OTHER), ("a", "b"))
    first, second = find_contamination(pairs, {"one": [QUESTION], "two": [OTHER]})
    assert (first.rows, second.rows) == ((1,), (2, 3))
    assert drop_contaminated(pairs, {"one": [QUESTION], "two": [OTHER]})[0]["id"][:] == ["row0", "row4"]


def test_messages_are_looked_into():
    rows = [{**row, "prompt": [{"role": "user", "content": QUESTION}]} for row in pairs_of(("a", "b"))]
    from distill.pairs.schema import pairs_from_rows

    assert find_contamination(pairs_from_rows(rows, where="test"), {"gsm8k": [QUESTION]})[0].rows == (0,)


def test_phrases_end_where_texts_end():
    index = PhraseIndex([["a", "b"], ["b", "a"], ["a"], ["a", "b"]])
    text, phrase = index.find([["a", "b", "x", "a"], ["b"], [], ["a"]])
    assert sorted(zip(text.tolist(), phrase.tolist(), strict=True)) == [(0, 0), (0, 2), (0, 2), (0, 3), (3, 2)]
    assert [len(found) for found in PhraseIndex([]).find([["a"]])] == [0, 0]


def test_evaluation_files_of_both_kinds_are_read(tmp_path):
    (tmp_path / "set.txt").write_text("one?\n\n two? \n")
    assert read_evaluation(tmp_path / "set.txt") == ["one?", "two?"]
    rows = [{"question": "one?", "answer": "1", "level": 3}, {"messages": [{"role": "user", "content": "two?"}]}]
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_evaluation(tmp_path / "set.jsonl") == ["one?", "1", "two?"]
    assert read_evaluation(tmp_path / "set.jsonl", columns=["question", "messages"]) == ["one?", "two?"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("none.txt", None, "No file .*none.txt"),
        ("none.jsonl", None, "No file .*none.jsonl"),
        ("empty.txt", b"\n\n", "empty.txt has no texts"),
        ("empty.jsonl", b"", "empty.jsonl has no texts"),
        ("latin.txt", "für".encode("latin-1"), "latin.txt is not text in UTF-8"),
        ("latin.jsonl", b'{"question": "f\xfcr"}', "latin.jsonl:1"),
        ("other.jsonl", b'{"frage": "was?"}', "other.jsonl:1: none of the columns prompt, question"),
        ("blank.jsonl", b'{"question": "  "}', "blank.jsonl has no texts"),
    ],
)
def test_bad_evaluation_files_are_told_in_one_sentence(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_evaluation(tmp_path / name)


@pytest.mark.parametrize(
    ("against", "settings", "message"),
    [
        ({}, {}, "nothing to compare with"),
        ({"gsm8k": []}, {}, "gsm8k is empty"),
        ({"a": ["b"]}, {"n": 1}, "n is 1"),
        ({"a": ["b"]}, {"share": 1.5}, "share 1.5"),
        ({"a": ["b"]}, {"shortest": 0}, "shortest 0"),
    ],
)
def test_bad_settings_are_told_in_one_sentence(against, settings, message):
    with pytest.raises(ValueError, match=message):
        find_contamination(build_pairs(3), against, **settings)
