"""A sparse teacher's loss against its naive twin, and against the live teacher: value, gradient, and the laws between them."""

from functools import partial

import pytest
import torch

from distill.objectives import (
    Comparison,
    fused,
    next_token_divergence,
    sparse_divergence_of_logits,
    sparse_next_token_divergence,
)
from distill.objectives import streamed_next_token as next_token
from distill.objectives.divergences import NAMES, by_name
from distill.objectives.sparse_next_token import check_sparse
from distill.signals import HeadTap, LogitTransform
from distill.signals.encodings import encoding_of
from distill.signals.sparse import Atoms, Top

TRANSFORMS = {"plain": LogitTransform(), "capped": LogitTransform(2.0, 5.0)}
VOCABULARY, ROWS = 40, 17


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Several groups, chunks and tiles even of tiny inputs."""
    monkeypatch.setattr(next_token, "GROUP", 7 * VOCABULARY * 8)  # 7 rows in float64
    monkeypatch.setattr(next_token, "CHUNK", 3)
    monkeypatch.setattr(next_token, "TILE", 2 * VOCABULARY)
    monkeypatch.setattr(fused, "pays", lambda logits: False)


def head(rows=ROWS, width=8, vocabulary=VOCABULARY, seed=0, dtype=torch.float64, bias=True, transform="plain"):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return HeadTap(
        draw(rows, width), draw(vocabulary, width), draw(vocabulary) if bias else None, TRANSFORMS[transform], dtype
    )


def logits_of(tap):
    made = tap.hidden.double() @ tap.weight.double().t()
    return tap.transform(made if tap.bias is None else made + tap.bias.double())


def labels_of(rows=ROWS, vocabulary=37):
    return torch.randint(vocabulary, (rows,), generator=torch.Generator().manual_seed(2))


def stored(encoding, teacher, temperature=1.0, count=None, seeds=None):
    """A teacher's signals, written and read."""
    encoding = encoding_of(encoding, temperature=temperature).of_tap(teacher)
    counts = [len(teacher.hidden)] if seeds is None else [len(teacher.hidden) // len(seeds)] * len(seeds)
    labels = labels_of(len(teacher.hidden))
    return encoding.decode(encoding.encode(teacher, counts, labels, seeds or [bytes(16)]), counts, counts)


def gradients(function, tap, reduce=torch.sum):
    leaves = [t for t in (tap.hidden, tap.weight, tap.bias) if t is not None]
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    value = function(HeadTap(*leaves, *([None] * (3 - len(leaves))), tap.transform, tap.dtype))
    return value.detach(), torch.autograd.grad(reduce(value), leaves)


def naive(student, teacher, comparison, labels=None):
    """All at once in dense rows, by autograd: `[N, V]` of weights; or `[N, K + 1]` by matrix products with the groups of tokens."""
    vocabulary = comparison.vocabulary or len(student.weight)
    ours = logits_of(student)[:, :vocabulary]
    log_q = (ours / comparison.temperature).log_softmax(-1)
    inside = teacher.ids < vocabulary
    if isinstance(teacher, Atoms):
        p = torch.zeros(len(ours), max(vocabulary, int(teacher.ids.max()) + 1), dtype=torch.float64)
        p = p.scatter_add_(1, teacher.ids, teacher.weights.double())
        value = []
        for row, ours_, negentropy in zip(p, log_q, teacher.negentropy.double(), strict=True):
            left, gone = row[:vocabulary], row[vocabulary:]
            share = left.sum() / row.sum()
            if not share:
                value.append(0 * ours_.sum())
            elif not gone.any():
                value.append(negentropy - (left * ours_).sum())
            else:
                own = (negentropy - sum(w * w.log() for w in gone if w)) / share - share.log()
                value.append(own.clamp(max=0) - (left / share * ours_).sum())
        value = torch.stack(value)
    else:
        rows = []
        for n in range(len(ours)):
            ids = teacher.ids[n][inside[n]]
            others = torch.ones(vocabulary, dtype=torch.bool)
            others[ids] = False
            bucket = log_q[n][others].logsumexp(0) if others.any() else torch.tensor(-1e30).double()
            tail = teacher.tail[n : n + 1].double() if others.any() else torch.tensor([-1e30]).double()
            theirs = torch.cat([teacher.log_probs[n][inside[n]].double(), tail]).clamp(min=-1e30).log_softmax(0)
            rows.append(comparison.divergence(torch.cat([log_q[n][ids], bucket[None]])[None], theirs[None]))
        value = torch.cat(rows)
    value = value * comparison.factor
    if comparison.cross_entropy:
        value = value + comparison.cross_entropy * torch.nn.functional.cross_entropy(ours, labels, reduction="none")
    return value


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("encoding", "name"), [("threshold:6", "forward_kl"), ("draws:6", "forward_kl"), *(("top:6", n) for n in NAMES)]
)
def test_the_streamed_loss_equals_its_naive_twin(encoding, name, transform, bias):
    """A temperature, cross-entropy beside it, a teacher with other tokens at its end; also when rows count unequally."""
    student, teacher = head(bias=bias, transform=transform), head(width=5, vocabulary=44, seed=1)
    labels, row_weights = labels_of(), torch.linspace(0.1, 2, ROWS, dtype=torch.float64)
    for comparison in (
        Comparison(by_name(name), vocabulary=37),
        Comparison(by_name(name), temperature=2.0, factor=4.0, cross_entropy=0.3, vocabulary=37),
        Comparison(by_name(name), cross_entropy=0.3),
    ):
        signal = stored(encoding, teacher, comparison.temperature)
        for reduce in (lambda v: v.sum() / 5, lambda v: (row_weights * v).sum()):
            found = [
                gradients(partial(function, teacher=signal, comparison=comparison, labels=labels), student, reduce)
                for function in (lambda *a, **k: sparse_next_token_divergence(*a, **k)[0], naive)
            ]
            torch.testing.assert_close(*found)

            def of_logits(tap, signal=signal, comparison=comparison):
                logits = tap.hidden @ tap.weight.t()
                logits = tap.transform(logits if tap.bias is None else logits + tap.bias)
                return sparse_divergence_of_logits(logits, signal, comparison, labels)[0]

            torch.testing.assert_close(gradients(of_logits, student, reduce), found[1])


