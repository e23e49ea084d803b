"""Rows of streams and lists: checked as those of a dataset, and in several processes each once."""

import datasets
import datasets.distributed
import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from process_runs import in_folder
from processes import run_processes
from resume_runs import Halt, log
from transformers import AutoConfig, AutoModelForCausalLM
from white_box_runs import black_box_trainer, gradient_of_one_step, trainer, weights_of

from distill import BlackBoxTrainer, Logits
from distill.pairs.collate import PairCollator
from distill.pairs.packing import pack_pairs

GOOD = {"id": "good", "prompt_ids": [5, 6], "completion_ids": [7, 8, 2]}


def white(arguments, **changes):
    return trainer(arguments, [Logits()], **changes)


class Rows(torch.utils.data.IterableDataset):
    """A stream as people write it themselves."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        yield from self.rows


def streamed(rows, shards=1):
    return rows.to_iterable_dataset(num_shards=shards)


@pytest.mark.parametrize("build", [black_box_trainer, white])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt_ids": [5], "completion_ids": [400]}, "Pair bad has token id 400, but the model's vocabulary has 320"),
        ({"prompt_ids": [5], "completion_ids": [7] * 200}, "Pair bad has 201 tokens, but the model has 128 positions"),
        ({"prompt_ids": [5], "completion_ids": [7, 8], "loss_mask": [1]}, "Pair bad: loss_mask has 1 places"),
        ({"prompt_ids": [5]}, "Pair bad has no completion_ids"),
    ],
)
def test_a_bad_row_of_a_list_or_a_stream_is_refused_by_its_id(arguments, build, row, message):
    """Before, it ended the run with a bare IndexError, or was trained on; of a list it is seen before any step."""
    rows = [*[GOOD] * 5, {**row, "id": "bad"}]  # a loader looks one batch ahead
    with pytest.raises(ValueError, match=message):
        build(arguments, pairs=rows)
    run = build(arguments, pairs=Rows(rows), max_steps=2)
    with pytest.raises(ValueError, match=message):
        run.train()
    assert run.state.global_step == 1  # the good rows before it were learned


@pytest.mark.parametrize("build", [black_box_trainer, white])
def test_a_list_of_bins_is_checked_and_trained_on(arguments, build):
    """The collator takes them; before, they were refused as rows without columns."""
    bins = [[GOOD, GOOD], [GOOD]] * 4
    build(arguments, pairs=bins, max_steps=2).train()
    bins[1] = [GOOD, {**GOOD, "id": "bad", "completion_ids": [400]}]
    with pytest.raises(ValueError, match="Pair bad has token id 400"):
        build(arguments, pairs=bins)


def test_of_bins_every_model_is_asked_whether_it_keeps_their_pairs_apart(arguments):
    bins = [[GOOD, GOOD], [GOOD]] * 4
    config = AutoConfig.for_model("mamba", vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4)
    mamba = AutoModelForCausalLM.from_config(config)
    for rows in (bins, pack_pairs(build_pairs(8), 64)):
        with pytest.raises(ValueError, match="MambaForCausalLM .*packed pairs apart"):
            black_box_trainer(arguments, pairs=rows, student=mamba)
        with pytest.raises(ValueError, match="MambaForCausalLM .*packed pairs apart"):
            white(arguments, pairs=rows, teacher=mamba)


def test_what_is_cut_is_said_once(arguments, caplog):
    """Before, once for the student's limits, once for the teacher's and once for the labels'."""
    collator = PairCollator(build_tokenizer(), max_length=6)
    pairs = datasets.Dataset.from_list([GOOD, {**GOOD, "id": "long", "completion_ids": [7] * 9}])
    trainer(
        arguments, [Logits(cross_entropy=0.5)], pairs=pairs, collator=collator, student=build_model(seed=7, max_position_embeddings=256)
    )  # fmt: skip
    assert caplog.text.count("longer than max_length=6") == 1


def test_rows_of_an_evaluation_are_checked_too(arguments):
    run = black_box_trainer(arguments)
    with pytest.raises(ValueError, match="Pair bad has token id 400"):
        run.evaluate(Rows([GOOD, {**GOOD, "id": "bad", "prompt_ids": [400]}]))


def test_the_collator_of_the_caller_is_left_as_it_was(arguments):
    collator = PairCollator(build_tokenizer())
    run = black_box_trainer(arguments, collator=collator)
    assert collator.limits.vocabulary is None
    assert run.data_collator.limits.vocabulary == 320


def test_nothing_at_all_is_refused(arguments):
    with pytest.raises(ValueError, match="train_dataset has no rows"):
        BlackBoxTrainer(model=build_model(), args=arguments(), train_dataset=[], processing_class=build_tokenizer())
    with pytest.raises(ValueError, match="The stream has no rows"):
        white(arguments, pairs=Rows([])).train()


