"""The streamed losses on a GPU, against all logits or whole maps by autograd in float64."""

import pytest
import torch
from gpu_runs import GPU, relative

from distill.objectives import fused
from distill.objectives import streamed_next_token as next_token
from distill.objectives.divergences import NAMES, by_name
from distill.objectives.streamed_attention import attention_divergence
from distill.objectives.streamed_next_token import Comparison, next_token_divergence
from distill.signals import AttentionTap, HeadTap, LogitTransform

pytestmark = GPU
TRANSFORMS = {"plain": LogitTransform(), "capped": LogitTransform(2.0, 5.0)}
# relative error of a gradient: of rounded slopes, and of products whose operands have 8 bits of mantissa
BOUND = {torch.float32: 2e-5, torch.bfloat16: 5e-3}


@pytest.fixture(params=[False, True], ids=["plain", "compiled"])
def compiled(request, monkeypatch):
    """Inputs as small as these are compiled only if asked for."""
    monkeypatch.setattr(fused, "SMALLEST", 0 if request.param else 2**62)
    return request.param


def head(rows=600, width=64, vocabulary=5003, seed=0, dtype=torch.float32, bias=True, transform="plain"):
    """Logits of a spread of about 3, as trained models have; the vocabulary is no multiple of anything."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, device="cuda").to(dtype)

    weight = draw(vocabulary, width) * (3 / width**0.5)
    return HeadTap(draw(rows, width), weight, draw(vocabulary) if bias else None, TRANSFORMS[transform], dtype)


def twin(student, teacher, comparison, labels):
    def logits(tap):
        made = tap.hidden.double() @ tap.weight.double().t()
        return tap.transform(made if tap.bias is None else made + tap.bias.double())[:, : comparison.vocabulary]

    ours = logits(student)
    value = comparison.divergence(ours, logits(teacher), temperature=comparison.temperature) * comparison.factor
    entropy = torch.nn.functional.cross_entropy(ours, labels, reduction="none")
    return value + comparison.cross_entropy * entropy


def gradients(function, tap):
    leaves = [t.detach().clone().requires_grad_() for t in (tap.hidden, tap.weight, tap.bias) if t is not None]
    value = function(HeadTap(*leaves, *([None] * (3 - len(leaves))), tap.transform, tap.dtype))
    return value.detach(), torch.autograd.grad(value.sum(), leaves)


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", NAMES)
def test_next_token_equals_its_naive_twin(name, transform, dtype, compiled, monkeypatch):
    """In one piece and in several groups and chunks; another width of the teacher, a shared vocabulary, a temperature."""
    if compiled and transform == "plain":
        pytest.skip("compiling takes seconds; what is plain is a part of what is capped")
    if dtype == torch.bfloat16 and name == "total_variation":
        pytest.skip("its slope jumps where p = q, so rounding of 8 bits moves it by more than any bound worth having")
    bound = 5e-4 if name == "total_variation" else BOUND[dtype]  # for the same reason
    labels = torch.randint(4999, (600,), device="cuda")
    student = head(dtype=dtype, transform=transform)
    teacher = head(width=96, vocabulary=5120, seed=1, dtype=dtype, bias=False)
    comparison = Comparison(by_name(name), temperature=2.0, factor=4.0, cross_entropy=0.3, vocabulary=4999)
    expected, wanted = gradients(lambda tap: twin(tap, teacher, comparison, labels), student)
    for group in (next_token._GPU_GROUP, 250 * 4999 * dtype.itemsize):
        monkeypatch.setattr(next_token, "_GPU_GROUP", group)
        monkeypatch.setattr(next_token, "CHUNK", 128)
        monkeypatch.setattr(next_token, "_GPU_CHUNK", 130 * 4999 if group < 2**28 else 2**27)
        value, found = gradients(lambda tap: next_token_divergence(tap, teacher, comparison, labels)[0], student)
        assert relative(value, expected) < bound
        for a, b in zip(found, wanted, strict=True):
            assert a.dtype == dtype
            assert relative(a, b) < bound, (name, transform, group, tuple(a.shape))


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_at_all_where_the_student_is_the_teacher(name, dtype, compiled):
    tap = head(dtype=dtype, transform="capped")
    value, slopes = gradients(lambda s: next_token_divergence(s, tap, Comparison(by_name(name)))[0], tap)
    assert not value.any()
    assert not any(slope.any() for slope in slopes)


def test_numbers_and_shapes_do_not_compile_anew(monkeypatch):
    """Temperature, factor, weight of cross-entropy, rows and vocabulary."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(fused, "SMALLEST", 0)
    divergence, seen = by_name("scaled_jsd", beta=0.3), []
    for rows, vocabulary, temperature, factor, entropy in (
        (600, 8200, 1.0, 1.0, 0.1), (600, 8200, 2.0, 4.0, 0.5), (300, 17_001, 3.0, 1.0, 0.2), (513, 9999, 1.5, 2.0, 0.1),
    ):  # fmt: skip
        student, teacher = (head(rows, vocabulary=vocabulary, seed=seed) for seed in (0, 1))
        labels = torch.randint(vocabulary, (rows,), device="cuda")
        comparison = Comparison(divergence, temperature, factor, entropy)
        gradients(lambda tap, t=teacher, c=comparison, y=labels: next_token_divergence(tap, t, c, y)[0], student)
        seen.append(counters["stats"]["unique_graphs"])
    assert seen[0] > 0
    assert len(set(seen)) == 1, seen


