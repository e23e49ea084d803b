"""One contract for all divergences."""

import math

import pytest
import torch
from torch import nn

from distill import divergences
from distill.objectives.divergences import NAMES, by_name, forward_kl, generalized_jsd, reverse_kl, scaled_jsd

SETTINGS = {
    "forward_kl": {},
    "reverse_kl": {},
    "generalized_jsd": {},
    "generalized_jsd 0.1": {"beta": 0.1},
    "generalized_jsd 0": {"beta": 0},
    "generalized_jsd 1": {"beta": 1},
    "scaled_jsd": {},
    "scaled_jsd 0.9": {"beta": 0.9},
    "skew_forward_kl": {},
    "skew_forward_kl 0.7": {"skew": 0.7},
    "skew_reverse_kl": {},
    "skew_reverse_kl 0.7": {"skew": 0.7},
    "total_variation": {},
}
each = pytest.mark.parametrize("name", SETTINGS)


def build(name):
    return by_name(name.split()[0], **SETTINGS[name])


def textbook(name):
    """The definition, from probabilities."""
    beta, skew = SETTINGS[name].get("beta", 0.5), SETTINGS[name].get("skew", 0.1)

    def kl(a, b):
        return (a * (torch.where(a > 0, a, 1.0).log() - b.log())).sum(-1)

    def jsd(p, q):
        m = beta * p + (1 - beta) * q
        return beta * kl(p, m) + (1 - beta) * kl(q, m)

    formulas = {
        "forward_kl": kl,
        "reverse_kl": lambda p, q: kl(q, p),
        "generalized_jsd": lambda p, q: kl(p, q) if beta == 0 else kl(q, p) if beta == 1 else jsd(p, q),
        "scaled_jsd": lambda p, q: jsd(p, q) / (beta * (1 - beta)),
        "skew_forward_kl": lambda p, q: kl(p, skew * p + (1 - skew) * q),
        "skew_reverse_kl": lambda p, q: kl(q, skew * q + (1 - skew) * p),
        "total_variation": lambda p, q: (p - q).abs().sum(-1) / 2,
    }
    return lambda s, t, temperature=1.0: formulas[name.split()[0]](
        (t / temperature).softmax(-1), (s / temperature).softmax(-1)
    )


def logits(rows=5, vocabulary=11, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        3 * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)
    )


def gradient(divergence, student, teacher, **kwargs):
    student = student.clone().requires_grad_()
    divergence(student, teacher, **kwargs).sum().backward()
    return student.grad


def test_every_divergence_is_under_contract():
    assert {name.split()[0] for name in SETTINGS} == set(NAMES)
    assert all(callable(getattr(divergences, name)) for name in NAMES)


@each
def test_one_number_a_row_not_negative(name):
    student, teacher = logits()
    value = build(name)(student, teacher)
    assert value.shape == (5,)
    assert (value > 0).all()
    assert build(name)(student.reshape(5, 1, 11), teacher.reshape(5, 1, 11)).shape == (5, 1)
    torch.testing.assert_close(getattr(divergences, name.split()[0])(student, teacher, **SETTINGS[name]), value)


@each
def test_not_negative_near_equality(name):
    """In float32 the rounding of a sum is larger than a divergence of nearly equal rows."""
    student, _ = logits(rows=50, vocabulary=5000, dtype=torch.float32)
    assert (build(name)(student, student + 1e-4 * torch.randn_like(student)) >= 0).all()


@each
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_zero_with_zero_gradient_at_equality(name, temperature, dtype):
    """Exactly, also where some tokens cannot occur; up to rounding where the logits differ by a constant a row."""
    _, teacher = logits(dtype=dtype)
    teacher[:, :3] = float("-inf")
    assert not build(name)(teacher, teacher, temperature=temperature).any()
    assert not gradient(build(name), teacher, teacher, temperature=temperature).any()
    if dtype == torch.float64 and name != "total_variation":  # its gradient jumps where p = q
        assert build(name)(teacher + 7, teacher, temperature=temperature).abs().max() < 1e-12
        assert gradient(build(name), teacher + 7, teacher, temperature=temperature).abs().max() < 1e-12


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_at_extreme_logits(name, dtype):
    student, teacher = logits(dtype=dtype)
    student[0], teacher[0] = 1e4, -1e4
    student[1, 0], teacher[1, 0] = -1e4, 1e4
    student[2, 0], teacher[2, 1] = 1e4, 1e4
    is_reverse = name in ("reverse_kl", "generalized_jsd 1")
    if not (is_reverse and dtype == torch.float16):  # truly infinite there, and large in wider types
        teacher[3, 4] = float("-inf")
    assert build(name)(student, teacher).isfinite().all()
    assert gradient(build(name), student, teacher).isfinite().all()


@each
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_agrees_with_the_textbook_in_value_and_gradient(name, temperature):
    student, teacher = logits()
    ours, definition = build(name), textbook(name)
    kwargs = {"temperature": temperature}
    torch.testing.assert_close(ours(student, teacher, **kwargs), definition(student, teacher, **kwargs))
    torch.testing.assert_close(
        gradient(ours, student, teacher, **kwargs), gradient(definition, student, teacher, **kwargs)
    )
    swapped = gradient(lambda t, s: ours(s, t, **kwargs), teacher, student)
    torch.testing.assert_close(swapped, gradient(lambda t, s: definition(s, t, **kwargs), teacher, student))
    teacher[:, 3] = float("-inf")
    if name not in ("reverse_kl", "generalized_jsd 1"):  # infinite by the textbook
        torch.testing.assert_close(ours(student, teacher), definition(student, teacher))
        torch.testing.assert_close(gradient(ours, student, teacher), gradient(definition, student, teacher))


