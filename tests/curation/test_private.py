"""Personal data and secrets: what is found in texts of many countries, what is not, and stand-ins. Rows and tokens: test_private_rows.py."""

import itertools
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.curation.private import StandIns, find, kinds_of
from distill.curation.private.kinds import KINDS, Found, check_private
from distill.curation.private.numbers import luhn
from distill.curation.private.phones import FICTION, is_fiction
from distill.curation.private.seams import seams

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from private_cases import cases, hard_negatives  # noqa: E402

SEEDS = range(100, 103)  # others than those that the patterns were made with


def kinds(text, **more):
    return [one.kind for one in find(text, **more)]


def swapped(text, standins, **more):
    for one in reversed(find(text, **more)):
        text = text[: one.start] + standins.of(one) + text[one.end :]
    return text


def test_values_are_found_and_what_only_looks_like_them_is_not():
    """The bounds are what the page says, less what other seeds may differ by."""
    asked, hit, wrong = Counter(), Counter(), defaultdict(list)
    for case in itertools.chain.from_iterable(map(cases, SEEDS)):
        found = find(case.text)
        if case.kind is None:
            wrong[case.form] += [one.kind for one in found]
            continue
        told = case.form.rpartition(", ")[2] != "untold"
        at = case.text.index(case.value)
        asked[case.kind, told] += 1
        hit[case.kind, told] += any(one.start <= at and one.end >= at + len(case.value) for one in found)
    assert {form: kinds for form, kinds in wrong.items() if kinds} == {}
    for kind in KINDS:
        assert hit[kind, True] >= 0.98 * asked[kind, True] > 0, kind
    assert hit["phone", False] > 0.8 * asked["phone", False]
    # a number of eleven digits with no word beside it is left: else order numbers would be found
    assert 0.5 < hit["id", False] / asked["id", False] < 0.8


def test_a_finder_that_finds_all_numbers_would_fail_the_hard_ones():
    import random
    import re

    texts = hard_negatives(random.Random(0))
    assert sum(bool(re.search(r"\d{4}", text)) for text in texts.values()) > 20


@pytest.mark.parametrize(
    "text",
    [
        "Karte ４１２３ ４５６７ ８９０１ ２３４９",
        "Call +４９ ３０ ９０１８２０",
        "तार +९१ ९८१२३ ४५६७८",
        "+49 30 901820",
        "邮箱jo@qq.com。",
    ],
)
def test_digits_of_other_scripts_and_words_without_blanks(text):
    (one,) = find(text)
    new = swapped(text, StandIns(b"k" * 16))
    assert one.value in text
    assert one.value not in new
    assert not find(new)
    if not text.isascii() and any(c.isdecimal() and not c.isascii() for c in one.value):
        assert {c for c in new if c.isdecimal() and c.isascii()} == set()  # the digits stay of their script


def test_of_two_that_overlap_the_longest_is_taken():
    (one,) = find("see postgres://app:s3cret99@db.shop.io/main")
    assert one.kind == "password"
    (one,) = find("key sk-ant-api03-AAAAbbbbCCCCdddd1111+49301234567890 end")
    assert one.kind == "secret"


def test_a_finding_is_told_without_its_value():
    for text in ("write jo.miller@firma.de", "My password is tiger791!", "card 4539 1488 0343 6467"):
        (one,) = find(text)
        for said in (repr(one), one.shape, str(one)):
            assert one.value not in said
            assert one.same not in said
    assert find("jo.miller@firma.de")[0].shape == "aa.aaaaaa@aaaaa.aa"
    assert find("My password is tiger791!")[0].shape == "9 characters"


def test_what_it_stands_under_tells_what_it_is():
    assert kinds("0171 3920012 4", name="x") == []
    assert kinds("17139201234", name="steuer_id") == kinds("17139201234") == []
    assert kinds("612407898", name="") == []
    assert kinds("612407898", name="teléfono") == ["phone"]
    assert kinds("tiger791", name="password") == ["password"]
    assert kinds("tiger791", name="animal") == []


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(ValueError, match=r"'e-mail', which is none of email, .*Is email meant\?"):
        kinds_of(["e-mail"])
    assert kinds_of(["secret", "email"]) == ("email", "secret")
    assert kinds("jo@firma.de, 84.12.9.7", kinds=("ip",)) == ["ip"]


