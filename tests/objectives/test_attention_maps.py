"""AttentionMaps against its naive twin; heads, relations, and what it refuses."""

import pytest
import torch
from conftest import batch, build_model, family, signals_of, value_of

from distill import AttentionMaps, make_student
from distill.objectives.divergences import forward_kl


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
    term = AttentionMaps().bind(student, teacher)
    ours, naive = student, make_student(student, [0, 1])
    value = value_of(term, ours, teacher, inputs, rows)
    expected = naive_attention(naive, teacher, inputs, rows, term.pairs)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    value.sum().backward()
    expected.sum().backward()
    for (key, a), b in zip(ours.named_parameters(), naive.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=key)


def test_chosen_heads_are_compared_pair_by_pair():
    student, teacher, (inputs, rows) = build_model(seed=7), build_model(seed=1), batch()
    term = AttentionMaps("last", heads={0: 2, 3: 1}).bind(student, teacher)
    value = value_of(term, student, teacher, inputs, rows)
    maps = []
    for model in (student, teacher):
        model.set_attn_implementation("eager")
        maps.append(model(**inputs, output_attentions=True).attentions[1].clamp(min=1e-30))
    q, p = maps
    pairs = [(p[:, t] * (p[:, t].log() - q[:, s].log())).sum(-1)[rows] for s, t in ((0, 2), (3, 1))]
    torch.testing.assert_close(value, sum(pairs) / 2, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="student head 4 with teacher head 0"):
        AttentionMaps(heads={4: 0}).bind(build_model(), build_model())


def test_relations_compare_models_of_any_width():
    """MiniLMv2, by definition: softmax(A A^T / sqrt(d)) of re-split queries, keys, values, causal."""
    student = build_model(hidden_size=24, num_attention_heads=6, num_key_value_heads=3, head_dim=4, seed=7)
    teacher, (inputs, rows) = build_model(seed=1), batch()
    term = AttentionMaps("last", relations=("key", "value"), relation_heads=2).bind(student, teacher)
    signals = signals_of(term, student, teacher, inputs, rows)
    expected = []
    for name in ("key", "value"):
        scores = []
        for signal in signals:
            states = getattr(signal.attention[1], name)
            states = states.transpose(1, 2).flatten(2).unflatten(-1, (2, -1)).transpose(1, 2)
            made = states @ states.transpose(2, 3) / states.shape[-1] ** 0.5
            scores.append(made.masked_fill(torch.ones(made.shape[2:]).triu(1).bool(), -1e30))
        expected.append(forward_kl(*scores).mean(1)[rows])
    torch.testing.assert_close(term(*signals), sum(expected) / 2, rtol=1e-4, atol=1e-5)
    free = AttentionMaps("last", relations=("query", "key", "value")).bind(student, teacher)
    assert free.split_into == 4  # divides 24, 12 and 32, 16
    with pytest.raises(ValueError, match="relation_heads is 3, but query are"):
        AttentionMaps(relations=("query",), relation_heads=3).bind(student, teacher)


def test_windows_that_do_not_fit_are_refused():
    full, slides = build_model(), family("mistral")
    with pytest.raises(ValueError, match="sees the last 4 tokens and teacher layer 0 sees all tokens before it"):
        AttentionMaps().bind(slides, full)
    AttentionMaps().bind(full, slides)
    with pytest.raises(ValueError, match="reverse_kl is infinite where only one of them sees"):
        AttentionMaps(divergence="reverse_kl").bind(full, slides)
    AttentionMaps(divergence="generalized_jsd").bind(slides, full)


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
            AttentionMaps().bind(model, build_model(seed=1))
    finally:
        AttentionInterface.register("sdpa", plain)
    AttentionMaps().bind(model, build_model(seed=1))


def test_what_cannot_be_tapped_is_refused_at_construction():
    paged = build_model()
    paged.config._attn_implementation = "paged|eager"
    with pytest.raises(ValueError, match=r"attn_implementation='paged\|eager', which cannot be tapped"):
        AttentionMaps().bind(paged, build_model())
    mamba = family("mamba")
    mamba.config._attn_implementation = "sdpa"  # it has no attention to implement
    with pytest.raises(ValueError, match="does not show the attention of layers"):
        AttentionMaps().bind(mamba, mamba)
