"""The black box whose batches say which positions the head sees: the same gradient, fewer logits, and no loss of its own."""

import sys
from pathlib import Path

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer
from white_box_runs import weights_of

from distill import BlackBoxTrainer
from distill.models.adapters import lora_config
from distill.pairs.collate import PairCollator, supervised_rows
from distill.planning.live_tensors import LiveBytes
from distill.trainers.supervised_only import check_supervised_only

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))


def build(arguments, student=None, supervised_only=True, pairs=None, trainer=(), **changes):
    return BlackBoxTrainer(
        model=student or build_model(seed=7), args=arguments(**changes), train_dataset=pairs or build_pairs(8),
        processing_class=build_tokenizer(), supervised_only=supervised_only, **dict(trainer),
    )  # fmt: skip


SETTINGS = {
    "one batch": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1},
    "split": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "checkpointed": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True,
    },
}


def gradients(arguments, supervised_only, trainer=(), **settings):
    """The change of all weights in one step of SGD with rate 1."""
    run = build(
        arguments, supervised_only=supervised_only, trainer=trainer, max_steps=1, learning_rate=1.0, optim="sgd",
        lr_scheduler_type="constant", max_grad_norm=0.0, logging_steps=1, **settings,
    )  # fmt: skip
    before = weights_of(run)
    run.train()
    return {name: before[name] - after for name, after in weights_of(run).items()}, run


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("packing", [False, True])
def test_the_gradient_is_that_of_the_plain_black_box(arguments, name, packing):
    more = {"packing": packing, "max_length": 32 if packing else None}
    (ours, run), (plain, other) = (gradients(arguments, only, more, **SETTINGS[name]) for only in (True, False))
    assert max(g.abs().max() for g in plain.values()) > 1e-3
    for key, gradient in plain.items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-4, atol=1e-6, msg=key)
    losses = [next(e["loss"] for e in r.state.log_history if "loss" in e) for r in (run, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert BlackBoxTrainer.compute_loss is Trainer.compute_loss


def test_an_adapter_is_trained_and_evaluation_is_the_same(arguments):
    found = []
    for only in (True, False):
        run = BlackBoxTrainer(
            model=build_model(seed=7), args=arguments(max_steps=3), train_dataset=build_pairs(8), eval_dataset=build_pairs(5, seed=3),
            processing_class=build_tokenizer(), supervised_only=only, peft_config=lora_config(4),
        )  # fmt: skip
        run.train()
        found.append(run.evaluate()["eval_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_predictions_are_those_of_all_positions_beside_the_labels(arguments):
    """Before, those of each batch stood one behind the other, [N, vocabulary] beside labels [rows, T]."""
    runs = [build(arguments, supervised_only=only, per_device_eval_batch_size=2) for only in (True, False)]
    ours, plain = (run.predict(build_pairs(5, seed=3)) for run in runs)
    assert ours.predictions.shape[:2] == ours.label_ids.shape
    assert (ours.predictions == plain.predictions).all()
    assert (ours.label_ids == plain.label_ids).all()
    assert ours.metrics["test_loss"] == pytest.approx(plain.metrics["test_loss"], rel=1e-5)


def test_no_logits_of_other_positions_are_made(arguments):
    """Bytes of a step's peak: at most those of the N supervised rows in place of B * T."""
    most, vocabulary = [], 4000
    for only in (True, False):
        model = build_model(seed=7, vocab_size=vocabulary)
        run = build(arguments, student=model, supervised_only=only)
        batch = run.data_collator([run.train_dataset[i] for i in range(8)])
        rows = supervised_rows(batch["labels"])
        live = LiveBytes(model, int(rows.sum()))
        with live, live.moment("step", "activations"):
            loss = run.compute_loss(model, dict(batch), num_items_in_batch=rows.sum())
            loss.backward()
        most.append(sum(live.highest["step"].values()))
    fewer = (rows.numel() - int(rows.sum())) * vocabulary * 4
    assert most[0] < most[1] - 2 * fewer  # logits, their logarithms and their gradient: two at once at least


def test_a_batch_without_anything_to_learn_is_a_zero(arguments):
    """A process that has no row left for the last batch gets one without loss."""
    from distill.pairs.collate import EMPTY

    run = build(arguments)
    batch = run.data_collator([EMPTY, EMPTY])
    loss = run.compute_loss(run.model, batch, num_items_in_batch=torch.tensor(5))
    loss.backward()
    assert float(loss) == 0
    assert all(p.grad is None or not p.grad.any() for p in run.model.parameters())


def test_a_checkpoint_of_the_one_is_not_resumed_as_the_other(arguments):
    run = build(arguments, max_steps=2, save_strategy="steps", save_steps=1)
    run.train()
    with pytest.raises(ValueError, match="supervised_only"):
        build(arguments, supervised_only=False, max_steps=3, save_strategy="steps", save_steps=1).train(
            resume_from_checkpoint=True
        )


class Deaf(GPT2LMHeadModel):
    """Takes the rows, and has a loss that does not listen."""

    def loss_function(self, logits, labels, vocab_size, **kwargs):
        return nn.functional.cross_entropy(
            logits.reshape(-1, vocab_size), labels.flatten()[: logits.numel() // vocab_size]
        )


class HardOfHearing(GPT2LMHeadModel):
    """Its loss is a little too large where it is given the rows, by less than bfloat16 tells apart."""

    def loss_function(self, logits, labels, vocab_size, shift_labels=None, **kwargs):
        loss = super().loss_function(logits.float(), labels, vocab_size, shift_labels=shift_labels, **kwargs)
        return loss if shift_labels is None else 1.01 * loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_is_held_to_float32_whatever_the_logits_are_in(arguments, dtype):
    """Before, in bfloat16 a loss might be off by 8 in 100."""
    collator = PairCollator(build_tokenizer())
    with pytest.raises(ValueError, match="HardOfHearing takes logits_to_keep and shift_labels, but gives"):
        check_supervised_only(tiny(HardOfHearing).to(dtype), arguments(), collator, {}, True)
    for model in (tiny(GPT2LMHeadModel), build_model(seed=7)):
        check_supervised_only(model.to(dtype), arguments(), collator, {}, True)


class Short(GPT2LMHeadModel):
    """An older signature."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, use_cache=None, num_items_in_batch=None):
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


def tiny(kind):
    return kind(GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64))


REFUSED = {
    "another loss": (
        {"student": lambda: tiny(Deaf)},
        "Deaf (takes logits_to_keep and shift_labels, but gives|cannot be given)",
    ),
    "an older signature": ({"student": lambda: tiny(Short)}, "Short does not take logits_to_keep"),
    "smoothing": ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
    "metrics": ({"trainer": {"compute_metrics": lambda _: {}}}, "compute_metrics"),
    "logits for metrics": (
        {"trainer": {"preprocess_logits_for_metrics": lambda logits, _: logits}},
        "preprocess_logits",
    ),
    "another loss function": ({"trainer": {"compute_loss_func": lambda *_, **__: 0}}, "compute_loss_func"),
    "another collator": ({"trainer": {"data_collator": lambda rows: rows}}, "data_collator=function"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_does_not_go_together_with_is_refused(arguments, name):
    changes, words = REFUSED[name]
    given = {**changes, "student": changes["student"]()} if "student" in changes else changes
    with pytest.raises(ValueError, match=words):
        build(arguments, **given)


def test_every_family_takes_it_or_is_refused_by_its_class(arguments):
    """A handful here; all families were gone through once, see the log."""
    from architectures import exists, pair

    for family in ("llama", "gpt2", "gemma2", "mixtral", "mamba", "gemma3", "bloom"):
        assert exists(family)
        model = pair(family)[0]
        check_supervised_only(model, arguments(), PairCollator(build_tokenizer()), {}, True)
    with pytest.raises(ValueError, match="xLSTMForCausalLM does not take logits_to_keep"):
        check_supervised_only(pair("xlstm")[0], arguments(), PairCollator(build_tokenizer()), {}, True)