def test_cross_entropy_is_told_beside_it():
    student, teacher, labels = head(), head(seed=1), labels_of()
    comparison = Comparison(by_name("forward_kl"), cross_entropy=0.5)
    values, entropy = sparse_next_token_divergence(student, stored("threshold:6", teacher), comparison, labels)
    plain, nothing = sparse_next_token_divergence(
        student, stored("threshold:6", teacher), Comparison(by_name("forward_kl"))
    )
    expected = torch.nn.functional.cross_entropy(logits_of(student), labels, reduction="none")
    torch.testing.assert_close(entropy, expected)
    torch.testing.assert_close(values, plain + 0.5 * expected)
    assert nothing is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_whole_vocabulary_as_top_is_the_live_teacher(name, temperature):
    """k = V: no tail, and what is left is the rounding of 16-bit codes."""
    student, teacher = head(), head(seed=1)
    comparison = Comparison(by_name(name), temperature=temperature, factor=temperature**2)
    live = gradients(lambda s: next_token_divergence(s, teacher, comparison)[0], student)
    signal = stored("top:40", teacher, temperature)
    found = gradients(lambda s: sparse_next_token_divergence(s, signal, comparison)[0], student)
    torch.testing.assert_close(found[0], live[0], rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(found[1], live[1], strict=True):
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()


@pytest.mark.parametrize(("student_tokens", "teacher_tokens"), [(37, 44), (44, 37), (37, 37)])
@pytest.mark.parametrize(
    ("encoding", "name"), [("threshold:44", "forward_kl"), *(("top:44", n) for n in NAMES), ("top:43", "forward_kl")]
)
def test_a_vocabulary_that_is_cut_is_cut_as_a_live_teachers_is(encoding, name, student_tokens, teacher_tokens):
    """The teacher is renormalised over the tokens that both have, whoever has more: value and gradient are the live ones."""
    student, teacher = head(vocabulary=student_tokens), head(vocabulary=teacher_tokens, seed=1)
    comparison = Comparison(by_name(name), vocabulary=min(student_tokens, teacher_tokens))
    live = gradients(lambda s: next_token_divergence(s, teacher, comparison)[0], student)
    signal = stored(encoding, teacher)
    found = gradients(lambda s: sparse_next_token_divergence(s, signal, comparison)[0], student)
    torch.testing.assert_close(found[0], live[0], rtol=2e-3, atol=2e-3)
    for ours, theirs in zip(found[1], live[1], strict=True):
        assert error(ours, theirs) < 2e-3


@pytest.mark.parametrize("encoding", ["threshold:12", "draws:24"])
def test_drawn_tokens_of_a_vocabulary_that_is_cut_are_the_live_cut_in_expectation(encoding):
    student, teacher = head(rows=1), head(rows=1, vocabulary=44, seed=1)
    student = HeadTap(student.hidden, student.weight[:37], student.bias[:37], student.transform, student.dtype)
    sets = 512
    many = [
        HeadTap(t.hidden.expand(sets, -1).contiguous(), t.weight, t.bias, t.transform, t.dtype)
        for t in (student, teacher)
    ]
    comparison = Comparison(by_name("forward_kl"), vocabulary=37)
    live = gradients(lambda s: next_token_divergence(s, many[1], comparison)[0], many[0])[1]
    signal = stored(encoding, many[1], seeds=[number.to_bytes(16, "little") for number in range(sets)])
    assert (signal.weights * (signal.ids >= 37)).sum() > 0.02 * sets, "something is cut"
    found = gradients(lambda s: sparse_next_token_divergence(s, signal, comparison)[0], many[0])[1]
    one_set = error(found[0], live[0])
    for ours, theirs in zip(found[1:], live[1:], strict=True):
        assert error(ours, theirs) < 4 * one_set / sets**0.5 + 0.01


@pytest.mark.parametrize("kind", ["atoms", "top"])
def test_a_row_whose_tokens_are_all_cut_counts_nothing(kind):
    student = head(rows=2)
    ids, sure = torch.tensor([[41, 42], [1, 42]]), torch.tensor([[0.75, 0.25], [0.75, 0.25]])
    signal = (
        Atoms(ids, sure, torch.full((2,), -0.5))
        if kind == "atoms"
        else Top(ids, sure.log(), torch.full((2,), -torch.inf))
    )
    value, slopes = gradients(
        lambda s: sparse_next_token_divergence(s, signal, Comparison(by_name("forward_kl"), vocabulary=37))[0], student
    )
    assert value[0] == 0 < value[1]
    assert not slopes[0][0].any()
    assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("name", NAMES)
def test_a_coarser_view_never_sees_more(name):
    """Data processing: the divergence of buckets is at most that of the tokens, for every k, and grows with it."""
    student, teacher = head(), head(seed=1)
    comparison = Comparison(by_name(name))
    seen = [
        sparse_next_token_divergence(student, stored(f"top:{k}", teacher), comparison)[0] for k in (2, 5, 10, 20, 40)
    ]
    live = next_token_divergence(student, teacher, comparison)[0]
    assert all((ours <= live * (1 + 1e-3) + 1e-4).all() for ours in seen)
    means = [float(ours.mean()) for ours in seen]
    assert means == sorted(means)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "reverse_kl"])
