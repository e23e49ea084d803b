"""Words of every script: marks belong to their letters, so a girl is no boy."""

import pytest

from distill.curation.repetition import repetition
from distill.text.near_duplicates import near_duplicates
from distill.text.words import letters, words

HINDI = "लड़का स्कूल जाता है और किताब पढ़ता है"
GIRL = "लड़की स्कूल जाती है और किताब पढ़ती है"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (HINDI, HINDI.split()),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("বাংলা ভাষা।", ["বাংলা", "ভাষা"]),
        ("می‌خواهم بروم", ["می‌خواهم", "بروم"]),  # a joiner within a word
        ("x̄ und ȳ", ["x̄", "und", "ȳ"]),  # a mark that Unicode has no letter with
        ("cafe\u0301", ["café"]),
        ("ภาษาไทย", ["ภ", "า", "ษ", "า", "ไ", "ท", "ย"]),  # no spaces: each letter with the marks upon it
        ("ที่นี่", ["ที่", "นี่"]),
        ("ខ្មែរ", ["ខ្", "មែ", "រ"]),
        ("今日は the sky", ["今", "日", "は", "the", "sky"]),
        ("naïve Übergang_2, ½", ["naïve", "übergang_2", "1", "2"]),
        ("한국어 단어", ["한국어", "단어"]),
        ("", []),
        ("\u0301", ["\u0301"]),
    ],
)
def test_marks_belong_to_words(text, found):
    assert words(text) == found


def test_words_of_a_space_separated_script_are_as_many_as_its_spaces_say():
    text = " ".join([HINDI, GIRL] * 7)
    assert len(words(text)) == len(text.split())


def test_what_differs_in_a_vowel_sign_is_no_duplicate():
    assert near_duplicates([HINDI, GIRL, "เด็กชายไปโรงเรียน", "เด็กหญิงไปโรงเรียน"]) == [None] * 4
    assert near_duplicates([HINDI, HINDI.upper() + "!"]) == [None, 0]


def test_siblings_count_letters_with_their_marks():
    """Languages are told from a number of letters, repetition from words and their characters."""
    assert letters(HINDI) == len(HINDI.replace(" ", "")), "every sign counts"
    assert letters("a1 b!") == letters("é1 b!") == 2
    loop = " ".join(["लड़का", "लड़की"] * 30)
    assert repetition(loop, {"repeated_5": 0.15})["repeated_5"] > 0.9
    once = " ".join(f"{a}{b}" for a in "कखगघचछजझ" for b in "ािीुूेै")  # the same letters, other vowels: nothing repeats
    assert repetition(once, {"repeated_5": 0.15, "top_2": 0.2}) == {"repeated_5": 0.0, "top_2": 0.0}
