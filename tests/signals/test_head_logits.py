"""Logits of a head in bfloat16 are as exact as in float32, whichever way the device multiplies."""

import functools

import pytest
import torch

from distill.objectives import Comparison, next_token_divergence
from distill.objectives.divergences import by_name
from distill.signals import HeadTap, LogitTransform, head_logits

ROWS, VOCABULARY, WIDTH = 96, 20_000, 64
PLAIN = LogitTransform()


@pytest.fixture(params=["two parts", "float32"])
def way(request, monkeypatch):
    """Both ways of a CPU, whichever this one is; the products of the first are emulated where it has none."""
    monkeypatch.setattr(head_logits, "cpu_multiplies", lambda dtype: request.param == "two parts")
    return request.param


def bed(near, spread=4.0, dtype=torch.bfloat16):
    """Hidden states of student and teacher and one head, with logits of that spread."""
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(VOCABULARY, WIDTH, generator=generator) * spread / WIDTH**0.5).to(dtype)
    hidden = torch.randn(ROWS, WIDTH, generator=generator).to(dtype)
    other = (hidden.float() + near * torch.randn(ROWS, WIDTH, generator=generator)).to(dtype)
    return hidden, other, weight


def gradients(loss, *tensors):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    value = loss(*leaves)
    return float(value.detach()), torch.autograd.grad(value, leaves)


def errors(found, exact):
    return [
        float((one.double() - other.double()).norm() / other.double().norm())
        for one, other in zip(found, exact, strict=True)
    ]


def ours(name, other, weight, dtype=torch.bfloat16, bias=None, transform=PLAIN):
    teacher = HeadTap(other, weight, bias, transform, dtype)
    comparison = Comparison(by_name(name))
    return lambda h, w: next_token_divergence(HeadTap(h, w, bias, transform, dtype), teacher, comparison)[0].sum()


def naive(name, other, weight, bias=0.0, transform=PLAIN):
    return lambda h, w: by_name(name)(transform(h @ w.t() + bias), transform(other @ weight.t() + bias)).sum()


@functools.cache
def exact_and_rounded(name, near):
    """In float64, and how far from it the plain way is with rounded logits: neither is of a way of ours, so once for both."""
    hidden, other, weight = bed(near)
    exact = gradients(naive(name, other.double(), weight.double()), hidden.double(), weight.double())
    return exact, errors(gradients(naive(name, other, weight), hidden, weight)[1], exact[1])


@pytest.mark.parametrize("near", [0.3, 0.1, 0.03])
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "generalized_jsd"])
def test_near_the_teacher_the_gradient_is_as_exact_as_its_slopes(name, near, way):
    """With the logits rounded, as every plain way has them, most of it is rounding: the control that must fail."""
    hidden, other, weight = bed(near)
    found = gradients(ours(name, other, weight), hidden, weight)
    exact, of_rounded = exact_and_rounded(name, near)
    assert max(errors(found[1], exact[1])) < 0.006
    assert abs(found[0] / exact[0] - 1) < 0.002
    assert max(of_rounded) > {0.3: 0.02, 0.1: 0.06, 0.03: 0.2}[near]


def test_nothing_at_all_at_equality(way):
    hidden, _, weight = bed(0.3)
    value, found = gradients(ours("forward_kl", hidden, weight), hidden, weight)
    assert value == 0
    assert not any(gradient.any() for gradient in found)


@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(0.25), LogitTransform(1.0, 5.0)])
def test_a_bias_and_what_the_model_does_to_its_logits(transform, way):
    """One token that cannot occur, by a bias of -inf."""
    hidden, other, weight = bed(0.3)
    bias = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1)).bfloat16()
    bias[3] = -torch.inf
    finite = bias.double().clamp(min=-1e9)
    exact = gradients(
        naive("forward_kl", other.double(), weight.double(), finite, transform), hidden.double(), weight.double()
    )
    found = gradients(ours("forward_kl", other, weight, bias=bias, transform=transform), hidden, weight)
    assert max(errors(found[1], exact[1])) < 0.01
    assert abs(found[0] / exact[0] - 1) < 0.002


def test_heads_of_two_precisions(way):
    """A student in bfloat16 of a teacher in float32, and the other way round."""
    hidden, other, weight = bed(0.1)
    exact = gradients(naive("forward_kl", other.double(), weight.double()), hidden.double(), weight.double())
    comparison = Comparison(by_name("forward_kl"))
    for ours_in, theirs_in in ((torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)):
        teacher = HeadTap(other.to(theirs_in), weight.to(theirs_in), None, LogitTransform(), theirs_in)

        def loss(h, w, dtype=ours_in, teacher=teacher):
            return next_token_divergence(HeadTap(h, w, None, LogitTransform(), dtype), teacher, comparison)[0].sum()

        found = gradients(loss, hidden.to(ours_in), weight.to(ours_in))
        assert max(errors(found[1], exact[1])) < 0.006


def test_two_parts_take_three_products_and_float32_two(way, monkeypatch):
    hidden, other, weight = bed(0.1)
    made = []
    for name in ("mm", "addmm"):
        plain = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, plain=plain, **k: made.append(a[0].dtype) or plain(*a, **k))
    with torch.no_grad():
        ours("forward_kl", other, weight)(hidden, weight)
    expected = [torch.bfloat16] * 3 if way == "two parts" else [torch.float32] * 2
    assert made == expected
