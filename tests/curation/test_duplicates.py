"""Filters of pairs: what stays, in which order, and what is said about it."""

import re

import pytest
from conftest import build_pairs

from distill.curation.duplicates import drop_duplicates, drop_near_duplicates
from distill.curation.filters import (
    drop_broken,
    drop_cut,
    filter_format,
    filter_language,
    filter_length,
    filter_repetition,
)
from distill.curation.repetition import GOPHER, repetition
from distill.pairs.schema import pairs_from_rows
from distill.text.near_duplicates import marks, near_duplicates
from distill.text.words import numbers, words


def pairs_of(*rows, **changes):
    """Pairs from `(prompt, completion)`; keywords give columns of all rows."""
    made = []
    for i, (prompt, completion) in enumerate(rows):
        ids = {"prompt_ids": list(prompt.encode()), "completion_ids": [*completion.encode(), 300]}
        row = {"id": f"row{i}", "prompt": prompt, "completion": completion, "finish_reason": "stop", **ids}
        made.append({**row, "sample": 0, "teacher": "t", **{k: v[i] for k, v in changes.items()}})
    return pairs_from_rows(made, where="test")


def kept(result):
    pairs, step = result
    assert (step.rows_in - step.removed, step.rows_out) == (len(pairs), len(pairs))
    assert step.effect.endswith(".")
    assert len(step.examples) == min(step.removed, 3)
    return [int(row_id.removeprefix("row")) for row_id in pairs["id"]]


def test_equal_draws_of_one_prompt_stay_unless_asked_otherwise():
    rows = [("Heads or tails?", "Heads.")] * 3 + [("Heads or tails?", "Tails."), ("A coin?", "Heads.")]
    pairs = pairs_of(*rows, sample=[0, 1, 1, 2, 0])
    assert kept(drop_duplicates(pairs)) == [0, 1, 3, 4]
    assert kept(drop_duplicates(pairs, by="pair")) == [0, 3, 4]
    assert kept(drop_duplicates(pairs, by="prompt")) == [0, 4]
    assert kept(drop_duplicates(pairs, by="completion")) == [0, 3]
    assert kept(drop_duplicates(pairs, by="id")) == [0, 1, 2, 3, 4]
    joined = pairs_of(*rows[:2], id=["row7", "row7"], sample=[0, 1])
    assert kept(drop_duplicates(joined, by="id")) == [7]


def test_a_completion_that_was_cut_is_another_one_than_that_which_stopped():
    pairs = pairs_of(("Count.", "one two"), ("Count.", "one two"))
    rows = list(pairs)
    rows[1] |= {"completion_ids": rows[1]["completion_ids"][:-1], "finish_reason": "length"}
    assert kept(drop_duplicates(pairs_from_rows(rows, where="test"))) == [0, 1]


def test_two_teachers_may_say_the_same():
    pairs = pairs_of(("Heads?", "Yes."), ("Heads?", "Yes."), teacher=["a", "b"])
    assert kept(drop_duplicates(pairs)) == [0, 1]


LONG = "Write a short story about a lonely lighthouse keeper who finds a message in a bottle on the northern shore"


def test_near_duplicates_are_looked_for_among_other_prompts_only():
    rows = [(LONG, "Once upon a time."), (LONG, "Once upon a time!"), (LONG + ", please", "Far away."), ("Why?", "So.")]
    pairs = pairs_of(*rows, sample=[0, 1, 0, 0])
    assert kept(drop_near_duplicates(pairs)) == [0, 1, 3]
    story = f"{LONG}; and then he"
    told = pairs_of(("Tell.", story), ("Tell.", story + " wept"), ("Say.", story + " sang"), sample=[0, 1, 0])
    assert kept(drop_near_duplicates(told, of="completion")) == [0, 1]
    assert kept(drop_near_duplicates(told, of="pair", threshold=0.95)) == [0, 1, 2]


def test_numbers_and_symbols_make_another_exercise():
    first = f"{LONG}, in 300 words, and let the keeper count all of his lamps before the night begins"
    pairs = pairs_of((first, "a"), (first.replace("300", "500"), "b"))
    assert kept(drop_near_duplicates(pairs)) == [0, 1]
    assert near_duplicates(["What is 7 - 3?", "What is 7 + 3?", "what is 7-3"]) == [None, None, 0]
    assert numbers("7 - 3 = 4.0") == ["7", "-3", "=4.0"]
    assert marks("a² < b, ½") == ("2", "1", "2", "<", "⁄")


def test_texts_without_words_are_duplicates_only_of_themselves():
    assert near_duplicates(["???", "!!!", "???", "+", ""]) == [None, None, 0, None, None]


def test_words_of_scripts_without_spaces_are_their_characters():
    assert words("天気は ABC") == ["天", "気", "は", "abc"]
    assert words("ＡＢＣ ﬁne") == ["abc", "fine"]


def test_length_limits_may_be_reached():
    pairs = pairs_of(("p", "a"), ("p", "ab"), ("p", "abc"))
    assert kept(filter_length(pairs, 3, 3)) == [1]  # two letters and EOS
    assert kept(filter_length(pairs, maximum=2, unit="characters")) == [0, 1]
    assert kept(filter_length(pairs, 4, of="row")) == [1, 2]
    assert "shorter than the teacher" in filter_length(pairs, maximum=2)[1].effect


def test_cut_completions_go_and_the_step_says_what_that_costs():
    pairs = build_pairs(6)
    result = drop_cut(pairs)
    assert kept(result) == [1, 2, 4, 5]
    assert "shorter" in result[1].effect


