"""Laws of an objective over several layers, which hold for every distance: a mean over layers, whatever their number."""

import pytest
import torch
from conftest import batch, build_model, value_of

from distill import AttentionMaps, HiddenStates

TWO = [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    "build",
    [
        lambda layers: HiddenStates(layers),
        lambda layers: HiddenStates(layers, distance="cosine"),
        lambda layers: HiddenStates(layers, distance="cka"),
        lambda layers: AttentionMaps(layers),
        lambda layers: AttentionMaps(layers, relations=("query", "value")),
    ],
    ids=["mse", "cosine", "cka", "attention", "relations"],
)
def test_an_objective_over_layers_is_the_mean_of_those_over_one(build):
    student, teacher = build_model(), build_model(layers=3, seed=1)
    inputs, rows = batch()
    alone = [value_of(build([pair]).bind(student, teacher), student, teacher, inputs, rows) for pair in TWO]
    together = value_of(build(TWO).bind(student, teacher), student, teacher, inputs, rows)
    assert not torch.allclose(alone[0], alone[1]), "else a mean could not be told from a choice"
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)


def test_a_layer_named_twice_weighs_twice_and_the_scale_stays():
    student, teacher = build_model(), build_model(layers=3, seed=1)
    inputs, rows = batch()
    value = lambda layers: value_of(HiddenStates(layers).bind(student, teacher), student, teacher, inputs, rows)  # noqa: E731
    torch.testing.assert_close(value([TWO[0]] * 2 + [TWO[1]]), (2 * value([TWO[0]]) + value([TWO[1]])) / 3)


def test_several_relations_are_the_mean_of_each_alone():
    student, teacher = build_model(), build_model(layers=3, seed=1)
    inputs, rows = batch()
    value = lambda *names: value_of(  # noqa: E731
        AttentionMaps(TWO, relations=names).bind(student, teacher), student, teacher, inputs, rows
    )
    torch.testing.assert_close(value("query", "value"), (value("query") + value("value")) / 2)
