"""Memory of the taps: what a forward pass leaves behind is what somebody will read, counted in bytes."""

import gc
import weakref

import pytest
import torch
from conftest import batch, build_model
from torch import nn
from white_box_runs import OBJECTIVES, trainer

from distill import AttentionMaps, HiddenStates, Logits
from distill.objectives import attention_divergence
from distill.objectives.streaming import only_summed
from distill.planning.live_tensors import LiveBytes
from distill.signals import AttentionTap, SignalRequest, SupervisedRows, run_with_taps, sources
from distill.signals.hidden import place_of, probe_hidden

LAYERS = 8


def left_behind(model, request, batch_and_rows):
    """Bytes that are alive after a teacher's forward pass, and the most while it ran."""
    inputs, rows = batch_and_rows
    live = LiveBytes(model, int(rows.sum()))
    with live, torch.no_grad():
        with live.moment("pass", "signals"):
            signals = run_with_taps(model, model, inputs, rows, request)
        after = live.live.total()
    return after, sum(live.highest["pass"].values()), signals


def test_a_teacher_leaves_the_supervised_rows_of_the_wanted_layers_and_nothing_else():
    """In bytes; and while it runs no more than a pass that nobody taps, with these rows beside it."""
    model, given = build_model(layers=LAYERS), batch()
    inputs, rows = given
    count, width, size = int(rows.sum()), 32, 4
    nothing, untapped, _ = left_behind(model, SignalRequest(), given)
    wanted = frozenset({1, 4, LAYERS - 1})
    after, most, _ = left_behind(model, SignalRequest(hidden=wanted), given)
    assert after - nothing == len(wanted) * count * width * size
    assert most <= untapped + len(wanted) * count * width * size
    # what transformers keeps for the same: every layer at every position
    live = LiveBytes(model, count)
    with live, torch.no_grad():
        kept = model(**inputs, output_hidden_states=True, logits_to_keep=1, use_cache=False).hidden_states
        by_tuple = live.live.total()
    assert len(kept) == LAYERS + 1
    assert by_tuple > 4 * after


@pytest.mark.parametrize("values", [False, True])
def test_attention_keeps_values_only_where_they_are_asked_for(values):
    model, given = build_model(layers=LAYERS), batch()
    places, layers = given[0]["input_ids"].numel(), frozenset({0, 3})
    request = SignalRequest(attention=layers, values=layers if values else frozenset())
    nothing, _, _ = left_behind(model, SignalRequest(), given)
    after, _, signals = left_behind(model, request, given)
    heads = 4 + 2 + 2 * values  # queries, keys, values
    mask = signals.attention[0].mask
    assert after - nothing - mask.untyped_storage().nbytes() == len(layers) * places * heads * 8 * 4
    assert all((signals.attention[layer].value is not None) == values for layer in layers)


def test_only_relations_of_values_ask_for_them():
    student, teacher = build_model(), build_model(seed=1)
    for objective, wanted in (
        (AttentionMaps(), frozenset()),
        (AttentionMaps(relations=("query", "key")), frozenset()),
        (AttentionMaps(relations=("value",)), frozenset({0, 1})),
    ):
        term = objective.bind(student, teacher)
        assert term.student_request.values == term.teacher_request.values == wanted


@pytest.mark.parametrize("name", ["all", "relations", "cka", "logits_and_labels"])
def test_nothing_of_the_teacher_is_kept_for_the_backward_pass(arguments, name, monkeypatch):
    """When the loss is there, every tensor that the teacher gave is gone, but weights."""
    given = []
    plain = sources.run_with_taps

    def watched(forward, model, *args):
        signals = plain(forward, model, *args)
        if model is run.source.facts.model:
            tensors = [signals.logits, *signals.hidden.values()]
            tensors += [part for tap in signals.attention.values() for part in (tap.query, tap.key, tap.value)]
            tensors += [signals.head.hidden] if signals.head else []
            given.extend(weakref.ref(t.untyped_storage()) for t in tensors if t is not None)
        return signals

    monkeypatch.setattr(sources, "run_with_taps", watched)
    run = trainer(arguments, OBJECTIVES[name]())
    inputs = run.data_collator([run.train_dataset[i] for i in range(4)])
    loss = run.compute_loss(run.model, inputs)
    gc.collect()
    assert given
    assert not [ref for ref in given if ref() is not None]
    loss.backward()
    assert run.model.model.layers[0].self_attn.k_proj.weight.grad.abs().max() > 0


