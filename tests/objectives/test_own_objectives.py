"""What docs/reference/objectives.md shows of names and of objectives of one's own does what it says."""

import re
from pathlib import Path

import pytest
import torch
from conftest import batch, build_model, signals_of, value_of
from white_box_runs import trainer

from distill import HiddenStates, Logits
from distill.objectives import Schedule


def blocks_of_the_docs():
    page = Path(__file__).parents[2] / "docs" / "reference" / "objectives.md"
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_the_objective_of_the_docs_trains_and_is_logged(arguments):
    (code,) = (block for block in blocks_of_the_docs() if "class Lengths" in block)
    made = {"__name__": "docs"}
    exec(code, made)
    lengths = made["Lengths"]
    student, teacher = build_model(hidden_size=16, num_attention_heads=4, seed=7), build_model(seed=1)
    inputs, rows = batch()
    term = lengths(layer=1).bind(student, teacher)
    ours, theirs = (side.hidden[1].norm(dim=-1) for side in signals_of(term, student, teacher, inputs, rows))
    torch.testing.assert_close(value_of(term, student, teacher, inputs, rows), (ours / theirs - 1).square())
    with pytest.raises(ValueError, match="layer is 99"):
        lengths(layer=99).bind(student, teacher)
    run = trainer(arguments, [Logits(), lengths(weight=0.1), lengths(layer=1, name="second")], max_steps=1)
    run.train()
    assert {"logits", "lengths", "second"} <= run.state.log_history[0].keys()


def test_the_names_that_the_docs_say_are_logged(arguments):
    (code,) = (block for block in blocks_of_the_docs() if 'name="directions"' in block)
    made = {"Logits": Logits, "HiddenStates": HiddenStates, "Schedule": Schedule}
    exec(code, made)
    run = trainer(arguments, made["objectives"], max_steps=1)
    run.train()
    names = {"logits", "hidden", "directions"}
    assert {*names, "directions_weight"} <= run.state.log_history[0].keys()
    assert {f"eval_{name}" for name in names} <= run.evaluate(run.train_dataset).keys()
