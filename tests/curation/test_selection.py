"""Selection: which completions stay, and what that does to the distribution, by enumeration where it is a law."""

import itertools
import math
import re

import pytest
import torch

from distill.basics.curation_step import Step, steps_table
from distill.curation.selection import KEEP, effect_of, pass_rates, select
from distill.curation.verifiers import verify
from distill.equivalence import Bed
from distill.pairs.schema import pairs_from_rows


def scored(scores, errors=None):
    """Pairs with these scores: one list of samples for each prompt."""
    rows = [
        {
            "id": f"{p}{s}", "prompt": f"prompt {p}", "completion": f"c{p}{s}", "prompt_ids": [p], "completion_ids": [1] * (s + 1),
            "finish_reason": "stop", "sample": s, "teacher": "t", "score": score,
            "score_error": None if score is not None else (errors or "ValueError: no"),
        }
        for p, samples in enumerate(scores)
        for s, score in enumerate(samples)
    ]  # fmt: skip
    return pairs_from_rows([{k: v for k, v in row.items() if v is not None} for row in rows], where="test")


def kept(pairs, *args, **kwargs):
    return select(pairs, *args, **kwargs)[0]["id"]


SCORES = [[0, 1, 1], [1, 1, 1], [0, 0, 0], [0.5, None, 2]]


def test_what_each_choice_keeps():
    pairs = scored(SCORES)
    assert kept(pairs) == ["01", "02", "10", "11", "12", "32"]
    assert kept(pairs, "first_correct") == ["01", "10", "32"]
    assert kept(pairs, "best") == ["01", "10", "32"]
    assert kept(pairs, "up_to", k=2) == ["01", "02", "10", "11", "32"]
    assert kept(pairs, "best", threshold=0.1) == ["01", "10", "32"]
    assert kept(pairs, "first_correct", threshold=0.1) == ["01", "10", "30"]
    assert kept(pairs, "best", threshold=None) == ["01", "10", "20", "32"]
    assert len(kept(pairs, threshold=None)) == 11  # the one without a score is never kept


def test_first_is_by_sample_and_not_by_place_and_the_order_of_the_pairs_stays():
    pairs = scored(SCORES)
    backwards = pairs.select(range(len(pairs) - 1, -1, -1))
    for arguments in ({"keep": "first_correct"}, {"keep": "best"}, {"keep": "up_to", "k": 2}, {"keep": "all"}):
        assert kept(backwards, **arguments) == kept(pairs, **arguments)[::-1]


def test_selecting_twice_is_selecting_once():
    for keep in KEEP:
        k = 2 if keep == "up_to" else None
        once = select(scored(SCORES), keep, k=k)[0]
        assert select(once, keep, k=k)[0].to_list() == once.to_list()


def test_rows_without_a_score_are_counted_or_refused_and_never_kept():
    pairs = scored(SCORES, "ValueError: gone")
    _, step = select(pairs, threshold=None)
    assert step.settings["unscored"] == 1
    with pytest.raises(ValueError, match="1 of 12 pairs have no score; the first: ValueError: gone"):
        select(pairs, unscored="raise")
    rates = pass_rates(scored([[None, 1], [None, None]]))
    assert (rates.rates, rates.samples, rates.unscored, rates.without_score) == ((1.0,), (1,), 3, 1)
    assert "3 completions have no score, and 1 prompts none at all; the first error: ValueError: no" in str(rates)
    with pytest.raises(
        ValueError,
        match=r"None of the 2 completions has a score of at least 1.0 \(2 have none, the first because of ValueError: no\)",
    ):
        select(scored([[None, None]]))


