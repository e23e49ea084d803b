"""Divergence over shared tokens and one bucket a side: its laws, against what enumeration gives, in value and gradient."""

import numpy as np
import pytest
import torch

from distill.objectives import Comparison, divergences, next_token_divergence
from distill.objectives.aligned_next_token import Columns, aligned_next_token_divergence, top_in_students_tokens
from distill.objectives.divergences import NAMES
from distill.objectives.sparse_next_token import sparse_next_token_divergence
from distill.signals import HeadTap, LogitTransform
from distill.signals.sparse import Top
from distill.text.alignment import SharedTokens

CPU = torch.device("cpu")


def tap(rows, vocabulary, width=8, seed=0, scale=1.0, cap=None, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, width, generator=draw, dtype=dtype) * scale for n in (rows, vocabulary))
    return HeadTap(hidden.requires_grad_(), weight.requires_grad_(), None, LogitTransform(1.0, cap), dtype)


def logits_of(head):
    return head.transform(head.hidden @ head.weight.t())


def columns_of(pairs, ours, theirs):
    left, right = (np.asarray(part, np.int64) for part in zip(*sorted(pairs), strict=True))
    return Columns.of(SharedTokens(left, right, (ours, theirs)), ours, theirs, CPU)


def coarse(logits, shared):
    """Log-probabilities of the shared tokens and of one bucket, by enumeration."""
    log_p = logits.log_softmax(-1)
    rest = [i for i in range(logits.shape[-1]) if i not in set(shared)]
    return torch.cat([log_p[:, shared], log_p[:, rest].logsumexp(-1, keepdim=True)], -1)


def gradients(head):
    return [head.hidden.grad.clone(), head.weight.grad.clone()]


def of(value, head, retain=False):
    """Gradients of a sum."""
    head.hidden.grad = head.weight.grad = None
    value.sum().backward(retain_graph=retain)
    return gradients(head)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_divergence_of_the_two_coarse_distributions(name, temperature):
    student, teacher = tap(5, 11), tap(5, 17, width=6, seed=1, cap=4.0)
    pairs = [(0, 3), (2, 16), (5, 0), (9, 9), (10, 1)]
    comparison = Comparison(divergences.by_name(name), temperature, temperature**2)
    got, _ = aligned_next_token_divergence(student, teacher, comparison, columns_of(pairs, 11, 17))
    ours = coarse(logits_of(student) / temperature, [a for a, _ in pairs])
    theirs = coarse(logits_of(teacher).detach() / temperature, [b for _, b in pairs])
    wanted = divergences.by_name(name)(ours, theirs) * temperature**2
    torch.testing.assert_close(got, wanted)
    for a, b in zip(of(got, student), of(wanted, student), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_one_vocabulary_gives_the_plain_divergence_in_any_order_of_its_tokens(name):
    student, teacher = tap(6, 13), tap(6, 13, seed=1)
    comparison = Comparison(divergences.by_name(name))
    plain, _ = next_token_divergence(student, teacher, comparison)
    expected = of(plain, student)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(2))
    weight = torch.empty_like(teacher.weight)
    weight[order] = teacher.weight.detach()
    other = HeadTap(teacher.hidden, weight, None, teacher.transform, teacher.dtype)
    for head, pairs in ((teacher, [(i, i) for i in range(13)]), (other, list(enumerate(order.tolist())))):
        got, _ = aligned_next_token_divergence(student, head, comparison, columns_of(pairs, 13, 13))
        torch.testing.assert_close(got, plain)
        for a, b in zip(of(got, student), expected, strict=True):
            torch.testing.assert_close(a, b)


def test_it_is_never_above_the_whole_divergence_and_0_at_equality():
    student, teacher = tap(200, 12, scale=1.5), tap(200, 12, scale=1.5, seed=1)
    pairs = [(i, i) for i in range(0, 12, 2)]
    for name in ("forward_kl", "reverse_kl", "generalized_jsd", "total_variation"):
        comparison = Comparison(divergences.by_name(name))
        whole = next_token_divergence(student, teacher, comparison)[0]
        part = aligned_next_token_divergence(student, teacher, comparison, columns_of(pairs, 12, 12))[0]
        assert (part <= whole + 1e-12).all()
        assert (part < whole - 1e-3).any()
        same = aligned_next_token_divergence(student, student, comparison, columns_of(pairs, 12, 12))[0]
        assert float(same.abs().max()) < 1e-12
        if name != "total_variation":  # whose slope is a sign, here of what was rounded
            assert max(float(one.abs().max()) for one in of(same, student)) < 1e-12


def test_a_toy_vocabulary_with_merged_tokens_is_enumerated():
    """Student: a, b, ab, end. Teacher: end, b, a, ba: `a`, `b` and the end are shared, `ab` and `ba` are the rests."""
    q, p = (
        torch.tensor([[0.4, 0.1, 0.3, 0.2]], dtype=torch.float64),
        torch.tensor([[0.1, 0.2, 0.6, 0.1]], dtype=torch.float64),
    )
    pairs = [(0, 2), (1, 1), (3, 0)]
    got = aligned_next_token_divergence(
        q.log(), p.log(), Comparison(divergences.by_name("forward_kl")), columns_of(pairs, 4, 4)
    )[0]
    by_hand = sum(a * np.log(a / b) for a, b in ((0.6, 0.4), (0.2, 0.1), (0.1, 0.2), (0.1, 0.3)))
    assert float(got) == pytest.approx(by_hand, abs=1e-12)