@each
def test_gradcheck(name):
    student, teacher = logits(rows=3, vocabulary=5)
    assert torch.autograd.gradcheck(build(name), (student.requires_grad_(), teacher.requires_grad_()))


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_agrees_with_float64(name, dtype):
    """Inputs of low precision are computed in float32: what is lost is the rounding of float32 and not of the input."""
    student, teacher = logits(vocabulary=1000, dtype=dtype)
    exact = build(name)(student.double(), teacher.double())
    torch.testing.assert_close(build(name)(student, teacher).double(), exact, rtol=2e-5, atol=1e-6)
    slope, reference = (
        gradient(build(name), a, b) for a, b in ((student, teacher), (student.double(), teacher.double()))
    )
    assert slope.dtype == dtype
    tolerance = {"rtol": 1e-4, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 8e-3, "atol": 1e-6}
    torch.testing.assert_close(slope.double(), reference, **tolerance)


@each
def test_permuting_tokens_or_rows_changes_nothing_else(name):
    student, teacher = logits()
    value = build(name)(student, teacher)
    tokens, rows = torch.randperm(11), torch.randperm(5)
    torch.testing.assert_close(build(name)(student[:, tokens], teacher[:, tokens]), value)
    torch.testing.assert_close(build(name)(student[rows], teacher[rows]), value[rows])


@each
def test_temperature_divides_the_logits_of_both(name):
    """And no T^2 is hidden in it: the gradient is that of the divided logits."""
    student, teacher = logits()
    ours = build(name)
    torch.testing.assert_close(ours(student, teacher, temperature=4.0), ours(student / 4, teacher / 4))
    torch.testing.assert_close(
        gradient(ours, student, teacher, temperature=4.0), gradient(ours, student / 4, teacher / 4) / 4
    )


def test_gradient_of_forward_kl_is_q_minus_p():
    student, teacher = logits()
    torch.testing.assert_close(gradient(forward_kl, student, teacher), student.softmax(-1) - teacher.softmax(-1))


def test_with_a_one_hot_teacher_forward_kl_is_cross_entropy():
    """The value to the last bit; the gradient to one rounding, as torch's cross-entropy has a faster exponential there."""
    student, _ = logits(vocabulary=512, dtype=torch.float32)
    labels = torch.arange(5)
    one_hot = torch.full_like(student, float("-inf")).scatter(1, labels[:, None], 0.0)
    assert torch.equal(forward_kl(student, one_hot), nn.functional.cross_entropy(student, labels, reduction="none"))
    expected = gradient(lambda s, _: nn.functional.cross_entropy(s, labels, reduction="none"), student, None)
    torch.testing.assert_close(gradient(forward_kl, student, one_hot), expected, rtol=0, atol=6e-8)


@pytest.mark.parametrize(
    ("limit", "end"),
    [
        (lambda s, t: generalized_jsd(s, t, beta=1e-7) / 1e-7, forward_kl),
        (lambda s, t: generalized_jsd(s, t, beta=1 - 1e-7) / 1e-7, reverse_kl),
        (lambda s, t: scaled_jsd(s, t, beta=1e-7), forward_kl),
        (lambda s, t: scaled_jsd(s, t, beta=1 - 1e-7), reverse_kl),
        (lambda s, t: scaled_jsd(s, t, beta=0), forward_kl),
        (lambda s, t: scaled_jsd(s, t, beta=1), reverse_kl),
        (lambda s, t: scaled_jsd(s, t) / 4, generalized_jsd),
        (lambda s, t: divergences.skew_forward_kl(s, t, skew=1e-9), forward_kl),
        (lambda s, t: divergences.skew_reverse_kl(s, t, skew=1e-9), reverse_kl),
    ],
)
def test_limits(limit, end):
    student, teacher = logits()
    torch.testing.assert_close(limit(student, teacher), end(student, teacher), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient(limit, student, teacher), gradient(end, student, teacher), rtol=1e-2, atol=1e-3)


def test_bounds():
    student, teacher = torch.zeros(1, 4), torch.zeros(1, 4)
    student[0, 0], teacher[0, 1] = 1e4, 1e4  # nothing in common
    for name, bound in {
        "generalized_jsd": math.log(2),
        "total_variation": 1.0,
        "skew_forward_kl": -math.log(0.1),
    }.items():
        assert float(by_name(name)(student, teacher)) == pytest.approx(bound)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("kl", {}, "divergence is 'kl'"),
        ("forward_kl", {"beta": 0.5}, "beta is 0.5, but forward_kl has none"),
        ("generalized_jsd", {"skew": 0.5}, "skew is 0.5, but generalized_jsd has none"),
        ("generalized_jsd", {"beta": 1.1}, "beta is 1.1; it must lie between"),
        ("skew_forward_kl", {"skew": 0.0}, "skew is 0.0; it must lie between"),
    ],
)
def test_unknown_names_and_settings(name, settings, words):
    with pytest.raises(ValueError, match=words):
        by_name(name, **settings)
