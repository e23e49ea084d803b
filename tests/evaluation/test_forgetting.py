"""A student against the model it started from: nothing changed at the start, exactly; and every figure by another way."""

import copy
import json

import numpy as np
import pytest
import torch
from conftest import TEMPLATE, build_model, build_pairs, build_tokenizer
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from two_tokenizers import sentence_piece

from distill.evaluation import HeldOut
from distill.evaluation.forgetting import MEASURES, Before, Forgetting, answers_of, ece
from distill.evaluation.forgetting.calibration import bin_gaps
from distill.evaluation.forgetting.figures import of_calibration, of_ratio
from distill.pairs.schema import complete_row, pairs_from_rows


def before(start=None, **changes):
    pairs = build_pairs(14)
    settings = {"draws": 200, "max_new_tokens": 12, "answered": 6, **changes}
    return Before(start or build_model(), pairs.select(range(8)), pairs.select(range(8, 14)), build_tokenizer(), **settings)  # fmt: skip


@pytest.mark.parametrize("kind", ["a copy", "bfloat16 start", "fresh adapter", "in training"])
def test_a_student_that_was_not_trained_differs_by_exactly_nothing(kind):
    """Answers are of the same weights, too, whatever they are kept in."""
    start = build_model(dtype=torch.bfloat16) if kind == "bfloat16 start" else build_model()
    student = copy.deepcopy(start).float()
    if kind == "fresh adapter":
        student = get_peft_model(student, LoraConfig(r=2, target_modules="all-linear"))
    if kind == "in training":
        student.train()
    found = before(start).measure(student)
    assert list(found.measures) == list(MEASURES)
    assert {(one.difference, one.low, one.high) for one in found.measures.values()} == {(0.0, 0.0, 0.0)}
    assert found["kl_old"].after == 0
    assert found["loss_new"].before > 1
    assert student.training == (kind == "in training" or kind == "fresh adapter")


def test_another_student_has_the_figures_of_whole_logits():
    """KL, losses and calibration of one pair after another, without batches and without autocast."""
    start, student, pairs = build_model(), build_model(seed=1), build_pairs(8)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("before", "answers"):
            patch.setattr(f"distill.evaluation.forgetting.{module}.fast_dtype", lambda: torch.float32)
        patch.setattr("distill.evaluation.agreement.fast_dtype", lambda: torch.float32)
        found = Before(start, pairs, None, build_tokenizer(), draws=100, max_new_tokens=4).measure(student)
    kl, loss, sure, right, count, size = 0.0, 0.0, [], [], 0, 0
    for pair in pairs:
        ids = torch.tensor([pair["prompt_ids"] + pair["completion_ids"]])
        rows = slice(len(pair["prompt_ids"]) - 1, -1)
        p, q = (model(ids).logits[0, rows].log_softmax(-1).detach() for model in (start, student))
        labels = ids[0, rows.start + 1 :]
        kl += float(functional.kl_div(q, p, log_target=True, reduction="sum"))
        loss += float(functional.nll_loss(q, labels, reduction="sum"))
        sure, right = sure + q.max(-1).values.exp().tolist(), right + (q.argmax(-1) == labels).tolist()
        count, size = count + len(labels), size + len(pair["completion"].encode())
    assert found["kl_old"].after == pytest.approx(kl / count, rel=1e-5)
    assert found["loss_old"].after == pytest.approx(loss / count, rel=1e-5)
    assert found["bytes_old"].after == pytest.approx(loss / size, rel=1e-5)
    assert found["ece_old"].after == pytest.approx(ece(sure, right), rel=1e-4)
    assert found["kl_old"].low < found["kl_old"].difference < found["kl_old"].high
    assert not any(name.endswith("_new") for name in found.measures)
    assert found.tokens == {"old": count}


def test_calibration_of_a_case_by_hand():
    """Four positions in two of four bins: (0.25, 0.5] holds 0.4 and 0.5, one right; (0.75, 1] holds 0.8 and 1.0, both right."""
    sure, right = [0.4, 0.5, 0.8, 1.0], [True, False, True, True]
    assert ece(sure, right, bins=4) == pytest.approx(0.5 * abs(0.5 - 0.45) + 0.5 * abs(1.0 - 0.9))
    np.testing.assert_allclose(bin_gaps(sure, right, 4), [0, 0.1, 0, 0.2], atol=1e-12)
    assert ece([0.25, 0.25, 0.25, 0.25], [True, False, False, False]) == 0
    for wrong in (([0.5], [True, False]), ([], []), ([0.0], [True]), ([1.5], [True])):
        with pytest.raises(ValueError, match="one of each|above 0 and at most 1"):
            ece(*wrong)