def test_a_tiny_rest_is_found_where_1_minus_a_sum_has_no_digits():
    """In float32 the shared tokens sum to 1; the rest, e^-33.8, is there all the same, and so is its slope."""
    student = torch.tensor([[0.0, 1.0, -32.0]], requires_grad=True)
    teacher = torch.tensor([[0.5, 0.2, -33.0]])
    reverse = Comparison(divergences.by_name("reverse_kl"))
    got, _ = aligned_next_token_divergence(student, teacher, reverse, columns_of([(0, 0), (1, 1)], 3, 3))
    got.sum().backward()
    exact = student.detach().double().requires_grad_()
    wanted = divergences.reverse_kl(exact, teacher.double()).sum()
    wanted.backward()
    torch.testing.assert_close(got.double().sum(), wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(student.grad.double(), exact.grad, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pairs", [[(0, 0)], [(0, 1), (1, 0), (2, 2)], [(0, 0), (1, 3)]])
def test_extreme_logits_and_missing_rests_stay_finite(name, pairs):
    """Logits of +-1e4, a teacher that rules tokens out, and a student without any other tokens."""
    for theirs in (torch.tensor([[1e4, -1e4, 0.0, 5.0]]), torch.tensor([[0.0, -torch.inf, 1.0, -torch.inf]])):
        student = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
        comparison = Comparison(divergences.by_name(name))
        value, _ = aligned_next_token_divergence(student, theirs, comparison, columns_of(pairs, 3, 4))
        value.sum().backward()
        assert torch.isfinite(value).all()
        assert torch.isfinite(student.grad).all()


def test_a_student_without_other_tokens_meets_the_teacher_normalised_over_its_own():
    student, teacher = tap(4, 3), tap(4, 7, seed=1)
    got, _ = aligned_next_token_divergence(
        student, teacher, Comparison(divergences.by_name("forward_kl")), columns_of([(0, 2), (1, 6), (2, 4)], 3, 7)
    )
    wanted = divergences.forward_kl(logits_of(student), logits_of(teacher)[:, [2, 6, 4]])
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("own", [False, True], ids=["heads", "logits"])
def test_rows_that_do_not_align_have_cross_entropy_alone(own, monkeypatch):
    """Over several groups, chunks and tiles, as sums and weighted by rows."""
    from distill.objectives import aligned_next_token, streamed_next_token

    for module, name, value in (
        (streamed_next_token, "GROUP", 11 * 8 * 9), (streamed_next_token, "CHUNK", 4), (streamed_next_token, "TILE", 40),
        (aligned_next_token, "_THIN", 2),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    student, teacher, labels = tap(23, 11), tap(14, 17, seed=1), torch.arange(23) % 11
    pairs = [(0, 3), (2, 16), (5, 0), (9, 9), (10, 1)]
    comparison = Comparison(divergences.by_name("forward_kl"), 2.0, 4.0, 0.3)
    weights = torch.linspace(0.1, 2, 23).double()
    ours, theirs = (logits_of(student), logits_of(teacher).detach()) if own else (student, teacher)
    got, entropy = aligned_next_token_divergence(ours, theirs, comparison, columns_of(pairs, 11, 17), labels)
    logits = logits_of(student)
    both = (
        coarse(logits[:14] / 2, [a for a, _ in pairs]),
        coarse(logits_of(teacher).detach() / 2, [b for _, b in pairs]),
    )
    beside = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    wanted = torch.cat([4 * divergences.forward_kl(*both), torch.zeros(9).double()]) + 0.3 * beside
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(entropy, beside.detach())
    for factor in (1.0, weights):
        ours = logits_of(student) if own else student
        got, _ = aligned_next_token_divergence(ours, theirs, comparison, columns_of(pairs, 11, 17), labels)
        expected = of(wanted * factor, student) if factor is weights else of(wanted, student, retain=True)
        for a, b in zip(of(got * factor if factor is weights else got, student), expected, strict=True):
            torch.testing.assert_close(a, b)


def test_stored_largest_probabilities_are_read_in_the_students_tokens():
    """All of the teacher's tokens listed: the coarse divergence itself; a few: at most that, mass conserved."""
    student, teacher = tap(6, 11), tap(6, 9, seed=1)
    pairs = [(0, 3), (2, 8), (5, 0), (9, 7)]
    columns, comparison = columns_of(pairs, 11, 9), Comparison(divergences.by_name("forward_kl"))
    whole = aligned_next_token_divergence(student, teacher, comparison, columns)[0]
    log_p = logits_of(teacher).detach().log_softmax(-1)
    for count in (9, 4):
        values, ids = log_p.topk(count)
        tail = (
            torch.log1p(-values.exp().sum(1).clamp(max=1 - 1e-15))
            if count < 9
            else torch.full((6,), -torch.inf).double()
        )
        top = top_in_students_tokens(Top(ids, values, tail), columns)
        mass = torch.logaddexp(top.log_probs.logsumexp(1), top.tail)
        torch.testing.assert_close(mass, torch.zeros(6).double(), atol=1e-9, rtol=0)
        got = sparse_next_token_divergence(student, top, comparison)[0]
        if count == 9:
            torch.testing.assert_close(got, whole)
        assert (got <= whole + 1e-9).all()