def test_the_same_value_has_the_same_stand_in_whatever_else_is_there():
    one, other = (StandIns(b"a" * 16) for _ in range(2))
    first, second = find("Call +49 30 901820 or 030 901820, jo@firma.de")[0], find("JO@firma.de and jo@firma.de")
    other.assign(second)
    assert {other.of(x) for x in second} == {one.of(find("jo@firma.de")[0])}
    assert StandIns(b"b" * 16).of(second[0]) != one.of(second[0])
    a, b = find("Call +49 30 901820 or 030 901820")
    assert a.same == b.same == first.same
    assert one.of(a).replace(" ", "").removeprefix("+49") == one.of(b).replace(" ", "").removeprefix("0")


def test_stand_ins_are_of_the_form_and_nobodys():
    standins, shapes = StandIns(b"k" * 16), defaultdict(list)
    for case in cases(200):
        for one in find(case.text):
            new = standins.of(one)
            shapes[one.kind].append((one, new))
            assert not find(new), (one, new)
    assert all(new.endswith("@example.org") for _, new in shapes["email"])
    assert not any(luhn("".join(filter(str.isdigit, new))) for _, new in shapes["card"])
    assert all(new[2:4] == "00" for _, new in shapes["iban"])
    assert all(new.startswith(("192.0.2.", "198.51.100.", "203.0.113.", "2001:db8:")) for _, new in shapes["ip"])
    assert all(Found(0, 0, "id", new, "").shape == one.shape for one, new in shapes["card"] + shapes["iban"])
    in_range = [(one, new) for one, new in shapes["phone"] if one.same.startswith(("+1", "+44", "+33"))]
    assert in_range
    for one, new in in_range:
        import phonenumbers

        region = {"1": "US", "4": "GB", "3": "FR"}[one.same[1]]
        assert is_fiction(
            phonenumbers.format_number(phonenumbers.parse(new, region), phonenumbers.PhoneNumberFormat.E164)
        )
    assert all("EXAMPLE" in new for kind in ("secret", "password") for _, new in shapes[kind])


def test_a_stand_in_that_stands_in_the_data_or_is_anothers_is_not_taken():
    (one,) = find("84.12.9.7")
    first = StandIns(b"k" * 16).of(one)
    moved = StandIns(b"k" * 16, taken={first})
    assert moved.of(one) != first
    assert moved.moved == 1
    many = [find(f"84.12.{i}.7")[0] for i in range(1, 251)]
    standins = StandIns(b"k" * 16)
    standins.assign(many)
    assert len({standins.of(value) for value in many}) == 250
    assert standins.moved > 0
    full = StandIns(
        b"k" * 16, taken={f"{net}{i}" for net in ("192.0.2.", "198.51.100.", "203.0.113.") for i in range(1, 255)}
    )
    assert full.of(one).startswith(("192.0.2.", "198.51.100.", "203.0.113."))
    assert full.shared == 1


def test_a_number_in_one_stretch_keeps_its_countrys_code():
    """As tables have it, without a plus."""
    (one,) = find("4917134512345", name="phone")
    new = StandIns(b"k" * 16).of(one)
    assert one.same == "+4917134512345"
    assert new.startswith("49")
    assert is_fiction(f"+{new}")


def test_the_order_of_the_data_decides_nothing():
    many = [find(f"84.12.{i}.7")[0] for i in range(1, 200)]
    made = []
    for order in (many, many[::-1]):
        standins = StandIns(b"k" * 16)
        standins.assign(order)
        made.append([standins.of(value) for value in many])
    assert made[0] == made[1]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([c for s in (300, 301) for c in cases(s, 1)]), min_size=1, max_size=4),
    st.sampled_from([" ", "\n", ", ", ": "]),
)
def test_a_second_pass_finds_nothing_new(chosen, between):
    standins = StandIns(b"k" * 16)
    text = between.join(case.text for case in chosen)
    for _ in range(3):  # as `clean_private` does
        text = swapped(text, standins)
    assert find(text) == []
    assert not [case for case in chosen if case.kind in ("email", "iban", "secret") and case.value in text]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_and_findings_never_overlap(text):
    found = find(text)
    assert all(text[one.start : one.end] == one.value for one in found)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))


