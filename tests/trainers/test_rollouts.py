"""On-policy steps: what is replaced, by what, and how it is counted; and what cannot work."""

import numpy as np
import pytest
import torch
from conftest import build_model, build_pairs
from processes import run_processes
from resume_runs import Halt, assert_same_end
from rollout_runs import gradients_on_policy, journal, on_policy, short, training_on_policy
from signal_runs import captured
from white_box_runs import gradient_of_one_step, trainer, weights_of

from distill import Logits, Schedule, load_pairs
from distill.pairs.schema import pairs_from_rows
from distill.signals import Mixture, Routed
from distill.trainers import Rollouts
from distill.trainers import on_policy as module
from distill.trainers.rollouts import Answer
from distill.trainers.sampling import sample

SGD = {"max_steps": 1, "learning_rate": 1.0, "optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


def test_share_0_is_off_policy_bit_by_bit(arguments, tmp_path):
    """With dropout: nothing of torch's chance is used either."""
    runs = []
    for name, rollouts in (("off", None), ("on", short(share=0.0))):
        runs.append(on_policy(arguments, rollouts, output_dir=str(tmp_path / name)))
        runs[-1].train()
    assert_same_end(*runs)
    assert not list((tmp_path / "on").glob("rollouts*"))


@pytest.mark.parametrize("first", [1.0, 1 / 3])
def test_a_step_of_rollouts_is_the_step_on_these_rows_as_pairs(arguments, tmp_path, first):
    """What was written, taken from the journal and trained on off-policy, has the same loss and gradient; of a first third, with the rest masked."""
    student = build_model(seed=7)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    run = on_policy(
        arguments,
        short(journal=100, first=first),
        student=student,
        output_dir=str(tmp_path / "on"),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        **SGD,
    )
    run.train()
    rows = journal(tmp_path / "on")
    assert len(rows) == 8
    for row in rows:
        count = len(row["completion_ids"])
        row["loss_mask"] = [int(place < max(1, first * count)) for place in range(count)]
    pairs = pairs_from_rows(
        [{name: value for name, value in row.items() if name != "step"} for row in rows], "the journal"
    )
    found = gradient_of_one_step(
        arguments,
        [Logits("reverse_kl")],
        student=build_model(seed=7),
        teacher=build_model(layers=3, seed=1),
        pairs=pairs,
        per_device_train_batch_size=8,
    )
    for name, tensor in weights_of(run).items():
        torch.testing.assert_close(before[name] - tensor, found[name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_rows_are_what_the_student_writes_now_from_the_rows_own_prompts(arguments, tmp_path):
    pairs = build_pairs(4)
    it = on_policy(
        arguments, short(journal=100), pairs=pairs, output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4
    )
    seen = []

    def watched(student, asks, *rest):
        seen.append({name: tensor.clone() for name, tensor in student.state_dict().items()})
        assert sorted(map(list, (ask.prompt_ids for ask in asks))) == sorted(pairs["prompt_ids"])
        return sample(student, asks, *rest)

    it.on_policy.sampler = watched
    it.train()
    names = list(seen[0])
    assert any(not torch.equal(seen[0][name], seen[1][name]) for name in names), "the student of each step"
    rows = journal(tmp_path)
    assert [row["step"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    for row in rows:
        ended = row["completion_ids"][-1] in (2,)
        assert row["finish_reason"] == ("stop" if ended else "length")
        assert ended or len(row["completion_ids"]) == 8
    loaded = load_pairs(tmp_path / "rollouts.jsonl")
    assert loaded["completion_ids"][:] == [row["completion_ids"] for row in rows]


def test_half_of_the_rows_and_every_second_step(arguments, tmp_path):
    it = on_policy(
        arguments,
        short(share=0.5, every=2, journal=100),
        output_dir=str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=4,
    )
    it.train()
    steps = [row["step"] for row in journal(tmp_path)]
    assert {step: steps.count(step) for step in steps} == {0: 2, 2: 2, 4: 2}
    logged = [entry.get("rollouts", 0) for entry in it.state.log_history if "loss" in entry]
    assert logged == [2, 0, 2, 0, 2, 0]


def test_a_schedule_of_the_share(arguments, tmp_path):
    it = on_policy(
        arguments,
        short(share=Schedule(1.0, 0.0, steps=4), journal=100),
        output_dir=str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=4,
    )
    it.train()
    steps = [row["step"] for row in journal(tmp_path)]
    assert [steps.count(step) for step in range(6)] == [4, 3, 2, 1, 0, 0]


def test_the_first_third_alone_has_loss(arguments):
    it = on_policy(arguments, short(first=1 / 3))
    counted = []
    usual = it.compute_loss

    def compute_loss(model, inputs, *rest, **more):
        counted.extend(((inputs["labels"] != -100).sum(1)).tolist())
        return usual(model, inputs, *rest, **more)

    it.compute_loss = compute_loss
    it.train()
    lengths = [len(row["completion_ids"]) for row in journal(it.args.output_dir)]
    assert counted == [max(1, -(-length // 3)) for length in lengths]


PROMPTS = [
    "the cat",
    [{"role": "user", "content": "why so"}],
    [5, 6, 7],
    np.array([8, 9]),
    {"prompt": "a dog", "teacher_prompt": "a dog and a cat"},
    {"prompt_ids": [11, 12], "teacher_prompt_ids": [13, 14, 15], "domain": "maths"},
]


def test_prompts_in_every_form_and_what_the_teacher_is_shown(arguments):
    it = on_policy(arguments, short(prompts=PROMPTS), max_steps=6)
    rows = it.on_policy.prompts
    assert (
        rows[0]["prompt_ids"].tolist()
        == it.processing_class.apply_chat_template(
            [{"role": "user", "content": "the cat"}], add_generation_prompt=True
        )["input_ids"]
    )
    assert rows[2]["prompt_ids"].tolist() == [5, 6, 7]
    assert (
        rows[4]["teacher_prompt_ids"]
        == it.processing_class.apply_chat_template(
            [{"role": "user", "content": "a dog and a cat"}], add_generation_prompt=True
        )["input_ids"]
    )
    shown = []
    usual = it.source.signals
    it.source.signals = lambda batch, *rest: shown.append(batch.get("teacher_input_ids")) or usual(batch, *rest)
    it.train()
    assert sum(ids is not None for ids in shown) >= 2
    starts = {tuple(row[:3].tolist()) for ids in shown if ids is not None for row in ids}
    assert (13, 14, 15) in starts


def test_prompts_of_a_dataset_are_those_of_its_rows(arguments):
    it = on_policy(arguments, short(prompts=build_pairs(5, seed=3)))
    assert [row["prompt_ids"].tolist() for row in it.on_policy.prompts] == build_pairs(5, seed=3)["prompt_ids"][:]
    assert not any("completion_ids" in row for row in it.on_policy.prompts)


@pytest.mark.parametrize("kind", ["self", "routed", "mixture", "shown"])
def test_every_source_that_runs_a_model_takes_rollouts(arguments, kind):
    from distill.models.adapters import lora_config

    pairs, settings = build_pairs(8), {}
    if kind == "self":
        settings = {
            "teacher": "self",
            "own": {"peft_config": lora_config(4)},
            "objectives": [Logits(cross_entropy=0.5)],
        }
    if kind == "routed":
        pairs = pairs.add_column("domain", ["chat", "maths"] * 4)
        settings = {"teacher": Routed({"chat": build_model(seed=1), "maths": build_model(3, seed=2)}, column="domain")}
    if kind == "mixture":
        settings = {"teacher": Mixture([build_model(seed=1), build_model(3, seed=2)])}
    if kind == "shown":
        pairs = pairs.add_column("teacher_prompt_ids", [[11, 12, *ids] for ids in pairs["prompt_ids"]])
    it = on_policy(arguments, short(), pairs=pairs, **settings)
    it.train()
    losses = [entry for entry in it.state.log_history if "loss" in entry]
    assert len(losses) == 4
    assert all(entry["rollouts"] == 2 and np.isfinite(entry["loss"]) for entry in losses)


@pytest.fixture(scope="module")
def alone():
    return gradients_on_policy({"per_device_train_batch_size": 8}), training_on_policy(
        {"per_device_train_batch_size": 4}
    )


@pytest.mark.parametrize("split", [(4, 2), (2, 4)])
def test_micro_batches_write_the_rows_of_one_batch(alone, split):
    batch, accumulation = split
    _same(
        gradients_on_policy({"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}),
        alone[0],
    )


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_write_the_rows_of_one_and_have_its_gradient(alone, processes):
    found = run_processes(processes, gradients_on_policy, {"per_device_train_batch_size": 8 // processes})
    rows = sorted((row for _, own in found for row in own), key=lambda row: int(row[0].rpartition(" ")[2]))
    for gradient, _ in found:
        _same((gradient, rows), alone[0])


def test_a_training_of_two_processes_ends_where_that_of_one_does(alone):
    """Two epochs of 13 rows, so that one process has none left at the end; prompts of their own, a schedule."""
    wanted, logged = alone[1]
    for weights, said in run_processes(2, training_on_policy, {"per_device_train_batch_size": 2}):
        assert max((weights[name] - wanted[name]).abs().max().item() for name in wanted) < 1e-4
        for mine, one in zip(said, logged, strict=True):
            assert mine == pytest.approx(one, rel=1e-4)


def _same(found, wanted):
    assert found[1] == wanted[1]
    for name, gradient in wanted[0].items():
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("step", [3, 4])
def test_a_resumed_run_writes_and_learns_what_the_unbroken_one_does(arguments, tmp_path, step):
    settings = {
        "max_steps": 8,
        "logging_steps": 3,
        "save_strategy": "steps",
        "save_steps": 2,
        "gradient_accumulation_steps": 2,
    }
    rollouts = short(share=Schedule(1.0, 0.4), journal=100)
    whole = on_policy(arguments, rollouts, output_dir=str(tmp_path / "whole"), **settings)
    whole.train()
    broken = on_policy(arguments, rollouts, callbacks=[Halt(step)], **settings)
    broken.train()
    with (tmp_path / "out" / "rollouts.jsonl").open("ab") as file:
        file.write(b'{"step": 3, "id": "torn')
    again = on_policy(arguments, rollouts, **settings)
    again.train(resume_from_checkpoint=True)
    assert_same_end(whole, again)
    assert (tmp_path / "whole" / "rollouts.jsonl").read_bytes() == (tmp_path / "out" / "rollouts.jsonl").read_bytes()


def test_other_rollouts_are_another_run(arguments):
    settings = {"save_strategy": "steps", "save_steps": 2}
    on_policy(arguments, short(), callbacks=[Halt(2)], **settings).train()
    for other in (short(temperature=0.5), short(prompts=[[5, 6]]), short(share=0.5), None):
        with pytest.raises(ValueError, match="other settings .*rollouts"):
            on_policy(arguments, other, **settings).train(resume_from_checkpoint=True)
    on_policy(arguments, short(journal=3, rows_together=1), **settings).train(resume_from_checkpoint=True)


def test_a_new_run_in_an_old_folder_begins_its_journal_anew(arguments, tmp_path):
    for _ in range(2):
        on_policy(arguments, short(), output_dir=str(tmp_path), max_steps=2).train()
        assert len(journal(tmp_path)) == 4


def test_evaluation_is_on_the_pairs(arguments):
    it = on_policy(arguments, short())
    off = on_policy(arguments)
    for one in (it, off):
        one.model.eval()
    assert it.evaluate(build_pairs(5))["eval_loss"] == off.evaluate(build_pairs(5))["eval_loss"]


def test_stored_signals_are_refused_by_name(arguments, tmp_path):
    stored = captured(tmp_path / "stored", build_pairs(14))
    for teacher in (stored, Mixture([build_model(seed=1), stored])):
        with pytest.raises(ValueError, match=r"Rollouts are new text.*Give the teacher itself"):
            on_policy(arguments, short(), teacher=teacher)
    pairs = build_pairs(14).add_column("domain", ["a", "b"] * 7)
    with pytest.raises(ValueError, match="Rollouts are new text"):
        on_policy(
            arguments, short(), teacher=Routed({"a": build_model(seed=1), "b": stored}, column="domain"), pairs=pairs
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"share": 1.5}, "share is 1.5; it is a share of the rows of a step, from 0 to 1"),
        ({"share": Schedule(2.0, 0.0)}, "from 0 to 1"),
        ({"share": float("nan")}, "from 0 to 1"),
        ({"every": 0}, "every is 0; it must be a whole number of at least 1"),
        ({"first": 0.0}, "first is 0.0; it is a share of each rollout's tokens"),
        ({"rows_together": 0}, "rows_together is 0"),
        ({"journal": -1}, "journal is -1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"prompts": "prompts.txt"}, r"prompts is one text .*read_prompts\(path\)"),
    ],
)
def test_settings_out_of_their_range(changes, words):
    with pytest.raises(ValueError, match=words):
        short(**changes)


@pytest.mark.parametrize(
    ("rollouts", "changes", "words"),
    [
        (short(max_new_tokens=120), {}, r"has 1\d tokens and max_new_tokens of the rollouts is 120, but the model has 128 positions. Take max_new_tokens=11\d or less"),
        (short(prompts=[[5] * 128]), {}, "Leave such prompts out, or cut them"),
        (short(prompts=[[5] * 20]), {"own": {"max_length": 20}}, "max_length is 20: nothing is left of a rollout"),
        (short(max_new_tokens=100), {"teacher": build_model(seed=1, max_position_embeddings=64)}, "but the teacher has 64 positions"),
        (short(prompts=[{"prompt_ids": [5], "teacher_prompt_ids": [6] * 125}]), {}, "The teacher's prompt of row 0 .* has 125 tokens"),
        (short(prompts=[]), {}, "Rollouts have no prompts"),
        (short(prompts=[[5], []]), {}, "Prompt 1 of the rollouts: it is '\\[\\]'"),
        (short(prompts=["a", 7]), {}, "Prompt 1 of the rollouts: it is '7'; a prompt is"),
        (short(prompts=[[5.5]]), {}, "Prompt 0 of the rollouts: it: prompt_ids must be a list of token ids"),
        (short(prompts=[{"text": "a"}]), {}, "Prompt 0 of the rollouts: it is 'None'"),
        (short(), {"own": {"packing": True, "max_length": 40}}, "Rows are packed"),
        (short(), {"own": {"data_collator": list}}, "list|type is another collator"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_at_construction(arguments, rollouts, changes, words):
    with pytest.raises(ValueError, match=words):
        on_policy(arguments, rollouts, **changes)


def test_a_pair_without_a_prompt_is_refused(arguments):
    row = dict(build_pairs(1)[0], prompt_ids=[])
    with pytest.raises(ValueError, match="Row 1 of train_dataset has a prompt without a token"):
        on_policy(arguments, short(), pairs=pairs_from_rows([build_pairs(1)[0], row], "test"))


def test_prompts_without_the_column_that_routes(arguments):
    pairs = build_pairs(8).add_column("domain", ["chat", "maths"] * 4)
    teachers = {"chat": build_model(seed=1), "maths": build_model(3, seed=2)}
    with pytest.raises(ValueError, match="Prompt 1 of the rollouts has no column 'domain'"):
        on_policy(
            arguments,
            short(prompts=[{"prompt_ids": [5], "domain": "chat"}, [6]]),
            teacher=Routed(teachers, column="domain"),
            pairs=pairs,
        )
    with pytest.raises(ValueError, match="'law', for which there is no teacher"):
        on_policy(
            arguments,
            short(prompts=[{"prompt_ids": [5], "domain": "law"}]),
            teacher=Routed(teachers, column="domain"),
            pairs=pairs,
        )
    it = on_policy(
        arguments,
        short(prompts=[{"prompt_ids": [5], "domain": "chat"}]),
        teacher=Routed(teachers, column="domain"),
        pairs=pairs,
    )
    it.train()
    assert it.state.log_history[0]["rollouts"] == 2


def test_sharded_students_are_refused():
    with pytest.raises(AssertionError, match="weights are divided over processes"):
        run_processes(2, sharded)


def sharded():
    from conftest import build_arguments

    trainer(
        lambda **changes: build_arguments("unused", **changes),
        [Logits()],
        rollouts=short(),
        fsdp=True,
        fsdp_config={"version": 2},
    )


WRONG = {
    "one too few": (
        lambda asks: [Answer(ask.prompt_ids, [5, 2]) for ask in asks][1:],
        "was asked for 2 rollouts and gave 1",
    ),
    "another prompt": (
        lambda asks: [Answer([1, *ask.prompt_ids], [5, 2]) for ask in asks],
        "continued other tokens than it was asked to",
    ),
    "empty": (
        lambda asks: [Answer(ask.prompt_ids, []) for ask in asks],
        "is empty: the sampler gave no token, not even the EOS",
    ),
    "too many": (
        lambda asks: [Answer(ask.prompt_ids, [5] * 9) for ask in asks],
        "has 9 tokens, where max_new_tokens is 8",
    ),
    "behind the end": (lambda asks: [Answer(ask.prompt_ids, [2, 5]) for ask in asks], "has tokens behind its end"),
    "no such id": (
        lambda asks: [Answer(ask.prompt_ids, [320]) for ask in asks],
        "has token id 320, where ids are from 0 to 320",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_sampler_that_gives_something_else_is_refused(arguments, name):
    given, words = WRONG[name]
    with pytest.raises(ValueError, match=words):
        on_policy(arguments, short(sampler=lambda student, asks, *_: given(asks))).train()


def test_a_sampler_of_ones_own(arguments):
    it = on_policy(
        arguments, short(sampler=lambda student, asks, *_: [Answer(ask.prompt_ids, [5, 6, 2]) for ask in asks])
    )
    it.train()
    assert {tuple(row["completion_ids"]) for row in journal(it.args.output_dir)} == {(5, 6, 2)}
    entry = it.state.log_history[0]
    assert (entry["rollouts"], entry["rollouts_ended"], entry["rollout_tokens"]) == (2, 1.0, 3.0)


def test_a_completion_of_the_eos_alone_is_a_row(arguments):
    it = on_policy(arguments, short(sampler=lambda student, asks, *_: [Answer(ask.prompt_ids, [2]) for ask in asks]))
    it.train()
    assert len(it.state.log_history) >= 4


def test_rollouts_that_never_end_are_told_of_once_with_the_rate(arguments, monkeypatch):
    said = []
    monkeypatch.setattr(module.logger, "warning_once", said.append)
    never = lambda student, asks, *_: [Answer(ask.prompt_ids, [5] * 8) for ask in asks]  # noqa: E731
    on_policy(arguments, short(sampler=never), max_steps=25).train()
    assert len(said) == 1
    assert "In 10 steps none of 20 rollouts ended: 0% have an EOS, all were cut at max_new_tokens=8" in said[0]
    on_policy(
        arguments,
        short(sampler=lambda student, asks, *_: [Answer(ask.prompt_ids, [5, 2]) for ask in asks]),
        max_steps=25,
    ).train()
    assert len(said) == 1


def test_max_length_cuts_a_rollout_as_it_cuts_a_pair(arguments):
    it = on_policy(
        arguments,
        short(prompts=[[5] * 6]),
        own={"max_length": 10},
        pairs=build_pairs(8).filter(lambda row: len(row["prompt_ids"]) < 10),
    )
    widths = []
    usual = it.compute_loss
    it.compute_loss = lambda model, inputs, *rest, **more: (
        widths.append(inputs["input_ids"].shape[1]) or usual(model, inputs, *rest, **more)
    )
    it.train()
    assert max(widths) <= 10
    assert it.on_policy.longest == 10


def test_autocast_and_gradient_checkpointing(arguments):
    it = on_policy(arguments, short(), bf16=True, gradient_checkpointing=True)
    it.train()
    assert all(entry["rollouts"] == 2 for entry in it.state.log_history if "loss" in entry)


def test_a_stream_of_pairs(arguments):
    stream = build_pairs(14).to_iterable_dataset()
    it = on_policy(arguments, short(), pairs=stream)
    it.train()
    assert all(entry["rollouts"] == 2 for entry in it.state.log_history if "loss" in entry)


def test_the_public_name():
    import distill.trainers

    assert distill.trainers.Rollouts is Rollouts
