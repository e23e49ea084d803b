"""Objectives against their naive twins, in value and gradient; what they refuse."""

import copy

import pytest
import torch
from conftest import batch, build_model, family

from distill import AttentionMaps, HiddenStates, Logits, Schedule, make_student
from distill.divergences import NAMES, by_name, forward_kl
from distill.objectives.base import resolve_layers
from distill.objectives.hidden import debiased_cka
from distill.taps import Signals, Wants, run_with_taps


def naive_attention(student, teacher, inputs, rows, pairs):
    """Mean over layers and heads of KL between eager maps, by definition."""
    maps = []
    for model in (student, teacher):
        model.set_attn_implementation("eager")
        maps.append(model(**inputs, output_attentions=True).attentions)
        model.set_attn_implementation("sdpa")
    total = 0
    for s, t in pairs:
        p, q = maps[1][t].detach(), maps[0][s]
        terms = torch.where(p > 0, p * (p.clamp(min=1e-38).log() - q.clamp(min=1e-38).log()), 0.0)
        total = total + terms.sum(-1).mean(1)[rows]
    return total / len(pairs)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_attention_equals_its_naive_twin_in_value_and_gradient(name, side):
    teacher, (inputs, rows) = family(name), batch(side)
    student = make_student(teacher, [0, 1])
    for parameter in student.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    objective = AttentionMaps()
    objective.bind(student, teacher, None)
    ours, naive = student, make_student(student, [0, 1])
    value = objective(
        run_with_taps(ours, ours, inputs, rows, objective.student_wants()),
        run_with_taps(teacher, teacher, inputs, rows, objective.teacher_wants()),
    )
    expected = naive_attention(naive, teacher, inputs, rows, objective.pairs)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    value.sum().backward()
    expected.sum().backward()
    for (key, a), b in zip(ours.named_parameters(), naive.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize(
    "objective",
    [
        Logits("forward_kl"),
        Logits("reverse_kl", temperature=2.0),
        *[Logits(name) for name in NAMES],
        HiddenStates(),
        HiddenStates("last", distance="cosine"),
        HiddenStates(distance="cka"),
        AttentionMaps(),
        AttentionMaps(heads={0: 0, 3: 3}, divergence="generalized_jsd"),
        AttentionMaps(relations=("query", "key", "value")),
    ],
    ids=str,
)
def test_zero_with_zero_gradient_when_the_student_is_the_teacher(objective):
    teacher, (inputs, rows) = family("llama"), batch()
    student = make_student(teacher, 2)
    objective.bind(student, teacher, None)
    value = objective(
        run_with_taps(student, student, inputs, rows, objective.student_wants()),
        run_with_taps(teacher, teacher, inputs, rows, objective.teacher_wants()),
    )
    assert value.shape == (rows.sum(),)
    assert value.abs().max() < 1e-6
    value.sum().backward()
    assert max(p.grad.abs().max() for p in student.parameters() if p.grad is not None) < 1e-4


def test_t_squared_keeps_the_gradients_size():
    """Bug 3 of the field: the factor must be in the gradient, not in the logged value alone."""
    student, teacher = torch.randn(4, 50, requires_grad=True), torch.randn(4, 50)
    grads = {}
    for squared in (True, False):
        objective = Logits(temperature=4.0, t_squared=squared)
        rows = torch.ones(1, 4, dtype=torch.bool)
        (grads[squared],) = torch.autograd.grad(
            objective(Signals(rows, student), Signals(rows, teacher)).sum(), student
        )
    torch.testing.assert_close(grads[True], 16 * grads[False])
    expected = (student / 4).softmax(-1) - (teacher / 4).softmax(-1)
    torch.testing.assert_close(grads[True], 4 * expected)


def test_projection_when_widths_differ():
    student, teacher = build_model(hidden_size=16, num_attention_heads=2), build_model(seed=1)
    objective = HiddenStates()
    objective.bind(student, teacher, None)
    assert [tuple(p.shape) for p in objective.parameters()] == [(32, 16), (32, 16)]
    assert not any("project" in name for name in student.state_dict())
    with pytest.raises(ValueError, match="16 wide and the teacher 32"):
        HiddenStates(projection=False).bind(student, teacher, None)
    with pytest.raises(ValueError, match="2 attention heads and teacher layer 0 has 4"):
        AttentionMaps().bind(student, teacher, None)


def test_layer_maps():
    teacher = build_model(layers=6)
    student = make_student(teacher, [0, 2, 3])
    other = build_model(layers=3)
    assert resolve_layers("auto", student, teacher, span_end=True) == [(0, 1), (1, 2), (2, 5)]
    assert resolve_layers("auto", student, teacher, span_end=False) == [(0, 0), (1, 2), (2, 3)]
    assert resolve_layers("auto", other, teacher, span_end=True) == [(0, 1), (1, 3), (2, 5)]
    assert resolve_layers("last", other, teacher, span_end=True) == [(2, 5)]
    assert resolve_layers({0: 4}, other, teacher, span_end=True) == [(0, 4)]
    for layers, words in (
        ("best", "layers is 'best'"),
        ({0: 6}, "teacher layer 6"),
        ({3: 0}, "student layer 3"),
        ({}, "layers is empty"),
    ):
        with pytest.raises(ValueError, match=words):
            resolve_layers(layers, other, teacher, span_end=True)
    with pytest.raises(ValueError, match="has 6 layers and the teacher 3"):
        resolve_layers("even", teacher, other, span_end=True)


def test_what_cannot_be_tapped_is_refused_at_construction():
    flex = build_model()
    flex.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="attn_implementation='flex_attention', which cannot be tapped"):
        AttentionMaps().bind(flex, build_model(), None)
    mamba = family("mamba")
    mamba.config._attn_implementation = "sdpa"  # it has no attention to implement
    with pytest.raises(ValueError, match="does not show the attention of layers"):
        AttentionMaps().bind(mamba, mamba, None)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Logits("kl"), "divergence is 'kl'"),
        (lambda: Logits(temperature=0), "temperature is 0"),
        (lambda: Logits(weight=-1), "weight of Logits is -1"),
        (lambda: AttentionMaps(weight=float("nan")), "weight of AttentionMaps is nan"),
        (lambda: HiddenStates(distance="l1"), "distance is 'l1'"),
        (lambda: HiddenStates(distance="cka", projection=True), "leave projection out"),
        (lambda: Logits(cross_entropy=-0.1), "cross_entropy is -0.1"),
        (lambda: Logits("skew_forward_kl", skew=2), "skew is 2"),
        (lambda: AttentionMaps(relations=("keys",)), "relations is"),
        (lambda: AttentionMaps(relations=("key",), heads={0: 0}), "give one of the two"),
        (lambda: AttentionMaps(relation_heads=2), "needs relations"),
        (lambda: AttentionMaps(divergence="kl"), "divergence is 'kl'"),
        (lambda: Schedule(1, -1), "end of a schedule is -1"),
        (lambda: Schedule(1, 0, steps=0), "has 0 steps"),
        (lambda: Schedule(1, 0, shape="square"), "shape of a schedule"),
    ],
)
def test_bad_settings(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_forward_kl_sees_only_shared_tokens_of_padded_heads():
    """Bug 9: a teacher padded further gives its phantom slots no probability, and neither does the student's loss."""
    rows = torch.ones(1, 4, dtype=torch.bool)
    student, teacher = torch.randn(4, 50), torch.randn(4, 60)
    objective = Logits()
    objective.vocabulary = 45
    value = objective(Signals(rows, student), Signals(rows, teacher))
    torch.testing.assert_close(value, forward_kl(student[:, :45], teacher[:, :45]))


def value_of(objective, student, teacher, inputs, rows):
    return objective(
        run_with_taps(student, student, inputs, rows, objective.student_wants()),
        run_with_taps(teacher, teacher, inputs, rows, objective.teacher_wants()),
    )


@pytest.mark.parametrize("name", ["gemma2", "cohere", "granite", "phi"])
def test_streamed_logits_are_the_models_own(name):
    """Bug 12: softcap, scale and bias of the head, in value and in the gradient of every parameter."""
    teacher, (inputs, rows) = family(name), batch()
    student = copy.deepcopy(teacher)
    for parameter in student.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    objective = Logits("generalized_jsd", temperature=2.0)
    objective.bind(student, teacher, None)
    assert objective.heads is not None
    twin = copy.deepcopy(student)
    value = value_of(objective, student, teacher, inputs, rows)
    with torch.no_grad():
        target = teacher(**inputs).logits[rows]
    expected = 4 * by_name("generalized_jsd")(twin(**inputs).logits[rows], target, temperature=2.0)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    value.sum().backward()
    expected.sum().backward()
    for (key, a), b in zip(student.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=key)


def test_cross_entropy_can_be_mixed_in():
    """Streamed and not, the same; and the log gets both numbers."""
    student, teacher, (inputs, rows) = build_model(seed=7), build_model(seed=1), batch()
    labels = torch.randint(300, (int(rows.sum()),))
    objective = Logits(temperature=2.0, cross_entropy=0.25)
    objective.bind(student, teacher, None)
    found = []
    for _ in range(2):
        signals = [
            run_with_taps(m, m, inputs, rows, w, labels)
            for m, w in ((student, objective.student_wants()), (teacher, objective.teacher_wants()))
        ]
        found.append(objective(*signals))
        objective.heads = None
    logits = student(**inputs).logits[rows]
    entropy = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    divergence = 4 * forward_kl(logits, teacher(**inputs).logits[rows], temperature=2.0)
    expected = {"logits": divergence + 0.25 * entropy, "divergence": divergence, "cross_entropy": entropy}
    for values in found:
        assert values.keys() == expected.keys()
        for name, value in values.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
            assert value.requires_grad == (name == "logits")


def test_chosen_heads_are_compared_pair_by_pair():
    student, teacher, (inputs, rows) = build_model(seed=7), build_model(seed=1), batch()
    objective = AttentionMaps("last", heads={0: 2, 3: 1})
    objective.bind(student, teacher, None)
    value = value_of(objective, student, teacher, inputs, rows)
    maps = []
    for model in (student, teacher):
        model.set_attn_implementation("eager")
        maps.append(model(**inputs, output_attentions=True).attentions[1].clamp(min=1e-30))
    q, p = maps
    pairs = [(p[:, t] * (p[:, t].log() - q[:, s].log())).sum(-1)[rows] for s, t in ((0, 2), (3, 1))]
    torch.testing.assert_close(value, sum(pairs) / 2, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="student head 4 with teacher head 0"):
        AttentionMaps(heads={4: 0}).bind(build_model(), build_model(), None)


def test_relations_compare_models_of_any_width():
    """MiniLMv2, by definition: softmax(A A^T / sqrt(d)) of re-split queries, keys, values, causal."""
    student = build_model(hidden_size=24, num_attention_heads=6, num_key_value_heads=3, head_dim=4, seed=7)
    teacher, (inputs, rows) = build_model(seed=1), batch()
    objective = AttentionMaps("last", relations=("key", "value"), relation_heads=2)
    objective.bind(student, teacher, None)
    signals = [
        run_with_taps(m, m, inputs, rows, w)
        for m, w in ((student, objective.student_wants()), (teacher, objective.teacher_wants()))
    ]
    expected = []
    for name in ("key", "value"):
        scores = []
        for signal in signals:
            states = getattr(signal.attention[1], name)
            states = states.transpose(1, 2).flatten(2).unflatten(-1, (2, -1)).transpose(1, 2)
            made = states @ states.transpose(2, 3) / states.shape[-1] ** 0.5
            scores.append(made.masked_fill(torch.ones(made.shape[2:]).triu(1).bool(), -1e30))
        expected.append(forward_kl(*scores).mean(1)[rows])
    torch.testing.assert_close(objective(*signals), sum(expected) / 2, rtol=1e-4, atol=1e-5)
    free = AttentionMaps("last", relations=("query", "key", "value"))
    free.bind(student, teacher, None)
    assert (free.relation_heads, free.split_into) == (None, 4)  # divides 24, 12 and 32, 16
    with pytest.raises(ValueError, match="relation_heads is 3, but query are"):
        AttentionMaps(relations=("query",), relation_heads=3).bind(student, teacher, None)


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
    objective = HiddenStates(distance="cka")
    objective.bind(student, teacher, None)
    assert not list(objective.parameters())
    inputs, rows = batch(count=5)
    rows[2, rows[2].nonzero().squeeze(1)[3:]] = False  # three are too few
    whole = value_of(objective, student, teacher, inputs, rows)
    parts = []
    for i in range(5):
        one = {name: tensor[i : i + 1] for name, tensor in inputs.items()}
        parts.append(value_of(objective, student, teacher, one, rows[i : i + 1]))
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


def test_streamed_logits_stand_beside_an_objective_that_wants_logits():
    """Both are let out of one forward pass."""
    student, teacher, (inputs, rows) = build_model(seed=7), build_model(seed=1), batch()
    objective = Logits()
    objective.bind(student, teacher, None)
    wants = objective.student_wants() | Wants(logits=True)
    signals = [
        run_with_taps(m, m, inputs, rows, w) for m, w in ((student, wants), (teacher, objective.teacher_wants()))
    ]
    assert torch.equal(signals[0].logits, student(**inputs).logits[rows])
    expected = forward_kl(signals[0].logits, teacher(**inputs).logits[rows])
    torch.testing.assert_close(objective(*signals), expected, rtol=1e-4, atol=1e-6)


def test_sharded_models_keep_their_own_logits():
    student, teacher = build_model(seed=7), build_model(seed=1)
    objective = Logits()
    objective.sharded = True
    objective.bind(student, teacher, None)
    assert objective.student_wants() == Wants(logits=True)


def test_windows_that_do_not_fit_are_refused():
    full, slides = build_model(), family("mistral")
    with pytest.raises(ValueError, match="sees the last 4 tokens and teacher layer 0 the last inf"):
        AttentionMaps().bind(slides, full, None)
    AttentionMaps().bind(full, slides, None)
    with pytest.raises(ValueError, match="reverse_kl is infinite where only one of them sees"):
        AttentionMaps(divergence="reverse_kl").bind(full, slides, None)
    AttentionMaps(divergence="generalized_jsd").bind(slides, full, None)


def test_attention_that_is_not_understood_is_refused():
    """What a tap shows must explain what the layer returns."""
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model, plain = build_model(), ALL_ATTENTION_FUNCTIONS["sdpa"]

    def other(*args, **kwargs):
        output, weights = plain(*args, **kwargs)
        return 1.5 * output, weights

    AttentionInterface.register("sdpa", other)
    try:
        with pytest.raises(ValueError, match="is not softmax.query . key . mask. as far as it can be seen"):
            AttentionMaps().bind(model, build_model(seed=1), None)
    finally:
        AttentionInterface.register("sdpa", plain)
    AttentionMaps().bind(model, build_model(seed=1), None)


def test_schedules():
    linear, wave = Schedule(1.0, 0.0), Schedule(0.0, 2.0, steps=10, shape="cosine")
    assert [linear(step, 4) for step in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    assert wave(0, 100) == 0
    assert wave(5, 100) == pytest.approx(1)
    assert wave(2, 100) == pytest.approx(2 * (1 - 0.809017) / 2)
    assert wave(50, 100) == 2
    assert Logits(weight=linear).weight_at(2, 4) == 0.5
    assert Logits(weight=0.3).weight_at(2, 4) == 0.3