def test_what_cannot_be_selected_is_said():
    pairs = scored(SCORES)
    for arguments in ({"keep": "up_to"}, {"keep": "up_to", "k": 0}, {"keep": "best", "k": 1}):
        with pytest.raises(ValueError, match="'up_to' needs a k of at least 1"):
            select(pairs, **arguments)
    for arguments in ({"keep": "some"}, {"unscored": "guess"}):
        with pytest.raises(ValueError, match="expected one of"):
            select(pairs, **arguments)
    with pytest.raises(ValueError, match="None of the 12 completions has a score of at least 3"):
        select(pairs, threshold=3)
    for call in (select, pass_rates):
        with pytest.raises(ValueError, match="The pairs have no score"):
            call(pairs.remove_columns(["score", "score_error"]))


def test_pass_rates():
    rates = pass_rates(scored(SCORES))
    assert rates.rates == (2 / 3, 1.0, 0.0, 0.5)
    assert (rates.never, rates.always, rates.mean) == (1, 1, pytest.approx(13 / 24))
    assert sum(count for _, count in rates.histogram()) == 4
    assert dict(rates.histogram()) == {
        "never": 1,
        "0-20%": 0,
        "20-40%": 0,
        "40-60%": 1,
        "60-80%": 1,
        "80-100%": 0,
        "always": 1,
    }
    assert "4 prompts, 11 scored completions: mean pass rate 54.2%; 1 never solved, 1 always." in str(rates)
    assert rates.as_dict()["completions"] == 11


# ------------------------------------------------------------------------------------- the effect, by enumeration
def total_variation(p, q):
    return sum(abs(p.get(key, 0) - q.get(key, 0)) for key in {**p, **q}) / 2


def frequencies(pairs, key):
    counts = {}
    for row in pairs:
        counts[key(row)] = counts.get(key(row), 0) + 1 / len(pairs)
    return counts


def test_the_figures_are_those_of_the_two_distributions():
    """Taking the samples as the distribution: everything that `Effect` says can be counted."""
    pairs = scored([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]])
    rest, step = select(pairs)
    effect = effect_of(pairs, rest)
    whole, prompt = (lambda row: row["id"]), (lambda row: row["prompt"])
    # p(x, y) against p(x, y | correct): the mass that is lost, exactly
    assert total_variation(frequencies(pairs, whole), frequencies(rest, whole)) == pytest.approx(1 - effect.pass_rate)
    assert total_variation(frequencies(pairs, prompt), frequencies(rest, prompt)) == pytest.approx(effect.prompt_shift)
    # p(y | x) against p(y | x, correct): 1 - pass rate, exactly, for each prompt
    for p, rate in zip("013", (0.5, 1, 0.25), strict=True):
        of = [d.filter(lambda row, p=p: row["prompt"] == f"prompt {p}") for d in (pairs, rest)]
        before, after = (frequencies(d, whole) for d in of)
        assert total_variation(before, after) == pytest.approx(1 - rate)
        assert sum(v * math.log(v / before[i]) for i, v in after.items()) == pytest.approx(-math.log(rate))
    weights = frequencies(rest, prompt).values()
    assert effect.effective_prompts == pytest.approx(1 / sum(w**2 for w in weights))
    assert (effect.prompts, effect.prompts_kept) == (4, 3)
    assert effect.pass_rate_weighted == pytest.approx((2 * 0.5 + 4 * 1 + 1 * 0.25) / 7)
    assert effect.pass_rate_weighted > effect.pass_rate  # easy prompts gain
    assert "44% of its mass is kept" in step.effect
    assert "total variation of 0.56" in step.effect
    first = effect_of(pairs, select(pairs, "first_correct")[0])
    assert first.effective_prompts == pytest.approx(3)  # solved prompts weigh the same


def every_draw(bed, samples, scores):
    """Every way to draw `samples` completions, each as a prompt of its own, and how likely it is."""
    draws = list(itertools.product(range(len(bed.pairs)), repeat=samples))
    texts = bed.pairs["completion"]
    rows = [
        {
            "id": f"{d}-{s}", "prompt": f"draw {d}", "completion": texts[i], "prompt_ids": [d], "completion_ids": [i],
            "finish_reason": "stop", "sample": s, "teacher": "bed", "score": float(scores[i]),
        }
        for d, draw in enumerate(draws)
        for s, i in enumerate(draw)
    ]  # fmt: skip
    likely = torch.stack([bed.probabilities[list(draw)].prod() for draw in draws])
    return pairs_from_rows(rows, where="the draws"), likely


