"""Streaming maps against their naive twins: value, gradient, memory."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import build_model

from distill.objectives import Comparison, attention_divergence, attention_scores, fused, next_token_divergence
from distill.objectives import streamed_attention as attention_maps
from distill.objectives import streamed_next_token as next_token
from distill.objectives.divergences import NAMES, by_name
from distill.signals import AttentionTap, HeadTap, LogitTransform, SupervisedRows

TRANSFORMS = {"plain": LogitTransform(), "scaled": LogitTransform(0.5), "capped": LogitTransform(2.0, 5.0)}


@pytest.fixture(params=["plain", "fused"])
def formulas(request, monkeypatch):
    """The plain run, and what is compiled on a GPU, here as written."""
    if request.param == "fused":
        monkeypatch.setattr(fused, "pays", lambda logits: True)
        monkeypatch.setattr(fused, "_compile", lambda function: function)
        monkeypatch.setattr(fused, "_compiled", {})


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Several groups, chunks, tiles and blocks even of tiny inputs."""
    monkeypatch.setattr(next_token, "GROUP", 7 * 40 * 8)  # 7 rows in float64
    monkeypatch.setattr(next_token, "CHUNK", 3)
    monkeypatch.setattr(next_token, "TILE", 80)
    monkeypatch.setattr(attention_maps, "BLOCK", 64)
    monkeypatch.setattr(attention_maps, "TILE", 24)


def head(rows=17, width=8, vocabulary=40, seed=0, dtype=torch.float64, bias=True, transform="plain"):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return HeadTap(
        draw(rows, width), draw(vocabulary, width), draw(vocabulary) if bias else None, TRANSFORMS[transform], dtype
    )


def naive(student, teacher, comparison, labels=None):
    """All logits at once, by autograd."""

    def logits(tap):
        made = tap.hidden.to(tap.dtype) @ tap.weight.to(tap.dtype).t()
        made = made if tap.bias is None else made + tap.bias.to(tap.dtype)
        return tap.transform(made.double())[:, : comparison.vocabulary]

    ours = logits(student)
    value = comparison.divergence(ours, logits(teacher), temperature=comparison.temperature) * comparison.factor
    if comparison.cross_entropy:
        entropy = torch.nn.functional.cross_entropy(ours, labels, reduction="none")
        value = value + comparison.cross_entropy * entropy
    return value


def gradients(function, tap, reduce):
    leaves = [t for t in (tap.hidden, tap.weight, tap.bias) if t is not None]
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    value = function(HeadTap(*leaves, *([None] * (3 - len(leaves))), tap.transform, tap.dtype))
    return value.detach(), torch.autograd.grad(reduce(value), leaves)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("bias", [True, False])
def test_next_token_equals_its_naive_twin(name, transform, bias, formulas):
    """Another width of the teacher, a temperature, a shared vocabulary, cross-entropy; also when rows count unequally."""
    student, teacher = head(bias=bias, transform=transform), head(width=5, vocabulary=44, seed=1, transform="capped")
    labels = torch.randint(37, (17,), generator=torch.Generator().manual_seed(2))
    row_weights = torch.linspace(0.1, 2, 17, dtype=torch.float64)
    for comparison in (
        Comparison(by_name(name), vocabulary=37),
        Comparison(by_name(name), temperature=2.0, factor=4.0, cross_entropy=0.3, vocabulary=37),
    ):
        for reduce in (lambda v: v.sum() / 5, lambda v: (row_weights * v).sum()):
            both = [
                gradients(partial(function, teacher=teacher, comparison=comparison, labels=labels), student, reduce)
                for function in (lambda *a, **k: next_token_divergence(*a, **k)[0], naive)
            ]
            torch.testing.assert_close(*both)