@pytest.mark.parametrize("kind", [datasets.DatasetDict, datasets.IterableDatasetDict, dict])
def test_several_splits_are_not_one(arguments, kind):
    rows = build_pairs(4) if kind is not datasets.IterableDatasetDict else streamed(build_pairs(4))
    with pytest.raises(ValueError, match=rf"train_dataset is a {kind.__name__} of 'train', 'test'; give one of them"):
        black_box_trainer(arguments, pairs=kind({"train": rows, "test": rows}))


@pytest.mark.parametrize("build", [black_box_trainer, white])
def test_a_list_and_a_stream_give_the_gradient_of_the_dataset(arguments, build):
    objectives = None if build is black_box_trainer else [Logits()]
    pairs = build_pairs(7)
    wanted = gradient_of_one_step(arguments, objectives, pairs=pairs, per_device_train_batch_size=8)
    for rows in (pairs.to_list(), Rows(pairs.to_list()), streamed(pairs)):
        found = gradient_of_one_step(arguments, objectives, pairs=rows, per_device_train_batch_size=8)
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def of_streams(kind):
    """What each process has of streams of 7 rows, for the gradient, and of 13, over two epochs; and an evaluation."""
    found = {}
    for name, objectives in (("black box", None), ("white box", [Logits()])):
        for label, make in KINDS.items():
            found[name, label, "gradient"] = in_folder(
                lambda arguments, o=objectives, make=make: gradient_of_one_step(
                    arguments, o, pairs=make(build_pairs(7)), **kind
                )
            )
        found[name, "training"] = in_folder(lambda arguments, o=objectives: _trained(arguments, o, kind))
    return found


KINDS = {
    "list": lambda rows: rows.to_list(),
    "own": lambda rows: Rows(rows.to_list()),
    "one file": streamed,
    "as many files as processes": lambda rows: streamed(rows, 2),
    "more files": lambda rows: streamed(rows, 3),
    "shuffled": lambda rows: streamed(rows, 2).shuffle(seed=1, buffer_size=3),
}


def _trained(arguments, objectives, kind):
    settings = {"pairs": streamed(build_pairs(13), 2), "max_steps": 7, **kind}
    run = trainer(arguments, objectives, **settings) if objectives else black_box_trainer(arguments, **settings)
    run.train()
    loss = run.evaluate(streamed(build_pairs(5, seed=9)))["eval_loss"]
    return weights_of(run), [entry["loss"] for entry in run.state.log_history if "loss" in entry], loss


def test_a_stream_in_two_processes_gives_what_it_gives_in_one():
    """accelerate would concatenate batches of unequal length in the first process, or wait for the one with the longer file."""
    alone = of_streams({"per_device_train_batch_size": 8})
    trained = {
        name: value for name, value in of_streams({"per_device_train_batch_size": 4}).items() if "training" in name
    }
    for rank in run_processes(2, of_streams, {"per_device_train_batch_size": 4}):
        for name, wanted in alone.items():
            if "gradient" in name:
                for key, gradient in wanted.items():
                    torch.testing.assert_close(rank[name][key], gradient, rtol=1e-4, atol=1e-6, msg=f"{name} {key}")
    for rank in run_processes(2, of_streams, {"per_device_train_batch_size": 2}):
        for name, (weights, losses, held_out) in trained.items():
            assert losses == pytest.approx(rank[name][1], rel=1e-4), name
            assert held_out == pytest.approx(rank[name][2], rel=1e-4), name
            for key, tensor in weights.items():
                torch.testing.assert_close(rank[name][0][key], tensor, rtol=1e-3, atol=1e-4, msg=f"{name} {key}")


def refused(changes):
    divided = changes.pop("divided", False)
    rows = streamed(build_pairs(8), 2)
    if divided:
        rows = datasets.distributed.split_dataset_by_node(rows, rank=0, world_size=2)
    in_folder(lambda arguments: black_box_trainer(arguments, pairs=rows, **changes).train())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches=True lets one process read"),
        ({"divided": True}, "already divided over processes"),
    ],
)
def test_a_stream_that_would_be_cut_twice_or_into_parts_is_refused(changes, message):
    with pytest.raises(AssertionError, match=message):
        run_processes(2, refused, changes)


def test_a_stream_has_a_prediction_for_each_row_and_no_more(arguments):
    """Before, rows that fill up the last batch had some as well."""
    run = black_box_trainer(arguments, per_device_eval_batch_size=4)
    pairs = build_pairs(5, seed=9)
    wanted, found = run.predict(pairs), run.predict(streamed(pairs))
    assert len(found.predictions) == 5
    assert (found.predictions == wanted.predictions).all()
    assert found.metrics["test_loss"] == wanted.metrics["test_loss"]
    assert run.evaluate(streamed(pairs))["eval_samples_per_second"] > 0


