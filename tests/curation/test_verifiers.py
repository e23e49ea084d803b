"""Verifiers: what counts as correct, how scores find their pairs, and what happens when a verifier fails."""

import contextlib
import json
import math
import threading
import time
from fractions import Fraction

import datasets
import pytest
from chat_templates import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.curation.verifiers import (
    exact_match,
    final_answer,
    load_verifier,
    number_match,
    parse_number,
    read_rows,
    regex_match,
    verify,
)
from distill.pairs.schema import pairs_from_rows
from distill.text.encode import encode_prompt

NUMBERS = {
    "3": 3, "-1,234.5": Fraction(-2469, 2), "+3": 3, ".5": Fraction(1, 2), "5.": 5, "−7": -7, "1,234,567": 1234567,
    "1/3": Fraction(1, 3), "1 1/2": Fraction(3, 2), r"\frac{1}{2}": Fraction(1, 2), r"-\dfrac{3}{4}": Fraction(-3, 4),
    r"1\frac{1}{2}": Fraction(3, 2), "50%": Fraction(1, 2), r"50\%": Fraction(1, 2), "2e-3": Fraction(1, 500),
    r"1.5 \times 10^{3}": 1500, "1.5*10^-2": Fraction(3, 200), "$5": 5, "-$3": -3, "$-3$": -3, "(3)": 3, "x = 4": 4,
    "5 cm^2": 5, r"12\text{ cm}": 12, r"90^\circ": 90, "3 apples": 3, r"1{,}000": 1000, "6 * 3\n#### 18": 18,
    r"\boxed{7}": 7,
}  # fmt: skip
NO_NUMBERS = [
    "", "abc", "2^{10}", "3,5", "1,23", "1/0", "1e999999999", "9" * 5000, "nan", "inf", "5x", "3 4", "1.2.3", "2-1",
    "5 6 cm", True, None, float("nan"), float("inf"),
]  # fmt: skip
ANSWERS = [  # (completion, right, correct?) with where="auto"
    ("The answer is 42.", 42, True),
    ("x = 3, so 5-3 = 2", 2, True),  # a difference, and not a negative number
    ("It is -3, so x=-3", -3, True),
    (r"\boxed{\frac{1}{2}}, not 3", 0.5, True),  # the box comes before the last number
    (r"first \boxed{1}, no, \boxed{2}", 2, True),
    ("#### 1,000", "1000", True),
    ("It costs $12.50", "12.5", True),
    ("12 in total. The answer is: 7 apples of 9", 7, True),
    ("The answer is **3**", 3, True),
    ("1. first 4\n2. then 5.", 5, True),
    ("Answer: 3/4", "0.75", True),
    ("<think>\n42\n</think>\n\n41", 42, False),  # only the answer counts, and not the trace
    ("<think>\nthe answer is 42", 42, False),  # a cut trace has no answer
    ("2^10", 10, False),
    (r"\boxed{2^{10}}", 10, False),
    ("on 2024-01-05", -5, False),
    ("nothing", 0, False),
    ("", 0, False),
    (r"\boxed{} 5", 5, False),
]

# Seconds of the processor, far more than these take anywhere; what backtracks takes hours.
PATIENCE = 60


@pytest.mark.parametrize(("text", "number"), NUMBERS.items())
def test_a_number_is_read_exactly(text, number):
    assert parse_number(text) == number
    assert number_match(tolerance=0)({"answer": text}, f"The answer is {text}")
    assert (
        number_match(where="boxed", tolerance=0)({"answer": number}, rf"\boxed{{{text}}}")
        or "boxed" in text
        or "#" in text
    )


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_number_is_refused_and_never_hangs(text):
    start = time.process_time()
    with pytest.raises((ValueError, OverflowError), match=r"is not one number|has no 'answer'"):
        parse_number(text)
    assert not number_match()({"answer": 123456789}, str(text))
    assert time.process_time() - start < PATIENCE


@pytest.mark.parametrize(
    "piece",
    [r"\boxed{", "<answer>", "answer is ", r"\frac{1}{", " ", "{", "1,234", "1 ", "9", r"\text{", "<think>", "-"],
)
def test_no_text_makes_the_ready_verifiers_slow(piece):
    text, start = piece * 20_000, time.process_time()
    for verifier in (number_match(), number_match(where="last"), exact_match(final="tag"), exact_match(final="boxed")):
        assert not verifier({"answer": "7"}, text)
    assert time.process_time() - start < PATIENCE


@pytest.mark.parametrize(("completion", "right", "correct"), ANSWERS)
def test_the_number_of_an_answer(completion, right, correct):
    assert number_match()({"answer": right}, completion) is correct


@given(st.text(alphabet="0123456789.,/-+e%^{}\\$ x=#", max_size=300))
@settings(deadline=None, derandomize=True)
def test_any_text_has_a_number_or_none(text):
    assert number_match(where="last")({"answer": "1e300"}, text) in (True, False)