def test_low_precision_is_as_near_as_its_slopes():
    """Near the teacher, where logits rounded to 8 bits would be most of the gradient (0.08 and 0.25 of it)."""
    generator = torch.Generator("cuda").manual_seed(0)
    weight = (torch.randn(20_000, 256, generator=generator, device="cuda") * 3 / 16).bfloat16()
    hidden = torch.randn(512, 256, generator=generator, device="cuda").bfloat16()
    labels = torch.zeros(512, dtype=torch.long, device="cuda")
    for near in (0.1, 0.03):
        other = hidden.float() + near * torch.randn(hidden.shape, generator=generator, device="cuda")
        student, teacher = (
            HeadTap(h.bfloat16(), weight, None, LogitTransform(), torch.bfloat16) for h in (hidden, other)
        )
        comparison = Comparison(by_name("forward_kl"))
        found = gradients(lambda tap, t=teacher, c=comparison: next_token_divergence(tap, t, c)[0], student)[1]
        wanted = gradients(lambda tap, t=teacher, c=comparison: twin(tap, t, c, labels), double(student))[1]
        assert max(relative(a, b) for a, b in zip(found, wanted, strict=True)) < 4e-3


def double(tap):
    return HeadTap(tap.hidden.double(), tap.weight.double(), None, tap.transform, torch.float64)


# attention


def attention(seed=0, heads=6, groups=3, width=32, time=150, rows=3, mask="causal", kind="plain", dtype=torch.float32):
    generator = torch.Generator("cuda").manual_seed(seed)

    def draw(*shape):
        return (1.5 * torch.randn(*shape, generator=generator, device="cuda")).to(dtype)

    ones = torch.ones(time, time, dtype=torch.bool, device="cuda")
    causal = ones.tril().expand(rows, 1, time, time)
    padded = causal.clone()
    padded[0, :, :, :40] = False  # left padding
    padded[0, :, :40, 0] = True
    masks = {"causal": None, "window": causal & ones.triu(-24), "padded": padded}
    settings = {"plain": {}, "softcap": {"softcap": 2.0}, "sinks": {"sinks": draw(heads)}}[kind]
    query, key = draw(rows, heads, time, width), draw(rows, groups, time, width)
    return AttentionTap(query, key, None, masks[mask], width**-0.5, **settings)


def supervised(time=150):
    rows = torch.zeros(3, time, dtype=torch.bool, device="cuda")
    rows[0, 60:97] = rows[1, 1:] = True
    rows[1, 40:55] = False
    return rows


def whole_maps(student, teacher, rows, divergence):
    def scores(tap):
        key = tap.key.double().repeat_interleave(tap.query.shape[1] // tap.key.shape[1], dim=1)
        made = tap.query.double() @ key.transpose(2, 3) * tap.scaling
        made = made if tap.softcap is None else tap.softcap * torch.tanh(made / tap.softcap)
        mask = torch.ones(made.shape[2:], dtype=torch.bool, device="cuda").tril() if tap.mask is None else tap.mask
        made = made.masked_fill(~mask, -1e30)
        if tap.sinks is None:
            return made
        return torch.cat([made, tap.sinks.double()[None, :, None, None].expand(*made.shape[:3], 1)], dim=-1)

    return divergence(scores(student), scores(teacher)).transpose(1, 2)[rows].mean(-1)


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("kind", ["plain", "softcap", "sinks"])
@pytest.mark.parametrize("mask", ["causal", "window", "padded"])
@pytest.mark.parametrize("name", ["forward_kl", "generalized_jsd"])
def test_attention_equals_its_naive_twin(name, mask, kind, dtype, compiled):
    student = attention(mask=mask, kind=kind, dtype=dtype)
    teacher = attention(1, groups=6, width=48, mask=mask, kind=kind, dtype=dtype)
    rows, divergence = supervised(), by_name(name)
    leaves = [t.requires_grad_() for t in (student.query, student.key, student.sinks) if t is not None]
    ours = attention_divergence(student, teacher, rows, divergence)
    expected = whole_maps(student, teacher, rows, divergence)
    assert relative(ours.detach(), expected.detach()) < BOUND[dtype]
    found, wanted = torch.autograd.grad(ours.sum(), leaves), torch.autograd.grad(expected.sum(), leaves)
    for a, b in zip(found, wanted, strict=True):
        assert relative(a, b) < BOUND[dtype]


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("kind", ["plain", "softcap", "sinks"])
@pytest.mark.parametrize("name", NAMES)
def test_equal_attention_is_exactly_zero(name, kind, dtype, compiled):
    if compiled and (kind != "plain" or dtype == torch.float32):
        pytest.skip("compiling takes seconds; kernels do not see what the scores are made of")
    tap = attention(mask="padded", kind=kind, dtype=dtype)
    leaves = [t.requires_grad_() for t in (tap.query, tap.key, tap.sinks) if t is not None]
    value = attention_divergence(tap, tap, supervised(), by_name(name))
    assert not value.any()
    assert not any(gradient.any() for gradient in torch.autograd.grad(value.sum(), leaves))