def predicted(with_metrics):
    def predict(arguments):
        run = black_box_trainer(arguments)
        assert run.evaluate(streamed(build_pairs(5)))["eval_loss"] > 0
        if with_metrics:
            run.compute_metrics = lambda _: {}
            return run.evaluate(streamed(build_pairs(5)))
        return run.predict(streamed(build_pairs(5)))

    return in_folder(predict)


@pytest.mark.parametrize("with_metrics", [True, False])
def test_predictions_of_a_stream_in_several_processes_are_refused(with_metrics):
    with pytest.raises(AssertionError, match="predictions of a stream in several processes"):
        run_processes(2, predicted, with_metrics)


@pytest.mark.parametrize("build", [black_box_trainer, white])
def test_a_stream_is_resumed_as_the_unbroken_run_or_not_at_all(arguments, tmp_path, build):
    """Trainer does not know where an epoch of a stream ends, so in the second one it would begin with the first row again."""

    def make(folder, halt=None):
        run = build(
            arguments, pairs=streamed(build_pairs(10), 2).shuffle(seed=3, buffer_size=4), max_steps=8, save_strategy="steps",
            save_steps=100, output_dir=str(tmp_path / folder),
        )  # fmt: skip
        if halt:
            run.add_callback(Halt(halt))
        return run

    unbroken = make("unbroken")
    unbroken.train()
    for halt in (3, 5):  # within the first epoch, and at its end
        make(f"at {halt}", halt).train()
        resumed = make(f"at {halt}")
        resumed.train(resume_from_checkpoint=True)
        assert log(resumed) == log(unbroken)
        for name, tensor in weights_of(unbroken).items():
            assert torch.equal(tensor, weights_of(resumed)[name]), name
    make("later", 7).train()
    with pytest.raises(ValueError, match=r"checkpoint-7 is of epoch 2 of a stream.*rows.repeat\(\)"):
        make("later").train(resume_from_checkpoint=True)


@pytest.mark.parametrize("build", [black_box_trainer, white])
def test_a_step_that_the_end_of_a_stream_cuts_short_is_a_step(arguments, build):
    """Trainer would keep its gradient, divided otherwise, for the first step of the next epoch."""
    settings = {
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.1,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_steps": 4,
    }
    runs = [
        build(arguments, pairs=rows, **settings) for rows in (Rows(build_pairs(5).to_list()), build_pairs(5).to_list())
    ]
    runs[1].args.train_sampling_strategy = "sequential"
    for run in runs:
        run.train()
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in runs]
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, tensor in weights_of(runs[1]).items():
        torch.testing.assert_close(weights_of(runs[0])[name], tensor, rtol=1e-4, atol=1e-6)


def test_drop_last_of_a_stream_leaves_out_what_is_no_whole_batch(arguments):
    run = black_box_trainer(arguments, pairs=Rows(build_pairs(5).to_list()), dataloader_drop_last=True)
    assert [len(batch["input_ids"]) for batch in run.get_train_dataloader()] == [2, 2]


def test_a_teacher_that_takes_shorter_rows_or_fewer_tokens_limits_them(arguments):
    """The rows go through both models."""
    long = [GOOD, {**GOOD, "id": "long", "completion_ids": [7] * 98}]
    with pytest.raises(ValueError, match="Pair long has 100 tokens, but the teacher has 64 positions"):
        white(arguments, pairs=long, teacher=build_model(seed=1, max_position_embeddings=64))
    with pytest.raises(ValueError, match="has a row of 100 tokens, but the teacher has 64 positions"):
        white(
            arguments, pairs=datasets.Dataset.from_list(long), teacher=build_model(seed=1, max_position_embeddings=64)
        )


def alibi(seed):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "falcon", alibi=True, vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def yarn(seed):
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    return build_model(seed=seed, max_position_embeddings=64, rope_parameters=rope)


@pytest.mark.parametrize("make", [alibi, yarn])
def test_positions_are_counted_as_everywhere_else(arguments, make):
    """Before, trainers had a reading of their own: 64 for both, where ALiBi has no limit and YaRN makes 256 of them."""
    rows = [GOOD, {**GOOD, "id": "long", "completion_ids": [7] * 98}]
    white(arguments, pairs=rows, student=make(7), max_steps=1).train()
    assert white(arguments, pairs=rows, teacher=make(1))
    rows[1]["completion_ids"] = [7] * 298
    long = build_model(seed=1, max_position_embeddings=512)
    if make is alibi:
        assert white(arguments, pairs=rows, student=make(7), teacher=long)
    else:
        with pytest.raises(ValueError, match="Pair long has 300 tokens, but the model has 256 positions"):
            white(arguments, pairs=rows, student=make(7), teacher=long)
        with pytest.raises(ValueError, match="Pair long has 300 tokens, but the teacher has 256 positions"):
            white(arguments, pairs=rows, student=long, teacher=make(7))