def test_gradcheck_of_the_next_token_map(formulas):
    student, teacher = (
        head(rows=3, width=3, vocabulary=6, transform="capped"),
        head(rows=3, width=2, vocabulary=6, seed=1),
    )
    comparison = Comparison(by_name("generalized_jsd"), cross_entropy=0.2)
    labels = torch.tensor([0, 3, 5])

    def function(hidden, weight, bias):
        return next_token_divergence(
            HeadTap(hidden, weight, bias, student.transform, torch.float64), teacher, comparison, labels
        )[0]

    leaves = [t.requires_grad_() for t in (student.hidden, student.weight, student.bias)]
    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_at_all_where_the_student_is_the_teacher(name, formulas):
    tap = head(dtype=torch.float32)
    value, slopes = gradients(lambda s: next_token_divergence(s, tap, Comparison(by_name(name)))[0], tap, torch.sum)
    assert not value.any()
    assert not any(slope.any() for slope in slopes)


def test_low_precision_stays_near_the_exact_gradient():
    """bfloat16 weights: the sum over groups is kept in float32, so many groups are as good as one."""
    student, teacher = head(rows=400, dtype=torch.bfloat16), head(rows=400, seed=1, dtype=torch.bfloat16)
    comparison = Comparison(by_name("forward_kl"))
    ours = gradients(lambda s: next_token_divergence(s, teacher, comparison)[0], student, torch.sum)
    twin = gradients(lambda s: naive(s, teacher, comparison), student, torch.sum)
    torch.testing.assert_close(ours[0].double(), twin[0], rtol=5e-2, atol=1e-2)  # logits are rounded to 8 bits
    for a, b in zip(ours[1], twin[1], strict=True):
        assert a.dtype == torch.bfloat16
        assert (a - b).norm() < (2e-2 if a.shape[0] == 400 else 5e-3) * b.norm()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "reverse_kl"])
def test_a_bias_of_minus_infinity_means_a_token_that_cannot_occur(name, formulas):
    """On both sides, or on the teacher's alone (where the reverse KL is infinite)."""
    student, teacher = head(), head(seed=1)
    for bias in (teacher.bias, student.bias):
        bias[:3] = float("-inf")
        value, slopes = gradients(
            lambda s: next_token_divergence(s, teacher, Comparison(by_name(name)))[0], student, torch.sum
        )
        assert value.isfinite().all()
        assert all(slope.isfinite().all() for slope in slopes)


def test_frozen_heads_cost_no_gradient_and_eval_none_at_all():
    student, teacher = head(), head(seed=1)
    hidden = student.hidden.requires_grad_()
    next_token_divergence(student, teacher, Comparison(by_name("forward_kl")))[0].sum().backward()
    assert hidden.grad is not None
    assert student.weight.grad is None
    with torch.no_grad():
        assert not next_token_divergence(student, teacher, Comparison(by_name("forward_kl")))[0].requires_grad


def test_no_rows_give_a_zero_with_a_backward():
    student, teacher = head(rows=0), head(rows=0, seed=1)
    value, slopes = gradients(
        lambda s: next_token_divergence(s, teacher, Comparison(by_name("forward_kl")))[0], student, torch.sum
    )
    assert value.shape == (0,)
    assert not any(slope.any() for slope in slopes)


