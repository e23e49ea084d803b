"""Objectives: zero at equality, the streamed logits, layer maps, schedules, bad settings."""

import copy

import pytest
import torch
from conftest import batch, build_model, family, signals_of, value_of

from distill import AttentionMaps, HiddenStates, Logits, Schedule, make_student
from distill.objectives.base import resolve_layers
from distill.objectives.divergences import NAMES, by_name, forward_kl
from distill.objectives.logits import LogitsTerm
from distill.signals import SignalRequest, Signals, run_with_taps


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
    value = value_of(objective.bind(student, teacher), student, teacher, inputs, rows)
    assert value.shape == (rows.sum(),)
    assert value.abs().max() < 1e-6
    value.sum().backward()
    assert max(p.grad.abs().max() for p in student.parameters() if p.grad is not None) < 1e-4


def test_t_squared_keeps_the_gradients_size():
    """Bug 3 of the field: the factor must be in the gradient, not in the logged value alone."""
    student, teacher = torch.randn(4, 50, requires_grad=True), torch.randn(4, 50)
    grads = {}
    for squared in (True, False):
        term = LogitsTerm(Logits(temperature=4.0, t_squared=squared))
        rows = torch.ones(1, 4, dtype=torch.bool)
        (grads[squared],) = torch.autograd.grad(term(Signals(rows, student), Signals(rows, teacher)).sum(), student)
    torch.testing.assert_close(grads[True], 16 * grads[False])
    expected = (student / 4).softmax(-1) - (teacher / 4).softmax(-1)
    torch.testing.assert_close(grads[True], 4 * expected)


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
    value = LogitsTerm(Logits(), vocabulary=45)(Signals(rows, student), Signals(rows, teacher))
    torch.testing.assert_close(value, forward_kl(student[:, :45], teacher[:, :45]))


@pytest.mark.parametrize("name", ["gemma2", "cohere", "granite", "phi"])
def test_streamed_logits_are_the_models_own(name):
    """Bug 12: softcap, scale and bias of the head, in value and in the gradient of every parameter."""
    teacher, (inputs, rows) = family(name), batch()
    student = copy.deepcopy(teacher)
    for parameter in student.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    term = Logits("generalized_jsd", temperature=2.0).bind(student, teacher)
    assert term.transforms is not None
    twin = copy.deepcopy(student)
    value = value_of(term, student, teacher, inputs, rows)
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
    found = [
        term(*signals_of(term, student, teacher, inputs, rows, labels))
        for term in (objective.bind(student, teacher), LogitsTerm(objective))
    ]
    logits = student(**inputs).logits[rows]
    entropy = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    divergence = 4 * forward_kl(logits, teacher(**inputs).logits[rows], temperature=2.0)
    expected = {"logits": divergence + 0.25 * entropy, "divergence": divergence, "cross_entropy": entropy}
    for values in found:
        assert values.keys() == expected.keys()
        for name, value in values.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
            assert value.requires_grad == (name == "logits")


def test_streamed_logits_stand_beside_an_objective_that_wants_logits():
    """Both are let out of one forward pass."""
    student, teacher, (inputs, rows) = build_model(seed=7), build_model(seed=1), batch()
    term = Logits().bind(student, teacher)
    request = term.student_request | SignalRequest(logits=True)
    signals = [run_with_taps(m, m, inputs, rows, w) for m, w in ((student, request), (teacher, term.teacher_request))]
    assert torch.equal(signals[0].logits, student(**inputs).logits[rows])
    expected = forward_kl(signals[0].logits, teacher(**inputs).logits[rows])
    torch.testing.assert_close(term(*signals), expected, rtol=1e-4, atol=1e-6)


def test_sharded_models_keep_their_own_logits():
    student, teacher = build_model(seed=7), build_model(seed=1)
    term = Logits().bind(student, teacher, whole_weights=False)
    assert term.student_request == term.teacher_request == SignalRequest(logits=True)


def test_schedules():
    linear, wave = Schedule(1.0, 0.0), Schedule(0.0, 2.0, steps=10, shape="cosine")
    assert [linear(step, 4) for step in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    assert wave(0, 100) == 0
    assert wave(5, 100) == pytest.approx(1)
    assert wave(2, 100) == pytest.approx(2 * (1 - 0.809017) / 2)
    assert wave(50, 100) == 2
    assert Logits(weight=linear).weight_at(2, 4) == 0.5
    assert Logits(weight=0.3).weight_at(2, 4) == 0.3