def weighted_and_summed(promise):
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 6, 8, requires_grad=True), torch.randn(2, 2, 6, 8)
    rows = torch.ones(2, 6, dtype=torch.bool)
    values = attention_divergence(
        AttentionTap(query, key, None, None, 0.3), AttentionTap(2 * key.repeat(1, 2, 1, 1), key, None, None, 0.3), rows
    )
    weights = torch.rand(12)
    if promise == "values":
        only_summed(values)
    weighted = values * weights
    if promise == "weighted":
        only_summed(weighted)
    weighted.sum().backward()
    return query.grad


def test_values_that_somebody_weighted_keep_what_their_second_pass_needs():
    assert torch.equal(weighted_and_summed("weighted"), weighted_and_summed(None))
    with pytest.raises(AssertionError, match="only_summed"):
        weighted_and_summed("values")


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_a_student_gets_the_same_bits_as_by_output_hidden_states(reentrant):
    """Values, and gradients of every weight; checkpointed both ways, too."""
    found = []
    for by_hooks in (True, False):
        model = build_model(layers=4).train()
        if reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        inputs, rows = batch()
        where, layers = SupervisedRows.of(rows), frozenset({0, 2, 3})
        if by_hooks:
            signals = run_with_taps(model, model, inputs, where, SignalRequest(logits=True, hidden=layers))
            states, logits = signals.hidden, signals.logits
        else:
            output = model(**inputs, use_cache=False, output_hidden_states=True, logits_to_keep=rows)
            states = {layer: where.take(output.hidden_states[layer + 1]) for layer in layers}
            logits = output.logits
        (sum(state.square().sum() for state in states.values()) + logits.logsumexp(-1).sum()).backward()
        found.append([*states.values(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_a_hook_stays_behind_neither_after_a_pass_nor_after_a_failure():
    model, (inputs, rows) = build_model(), batch()
    hooks = [len(module._forward_hooks) for module in model.modules()]
    run_with_taps(model, model, inputs, rows, SignalRequest(hidden=frozenset({0, 1})))
    with pytest.raises(IndexError):
        run_with_taps(
            model, model, {"input_ids": inputs["input_ids"] + 10**6}, rows, SignalRequest(hidden=frozenset({0}))
        )
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


class Scaled(nn.Module):
    """A layer whose model calls something else its hidden state than what the layer returns."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *args, **kwargs):
        return 2 * self.layer(*args, **kwargs)


def test_a_layer_that_returns_something_else_than_the_models_hidden_state_is_refused():
    model = build_model(layers=3)
    model(
        input_ids=torch.ones(1, 2, dtype=torch.long), output_hidden_states=True
    )  # transformers' hooks are on the plain layers now
    model.model.layers[1] = Scaled(model.model.layers[1])
    assert probe_hidden(model, frozenset({0, 2})) == {0: 32, 2: 32}
    with pytest.raises(ValueError, match=r"layers \[1\]"):
        probe_hidden(model, frozenset({0, 1}))


def test_layers_are_those_of_the_decoder_and_two_lists_there_are_refused_by_name():
    """A vision tower may be as deep as the text model."""
    model = build_model(layers=2)
    model.tower = nn.ModuleList([nn.Identity(), nn.Identity()])
    assert probe_hidden(model, frozenset({0, 1})) == {0: 32, 1: 32}
    model = build_model(layers=2)
    model.model.others = nn.ModuleList([nn.Identity(), nn.Identity()])
    with pytest.raises(ValueError, match="LlamaForCausalLM does not show"):
        HiddenStates().bind(model, build_model())
    assert place_of(build_model(), 1) == 2
    assert Logits().bind(model, build_model())
