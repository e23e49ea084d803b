"""Taps: what they let out is what the model computes, and the model does not notice."""

import pytest
import torch
from conftest import batch, build_model, family
from torch import nn

from distill.objectives import attention_scores
from distill.signals import LogitTransform, SignalRequest, probe_attention, probe_head, record_attention, run_with_taps

ATTENTION = SignalRequest(logits=True, hidden=frozenset({0, 1}), attention=frozenset({0, 1}))


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
    for layer in (0, 1):
        torch.testing.assert_close(signals.hidden[layer], eager.hidden_states[layer + 1][rows], atol=1e-5, rtol=1e-5)
        maps = []
        for row in range(len(rows)):
            positions = rows[row].nonzero().squeeze(1)
            maps.append(attention_scores(signals.attention[layer], row, positions).softmax(-1).transpose(0, 1))
        torch.testing.assert_close(torch.cat(maps), eager.attentions[layer].transpose(1, 2)[rows], atol=1e-6, rtol=1e-4)


def test_output_does_not_change_by_a_bit_while_tapped():
    model, (inputs, _) = family("llama"), batch()
    with torch.no_grad():
        plain = model(**inputs).logits
        with record_attention(model, {0, 1}) as taps:
            tapped = model(**inputs).logits
    assert torch.equal(plain, tapped)
    assert taps.keys() == {0, 1}


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere", "granite", "phi"])
def test_the_head_is_seen_through_and_restored(name):
    """Softcap, logit scale, division, bias: hidden . weight + bias, finished, is what the model itself gives."""
    model, (inputs, rows) = family(name), batch()
    transform = probe_head(model)
    with torch.no_grad():
        signals = run_with_taps(model, model, inputs, rows, SignalRequest(head=transform))
        plain = model(**inputs).logits[rows]
    tap = signals.head
    made = transform(nn.functional.linear(tap.hidden, tap.weight, tap.bias))
    torch.testing.assert_close(made, plain, rtol=1e-4, atol=1e-5)
    assert signals.logits is None
    assert "forward" not in vars(model.get_output_embeddings())
    expected = {"gemma2": LogitTransform(1.0, 2.0), "cohere": LogitTransform(0.25), "granite": LogitTransform(0.125)}
    assert transform == expected.get(name, LogitTransform())
    assert (tap.bias is not None) == (name == "phi")


def test_no_logits_of_the_whole_batch_are_made():
    from torch.utils._python_dispatch import TorchDispatchMode

    model, (inputs, rows) = family("llama"), batch()
    transform = probe_head(model)

    class NoVocabulary(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.dim() > 1:
                assert result.shape[-1] != 320 or result.shape[0] == 32, (
                    function,
                    result.shape,
                )  # the head, transposed
            return result

    with NoVocabulary():
        run_with_taps(model, model, inputs, rows, SignalRequest(head=transform))


class Doubled(nn.Linear):
    def forward(self, hidden):
        return 2 * super().forward(hidden)


def test_heads_that_compute_something_else_are_not_streamed():
    """An adapter, 8-bit weights or a hook on the head: the model's own logits are used then."""
    model = build_model()
    assert probe_head(model) == LogitTransform()
    hook = model.lm_head.register_forward_hook(lambda *_: None)
    assert probe_head(model) is None
    hook.remove()
    model.lm_head = Doubled(32, 320, bias=False)
    assert probe_head(model) is None


def test_a_finish_that_is_not_known_is_not_guessed():
    model = build_model()
    forward = model.forward

    def squared(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits**2
        return output

    model.forward = squared
    assert probe_head(model) is None


def test_two_contexts_do_not_mix_and_leave_nothing_behind():
    """Two models tapped at once; afterwards no tensor of them is held."""
    import gc
    import weakref

    one, other = build_model(), build_model(seed=1)
    inputs, _ = batch()
    with record_attention(one, {0}) as outer, record_attention(other, {1}) as inner:
        one(**inputs)
        other(**inputs)
    assert (outer.keys(), inner.keys()) == ({0}, {1})
    held = weakref.ref(outer[0].query)
    del outer, inner
    gc.collect()
    assert held() is None


def test_autocast_decides_the_precision_of_the_head():
    model, (inputs, rows) = family("llama"), batch()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        tap = run_with_taps(model, model, inputs, rows, SignalRequest(head=LogitTransform())).head
    assert tap.dtype == torch.bfloat16
    assert tap.weight.dtype == torch.float32


def test_eager_attention_is_tapped_too():
    """With its softcap; what the tap gives explains what the layer returns."""
    model = family("gemma2")
    model.set_attn_implementation("eager")
    taps, outputs = probe_attention(model, frozenset({0, 1}))
    tap = taps[0]
    assert tap.softcap == 1.5
    maps = attention_scores(tap, 0, torch.arange(6)).softmax(-1)
    values = tap.value[0].repeat_interleave(2, dim=0)
    torch.testing.assert_close((maps @ values).transpose(0, 1), outputs[0][0], rtol=1e-4, atol=1e-6)
    assert model.config._attn_implementation == "eager"


def test_a_model_is_not_given_what_trainer_says_to_a_liger_head():
    """In evaluation with `use_liger_kernel`; without the labels, which no term hands on, that head ends in an error."""
    from distill.signals.base import inputs_of

    assert inputs_of({"input_ids": [1], "labels": [2], "skip_logits": True}) == {"input_ids": [1]}
