"""Evaluation questions inside pairs: found where they are, and only there."""

import json
import random

import datasets
import pytest
from conftest import build_pairs
from test_duplicates import pairs_of

from distill.curation.contamination import drop_contaminated, find_contamination, read_evaluation
from distill.pairs.schema import pairs_from_rows
from distill.text.words import words

QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many in all?"
)
OTHER = "A robe takes 2 bolts of blue fiber and half that much white fiber; how many bolts in total does it take?"


def naive_hits(texts, questions, *, n, share, shortest, common):
    """What `find_contamination` finds in prompts, word by word: (row, question, share, first common phrase)."""
    texts, questions = [words(text) for text in texts], [words(question) for question in questions]

    def runs(text, size):
        return [text[i : i + size] for i in range(len(text) - size + 1)]

    for row, text in enumerate(texts):
        for number, asked in enumerate(questions):
            if asked and len(asked) < min(n, shortest):
                if text == asked:
                    yield row, number, 1.0, " ".join(asked)
                continue
            size = min(n, len(asked))
            seen = [
                i
                for i, run in enumerate(runs(asked, size))
                if run in runs(text, size)
                and len({tuple(other) for other in questions if run in runs(other, min(n, len(other)))}) <= common
            ]
            covered = {j for i in seen for j in range(i, i + size)}
            if asked and seen and len(covered) / len(asked) >= share:
                yield row, number, len(covered) / len(asked), " ".join(asked[seen[0] : seen[0] + size])


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


@pytest.mark.parametrize(
    "settings",
    [
        {"n": 3, "share": 0, "shortest": 5, "common": 10**9},
        {"n": 8, "share": 0, "shortest": 2, "common": 10**9},
        {"n": 5, "share": 0.3, "shortest": 3, "common": 2},
        {"n": 4, "share": 0.5, "shortest": 6, "common": 1},
    ],
)
def test_what_is_found_is_what_a_naive_search_finds(settings):
    rng = random.Random(settings["n"])
    vocabulary = ["a", "b", "c", "d", "e", "f", "g"]
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(1, 60))) for _ in range(60)]
    questions = [" ".join(rng.choices(vocabulary, k=rng.randint(0, 30))) for _ in range(30)]
    questions += questions[:3]  # the same question twice is one wording
    for i in range(0, 60, 4):  # some real overlap for the longer n, too
        texts[i] = f"{texts[i]} {questions[i % 20][: rng.randint(10, 60)]} {texts[i + 1]}"
        texts[i + 2] = questions[i % 30]
    pairs = pairs_of(*((text, "none") for text in texts))
    (overlap,) = find_contamination(pairs, {"set": questions}, **settings)
    found = [(hit.row, hit.question, hit.share, hit.common) for hit in overlap.hits]
    assert found == list(naive_hits(texts, questions, **settings))
    assert len(found) >= 14
    assert {len(words(questions[q])) < settings["n"] for _, q, _, _ in found} == {True, False}


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


def test_sets_are_counted_each_by_itself():
    pairs = pairs_of(("a", "b"), (QUESTION, "b"), (OTHER, "b"), ("a", OTHER), ("a", "b"))
    first, second = find_contamination(pairs, {"one": [QUESTION], "two": [OTHER]})
    assert (first.rows, second.rows) == ((1,), (2, 3))
    assert drop_contaminated(pairs, {"one": [QUESTION], "two": [OTHER]})[0]["id"][:] == ["row0", "row4"]


def test_messages_are_looked_into():
    rows = [{**row, "prompt": [{"role": "user", "content": QUESTION}]} for row in pairs_of(("a", "b"))]
    from distill.pairs.schema import pairs_from_rows

    assert find_contamination(pairs_from_rows(rows, where="test"), {"gsm8k": [QUESTION]})[0].rows == (0,)


def test_evaluation_files_of_both_kinds_are_read(tmp_path):
    (tmp_path / "set.txt").write_text("one?\n\n two? \n")
    assert read_evaluation(tmp_path / "set.txt") == [("one?",), (" two? ",)]
    rows = [{"question": "one?", "answer": "1", "level": 3}, {"messages": [{"role": "user", "content": "two?"}]}]
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_evaluation(tmp_path / "set.jsonl") == [("one?", "1"), ("two?",)]
    assert read_evaluation(tmp_path / "set.jsonl", columns=["question", "messages"]) == [("one?",), ("two?",)]


def test_a_question_and_its_solution_are_one_question(tmp_path):
    """A row of GSM8K is one question, found by either of its texts; counted once where both are there."""
    solution = "She has 48 of them and gives half away which leaves 24 and buys 2 more so 26"
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps({"question": QUESTION, "answer": solution}) + "\n")
    against = {"gsm8k": read_evaluation(tmp_path / "gsm8k.jsonl")}
    pairs = pairs_of((QUESTION, "no idea"), ("what then", solution), (QUESTION, solution), ("a", "b"))
    (overlap,) = find_contamination(pairs, against)
    assert (overlap.questions, overlap.found, overlap.rows) == (1, 1, (0, 1, 2))
    assert dict(overlap.rows_by_part) == {"prompt": 2, "completion": 2}
    both = pairs_of((f"{QUESTION} {solution}", "b"))
    (overlap,) = find_contamination(both, against)
    assert len(overlap.hits) == 1


@pytest.mark.parametrize("name", ["questions.json", "questions.csv", "questions.yaml", "questions.parquet"])
def test_questions_are_found_whatever_file_they_lie_in(tmp_path, name):
    """An array read as text has brackets for questions, and the contaminated pairs stay."""
    asked = [f"{QUESTION} and then {n} more of them" for n in ("two", "three", "four")]
    rows = datasets.Dataset.from_list([{"question": question} for question in asked])
    if name.endswith(".yaml"):
        (tmp_path / name).write_text("".join(f"- question: {question}\n" for question in asked))
    else:
        {"json": rows.to_json, "csv": rows.to_csv, "parquet": rows.to_parquet}[name.rpartition(".")[2]](
            str(tmp_path / name)
        )
    kept, step = drop_contaminated(
        pairs_of(*((question, "it is") for question in asked), ("what", "ever")),
        {"set": read_evaluation(tmp_path / name)},
    )
    assert step.settings["sets"]["set"]["found"] == 3
    assert kept["prompt"][:] == ["what"]


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


def test_a_turn_without_content_is_passed_over_and_the_others_are_read():
    """As a turn that calls a tool is stored by many."""
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": None}]
    rows = [{**row, "prompt": turns if i == 1 else turns[1:]} for i, row in enumerate(build_pairs(3).to_list())]
    (overlap,) = find_contamination(pairs_from_rows(rows, where="test"), {"gsm8k": [QUESTION]})
    assert list(overlap.rows) == [1]


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
