"""A served teacher while a training runs: what it gives is what the local one gives, at rows that nobody knew beforehand."""

import copy

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from fake_server import FakeServer
from rollout_runs import journal, on_policy, short
from signal_runs import batch_of
from test_served_signals import TOKENS, by_ids, served, teacher
from white_box_runs import gradient_of_one_step, trainer, weights_of

from distill import AttentionMaps, HiddenStates, Logits
from distill.objectives import SampledReverseKL
from distill.pairs.packing import pack_pairs
from distill.signals import ServedTeacher, SignalRequest
from distill.teachers.judgements import Unavailable


@pytest.fixture
def server():
    with FakeServer(change=by_ids) as running:
        yield running


def student():
    return build_model(seed=7, vocab_size=TOKENS)


@pytest.mark.parametrize("side", ["right", "left"])
def test_each_position_has_the_teachers_likeliest_tokens_and_the_written_one(server, side):
    tokenizer = build_tokenizer()
    from distill.pairs.collate import PairCollator, supervised_rows
    from distill.signals import SupervisedRows

    batch = PairCollator(tokenizer, padding_side=side)(list(build_pairs(5)))
    assert bool(batch["attention_mask"][:, 0 if side == "left" else -1].min() == 0)
    where = SupervisedRows.of(supervised_rows(batch["labels"]))
    said = ServedTeacher(served(server.url), k=6).signals(batch, where, SignalRequest()).sparse
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
        logits = teacher().model(**inputs).logits
    whole = logits[where.mask].log_softmax(-1)
    written = where.next_tokens(batch["labels"])
    assert said.ids.shape == (len(where), 6)
    assert (said.ids == written[:, None]).any(1).all()
    torch.testing.assert_close(said.log_probs, whole.gather(1, said.ids), rtol=1e-3, atol=1e-3)
    total = said.log_probs.exp().sum(1) + said.tail.exp()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-4)
    best = whole.argmax(1)
    assert (said.ids == best[:, None]).any(1).all()


def test_behind_its_own_prompt_where_a_pair_has_one(server):
    pairs = build_pairs(4)
    pairs = pairs.add_column("teacher_prompt_ids", [[11, 12, 13, *ids] for ids in pairs["prompt_ids"]])
    batch, where = batch_of(list(pairs), teacher_rows=True)
    labels = batch["teacher_labels"]
    ServedTeacher(served(server.url), k=4).signals({**batch, "labels": labels}, where, SignalRequest())
    asked = [body["prompt"] for body in server.asked if "prompt_logprobs" in body]
    wanted = [[*p["teacher_prompt_ids"], *p["completion_ids"]] for p in pairs]
    assert sorted({tuple(ids) for ids in asked}) == sorted(map(tuple, wanted))


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_with_the_whole_vocabulary_it_is_the_live_teacher(arguments, server, divergence):
    ours, theirs = (
        gradient_of_one_step(
            arguments, [Logits(divergence)], student=student(), teacher=who, per_device_train_batch_size=4
        )
        for who in (ServedTeacher(served(server.url), k=TOKENS), teacher().model)
    )
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("objective", [SampledReverseKL(), Logits("reverse_kl")])
def test_it_scores_what_the_student_writes(arguments, tmp_path, server, objective):
    """On-policy, the look before the run among it; a step is that of the local teacher: of the one written token whatever k is."""
    k = 2 if isinstance(objective, SampledReverseKL) else TOKENS
    settings = {
        "max_steps": 1,
        "learning_rate": 1.0,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    }
    ends, rows = [], []
    for name, who in (("served", ServedTeacher(served(server.url), k=k)), ("local", teacher().model)):
        it = on_policy(
            arguments, short(journal=100, look=2, highest_kl=99), [objective], student=student(), teacher=who,
            output_dir=str(tmp_path / name), **settings,
        )  # fmt: skip
        it.train()
        ends.append(weights_of(it))
        rows.append([row["completion_ids"] for row in journal(tmp_path / name)])
    assert rows[0] == rows[1]
    for name, tensor in ends[1].items():
        torch.testing.assert_close(ends[0][name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_a_server_teacher_is_taken_as_it_is_and_is_of_the_runs_identity(arguments, server):
    it = trainer(arguments, [Logits()], student=student(), teacher=served(server.url))
    assert isinstance(it.source, ServedTeacher)
    identity = it.identity()
    assert "fake" in str(identity)
    assert str(server.port) not in str(identity), "where it is decides nothing"
    (one,) = it.source.teachers()
    assert one.name == it.source.name
    assert copy.copy(it.source).identity(None) == it.source.identity(None)


def test_what_a_server_cannot_give_is_refused(arguments, server):
    for objectives, said in (
        ([HiddenStates()], "stands behind a server, which shows no layers|no hidden states"),
        ([AttentionMaps()], "stands behind a server, which shows no layers|no attention"),
        ([Logits(temperature=2.0)], "temperature is 2.0, and the stored probabilities are those at temperature 1"),
    ):
        with pytest.raises(ValueError, match=said):
            trainer(arguments, objectives, student=student(), teacher=served(server.url))
    with pytest.raises(ValueError, match="those of a server are not here"):
        trainer(arguments, [Logits()], student=student(), teacher=served(server.url), shard_teacher=True)
    batch, where = batch_of(list(pack_pairs(build_pairs(6), 64)))
    with pytest.raises(ValueError, match="Rows are packed, and .* reads one text at a time"):
        ServedTeacher(served(server.url)).signals(batch, where, SignalRequest())


def test_a_server_that_gives_no_such_thing_ends_the_run_with_the_row(arguments):
    with FakeServer() as mute:
        it = trainer(arguments, [Logits()], student=student(), teacher=served(mute.url))
        with pytest.raises(ValueError, match="log-prob"):
            it.train()
    with FakeServer(change=by_ids) as leaving:
        it = trainer(arguments, [Logits()], student=student(), teacher=served(leaving.url))
    with pytest.raises(Unavailable, match="connection refused"):
        it.train()
