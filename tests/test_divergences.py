"""Laws every divergence obeys."""

import pytest
import torch
from torch import nn

from distill import divergences
from distill.divergences import forward_kl, generalized_jsd, reverse_kl

ALL = [forward_kl, reverse_kl, generalized_jsd, divergences.by_name("generalized_jsd", beta=0.1)]
each = pytest.mark.parametrize("divergence", ALL, ids=["forward_kl", "reverse_kl", "jsd", "jsd_0.1"])


def logits(rows=5, vocabulary=11, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        3 * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)
    )


def gradient(divergence, student, teacher, **kwargs):
    student = student.clone().requires_grad_()
    divergence(student, teacher, **kwargs).sum().backward()
    return student.grad


@each
def test_one_number_a_row_not_negative(divergence):
    student, teacher = logits()
    value = divergence(student, teacher)
    assert value.shape == (5,)
    assert (value > 0).all()
    assert divergence(student.reshape(5, 1, 11), teacher.reshape(5, 1, 11)).shape == (5, 1)


@each
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_zero_with_zero_gradient_at_equality(divergence, temperature):
    """Also where some tokens cannot occur, and where the logits differ by a constant a row."""
    _, teacher = logits()
    teacher[:, :3] = float("-inf")
    for student in (teacher, teacher + 7):
        assert divergence(student, teacher, temperature=temperature).abs().max() < 1e-12
        assert gradient(divergence, student, teacher, temperature=temperature).abs().max() < 1e-12


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_at_extreme_logits(divergence, dtype):
    student, teacher = logits(dtype=dtype)
    student[0], teacher[0] = 1e4, -1e4
    student[1, 0], teacher[1, 0] = -1e4, 1e4
    student[2, 0], teacher[2, 1] = 1e4, 1e4
    if not (divergence is reverse_kl and dtype == torch.float16):  # truly infinite there, and large in wider types
        teacher[3, 4] = float("-inf")
    assert divergence(student, teacher).isfinite().all()
    assert gradient(divergence, student, teacher).isfinite().all()


@each
def test_agrees_with_the_textbook_in_value_and_gradient(divergence):
    student, teacher = logits()
    beta = {ALL[2]: 0.5, ALL[3]: 0.1}.get(divergence)

    def textbook(s, t):
        q, p = s.softmax(-1), t.softmax(-1)
        if divergence is forward_kl:
            return (p * (p / q).log()).sum(-1)
        if divergence is reverse_kl:
            return (q * (q / p).log()).sum(-1)
        m = beta * p + (1 - beta) * q
        return beta * (p * (p / m).log()).sum(-1) + (1 - beta) * (q * (q / m).log()).sum(-1)

    torch.testing.assert_close(divergence(student, teacher), textbook(student, teacher))
    torch.testing.assert_close(gradient(divergence, student, teacher), gradient(textbook, student, teacher))
    assert torch.autograd.gradcheck(divergence, (student.requires_grad_(), teacher.requires_grad_()))


@each
def test_low_precision_is_computed_in_float32(divergence):
    student, teacher = logits(dtype=torch.bfloat16)
    torch.testing.assert_close(divergence(student, teacher), divergence(student.float(), teacher.float()))


@each
def test_permuting_tokens_or_rows_changes_nothing_else(divergence):
    student, teacher = logits()
    value = divergence(student, teacher)
    tokens, rows = torch.randperm(11), torch.randperm(5)
    torch.testing.assert_close(divergence(student[:, tokens], teacher[:, tokens]), value)
    torch.testing.assert_close(divergence(student[rows], teacher[rows]), value[rows])


@each
def test_temperature_divides_the_logits_of_both(divergence):
    """And no T^2 is hidden in it: the gradient is that of the divided logits."""
    student, teacher = logits()
    torch.testing.assert_close(divergence(student, teacher, temperature=4.0), divergence(student / 4, teacher / 4))
    torch.testing.assert_close(
        gradient(divergence, student, teacher, temperature=4.0), gradient(divergence, student / 4, teacher / 4) / 4
    )


def test_gradient_of_forward_kl_is_q_minus_p():
    student, teacher = logits()
    torch.testing.assert_close(gradient(forward_kl, student, teacher), student.softmax(-1) - teacher.softmax(-1))


def test_with_a_one_hot_teacher_forward_kl_is_cross_entropy():
    student, _ = logits()
    labels = torch.arange(5)
    one_hot = torch.full_like(student, float("-inf")).scatter(1, labels[:, None], 0.0)
    torch.testing.assert_close(
        forward_kl(student, one_hot), nn.functional.cross_entropy(student, labels, reduction="none")
    )
    expected = gradient(lambda s, _: nn.functional.cross_entropy(s, labels, reduction="none"), student, None)
    torch.testing.assert_close(gradient(forward_kl, student, one_hot), expected)


def test_slopes_of_the_generalised_jsd_are_the_two_kls():
    student, teacher = logits()
    torch.testing.assert_close(
        generalized_jsd(student, teacher, beta=1e-7) / 1e-7, forward_kl(student, teacher), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(
        generalized_jsd(student, teacher, beta=1 - 1e-7) / 1e-7, reverse_kl(student, teacher), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize(
    ("name", "beta", "words"),
    [
        ("kl", None, "divergence is 'kl'"),
        ("forward_kl", 0.5, "beta belongs"),
        ("generalized_jsd", 1.0, "strictly between"),
    ],
)
def test_unknown_names(name, beta, words):
    with pytest.raises(ValueError, match=words):
        divergences.by_name(name, beta=beta)