def test_a_resample_of_calibration_is_that_of_its_pairs():
    """Gaps of bins of pairs add up: with one pair drawn alone, ECE is the one of its positions."""
    random = np.random.default_rng(0)
    sure, right = random.uniform(0.01, 1, (3, 40)), random.uniform(size=(3, 40)) < 0.5
    gaps = np.stack([bin_gaps(*one) for one in zip(sure, right, strict=True)])
    whole = of_calibration(gaps * 0, gaps, [40] * 3, 10)
    assert whole.after == pytest.approx(ece(sure.ravel(), right.ravel()))
    alone = of_calibration(gaps[:1] * 0, gaps[:1], [40], 10)
    assert alone.after == alone.low == alone.high == pytest.approx(ece(sure[0], right[0]))


def test_the_interval_is_of_paired_differences():
    """What is hard about a pair is in both and cancels; unpaired, the interval would be as wide as the pairs differ."""
    hard = np.random.default_rng(1).uniform(0, 100, 50)
    change = of_ratio(hard, hard + 1, np.ones(50), 500)
    assert change.difference == pytest.approx(1)
    assert change.high - change.low < 1e-9
    assert of_ratio(hard, hard[::-1], np.ones(50), 500).high > 5


def test_a_student_of_another_tokenizer_is_compared_where_it_can_be():
    said = [{"id": f"p{i}", "prompt": f"the cat {i}", "completion": f"sat on the mat {i}"} for i in range(5)]
    tokenizer, other = build_tokenizer(), sentence_piece()
    other.chat_template = TEMPLATE
    pairs = pairs_from_rows([complete_row(row, "test", tokenizer) for row in said], where="test")
    start, student = build_model(), build_model(seed=1, vocab_size=len(other))
    found = Before(start, pairs, None, tokenizer, draws=50, max_new_tokens=8).measure(student, other)
    assert set(found.measures) == {"bytes_old", "characters", "ended", "empty"}
    assert found.not_comparable == ("kl_old", "loss_old", "same_old", "ece_old", "tokens")
    assert (
        "Not comparable, since the tokenizers are two: KL to the start on old prompts (nats a token)" in found.table()
    )
    same = Before(start, pairs, None, tokenizer, draws=50, max_new_tokens=8).measure(start, build_tokenizer())
    assert same.not_comparable == ()
    assert same["bytes_old"].before == found["bytes_old"].before


def test_answers_are_in_the_order_of_their_prompts_and_end_where_they_end():
    prompts = [pair["prompt_ids"] for pair in build_pairs(7)]
    together = answers_of(build_model(), build_tokenizer(), prompts, max_new_tokens=20)
    for number, prompt in enumerate(prompts):
        alone = answers_of(build_model(), build_tokenizer(), [prompt], max_new_tokens=20)
        assert (alone.tokens[0], alone.ended[0]) == (together.tokens[number], together.ended[number])
        assert alone.ended[0] or alone.tokens[0] == 20


def test_it_is_plain_values_and_back():
    found = before().measure(build_model(seed=2))
    back = Forgetting.of(json.loads(json.dumps(found.as_dict())))
    assert back == found
    assert len(found.table().splitlines()) == 2 + len(MEASURES)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="no old pairs"):
        Before(build_model(), build_pairs(4).select([]), None, build_tokenizer())
    other = build_model(seed=1, vocab_size=100)
    with pytest.raises(ValueError, match="100"):
        before(answered=0).measure(other)


def test_what_is_kept_pair_by_pair_is_in_their_order():
    """Pairs are looked at by length; what comes back is as they were given."""
    pairs = build_pairs(9)
    start, student = build_model(), build_model(seed=1)
    whole = HeldOut(start, pairs, build_tokenizer(), batch_size=4).by_pair(student, torch.float32)
    for number in range(len(pairs)):
        alone = HeldOut(start, pairs.select([number]), build_tokenizer()).by_pair(student, torch.float32)
        assert whole.sums("kl")[number] == pytest.approx(alone.sums("kl")[0], rel=1e-4)
        assert whole.tokens()[number] == len(pairs[number]["completion_ids"])
