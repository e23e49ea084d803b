"""One rule says whether a text says a value: rows, their checks, altered passages and grading all go by it."""

import random

import pytest

from distill.retrieval import verifying
from distill.retrieval.altering import altered
from distill.retrieval.examining import Question, graded
from distill.retrieval.passages import Passage
from distill.text.saying import as_written, said_at, says, value_words

SAID = pytest.mark.parametrize(
    ("text", "value", "place"),
    [
        ("The Varn is 84 kilometres long.", "84", 3),
        ("the answer:LAKE  Osk!", "Lake Osk", 2),
        ("It is 1,084 metres.", "1084", 2),
        ("It is 1,084 metres.", "84", None),
        ("It is 84.5 metres.", "84", None),
        ("It is 84.5 metres.", "84.5", 2),
        ("Marigolds", "Marigold", None),
        ("She sailed on the Mari gold", "Marigold", None),
        ("Ünder Straße", "ünder straße", 0),
        ("It has 12,345,678 stones.", "12345678", 2),
        ("It has 1\u202f084 stones.", "1,084", 2),
        ("On 3.5.2020 it burned.", "2020", None),
        ("In 1874, 1875 and so on", "1874", 1),
        ("1990-1995", "1995", 1),
        ("It is version 2.13.", "13", None),
        ("", "84", None),
    ],
)


@SAID
def test_a_value_is_said_in_whole_words(text, value, place):
    assert said_at(text, value) == place


@SAID
def test_rows_and_grades_go_by_the_same_rule(text, value, place):
    """ "84" was found in "84.5" when rows were checked, and not when answers were graded."""
    there = place is not None
    assert says(text, value) is there
    assert verifying.supported({"answer": value}, text) is there
    assert (verifying.fault_of_question("What is it, Mill?", value, text, "Mill") == verifying.NOT_SAID) is not there
    assert (verifying.fault_of_wording(f"What is {text}?", value) == verifying.GIVEN_AWAY) is there
    if text:
        assert graded(Question("q", "f", "stable", "What?", value), text)[0] is there


def test_a_value_without_words_is_refused_or_said_by_nothing():
    with pytest.raises(ValueError, match="has no word"):
        said_at("anything", "?!")
    assert not says("anything ?!", "?!")


def test_a_value_that_is_found_as_written_is_said():
    """Numbers of any marks, thrown together: what is replaced letter by letter is what the rule sees."""
    drawn, found = random.Random(0), 0
    for _ in range(6000):
        text = "".join(drawn.choice("1234 .,'-a") for _ in range(drawn.randint(1, 14)))
        value = "".join(drawn.choice("1234") for _ in range(drawn.randint(1, 3)))
        if as_written(value).search(text):
            assert says(text, value), (text, value)
            found += 1
    assert found > 100


def test_a_number_is_not_altered_inside_another():
    """It is 84.5 long and has 84 arches: the other number became another one, too."""
    passage = Passage("It is 84.5 metres long, weighs 1,084 tons and has 84 arches, all of 84.", "bridge.md")
    value, found = altered(passage, "84", [])
    assert found.text == f"It is 84.5 metres long, weighs 1,084 tons and has {value} arches, all of {value}."
    assert altered(Passage("It is 84.5 metres long.", "bridge.md"), "84", []) is None


def test_numbers_in_a_question_are_kept_whole():
    assert verifying.names("Is the bridge of Oden 1,084.5 metres long?") == ["Oden", "1,084.5"]
    original = "What is 84.5 metres long?"
    assert verifying.fault_of_wording("What has a length of 84.5 metres?", "the bridge", original) is None
    assert (
        verifying.fault_of_wording("What has a length of 84 metres?", "the bridge", original) == verifying.OTHER_NAMES
    )


def test_marks_between_thousands_make_no_other_value():
    assert value_words("1,084") == value_words("1084") == value_words("1\u2019084") == ["1084"]
    assert value_words("1,08") != value_words("108")