@pytest.mark.parametrize("k", [6, 40])
def test_a_token_that_cannot_occur_is_finite(name, k):
    student, teacher = head(), head(seed=1)
    teacher.bias[:38] = -torch.inf
    signal = stored(f"top:{k}", teacher)
    assert (signal.log_probs == -torch.inf).any()
    value, slopes = gradients(lambda s: sparse_next_token_divergence(s, signal, Comparison(by_name(name)))[0], student)
    assert value.isfinite().all()
    assert all(slope.isfinite().all() for slope in slopes)


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("encoding", ["threshold:4", "draws:4"])
def test_the_gradient_is_the_live_one_in_expectation(encoding, temperature):
    """Means of many independent sets come nearer as 1 / sqrt(sets), down to a fortieth of one set's error."""
    student, teacher = head(rows=1), head(rows=1, seed=1)
    sets = 2048
    many = [
        HeadTap(t.hidden.expand(sets, -1).contiguous(), t.weight, t.bias, t.transform, t.dtype)
        for t in (student, teacher)
    ]
    comparison = Comparison(by_name("forward_kl"), temperature=temperature)
    seeds = [number.to_bytes(16, "little") for number in range(sets)]
    live = gradients(lambda s: next_token_divergence(s, many[1], comparison)[0], many[0])
    signal = stored(encoding, many[1], temperature, seeds=seeds)
    found = gradients(lambda s: sparse_next_token_divergence(s, signal, comparison)[0], many[0])
    one_set = error(found[1][0], live[1][0])
    for ours, theirs in zip(found[1][1:], live[1][1:], strict=True):  # sums over sets
        assert error(ours, theirs) < 4 * one_set / sets**0.5
    assert one_set > 0.02
    assert abs(float(found[0].mean() - live[0].mean())) < 4 * float(found[0].std()) / sets**0.5 + 2e-4


