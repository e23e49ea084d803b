"""Why black-box distillation is SFT, and when it is not: the statements about gradients, data and limits, in small."""

import pytest
import torch
from conftest import all_hold
from torch.nn.functional import cross_entropy

from distill.equivalence import TITLES, breaks, bridge, gradients, hard_labels, law, noise_floor
from distill.equivalence.one_hot import four_ways


def test_three_ways_to_one_gradient(bed):
    section = gradients(bed, samples=2**13, beds=1)
    all_hold(section)
    assert len(bed.pairs) == 121
    assert max(section.data["apart"].values()) < 1e-10
    assert section.data["alternating"]["sft"] == pytest.approx(0, abs=1e-15)
    assert section.data["alternating"]["white_box"] == pytest.approx(0.5)


def test_the_bed_is_the_model_it_says(bed):
    """Probabilities of completions, against a forward pass written out for one of them."""
    i = bed.index[(1, 2, 0)]
    prompt = bed.pairs[i]["prompt_ids"]
    log_p = bed.teacher.model(torch.tensor([[*prompt, 1, 2, 0]])).logits[0].log_softmax(-1)
    at = len(prompt) - 1
    expected = (log_p[at, 1] + log_p[at + 1, 2] + log_p[at + 2, 0]).exp()
    assert float(bed.probabilities[i]) == pytest.approx(float(expected.detach()), rel=1e-12)


def test_the_bridge_goes_from_sft_to_the_white_box(bed):
    section = bridge(bed, draws=4000, counts=(1, 2, 4, 8))
    all_hold(section)
    assert section.data["white_box"] < section.data["variance"][-1] < section.data["variance"][0]


def test_the_law_of_text():
    section = law((3, 32), 1, 60)
    assert [claim.holds for claim in all_hold(section).values()] == [True] * 3


def test_the_noise_floor():
    section = noise_floor(90)
    all_hold(section)
    assert section.data["curves"]["white box"][-1][0] == 90


def test_hard_labels(bed, job):
    all_hold(hard_labels(bed, job))


@pytest.mark.parametrize("rows", [1, 64])
def test_one_hot_targets_are_cross_entropy(rows):
    """Values to the last bit; gradients to one rounding, as torch's cross-entropy has a faster exponential there."""
    (values, gradient), *others = four_ways(rows, 300).values()
    assert len(others) == 3
    for other_values, other_gradient in others:
        assert torch.equal(values, other_values)
        torch.testing.assert_close(gradient, other_gradient, rtol=0, atol=1e-7)


def test_what_breaks_and_what_does_not(bed):
    section = breaks(bed)
    all_hold(section)
    error = {row["name"]: row["error"] for row in section.data["practices"]}
    assert error["completions cut at 2 tokens, no EOS invented"] < 1e-12
    for name in ("temperature 0.7", "top-p 0.9", "greedy", "beam search, 3 beams", "EOS put after cut completions"):
        assert error[name] > 0.01
    assert any("rejects" in name for name in error)
    assert any("dropped" in name for name in error)


def test_the_expected_mean_of_a_batch_is_exact(bed):
    """The convolution against all pairs of completions, one by one."""
    from distill.equivalence.practices import batch_means

    sft, p, n = bed.gradients(bed.sft_losses()), bed.probabilities, bed.lengths
    naive = sum(
        p[i] * p[j] * (sft[i] + sft[j]) / (n[i] + n[j]) for i in range(len(p)) for j in range(len(p))
    )  # fmt: skip
    assert torch.allclose(batch_means(sft, p, n, 2), naive, rtol=1e-10)


def test_every_section_has_a_title_and_its_losses_are_cross_entropy(bed):
    assert set(TITLES) >= {"ladder", "controls", "provenance", "gradients", "bridge", "law", "noise", "breaks", "real"}
    rows = bed.student_rows()
    naive = torch.zeros(len(bed.pairs), dtype=torch.float64)
    for loss, pair in zip(cross_entropy(rows.logits, rows.labels, reduction="none"), rows.pair, strict=True):
        naive[pair] += loss.detach()
    assert torch.allclose(bed.sft_losses().detach(), naive)
