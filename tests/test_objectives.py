"""Taps, maps and objectives against their naive twins, in value and gradient."""

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from transformers import AutoModelForCausalLM, GPT2Config, MambaConfig, MistralConfig

from distill import AttentionMaps, HiddenStates, Logits, make_student
from distill.collate import PairCollator, supervised_rows
from distill.divergences import forward_kl
from distill.objectives.base import resolve_layers
from distill.taps import Wants, run_with_taps

ATTENTION = Wants(logits=True, hidden=frozenset({0, 1}), attention=frozenset({0, 1}))


def batch(side="right", count=5):
    inputs = PairCollator(build_tokenizer(), padding_side=side)(list(build_pairs(count)))
    rows = supervised_rows(inputs.pop("labels"))
    return inputs, rows


def family(name):
    small = {
        "vocab_size": 320,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(1)
    configs = {
        "mistral": MistralConfig(**small, intermediate_size=48, num_key_value_heads=2, sliding_window=4),
        "gpt2": GPT2Config(
            vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
        ),
        "mamba": MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4),
    }
    return build_model() if name == "llama" else AutoModelForCausalLM.from_config(configs[name]).eval()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_taps_see_what_the_model_computes_and_change_nothing(name, side):
    """Logits, hidden states and maps against a plain forward pass with eager attention."""
    model, (inputs, rows) = family(name), batch(side)
    with torch.no_grad():
        signals = run_with_taps(model, model, inputs, rows, ATTENTION)
        plain = model(**inputs)
        assert model.config._attn_implementation == "sdpa"
        assert torch.equal(signals.logits, plain.logits[rows]) or torch.allclose(
            signals.logits, plain.logits[rows], atol=1e-6
        )
        model.set_attn_implementation("eager")
        eager = model(**inputs, output_attentions=True, output_hidden_states=True)
    from distill.maps import attention_scores

    for layer in (0, 1):
        torch.testing.assert_close(signals.hidden[layer], eager.hidden_states[layer + 1][rows], atol=1e-5, rtol=1e-5)
        maps = []
        for row in range(len(rows)):
            positions = rows[row].nonzero().squeeze(1)
            maps.append(attention_scores(signals.attention[layer], row, positions).softmax(-1).transpose(0, 1))
        torch.testing.assert_close(torch.cat(maps), eager.attentions[layer].transpose(1, 2)[rows], atol=1e-6, rtol=1e-4)


def test_output_does_not_change_by_a_bit_while_tapped():
    from distill.taps import record_attention

    model, (inputs, _) = family("llama"), batch()
    with torch.no_grad():
        plain = model(**inputs).logits
        with record_attention(model, {0, 1}) as taps:
            tapped = model(**inputs).logits
    assert torch.equal(plain, tapped)
    assert taps.keys() == {0, 1}


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
        Logits("generalized_jsd", beta=0.3),
        HiddenStates(),
        HiddenStates("last", distance="cosine"),
        AttentionMaps(),
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
        from distill.taps import Signals

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
    eager = build_model()
    eager.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="attn_implementation='eager', which cannot be tapped"):
        AttentionMaps().bind(eager, build_model(), None)
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
    ],
)
def test_bad_settings(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_forward_kl_sees_only_shared_tokens_of_padded_heads():
    """Bug 9: a teacher padded further gives its phantom slots no probability, and neither does the student's loss."""
    from distill.taps import Signals

    rows = torch.ones(1, 4, dtype=torch.bool)
    student, teacher = torch.randn(4, 50), torch.randn(4, 60)
    objective = Logits()
    objective.vocabulary = 45
    value = objective(Signals(rows, student), Signals(rows, teacher))
    torch.testing.assert_close(value, forward_kl(student[:, :45], teacher[:, :45]))