def test_the_error_of_draws_falls_with_the_root_of_their_number():
    """Against its enumerated variance: the covariance of one draw's gradient, over n."""
    student, teacher = head(rows=1, bias=False), head(rows=1, seed=1, bias=False)
    sets = 1024
    many = [
        HeadTap(t.hidden.expand(sets, -1).contiguous(), t.weight, None, t.transform, t.dtype)
        for t in (student, teacher)
    ]
    comparison = Comparison(by_name("forward_kl"))
    live = gradients(lambda s: next_token_divergence(s, many[1], comparison)[0], many[0])[1][0]
    p = logits_of(teacher)[0].softmax(-1)
    of_one = (p[:, None] * (student.weight - p @ student.weight).square()).sum()  # E |w e_i - w p|^2
    for n in (1, 4, 16, 64):
        signal = stored(f"draws:{n}", many[1], seeds=[number.to_bytes(16, "little") for number in range(sets)])
        found = gradients(lambda s, signal=signal: sparse_next_token_divergence(s, signal, comparison)[0], many[0])[1][
            0
        ]
        measured = (found - live).square().sum(1).mean()
        assert abs(float(measured / (of_one / n)) - 1) < 0.12


def test_renormalised_top_k_would_let_the_student_put_mass_outside_for_free():
    """Why it is not offered: its KL is 0 for a student with half of its mass where the teacher has none, and no slope says so."""
    spread = torch.zeros(1, VOCABULARY, dtype=torch.float64)
    spread[0, 10:] = float(torch.tensor(10 / 30).log())  # the student: as much on the other thirty
    spread.requires_grad_()
    signal = Top(  # ten tokens, and next to nothing beside them
        torch.arange(10)[None], torch.full((1, 10), -2.302585093), torch.tensor([-27.0])
    )
    value = sparse_divergence_of_logits(spread, signal, Comparison(by_name("forward_kl")))[0]
    (slope,) = torch.autograd.grad(value.sum(), spread)
    assert abs(float(value.detach()) - 0.6931) < 1e-3
    torch.testing.assert_close(slope[0, 10:].sum(), torch.tensor(0.5).double(), rtol=1e-3, atol=0)
    listed = spread[:, :10].log_softmax(-1)
    renormalised = (signal.log_probs.exp() * (signal.log_probs - listed)).sum()
    (slope,) = torch.autograd.grad(renormalised, spread)
    assert abs(float(renormalised.detach())) < 1e-6
    assert slope.abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_stored_hidden_states_are_the_live_teacher_bit_by_bit(dtype):
    """In value and gradient, for a teacher and a student of that precision."""
    student, teacher = head(dtype=dtype), head(seed=1, dtype=dtype)
    encoding = encoding_of("hidden").of_tap(teacher)
    hidden = encoding.decode(encoding.encode(teacher, [ROWS], labels_of(), [bytes(16)]), [ROWS], [ROWS])
    again = HeadTap(hidden, teacher.weight, teacher.bias, teacher.transform, teacher.dtype)
    for name in ("forward_kl", "reverse_kl"):
        comparison = Comparison(by_name(name))
        live, found = (
            gradients(lambda s, t=t, c=comparison: next_token_divergence(s, t, c)[0], student) for t in (teacher, again)
        )
        assert torch.equal(found[0], live[0])
        assert all(torch.equal(a, b) for a, b in zip(found[1], live[1], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("encoding", ["threshold:6", "top:6"])
def test_lower_precisions_are_near_the_exact_one(dtype, encoding):
    student, teacher = head(dtype=dtype, rows=60), head(seed=1, rows=60)
    signal, comparison = stored(encoding, teacher), Comparison(by_name("forward_kl"))
    found = gradients(lambda s: sparse_next_token_divergence(s, signal, comparison)[0], student)
    twin = gradients(lambda s: naive(s, signal, comparison), student)
    limit = 1e-5 if dtype == torch.float32 else 2e-2
    for ours, theirs in zip(found[1], twin[1], strict=True):
        assert ours.dtype == dtype
        assert error(ours.double(), theirs.double()) < limit


@pytest.mark.parametrize("encoding", ["threshold:6", "draws:6", "top:6"])
def test_no_rows_frozen_heads_and_evaluation(encoding):
    student, teacher = head(rows=0), head(rows=0, seed=1)
    comparison = Comparison(by_name("forward_kl"))
    value, slopes = gradients(
        lambda s: sparse_next_token_divergence(s, stored(encoding, teacher), comparison)[0], student
    )
    assert value.shape == (0,)
    assert not any(slope.any() for slope in slopes)
    student, signal = head(), stored(encoding, head(seed=1))
    hidden = student.hidden.requires_grad_()
    sparse_next_token_divergence(student, signal, comparison)[0].sum().backward()
    assert hidden.grad is not None
    assert student.weight.grad is None
    with torch.no_grad():
        assert not sparse_next_token_divergence(student, signal, comparison)[0].requires_grad


@pytest.mark.parametrize("name", [name for name in NAMES if name != "forward_kl"])
def test_drawn_tokens_do_the_forward_kl_alone(name):
    with pytest.raises(ValueError, match=f"divergence is '{name}'.*Use Logits\\('forward_kl'\\).*encoding='hidden'"):
        check_sparse("atoms", 1.0, name, 1.0)
    check_sparse("top", 1.0, name, 1.0)
    check_sparse("head", None, name, 3.0)


@pytest.mark.parametrize("next_token", ["atoms", "top"])
def test_another_temperature_than_captured_is_refused(next_token):
    with pytest.raises(
        ValueError, match="temperature is 2.0, and the stored probabilities are those at temperature 1.0"
    ):
        check_sparse(next_token, 1.0, "forward_kl", 2.0)
    check_sparse(next_token, 2.0, "forward_kl", 2.0)


@pytest.mark.parametrize("encoding", ["threshold", "draws", "top"])
@pytest.mark.parametrize("own", ["head", "logits"])
def test_a_device_without_float64_gives_the_same_but_for_rounding(without_float64, encoding, own):
    """Of the teacher's 44 tokens the student has 40. It was a TypeError on Apple's GPUs."""
    teacher = head(vocabulary=44, dtype=torch.float32)
    found = stored(encoding, teacher)

    def value_and_gradient():
        student = head(seed=1, dtype=torch.float32)
        start = logits_of(student).float() if own == "logits" else student.hidden
        leaf = start.detach().requires_grad_()

        def compute():
            if own == "logits":
                return sparse_divergence_of_logits(leaf, found, Comparison(by_name("forward_kl")))[0]
            tap = HeadTap(leaf, student.weight, student.bias, student.transform, student.dtype)
            return sparse_next_token_divergence(tap, found, Comparison(by_name("forward_kl")))[0]

        return leaf, compute

    leaf, compute = value_and_gradient()
    expected = compute()
    expected.sum().backward()
    other, compute = value_and_gradient()
    with without_float64():
        values = compute()
        values.sum().backward()
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.grad, leaf.grad, rtol=1e-4, atol=1e-5)
