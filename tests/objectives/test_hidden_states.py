"""HiddenStates: projections and CKA."""

import pytest
import torch
from conftest import batch, build_model, value_of

from distill import AttentionMaps, HiddenStates
from distill.objectives.hidden import debiased_cka


def test_cka_is_that_of_its_definition():
    """Unbiased HSIC of Song et al. by its formula; 1 for a rotated, scaled, shifted copy; near 0 for noise of many dimensions."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(9, d, generator=generator, dtype=torch.float64) for d in (5, 30))
    n, one = 9, torch.ones(9, dtype=torch.float64)

    def hsic(a, b):
        k, m = a @ a.t(), b @ b.t()
        k, m = k - torch.diag(k.diag()), m - torch.diag(m.diag())
        middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ m @ one)
        return (torch.trace(k @ m) + middle) / (n * (n - 3))

    torch.testing.assert_close(debiased_cka(x, y), hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt())
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    assert float(debiased_cka(x, 3 * x @ rotation + 2)) == pytest.approx(1)
    noise = [
        debiased_cka(torch.randn(12, 400, generator=generator), torch.randn(12, 400, generator=generator))
        for _ in range(20)
    ]
    assert abs(float(torch.stack(noise).mean())) < 0.15  # the biased one is 0.97 here


def test_cka_of_a_sequence_does_not_depend_on_the_batch():
    student, teacher = build_model(hidden_size=16, num_attention_heads=2, seed=7), build_model(seed=1)
    term = HiddenStates(distance="cka").bind(student, teacher)
    assert not list(term.parameters())
    inputs, rows = batch(count=5)
    rows[2, rows[2].nonzero().squeeze(1)[3:]] = False  # three are too few
    whole = value_of(term, student, teacher, inputs, rows)
    parts = []
    for i in range(5):
        one = {name: tensor[i : i + 1] for name, tensor in inputs.items()}
        parts.append(value_of(term, student, teacher, one, rows[i : i + 1]))
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-3, atol=1e-4)
    short = rows.sum(1)[rows.nonzero()[:, 0]] < 8
    assert short.any()
    assert not whole[short].any()
    assert (whole[~short] > 0).any()


def test_gradient_of_cka_stays_bounded_in_the_shortest_sequences():
    """The unbiased estimate of a few points can come near 0, in the denominator too."""
    sizes, generator = [], torch.Generator().manual_seed(0)
    for _ in range(100):
        x, y = (torch.randn(8, 576, generator=generator) for _ in range(2))
        x.requires_grad_()
        (slope,) = torch.autograd.grad(debiased_cka(x, y), x)
        sizes.append(float(slope.norm() * x.detach().norm()))
    assert max(sizes) < 100


def test_projection_when_widths_differ():
    student, teacher = build_model(hidden_size=16, num_attention_heads=2), build_model(seed=1)
    term = HiddenStates().bind(student, teacher)
    assert [tuple(p.shape) for p in term.parameters()] == [(32, 16), (32, 16)]
    assert not any("project" in name for name in student.state_dict())
    with pytest.raises(ValueError, match="16 wide and the teacher 32"):
        HiddenStates(projection=False).bind(student, teacher)
    with pytest.raises(ValueError, match="2 attention heads and teacher layer 0 has 4"):
        AttentionMaps().bind(student, teacher)