@pytest.mark.parametrize(
    "piece",
    ["a", "1", "1 ", "a@", "-", "aA1+", "::", "1.1.", "password:", "=\n", "-----BEGIN PRIVATE KEY-----\n", "eyJ."],
)
def test_time_grows_as_the_text_does(piece):
    """Twice the text, twice the steps: counted by time of this process, with room for a machine that is busy."""
    import time

    def seconds(size):
        text = piece * (size // len(piece))
        best = 9.0
        for _ in range(3):
            begun = time.process_time()
            find(text)
            best = min(best, time.process_time() - begun)
        return best

    seconds(1_000)
    small, large = seconds(10_000), seconds(80_000)
    assert large < 8 * 3 * small + 0.05, (small, large)


@pytest.mark.parametrize(
    ("turns", "kind"),
    [
        (["my address is jo.miller@", "firma.de, write soon"], "email"),
        (["the card 4539 1488", " 0343 6467 is mine"], "card"),
        (["IBAN DE89 3704 0044", " 0532 0130 00 please"], "iban"),
        (["call +49 30 90", "1820 today"], "phone"),
    ],
)
def test_a_value_in_two_turns(turns, kind):
    assert not [one for turn in turns for one in find(turn) if one.kind == kind]
    (seam,) = seams(turns, tuple(KINDS))
    assert seam.found.kind == kind
    new = StandIns(b"k" * 16).of(seam.found)
    (end, first), (begin, second) = seam.parts(new)
    assert turns[0].endswith(end)
    assert turns[1].startswith(begin)
    assert new in first + second
    assert not seams([turns[0].replace(end, first), turns[1].replace(begin, second)], tuple(KINDS))


@pytest.mark.parametrize(
    "turns",
    [
        ["What is 4539 1488", "0343 6467 of it"],
        ["3 + 4 =", "7"],
        ["see you at", "12:30"],
        ["mine is user-abcdefgh@example.org.", "My name is Jo"],
        ["mine is user-abcdefgh@example.org", "or none"],
        ["+1 202-555-0143", "5 times"],
        ["", ""],
        ["It is 2024", "2025 comes"],
    ],
)
def test_turns_that_only_stand_beside_each_other(turns):
    assert seams(turns, tuple(KINDS)) == []


def test_a_private_key_in_two_turns_is_found_in_both():
    lines = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ", "C7VJTUt9Us8cKjMzEfYyjiWA4R4mB9cKBpIBE7x9TQ8kB1rJs"]
    first, second = f"-----BEGIN PRIVATE KEY-----\n{lines[0]}", f"{lines[1]}\n-----END PRIVATE KEY-----"
    for text in (first, second):
        (one,) = find(text)
        assert one.kind == "secret"
        assert one.value == text


def test_a_missing_package_is_named_with_the_way_to_have_it(monkeypatch):
    for module, package in (
        ("phonenumbers", "phonenumbers"),
        ("stdnum", "python-stdnum"),
        ("detect_secrets", "detect-secrets"),
    ):
        with monkeypatch.context() as patched:
            for loaded in [name for name in sys.modules if name.partition(".")[0] == module]:
                patched.delitem(sys.modules, loaded)
            patched.setitem(sys.modules, module, None)
            with pytest.raises(
                ValueError, match=rf"needs the package '{package}': pip install 'distill\[private\]'\.$"
            ):
                check_private()


def test_numbers_for_fiction_are_those_that_stand_ins_are_of():
    for code, forms in FICTION.items():
        for form in forms:
            assert is_fiction(f"+{code}{form.replace('#', '1') if code != 1 else '2025550111'}"), form
    assert not is_fiction("+12025550211")
