"""Training from stored signals is training with the teacher there."""

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from white_box_runs import trainer, weights_of

from distill import AttentionMaps, HiddenStates, Logits
from distill.pairs.collate import PairCollator
from distill.signals import Mixture, Routed, StoredSignals, capture
from distill.teachers import LocalTeacher


def teacher():
    return LocalTeacher(build_model(seed=1), build_tokenizer(), name="tiny")


def gradients_of(run, batch):
    run.model.zero_grad()
    loss = run.compute_loss(run.model, dict(batch))
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}


def shown(count=8):
    pairs = build_pairs(count)
    return pairs.add_column("teacher_prompt_ids", [[11, 12, 13, *ids] for ids in pairs["prompt_ids"]])


@pytest.mark.parametrize("of", [build_pairs, shown])
@pytest.mark.parametrize(
    "objectives",
    [[Logits()], [Logits("reverse_kl", temperature=2.0, cross_entropy=0.5)], [Logits("generalized_jsd")]],
)
def test_stored_hidden_states_are_the_live_teacher(arguments, tmp_path, of, objectives):
    """To the rounding of another padding: padded, fewer and packed rows, and a whole run; also behind the teacher's own prompt."""
    pairs = of(8)
    stored = capture(teacher(), pairs, output=tmp_path / "signals", progress=False)
    runs = [
        trainer(arguments, objectives, teacher=who, pairs=pairs, max_steps=4, optim="sgd")
        for who in (teacher(), stored)
    ]
    items = [runs[0].train_dataset[i] for i in range(8)]
    for rows in (items, items[::-1][:3], [items[:3], items[3:]]):
        (loss, gradients), (other, others) = (gradients_of(run, run.data_collator(rows)) for run in runs)
        torch.testing.assert_close(loss, other, rtol=1e-6, atol=0)
        for key in gradients:
            torch.testing.assert_close(gradients[key], others[key], rtol=1e-4, atol=1e-7, msg=key)
    found = []
    for run in runs:
        run.train()
        found.append(weights_of(run))
    for key in found[0]:
        torch.testing.assert_close(found[0][key], found[1][key], rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("encoding", ["threshold:16", "draws:16", "top:16", "hidden:8"])
@pytest.mark.parametrize("head", ["plain", "other"])
def test_every_encoding_trains(arguments, tmp_path, encoding, head):
    pairs = build_pairs(8)
    stored = capture(teacher(), pairs, output=tmp_path / "signals", encoding=encoding, progress=False)
    student = build_model(seed=7)
    if head == "other":
        student.get_output_embeddings().register_forward_hook(lambda *_: None)
    run = trainer(
        arguments, [Logits()], student=student, teacher=StoredSignals(stored.folder), pairs=pairs, eval_pairs=pairs,
        max_steps=40, learning_rate=1e-2,
    )  # fmt: skip
    live = trainer(arguments, [Logits()], student=student, pairs=pairs)
    before = live.evaluate(pairs)["eval_logits"]
    run.train()
    run.evaluate()
    # the same few draws are seen again and again: part of what is learned is their noise
    assert live.evaluate(pairs)["eval_logits"] < 0.8 * before


NEAR = {"threshold:128": 0.3, "draws:4096": 0.1, "top:200": 0.15, "hidden:8": 0.05}


@pytest.mark.parametrize("encoding", NEAR)
@pytest.mark.parametrize("head", ["plain", "other"])
def test_every_encoding_stands_at_its_own_positions(arguments, tmp_path, encoding, head):
    """The trainer's gradient is near that of the live teacher; of signals that are shifted by one position it is far from it."""
    pairs = build_pairs(8)
    capture(teacher(), pairs, output=tmp_path / "signals", encoding=encoding, progress=False)
    stored, shifted = StoredSignals(tmp_path / "signals"), StoredSignals(tmp_path / "signals")

    def roll(found):
        if isinstance(found, torch.Tensor):
            return found.roll(1, 0)
        return type(found)(
            *(value.roll(1, 0) if isinstance(value, torch.Tensor) else value for value in vars(found).values())
        )

    usual = shifted._decoded
    shifted._decoded = lambda *arguments: roll(usual(*arguments))
    found = []
    for who in (teacher(), stored, shifted):
        student = build_model(seed=7)
        if head == "other":
            student.get_output_embeddings().register_forward_hook(lambda *_: None)
        run = trainer(arguments, [Logits()], student=student, teacher=who, pairs=pairs)
        gradients = gradients_of(run, run.data_collator([run.train_dataset[i] for i in range(8)]))[1]
        found.append(torch.cat([gradients[name].flatten() for name in sorted(gradients)]))
    live, ours, wrong = found
    assert (ours - live).norm() < NEAR[encoding] * live.norm()
    assert (wrong - live).norm() > 2 * NEAR[encoding] * live.norm()


def test_several_sets_of_draws_let_noise_average_over_epochs(arguments, tmp_path):
    """One set is the same noise in every epoch, and is learned; of sixteen it averages out."""
    pairs, after = build_pairs(8), {}
    for sets in (1, 16):
        folder = tmp_path / str(sets)
        capture(teacher(), pairs, output=folder, encoding="threshold:16", sets=sets, progress=False)
        run = trainer(
            arguments, [Logits()], student=build_model(seed=7), teacher=StoredSignals(folder), pairs=pairs, max_steps=40,
            learning_rate=1e-2,
        )  # fmt: skip
        live = trainer(arguments, [Logits()], student=run.model, pairs=pairs)
        before = live.evaluate(pairs)["eval_logits"]
        run.train()
        after[sets] = live.evaluate(pairs)["eval_logits"] / before
    assert after[16] < 0.75 * after[1]


def test_top_of_the_whole_vocabulary_is_the_live_teacher(arguments, tmp_path):
    pairs = build_pairs(8)
    stored = capture(teacher(), pairs, output=tmp_path / "signals", encoding="top", k=320, progress=False)
    runs = [trainer(arguments, [Logits("reverse_kl")], teacher=who, pairs=pairs) for who in (teacher(), stored)]
    batches = [run.data_collator([pairs[i] for i in range(8)]) for run in runs]
    (loss, gradients), (other, others) = map(gradients_of, runs, batches)
    torch.testing.assert_close(loss, other, rtol=2e-3, atol=0)
    for key in gradients:
        torch.testing.assert_close(gradients[key], others[key], rtol=2e-2, atol=1e-5, msg=key)


def test_a_stored_teacher_may_be_one_of_several(arguments, tmp_path):
    """Routed, beside a live one; and hidden states in a mixture. Nothing is asked of the stored one but its own rows."""
    pairs = build_pairs(8).add_column("domain", ["maths", "chat"] * 4)
    mine = pairs.select([i for i in range(8) if i % 2])
    stored = capture(teacher(), mine, output=tmp_path / "signals", progress=False)
    losses = []
    for chat in (teacher(), stored):
        run = trainer(
            arguments, [Logits()], teacher=Routed({"maths": build_model(seed=2), "chat": chat}, "domain"), pairs=pairs
        )
        losses.append(gradients_of(run, run.data_collator([pairs[i] for i in range(8)]))[0])
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)
    losses = []
    for who in (teacher(), stored):
        run = trainer(arguments, [Logits()], teacher=Mixture([build_model(seed=2), who]), pairs=mine)
        losses.append(gradients_of(run, run.data_collator([mine[i] for i in range(4)]))[0])
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)
    sparse = capture(teacher(), mine, output=tmp_path / "sparse", encoding="top:8", progress=False)
    with pytest.raises(ValueError, match="gives some tokens of a distribution, and a mixture needs all"):
        trainer(arguments, [Logits()], teacher=Mixture([build_model(seed=2), sparse]), pairs=mine)