@pytest.mark.parametrize("arguments", [("all", None), ("first_correct", None), ("up_to", 2)])
def test_samples_that_are_kept_for_being_correct_follow_p_given_correct(arguments):
    bed = Bed(vocabulary=3, length=2)
    correct = torch.tensor([1.0, 0, 1, 1, 0, 0, 1], dtype=torch.float64)
    pairs, likely = every_draw(bed, 3, correct)
    rest, _ = select(pairs, arguments[0], k=arguments[1])
    mass = torch.zeros(7, dtype=torch.float64)
    for row in rest:
        mass[row["completion_ids"][0]] += likely[row["prompt_ids"][0]]
    rate = float(bed.probabilities @ correct)
    torch.testing.assert_close(mass / mass.sum(), bed.probabilities * correct / rate, rtol=1e-12, atol=0)
    if arguments[0] == "first_correct":  # so much of the prompts is solved
        assert float(mass.sum()) == pytest.approx(1 - (1 - rate) ** 3, rel=1e-12)
    else:
        expected = {
            "all": 3 * rate,
            "up_to": sum(min(n, 2) * math.comb(3, n) * rate**n * (1 - rate) ** (3 - n) for n in range(4)),
        }
        assert float(mass.sum()) == pytest.approx(expected[arguments[0]], rel=1e-12)


def test_the_best_of_several_is_another_distribution_and_its_distance_is_bounded():
    bed = Bed(vocabulary=3, length=2)
    scores = torch.arange(7.0)
    pairs, likely = every_draw(bed, 3, scores)
    rest, step = select(pairs, "best", threshold=None)
    best = torch.zeros(7, dtype=torch.float64)
    for row in rest:
        best[row["completion_ids"][0]] += likely[row["prompt_ids"][0]]
    reached = bed.probabilities.cumsum(0)  # the law: P(best <= y) is P(one <= y) to the power of N
    torch.testing.assert_close(best.cumsum(0), reached**3, rtol=1e-12, atol=1e-15)
    kl = float((best * (best / bed.probabilities).log()).sum())
    assert 0 < kl <= effect_of(pairs, rest, None).best_of_kl == pytest.approx(math.log(3) - 2 / 3)
    assert "the best of up to 3 samples is distilled and not p(y|x)" in step.effect


def test_a_filter_that_rejects_half_changes_the_expected_gradient_by_more_than_half(bed):
    """The teacher's gradient against that of what a verifier leaves, exactly, over all 121 completions."""
    rows = [{"prompt": bed.pairs[0]["prompt"], "answer": "c"}]
    pairs = verify(bed.pairs, rows, lambda row, completion: row["answer"] in completion.split())
    p, n, gradients = bed.probabilities, bed.lengths, bed.gradients(bed.sft_losses())
    rest, _ = select(pairs)
    chosen = torch.tensor([i in set(rest["id"]) for i in pairs["id"]])
    rate = float(p[chosen].sum())
    assert rate == pytest.approx(0.5, abs=0.01)
    q = p * chosen / rate
    assert float((p - q).abs().sum() / 2) == pytest.approx(1 - rate, rel=1e-12)
    assert float((q[chosen] * (q[chosen] / p[chosen]).log()).sum()) == pytest.approx(-math.log(rate), rel=1e-12)
    teacher, filtered = ((d @ gradients) / (d @ n) for d in (p, q))
    error = float((filtered - teacher).norm() / teacher.norm())
    assert error == pytest.approx(0.54, abs=0.01)


def test_the_table_of_steps_has_as_many_cells_in_every_row():
    """`p(y|x)` in an effect would end a cell of Markdown."""
    lines = steps_table([Step("keep all", 4, 1, "Not p(y|x) but p(y|x, correct) is distilled.")]).splitlines()
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {7}