def test_tolerance_is_relative_and_percent_is_chosen():
    assert number_match(tolerance=0.01)({"answer": 300}, "302")
    assert not number_match(tolerance=0.01)({"answer": 3}, "3.1")
    assert number_match(tolerance=0.01)({"answer": 0}, "0.005")
    assert number_match()({"answer": 0.5}, "50%")
    assert not number_match()({"answer": 50}, "50%")
    assert number_match(percent="points")({"answer": 50}, "50%")
    for bad in ({"tolerance": -1}, {"tolerance": math.nan}, {"where": "first"}, {"percent": "yes"}):
        with pytest.raises(ValueError, match=r"must be 0 or more|expected one of"):
            number_match(**bad)


def test_text_and_patterns_look_only_at_the_answer():
    said = "<think>\nBerlin\n</think>\n\n The  answer\n<answer> Paris </answer>\n"
    assert exact_match(final="tag")({"answer": "Paris"}, said)
    assert not exact_match()({"answer": "Paris"}, said)
    assert exact_match(final="last_line", ignore_case=True)({"answer": "b"}, "It is\nB\n\n")
    assert not exact_match(final="last_line")({"answer": "b"}, "It is\nB\n\n")
    assert not exact_match(final="tag")({"answer": ""}, "no tag")
    assert regex_match("Paris")({}, said)
    assert not regex_match("Berlin")({}, said)
    assert regex_match("answer: (.)", "answer")({"answer": "B"}, "answer: A, no, answer: B")
    assert [final_answer(said, f) for f in ("tag", "boxed", "last_line")] == ["Paris", None, "<answer> Paris </answer>"]
    assert final_answer(r"\boxed{\{1\}, \{2}, or \boxed{a{b}}", "boxed") == "a{b}"
    with pytest.raises(ValueError, match="not a regular expression: missing"):
        regex_match("(")


# ---------------------------------------------------------------------------------------------------- pairs
def pairs_of(prompts, completions=("4",), **more):
    rows = [
        {
            "id": f"{i}-{j}", "prompt": prompt, "completion": text, "prompt_ids": [i, 1], "completion_ids": [5],
            "finish_reason": "stop", "sample": j, "teacher": "t", **more,
        }
        for i, prompt in enumerate(prompts)
        for j, text in enumerate(completions)
    ]  # fmt: skip
    return pairs_from_rows(rows, where="test")


def asked(text):
    return [{"role": "user", "content": text}]


def test_scores_find_their_pairs_in_any_order_and_a_string_is_one_user_message():
    rows = [{"prompt": "2+3", "answer": 5}, {"prompt": asked("2+2"), "answer": 4}]
    for prompts in (["2+2", "2+3"], [asked("2+2"), asked("2+3")]):
        scored = verify(pairs_of(prompts, ("4", "5")), rows, number_match())
        assert scored["score"] == [1.0, 0.0, 0.0, 1.0]
        assert scored["score_error"] == [None] * 4
        again = verify(scored, rows, lambda row, completion: 0.25)  # replaced, and not added a second time
        assert again["score"] == [0.25] * 4
        assert again.features == scored.features


def test_rows_that_do_not_fit_are_refused():
    pairs = pairs_of(["a", "b"])
    with pytest.raises(ValueError, match=r'Pair 1 has a prompt that is in none of the 1 prompt rows: "b"'):
        verify(pairs, [{"prompt": "a"}], number_match())
    twice = [{"prompt": "a", "answer": 1}, {"prompt": "b"}, {"prompt": asked("a"), "answer": 2}]
    with pytest.raises(ValueError, match=r"Row 2 repeats a prompt with another answer"):
        verify(pairs, twice, number_match())
    assert verify(pairs, [*twice[:2], twice[0]], exact_match())["score"][0] == 0  # the same row twice does no harm
    for bad in ({"answer": 1}, {"prompt": ""}, {"prompt": [{"role": "user"}]}):
        with pytest.raises(ValueError, match=r"Row 1: (a prompt row needs a prompt|A prompt is text or)"):
            verify(pairs, [{"prompt": "a"}, bad], number_match())


def test_a_verifier_that_fails_marks_its_row_and_the_run_goes_on():
    answers = {"a": 1, "b": "raise", "c": math.nan, "d": "text", "e": None, "f": True, "g": math.inf}

    def verifier(row, completion):
        if answers[row["prompt"]] == "raise":
            raise KeyError("gone")
        return answers[row["prompt"]]

    scored = verify(pairs_of(list(answers)), [{"prompt": p} for p in answers], verifier)
    assert scored["score"] == [1.0, None, None, None, None, 1.0, None]
    assert scored["score_error"] == [
        None, "KeyError: 'gone'", "the verifier gave nan", "the verifier gave 'text', which is no number",
        "the verifier gave 'None', which is no number", None, "the verifier gave inf",
    ]  # fmt: skip
    (row,) = verify(pairs_of(["a"]), [{"prompt": "a", "answer": "many"}], number_match())
    assert row["score_error"] == "ValueError: 'many' is not one number, so no answer can be compared with it."


