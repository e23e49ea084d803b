"""Models' own logits, where a head cannot be read, and values without slopes: each against the plain way, in numbers and memory."""

import gc
from functools import partial

import pytest
import torch
from conftest import build_model

from distill.objectives import Comparison, attention_divergence, formulas, fused, next_token_divergence
from distill.objectives import streamed_next_token as next_token
from distill.objectives.divergences import NAMES, by_name
from distill.planning.live_tensors import LiveBytes
from distill.signals import AttentionTap, HeadTap, LogitTransform
from distill.signals.head_logits import wide

SETTINGS = {"generalized_jsd": {"beta": 0.3}, "scaled_jsd": {"beta": 0.9}, "skew_forward_kl": {"skew": 0.2}}
ROWS, VOCABULARY, PADDED = 17, 37, 41


@pytest.fixture(params=["plain", "fused"])
def way(request, monkeypatch):
    """The plain run, and what is compiled on a GPU, here as written; several chunks and tiles even of tiny inputs."""
    monkeypatch.setattr(next_token, "CHUNK", 3)
    monkeypatch.setattr(next_token, "TILE", 80)
    if request.param == "fused":
        monkeypatch.setattr(fused, "pays", lambda logits: True)
        monkeypatch.setattr(fused, "_compile", lambda function: function)
        monkeypatch.setattr(fused, "_compiled", {})


def logits(seed, columns=PADDED, dtype=torch.float64, rows=ROWS):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype) * 2


def by_autograd(student, teacher, comparison, labels):
    """All rows at once, as it was done before."""
    ours, theirs = student[:, : comparison.vocabulary], teacher[:, : comparison.vocabulary]
    value = comparison.divergence(ours, theirs, temperature=comparison.temperature) * comparison.factor
    if comparison.cross_entropy:
        entropy = torch.nn.functional.cross_entropy(wide(ours), labels, reduction="none")
        value = value + comparison.cross_entropy * entropy
    return value


def in_chunks(student, teacher, comparison, labels):
    return next_token_divergence(student, teacher, comparison, labels)[0]


def found_by(function, student, teacher, comparison, labels, reduce):
    leaf = student.clone().requires_grad_()
    value = function(leaf, teacher, comparison, labels)
    return value.detach(), torch.autograd.grad(reduce(value), leaf)[0]


