"""Laws of what is kept: a phrase of many questions, the divergence of a selection, and what a verifier leaves behind."""

import math
import signal
import time

import pytest
from conftest import build_pairs

from distill.curation.contamination import find_contamination
from distill.curation.repetition import repetition
from distill.curation.selection import effect_of, select
from distill.curation.verifiers import verify
from distill.pairs.schema import pairs_from_rows
from distill.text.near_duplicates import near_duplicates

WORDING = "please choose the correct answer among the four below"


def asked(text):
    return pairs_from_rows([{**build_pairs(1).to_list()[0], "prompt": text}], where="test")


def scored(scores):
    """One list of scores for each prompt."""
    row = build_pairs(1).to_list()[0]
    rows = [
        {**row, "id": f"{p}.{s}", "prompt": f"prompt {p}", "prompt_ids": [p + 3], "sample": s, "score": float(score)}
        for p, samples in enumerate(scores)
        for s, score in enumerate(samples)
    ]
    return pairs_from_rows(rows, where="test")


# ------------------------------------------------------------------------------------------------ evaluation questions
@pytest.mark.parametrize("common", [1, 3, 10])
def test_a_phrase_of_exactly_as_many_questions_as_are_allowed_is_still_found(common):
    """`common` is the most there may be: one question more, and it is the set's wording."""
    questions = [f"{WORDING} number {i}" for i in range(common + 1)]
    pairs = asked(f"{WORDING} now")
    found = {
        many: find_contamination(pairs, {"set": questions[:many]}, n=9, common=common, share=0.5)[0].found
        for many in (common, common + 1)
    }
    assert found == {common: common, common + 1: 0}


def test_a_question_that_repeats_in_a_set_is_one_question():
    """Several samples of one question are no wording of several."""
    questions = [f"{WORDING} number 1"] * 5
    assert find_contamination(asked(f"{WORDING} now"), {"set": questions}, n=9, common=1)[0].found == 5


# ------------------------------------------------------------------------------------------------------- repetition
def test_a_text_of_exactly_the_fewest_words_is_judged_and_a_shorter_one_is_not():
    text = "no " * 50
    assert repetition(text, fewest_words=50)["repeated_5"] > 0.9
    assert set(repetition(text, fewest_words=51).values()) == {0.0}


def test_a_text_that_is_near_two_others_is_said_to_repeat_the_first():
    """All of a text, of which one earlier text is the beginning and another the end."""
    words = [f"word{chr(65 + i // 26)}{chr(97 + i % 26)}" for i in range(45)]  # no numbers: those must agree
    begins, ends, whole = (" ".join(part) for part in (words[:32], words[13:], words))
    assert near_duplicates([begins, ends], 0.4) == [None, None]
    assert near_duplicates([ends, begins, whole], 0.4) == near_duplicates([begins, ends, whole], 0.4) == [None, None, 0]


# --------------------------------------------------------------------------------------------------------- selection
def test_the_divergence_of_a_selection_is_the_mean_of_minus_log_pass_rate():
    """Prompts of pass rates 1/2 and 1: 0 and ln 2 nats, and their mean."""
    pairs = scored([[0, 1], [1, 1]])
    assert effect_of(pairs, select(pairs)[0]).kl_solved == pytest.approx(math.log(2) / 2)
    assert effect_of(pairs, pairs.select([1])).kl_solved == pytest.approx(math.log(2)), "of the prompts that are left"


@pytest.mark.parametrize("scores", [[[1, 1]], [[0, 1], [1, 1]], [[0, 0, 1], [0, 0]], [[1]], [[0, 1], [0, 0, 0, 1]]])
def test_no_divergence_of_a_selection_is_negative(scores):
    """Nor is it minus zero, which a card would show as -0.0."""
    pairs = scored(scores)
    kept, step = select(pairs)
    effect = effect_of(pairs, kept)
    for value in (effect.kl_solved, effect.best_of_kl, effect.prompt_shift, step.settings["kl_solved"]):
        assert value >= 0
        assert math.copysign(1, value) == 1


# --------------------------------------------------------------------------------------------------------- verifiers
@pytest.fixture
def bell():
    """How often an alarm rang that nobody took; without a handler, it would end the process."""
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    yield rung
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def good(row, completion):
    return 1.0


def raises(row, completion):
    raise RuntimeError("no")


def sleeps(row, completion):
    time.sleep(30)


@pytest.mark.parametrize("verifier", [good, raises, sleeps])
def test_a_verifier_leaves_no_timer_behind(bell, verifier):
    """Whether it gave a score, raised or was stopped: no timer runs on, and the handler is whose it was."""
    handler = signal.getsignal(signal.SIGALRM)
    pairs = build_pairs(2)
    verify(pairs, [{"prompt": prompt} for prompt in pairs["prompt"]], verifier, timeout=0.05)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is handler
    assert not bell