def test_what_stored_signals_cannot_do_is_refused_when_the_trainer_is_made(arguments, tmp_path):
    pairs = build_pairs(8)
    hidden = capture(teacher(), pairs, output=tmp_path / "hidden", progress=False)
    drawn = capture(teacher(), pairs, output=tmp_path / "draws", encoding="draws:8", progress=False)
    top = capture(teacher(), pairs, output=tmp_path / "top", encoding="top:8", progress=False)
    for objectives, source, said in (
        ([HiddenStates()], hidden, "no hidden states"),
        ([AttentionMaps()], hidden, "no attention"),
        ([Logits("reverse_kl")], drawn, "enough for the forward KL alone"),
        ([Logits(temperature=2.0)], top, "are those at temperature 1.0"),
    ):
        with pytest.raises(ValueError, match=said):
            trainer(arguments, objectives, teacher=source, pairs=pairs)
    with pytest.raises(ValueError, match="holds signals of other pairs"):
        trainer(arguments, [Logits()], teacher=hidden, pairs=build_pairs(4, seed=9))
    with pytest.raises(ValueError, match=r"eval_dataset"):
        trainer(arguments, [Logits()], teacher=hidden, pairs=pairs, eval_pairs=build_pairs(4, seed=9))
    other = LocalTeacher(build_model(seed=1), build_tokenizer(special=["<|endoftext|>", "<|im_end|>", "<|im_start|>"]))
    others = capture(other, pairs, output=tmp_path / "other", progress=False)
    with pytest.raises(ValueError, match="different vocabularies"):
        trainer(arguments, [Logits()], teacher=others, pairs=pairs)
    with pytest.raises(ValueError, match="finds the signals of a row by the pairs' tokens"):
        trainer(
            arguments,
            [Logits()],
            teacher=hidden,
            pairs=pairs,
            collator=lambda rows: PairCollator(build_tokenizer())(rows),
        )


@pytest.mark.parametrize("sets", [1, 5])
def test_a_run_from_stored_signals_resumes_and_knows_them(arguments, tmp_path, sets):
    pairs = build_pairs(8)
    stored = capture(teacher(), pairs, output=tmp_path / "signals", encoding="threshold:16", sets=sets, progress=False)
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "output_dir": str(tmp_path / "run")}
    whole, again = (trainer(arguments, [Logits()], teacher=stored, pairs=pairs, **settings) for _ in range(2))
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
    fewer = capture(teacher(), pairs, output=tmp_path / "fewer", encoding="threshold:8", progress=False)
    with pytest.raises(ValueError, match="n=16.*there.*n=8"):
        trainer(arguments, [Logits()], teacher=fewer, pairs=pairs, **settings).train(
            resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2")
        )