def comparisons(name):
    divergence = by_name(name, **SETTINGS.get(name, {}))
    return [
        Comparison(divergence, vocabulary=VOCABULARY),
        Comparison(divergence, temperature=2.0, factor=4.0, cross_entropy=0.3, vocabulary=VOCABULARY),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_own_logits_equal_their_naive_twin_in_value_and_gradient(name, way):
    """Heads padded to different sizes; a plain sum, and rows that count unequally, for which there is a second pass."""
    student, teacher = logits(0), logits(1, PADDED + 3)
    labels = torch.randint(VOCABULARY, (ROWS,), generator=torch.Generator().manual_seed(2))
    weights = torch.linspace(0.1, 2, ROWS, dtype=torch.float64)
    for comparison in comparisons(name):
        for reduce in (lambda v: v.sum() / 5, lambda v: (weights * v).sum()):
            both = [
                found_by(function, student, teacher, comparison, labels, reduce)
                for function in (in_chunks, by_autograd)
            ]
            torch.testing.assert_close(*both)
            assert not both[0][1][:, VOCABULARY:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_own_logits_in_the_models_precision(dtype, way):
    """Their gradient is in it, too, and rounded once more than the twin's at most."""
    student, teacher = logits(0, dtype=dtype), logits(1, dtype=dtype)
    comparison = Comparison(by_name("forward_kl"))
    both = [
        found_by(function, student, teacher, comparison, None, lambda v: v.sum() / 3)
        for function in (in_chunks, by_autograd)
    ]
    assert both[0][1].dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(both[0][0], both[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(both[0][1], both[1][1], rtol=2 * eps, atol=2 * eps * float(both[1][1].abs().max()))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "reverse_kl"])
def test_a_logit_of_minus_infinity_is_a_token_that_cannot_occur(name, way):
    """Of the teacher, and of both; the models' own memory is not written."""
    student, teacher = logits(0), logits(1)
    teacher[:, 3] = -torch.inf
    for one_sided in (True, False):
        if not one_sided:
            student[:, 3] = -torch.inf
        kept = student.clone(), teacher.clone()
        both = [
            found_by(function, student, teacher, Comparison(by_name(name)), None, torch.sum)
            for function in (in_chunks, by_autograd)
        ]
        torch.testing.assert_close(*both)
        assert both[0][1].isfinite().all()
        assert torch.equal(kept[0], student)
        assert torch.equal(kept[1], teacher)


def head(seed, width=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, width, generator=generator).to(dtype) for n in (ROWS, PADDED))
    return HeadTap(hidden, weight, None, LogitTransform(0.5, 5.0), dtype)


def test_a_head_beside_own_logits_is_the_same_comparison(way):
    """Either side may be the one that can be read."""
    tap, other, comparison = head(0), logits(1, dtype=torch.float32), Comparison(by_name("generalized_jsd"))
    whole = tap.transform(tap.hidden @ tap.weight.t())
    for student, teacher, twin in ((tap, other, (whole, other)), (other, tap, (other, whole))):
        found = next_token_divergence(student, teacher, comparison)[0]
        torch.testing.assert_close(found, by_autograd(*twin, comparison, None), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_values_without_slopes_are_the_same_bits(name):
    """Of each formula; what an evaluation computes is what a training logs."""
    divergence = by_name(name, **SETTINGS.get(name, {}))
    for dtype in (torch.float32, torch.float64):
        for near in (2.0, 1e-3, 0.0):
            log_p = logits(0, dtype=dtype).log_softmax(-1)
            log_q = (logits(0, dtype=dtype) + near * logits(1, dtype=dtype)).log_softmax(-1)
            with_slope, slope = divergence.value_and_grad(log_q.clone(), log_p.clone())
            value, nothing = divergence.value_and_grad(log_q.clone(), log_p.clone(), slope=False)
            assert nothing is None
            assert slope is not None
            assert torch.equal(value, with_slope)
            leaf = logits(2, dtype=dtype).requires_grad_()
            with torch.no_grad():
                looked_at = divergence(leaf, logits(3, dtype=dtype), temperature=2.0)
            assert torch.equal(looked_at, divergence(leaf, logits(3, dtype=dtype), temperature=2.0).detach())


@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation_of_a_head_has_the_bits_of_a_training(name, way):
    student, teacher = head(0), head(1, width=5)
    labels = torch.randint(VOCABULARY, (ROWS,), generator=torch.Generator().manual_seed(2))
    for comparison in comparisons(name):
        tapped = HeadTap(
            student.hidden.clone().requires_grad_(),
            *(getattr(student, n) for n in ("weight", "bias", "transform", "dtype")),
        )
        trained = next_token_divergence(tapped, teacher, comparison, labels)
        with torch.no_grad():
            looked_at = next_token_divergence(tapped, teacher, comparison, labels)
        assert torch.equal(looked_at[0], trained[0].detach())
        assert (looked_at[1] is None) == (trained[1] is None)
        assert looked_at[1] is None or torch.equal(looked_at[1], trained[1])


def attention_tap(seed, sinks=False):
    generator = torch.Generator().manual_seed(seed)
    query, key = (torch.randn(2, heads, 9, 6, generator=generator) for heads in (4, 2))
    return AttentionTap(query, key, None, None, 6**-0.5, 3.0, torch.randn(4, generator=generator) if sinks else None)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sinks", [False, True])
def test_an_evaluation_of_maps_has_the_bits_of_a_training(name, sinks, way):
    rows = torch.zeros(2, 9, dtype=torch.bool)
    rows[0, 2:7] = rows[1, 4:] = True
    student, teacher = attention_tap(0, sinks), attention_tap(1, sinks)
    student.query.requires_grad_()
    trained = attention_divergence(student, teacher, rows, by_name(name))
    with torch.no_grad():
        looked_at = attention_divergence(student, teacher, rows, by_name(name))
    assert trained.requires_grad
    assert torch.equal(looked_at, trained.detach())


def test_an_evaluation_computes_no_slope(monkeypatch):
    """Of heads, own logits and maps; the control in it asks for one."""
    asked = []
    plain = formulas.forward_kl

    def watched(log_q, log_p, *, slope=True):
        asked.append(slope)
        return plain(log_q, log_p, slope=slope)

    divergence = by_name("forward_kl")
    monkeypatch.setattr(type(divergence), "value_and_grad", property(lambda self: watched), raising=False)
    own, tap = logits(0, dtype=torch.float32).requires_grad_(), attention_tap(0)
    tap.query.requires_grad_()
    runs = [
        partial(next_token_divergence, own, logits(1), Comparison(divergence)),
        partial(attention_divergence, tap, attention_tap(1), torch.ones(2, 9, dtype=torch.bool), divergence),
        partial(divergence, own, logits(1)),
    ]
    for run in runs:
        with torch.no_grad():
            run()
        assert asked
        assert not any(asked)
        run()
        assert asked[-1]
        asked.clear()


def peak(run, *given):
    """The most bytes beside what was given."""
    gc.collect()
    live = LiveBytes(torch.nn.ParameterList(torch.nn.Parameter(one.detach(), one.requires_grad) for one in given), 0)
    with live, live.moment("all", "buffers"):
        kept = run()
    del kept
    return sum(live.highest["all"].values())


def test_own_logits_take_their_gradient_and_a_chunk(monkeypatch):
    """1,000 rows x 4,000 tokens in bfloat16: the gradient is 8 MB; the plain way holds float32 copies of all of it."""
    rows, columns = 1000, 4000
    student = logits(0, columns, torch.bfloat16, rows).requires_grad_()
    teacher, labels = logits(1, columns, torch.bfloat16, rows), torch.zeros(rows, dtype=torch.long)
    comparison = Comparison(by_name("forward_kl"), cross_entropy=0.5)
    ours, plain = (
        peak(lambda f=f: f(student, teacher, comparison, labels), student, teacher) for f in (in_chunks, by_autograd)
    )
    with torch.no_grad():
        evaluation = peak(lambda: in_chunks(student, teacher, comparison, labels), student, teacher)
    gradient, tile = rows * columns * 2, next_token.TILE * 4
    assert gradient <= ours < gradient + 12 * tile
    assert evaluation < 12 * tile
    assert plain > 5 * gradient


def test_an_evaluation_of_a_head_holds_one_chunk():
    """And no buffer of slopes, which is as large as a group of rows."""
    rows, columns = 1000, 4000
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(rows, 8, generator=generator), torch.randn(columns, 8, generator=generator)
    student, teacher = (HeadTap(hidden * scale, weight, None, LogitTransform(), torch.float32) for scale in (1, 1.1))
    with torch.no_grad():
        found = peak(lambda: next_token_divergence(student, teacher, Comparison(by_name("forward_kl"))), hidden, weight)
    chunk, tile = next_token.CHUNK * columns * 4, next_token.TILE * 4
    assert 2 * chunk <= found < 2 * chunk + 6 * tile
    assert found < rows * columns * 4


def test_a_model_with_an_adapter_on_its_head_trains_as_with_whole_logits():
    """Through the objective and the model: gradients of every parameter."""
    from peft import LoraConfig, get_peft_model

    from distill import Logits
    from distill.signals import SupervisedRows, run_with_taps

    teacher, ids = build_model(seed=1), torch.arange(3, 19).view(2, 8)
    rows = SupervisedRows.of(torch.ones(2, 8, dtype=torch.bool).tril(5).flip(0))
    student = get_peft_model(
        build_model(), LoraConfig(r=2, target_modules=["lm_head", "q_proj"], init_lora_weights=False)
    )
    term = Logits("generalized_jsd", temperature=2.0, cross_entropy=0.2).bind(student.get_base_model(), teacher)
    assert term.transforms is None
    labels = torch.arange(len(rows))
    gradients = []
    for way in ("term", "twin"):
        student.zero_grad()
        base = student.get_base_model()
        ours = run_with_taps(student, base, {"input_ids": ids}, rows, term.student_request, labels)
        with torch.no_grad():
            theirs = run_with_taps(teacher, teacher, {"input_ids": ids}, rows, term.teacher_request)
        if way == "term":
            value = term(ours, theirs)["logits"]
        else:
            comparison = Comparison(term.divergence, 2.0, term.factor, 0.2)
            value = by_autograd(ours.logits, theirs.logits, comparison, labels)
        (value.sum() / 7).backward()
        gradients.append([value.detach(), *(p.grad.clone() for p in student.parameters() if p.grad is not None)])
    assert len(gradients[0]) > 4
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
