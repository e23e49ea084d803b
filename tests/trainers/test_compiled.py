"""`torch_compile=True`: the same weights as without, and no graph is made anew for another number of supervised rows."""

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from torch._dynamo.utils import counters
from white_box_runs import OBJECTIVES, black_box_trainer, trainer, weights_of

from distill.models.adapters import lora_config
from distill.pairs.collate import PairCollator

NARROW = {"hidden_size": 16, "num_attention_heads": 2}  # so that HiddenStates learns projections
WAYS = {
    "black box": (None, {}),
    "logits": (OBJECTIVES["logits"], {}),
    "hidden, with projections": (OBJECTIVES["hidden"], NARROW),
    "all": (OBJECTIVES["all"], {}),
    "self": (OBJECTIVES["logits"], {}),
}


@pytest.fixture
def compiled():
    """What dynamo has counted; nothing is left of it afterwards."""
    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()


def run_of(arguments, way, width=64, **changes):
    objectives, shape = WAYS[way]
    settings = {
        "max_steps": 10, "learning_rate": 0.1, "optim": "sgd", "pairs": build_pairs(16), "student": build_model(seed=7, **shape),
        "per_device_train_batch_size": 4, "collator": PairCollator(build_tokenizer(), pad_to_multiple_of=width), **changes,
    }  # fmt: skip
    own = {"teacher": "self", "peft_config": lora_config(4)} if way == "self" else {}
    run = (
        trainer(arguments, objectives(), **settings, **own) if objectives else black_box_trainer(arguments, **settings)
    )
    run.train()
    return run


@pytest.mark.parametrize("way", WAYS)
def test_weights_and_evaluation_are_those_of_the_plain_run(arguments, compiled, way):
    """Compiled by the plainest backend; taps, hooks and the head that is left out are in the graph or beside it."""
    plain = run_of(arguments, way)
    ours = run_of(arguments, way, torch_compile=True, torch_compile_backend="eager")
    # in the first 8 graphs of one function dynamo would not say that it gives up
    assert compiled["stats"]["unique_graphs"] == 1, "a graph for each number of supervised rows"
    assert not compiled["graph_break"]
    expected, found = weights_of(plain), weights_of(ours)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    losses = [run.evaluate(build_pairs(5, seed=3))["eval_loss"] for run in (plain, ours)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_rows_of_any_length_are_two_graphs(arguments, compiled):
    """The second has its sizes open."""
    run_of(arguments, "all", width=1, torch_compile=True, torch_compile_backend="eager")
    assert compiled["stats"]["unique_graphs"] == 2


def test_a_checkpoint_of_a_compiled_run_is_that_of_any_other(arguments, tmp_path):
    whole = {
        "save_strategy": "steps",
        "save_steps": 1,
        "max_steps": 2,
        "torch_compile": True,
        "torch_compile_backend": "eager",
    }
    run = run_of(arguments, "hidden, with projections", **whole)
    expected = weights_of(run)
    again = trainer(
        arguments, WAYS["hidden, with projections"][0](), student=build_model(seed=7, **NARROW), pairs=build_pairs(16), learning_rate=0.1,
        optim="sgd", per_device_train_batch_size=4, collator=PairCollator(build_tokenizer(), pad_to_multiple_of=64), **whole,
    )  # fmt: skip
    again.train(resume_from_checkpoint=str(tmp_path / "out/checkpoint-1"))
    for name, tensor in expected.items():
        assert torch.equal(weights_of(again)[name], tensor), name