def test_an_interruption_is_no_score():
    def interrupted(row, completion):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(pairs_of(["a"]), [{"prompt": "a"}], interrupted)


def test_a_verifier_that_hangs_costs_its_own_row_only():
    def verifier(row, completion):
        while row["prompt"] == "b":
            with contextlib.suppress(Exception):  # it swallows everything, but not the alarm
                time.sleep(0.001)
        return 1

    rows = [{"prompt": p} for p in "abc"]
    scored = verify(pairs_of(list("abc")), rows, verifier, timeout=1)
    assert scored["score"] == [1, None, 1]
    assert scored["score_error"][1] == "no score after 1 seconds"
    with pytest.raises(ValueError, match="timeout is 0; it must be above 0"):
        verify(pairs_of(["a"]), rows, verifier, timeout=0)
    said = []

    def elsewhere():
        try:
            verify(pairs_of(["a"]), rows, verifier, timeout=1)
        except ValueError as error:
            said.append(str(error))

    thread = threading.Thread(target=elsewhere, daemon=True)
    thread.start()
    thread.join(60)
    assert "needs the main thread" in said[0]


def test_a_cut_trace_that_the_prompt_opened_is_no_answer():
    tokenizer = FAMILIES["deepseek-r1-distill"].tokenizer()
    ids = encode_prompt(asked("2+2"), tokenizer)
    pairs = pairs_of([asked("2+2")], ("so 2 and 2 make 4", "4\n</think>\n\n5", "5\n</think>\n\n4"))
    pairs = pairs.map(lambda row: {"prompt_ids": ids})
    rows = [{"prompt": "2+2", "answer": 4}]
    assert verify(pairs, rows, number_match(), tokenizer=tokenizer)["score"] == [0, 0, 1]
    seen = []
    verify(pairs, rows, lambda row, completion: seen.append(completion) or 0, tokenizer=tokenizer)
    assert seen[0] == "<think>\nso 2 and 2 make 4"  # the verifier's text can be understood alone


# ---------------------------------------------------------------------------------------------------- names
def test_verifiers_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"answer": "4"}
    for spec in (
        "exact",
        "exact:last_line",
        "number",
        "number:last",
        "regex:^4$",
        "distill.curation.verifiers:load_verifier",
    ):
        assert load_verifier(spec)
        if "load" not in spec:
            assert load_verifier(spec)(row, "<think>\n5\n</think>\n\n4")
    own = tmp_path / "mine.py"
    own.write_text("def score(row, completion):\n    return len(completion)\nlimit = 3\n")
    assert load_verifier(f"{own}:score")({}, "four") == 4
    for bad, sentence in {
        "numbr": "is no verifier: there are exact, number, regex, task",
        "number:first": "where is 'first'",
        f"{own}:scor": "has no function 'scor'; it has score",
        f"{own}:limit": "has no function 'limit'",
        "nowhere.py:f": "No file nowhere.py",
        "no_such_module:f": "Cannot import no_such_module",
        "mine:score": r"Cannot import mine.* give mine\.py:FUNCTION",
        "regex": "'regex' needs its pattern",
        "regex:": "'regex' needs its pattern",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            load_verifier(bad)


def test_rows_are_read_with_all_their_fields(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "answer": 1, "level": "easy"}\n\n{"prompt": [{"role": "user", "content": "b"}]}\n')
    assert read_rows(file)[0] == {"prompt": "a", "answer": 1, "level": "easy"}
    for line, words in (
        ('{"level": "a"}', "no column that is a prompt; it has level"),
        ('{"prompt": 7}', ":1: A prompt is text"),
        ('{"prompt": ""}', ":1: the prompt is empty"),
    ):
        file.write_text(line + "\n")
        with pytest.raises(ValueError, match=rf"rows\.jsonl.*{words}"):
            read_rows(file)
    file.write_text("\n")
    with pytest.raises(ValueError, match="has no prompts"):
        read_rows(file)


@pytest.mark.parametrize("name", ["rows.csv", "rows.json", "rows.yaml", "rows.parquet"])
def test_questions_are_read_from_files_of_any_format(tmp_path, name, capsys):
    """They were JSON Lines with `prompt` or nothing; a verifier reads whatever stands beside the question."""
    rows = [{"question": f"{i} + 1 =", "answer": str(i + 1)} for i in range(3)]
    path = tmp_path / name
    if path.suffix == ".csv":
        path.write_text("question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in rows))
    elif path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    else:
        path.write_text(json.dumps(rows))  # which is YAML, too
    found = read_rows(path)
    assert found == [{**row, "prompt": row["question"]} for row in rows]
    assert "Beside the prompts, for the verifier: answer" in capsys.readouterr().out
    assert [number_match()(row, f"It is {i + 1}.") for i, row in enumerate(found)] == [True] * 3
    assert read_rows(path, limit=1) == found[:1]