def test_backward_twice_gives_the_same_twice():
    student, teacher = head(), head(seed=1)
    student.hidden.requires_grad_()
    student.weight.requires_grad_()
    total = next_token_divergence(student, teacher, Comparison(by_name("forward_kl")))[0].sum()
    first, second = (torch.autograd.grad(total, [student.hidden, student.weight], retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second)


# attention


def attention(seed=0, heads=4, groups=2, width=6, time=11, rows=3, mask="causal", **changes):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    causal = torch.tril(torch.ones(time, time, dtype=torch.bool)).expand(rows, 1, time, time)
    window = causal & torch.triu(torch.ones(time, time, dtype=torch.bool), -3)
    padded = causal.clone()
    padded[0, :, :, :4] = False  # left padding
    padded[0, :, :4, 0] = True
    masks = {
        "causal": None,
        "window": window,
        "padded": padded,
        "alibi": draw(1, heads, time, time).masked_fill(~causal[:1], -1e38),
    }
    settings = {"mask": masks[mask], "scaling": width**-0.5, **changes}
    return AttentionTap(
        2 * draw(rows, heads, time, width),
        2 * draw(rows, groups, time, width),
        draw(rows, groups, time, width),
        **settings,
    )


ROWS = torch.zeros(3, 11, dtype=torch.bool)
ROWS[0, 5:9] = ROWS[1, 1:] = True
ROWS[1, 4] = False


def naive_attention(student, teacher, divergence):
    """Whole maps, by autograd."""

    def scores(tap):
        key = tap.key.repeat_interleave(tap.query.shape[1] // tap.key.shape[1], dim=1)
        made = tap.query @ key.transpose(2, 3) * tap.scaling
        if tap.softcap is not None:
            made = tap.softcap * torch.tanh(made / tap.softcap)
        mask = torch.tril(torch.ones(made.shape[2:], dtype=torch.bool)) if tap.mask is None else tap.mask
        made = made.masked_fill(~mask, -1e30) if mask.dtype == torch.bool else made + mask
        if tap.sinks is None:
            return made
        return torch.cat([made, tap.sinks[None, :, None, None].expand(*made.shape[:3], 1)], dim=-1)

    return divergence(scores(student), scores(teacher)).transpose(1, 2)[ROWS].mean(-1)


@pytest.mark.parametrize("mask", ["causal", "window", "padded", "alibi"])
@pytest.mark.parametrize("kind", ["plain", "softcap", "sinks"])
@pytest.mark.parametrize("name", ["forward_kl", "generalized_jsd"])
def test_attention_equals_its_naive_twin(mask, kind, name, formulas):
    """Also with unequal key heads and head widths, and when rows count unequally."""
    changes = {"plain": {}, "softcap": {"softcap": 1.5}, "sinks": {"sinks": torch.tensor([0.5, -1, 2, 0]).double()}}[
        kind
    ]
    student = attention(mask=mask, **changes)
    teacher = attention(seed=1, groups=4, width=5, mask=mask, **{name: copy.deepcopy(v) for name, v in changes.items()})
    divergence, weights = by_name(name), torch.linspace(0.1, 2, int(ROWS.sum()), dtype=torch.float64)
    leaves = [t for t in (student.query, student.key, student.sinks) if t is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    for reduce in (lambda v: v.sum() / 5, lambda v: (weights * v).sum()):
        ours = attention_divergence(student, teacher, ROWS, divergence)
        twin = naive_attention(student, teacher, divergence)
        torch.testing.assert_close(ours, twin)
        torch.testing.assert_close(torch.autograd.grad(reduce(ours), leaves), torch.autograd.grad(reduce(twin), leaves))


@pytest.mark.parametrize("mask", ["causal", "window", "padded", "alibi"])
@pytest.mark.parametrize("kind", ["plain", "softcap", "sinks"])
@pytest.mark.parametrize(
    "limit", [1, 4 * 16 * 11, 2**20]
)  # one row and layer; a row or two; all rows and layers at once
def test_rows_and_layers_side_by_side_are_what_they_are_alone(mask, kind, limit, monkeypatch, formulas):
    """As a GPU computes them: the mean over layers, and every layer's gradient; also when rows count unequally."""
    changes = {"plain": {}, "softcap": {"softcap": 1.5}, "sinks": {"sinks": torch.tensor([0.5, -1, 2, 0]).double()}}[
        kind
    ]
    students = [attention(seed, mask=mask, **copy.deepcopy(changes)) for seed in (0, 2, 4)]
    teachers = [attention(seed, groups=4, width=5, mask=mask, **copy.deepcopy(changes)) for seed in (1, 3, 5)]
    if mask == "alibi":  # one mask a model, as models have it
        students, teachers = ([replace(tap, mask=taps[0].mask) for tap in taps] for taps in (students, teachers))
    students[2] = replace(students[2], scaling=0.7)  # a layer that cannot be computed beside the others
    leaves = [t for tap in students for t in (tap.query, tap.key, tap.sinks) if t is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    weights = torch.linspace(0.1, 2, int(ROWS.sum()), dtype=torch.float64)
    alone = [naive_attention(*pair, by_name("generalized_jsd")) for pair in zip(students, teachers, strict=True)]
    expected = torch.stack(alone).mean(0)
    monkeypatch.setattr(attention_maps, "_takes_many", lambda device: True)
    monkeypatch.setattr(attention_maps, "_GPU_BLOCK", limit)
    for reduce in (lambda v: v.sum() / 5, lambda v: (weights * v).sum()):
        ours = attention_divergence(students, teachers, SupervisedRows.of(ROWS), by_name("generalized_jsd"))
        torch.testing.assert_close(ours, expected)
        found = torch.autograd.grad(reduce(ours), leaves)
        torch.testing.assert_close(found, torch.autograd.grad(reduce(expected), leaves, retain_graph=True))


def test_gradcheck_of_attention():
    student, teacher = (
        attention(time=5, rows=1, heads=2, groups=1),
        attention(seed=1, time=5, rows=1, heads=2, groups=2),
    )
    rows = torch.tensor([[False, True, True, False, True]])

    def function(query, key):
        return attention_divergence(AttentionTap(query, key, None, None, student.scaling), teacher, rows)

    assert torch.autograd.gradcheck(function, (student.query.requires_grad_(), student.key.requires_grad_()))


def test_equal_attention_is_zero_and_no_rows_are_fine(formulas):
    tap = attention(mask="window")
    tap.query.requires_grad_()
    value = attention_divergence(tap, tap, ROWS)
    assert not value.any()
    assert not torch.autograd.grad(value.sum(), tap.query)[0].any()
    nothing = attention_divergence(tap, tap, torch.zeros_like(ROWS))
    assert nothing.shape == (0,)
    assert not torch.autograd.grad(nothing.sum(), tap.query)[0].any()


def test_memory_of_attention_is_linear_in_time(monkeypatch):
    """The largest tensor made, with blocks of a fixed size: twice the time, at most a little over twice the memory."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, list | tuple) else [result]:
                if isinstance(tensor, torch.Tensor):
                    self.size = max(self.size, tensor.numel())
            return result

    monkeypatch.setattr(attention_maps, "BLOCK", 2**14)
    sizes = []
    for time in (256, 512):
        taps = [attention(seed, time=time, rows=1, width=4) for seed in (0, 1)]
        taps[0].query.requires_grad_()
        with Largest() as largest:
            attention_divergence(*taps, torch.ones(1, time, dtype=torch.bool)).sum().backward()
        sizes.append(largest.size)
    assert sizes[1] < 4 * 512 * 512 / 8  # the map of one layer would be 4 * 512 * 512
    assert sizes[1] <= 2.1 * sizes[0]


def test_attention_scores_are_the_whole_map():
    tap = attention(mask="padded")
    positions = torch.tensor([5, 7, 8])
    scores = attention_scores(tap, 0, positions)
    assert scores.shape == (4, 3, 11)
    assert torch.equal(scores.softmax(-1) > 0, tap.mask[0][:, positions].expand(4, -1, -1))


def test_a_head_tied_to_the_embeddings_gets_both_gradients():
    """Through a whole model, against the model's own logits."""
    from distill import Logits
    from distill.signals import SignalRequest, run_with_taps

    student, teacher = build_model(seed=7, tie_word_embeddings=True), build_model(seed=1)
    twin = copy.deepcopy(student)
    term = Logits("reverse_kl", temperature=2.0).bind(student, teacher)
    inputs = {"input_ids": torch.arange(24).view(2, 12) + 5}
    rows = torch.ones(2, 12, dtype=torch.bool)

    def value(model, request):
        return term(*(run_with_taps(m, m, inputs, rows, request) for m in (model, teacher)))

    streamed = value(student, term.student_request)
    full = value(twin, SignalRequest(logits=True))
    torch.testing.assert_close(streamed, full, rtol=1e-4, atol=1e-6)
    streamed.sum().backward()
    full.sum().backward()
    for (name, a), b in zip(student.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=name)
    assert student.lm_head.weight is student.model.embed_tokens.weight


@pytest.mark.parametrize("exact", [torch.float32, torch.bfloat16])
def test_a_product_is_added_in_pieces_as_at_once(exact):
    torch.manual_seed(0)
    rows = next_token.ADDED + 7
    total, a, b = torch.randn(rows, 4, dtype=exact), torch.randn(rows, 3).bfloat16(), torch.randn(3, 4).bfloat16()
    at_once = total + a @ b if exact != a.dtype else torch.addmm(total, a, b)
    next_token._add_product(total, a, b)
    assert torch.equal(total, at_once)