def test_format_needs_one_pattern_and_forbids_another():
    pairs = pairs_of(("p", "Answer: 4"), ("p", "As an AI, I say Answer: 4"), ("p", "four"))
    assert kept(filter_format(pairs, must=r"Answer: \d", must_not="(?i)as an ai")) == [0]
    assert filter_format(pairs, must_not="(?i)as an ai")[1].examples[0].startswith("row1: 'As an AI'")


def test_blank_and_broken_texts_go_but_a_cut_inside_a_character_is_no_fault():
    rows = [("p", "fine"), ("p", "  \n"), ("p", "caf\ufffd"), ("p", "caf\ufffd"), ("p\ufffd", "x"), ("p", "\ufffd x")]
    pairs = pairs_of(*rows, finish_reason=["stop", "stop", "stop", "length", "stop", "length"])
    assert kept(drop_broken(pairs)) == [0, 3]


def test_language_is_judged_only_where_it_can_be():
    pairs = pairs_of(
        ("p", "Photosynthesis is the process by which plants make their own food from light."),
        ("p", "Die Photosynthese ist der Vorgang, durch den Pflanzen ihre eigene Nahrung herstellen."),
        ("p", "Oui."),
        ("p", "12 + 30 = 42, 7 * 6 = 42, 84 / 2 = 42, 50 - 8 = 42, 21 + 21 = 42, 6 * 7 = 42"),
    )
    result = filter_language(pairs, ["en"])
    assert kept(result) == [0, 2, 3]
    assert result[1].examples[0].startswith("row1: de")
    assert result[1].settings["not_said"] == 2
    assert kept(filter_language(pairs, ["en", "de"])) == [0, 1, 2, 3]


PROSE = (
    "The sky looks blue because air scatters short waves of light more than long ones. At dusk the light has a longer way "
    "through the air, most of the blue has gone sideways by then, and what still reaches your eye is orange and red. On "
    "the moon, where nothing scatters it, the sky stays black even at noon, and stars can be seen beside the sun."
)


def test_loops_go_and_prose_stays():
    loops = [f"{PROSE} " + "I do not know. " * 30, "the " * 80, PROSE + "\nSo it is.\n" * 40]
    pairs = pairs_of(("p", PROSE), *(("p", loop) for loop in loops), ("p", "no no no"))
    assert kept(filter_repetition(pairs)) == [0, 4]
    assert kept(filter_repetition(pairs, {"repeated_10": 1.0})) == [0, 1, 2, 3, 4]


def test_repetition_counts_each_character_once():
    assert repetition("no " * 60)["top_2"] == 1.0
    assert repetition("no " * 60)["repeated_5"] == pytest.approx(59 / 60)  # the first word alone repeats nothing
    assert max(repetition(PROSE).values()) <= 0.1
    assert set(repetition("a b c").values()) == {0.0}
    assert repetition("a\nb\na\na\n", {"lines": 0.3}, fewest_words=1) == {"lines": 0.5}
    assert GOPHER["repeated_7"] == 0.13


def test_two_runs_give_the_same_and_filters_do_not_depend_on_each_others_order():
    rows = [(f"{LONG} {i % 5}", f"{PROSE} {i % 7}") for i in range(30)]
    pairs = pairs_of(*rows, sample=[i % 2 for i in range(30)])
    once, again = (kept(drop_near_duplicates(drop_duplicates(pairs)[0])) for _ in range(2))
    assert once == again == sorted(once)
    one_way = kept(filter_length(filter_format(pairs, must="[3-6]$")[0], maximum=600))
    other_way = kept(filter_format(filter_length(pairs, maximum=600)[0], must="[3-6]$"))
    assert one_way == other_way


def test_a_filter_that_leaves_nothing_can_be_followed_by_others():
    nothing, _ = filter_format(pairs_of(("p", "a")), must="z")
    for clean in (drop_duplicates, drop_near_duplicates, drop_broken, drop_cut, filter_repetition):
        assert kept(clean(nothing)) == []
    assert kept(filter_length(nothing, 1)) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: filter_format(p, must="(a"), "The pattern '(a' is no regular expression: missing ), unterminated"),
        (lambda p: filter_format(p), "There is no pattern; give must= or must_not=."),
        (
            lambda p: drop_near_duplicates(p, 0.0),
            "threshold of near duplicates is 0.0; it must be above 0 and at most 1",
        ),
        (lambda p: drop_near_duplicates(p, 1.5), "threshold of near duplicates is 1.5"),
        (lambda p: drop_near_duplicates(p, of="row"), "of is 'row'; it must be one of prompt, completion, pair."),
        (lambda p: drop_duplicates(p, by="text"), "by is 'text'; it must be one of id, draw, pair"),
        (lambda p: filter_length(p), "There is neither a minimum nor a maximum"),
        (lambda p: filter_length(p, 5, 3), "from 5 to 3 tokens, which no text is"),
        (lambda p: filter_length(p, 5, unit="words"), "unit is 'words'; it must be one of tokens, characters."),
        (lambda p: filter_language(p, ["xx"]), "There is no language xx; codes are like en"),
        (
            lambda p: filter_language(p, ["en"], probability=2),
            "shortest is 40 and probability 2; 0 or more, and from 0",
        ),
        (lambda p: filter_repetition(p, {"lines": 3}), "lines is 3; a limit is a share from 0 to 1 of one of lines"),
        (lambda p: filter_repetition(p, {"words": 0.5}), "words is 0.5; a limit is a share"),
    ],
)
def test_bad_settings_are_told_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(build_pairs(3))
