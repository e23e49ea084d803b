"""White box over two tokenizers, end to end: the gradient is that of a naive loop, with a live teacher and with stored signals."""

import datasets
import pytest
import torch
from conftest import build_model
from tokenizers import normalizers
from transformers import TrainingArguments
from two_tokenizers import WORDS, byte_level, pair, sentence_piece

from distill import HiddenStates, Logits, WhiteBoxTrainer
from distill.pairs.aligned_rows import AlignedRows, in_teachers_tokens
from distill.signals import LiveTeacher, Mixture, Routed, capture
from distill.teachers import LocalTeacher
from distill.trainers import Rollouts

# each has words that the other has not
OURS = byte_level([*WORDS, "zebra zebra quilt quilt"], 330)
THEIRS = sentence_piece([*WORDS, "xylophone xylophone"], 110)
TEXTS = [" sat on the mat", " and the dog ran after it", " of it all", " thecat satmat", " café, 12"]
PAIRS = datasets.Dataset.from_list([pair(OURS, text, number=i, ended=i != 2) for i, text in enumerate(TEXTS)])


def student():
    return build_model(vocab_size=len(OURS), seed=1)


def teacher():
    return LocalTeacher(build_model(vocab_size=len(THEIRS), seed=2, hidden_size=16, intermediate_size=24), THEIRS)


def trainer_of(tmp_path, source=None, objective=None, pairs=PAIRS, model=None, **changes):
    args = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=5, report_to="none", use_cpu=True, max_steps=2, logging_steps=1,
        save_strategy="no", disable_tqdm=True, learning_rate=1e-2,
    )  # fmt: skip
    return WhiteBoxTrainer(
        model=model or student(), teacher=source or teacher(), objectives=[objective or Logits("forward_kl", tokens="aligned", least_aligned=0.3)],
        args=args, train_dataset=pairs, processing_class=OURS, **changes,
    )  # fmt: skip


def naive(model, source, pairs=PAIRS, cross_entropy=0.0):
    """Row by row: ids by hand, spans by search, coarse distributions by enumeration."""
    rows = AlignedRows(OURS, THEIRS)
    shared = list(zip(rows.shared.student.tolist(), rows.shared.teacher.tolist(), strict=True))
    left, right = ([one[side] for one in shared] for side in (0, 1))
    rests = [[i for i in range(size) if i not in set(some)] for size, some in ((len(OURS), left), (len(THEIRS), right))]
    total, count = 0.0, 0
    for one in pairs:
        ended = one["finish_reason"] == "stop"
        prompt = THEIRS(one["prompt"], add_special_tokens=False)["input_ids"]
        other = THEIRS(one["completion"], add_special_tokens=False)["input_ids"] + [THEIRS.eos_token_id] * ended
        spans = []
        for known, ids in ((rows.student, one["completion_ids"]), (rows.teacher, other)):
            place, found = 0, []
            for number in ids:
                size = len(known.of[number] or b"")
                found.append((place, place + size))
                place += size
            spans.append(found)
        q, p = (
            run(torch.tensor([[*before, *ids]])).logits[0, len(before) - 1 : -1].log_softmax(-1)
            for run, before, ids in ((model, one["prompt_ids"], one["completion_ids"]), (source.model, prompt, other))
        )
        for i, span in enumerate(spans[0]):
            count += 1
            total = total - cross_entropy * q[i, one["completion_ids"][i]]
            if span in spans[1]:
                ours = torch.cat([q[i, left], q[i, rests[0]].logsumexp(0, keepdim=True)])
                theirs = torch.cat(
                    [p[spans[1].index(span)][right], p[spans[1].index(span)][rests[1]].logsumexp(0, keepdim=True)]
                ).detach()
                total = total + (theirs.exp() * (theirs - ours)).sum()
    return total / count


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def step(trainer):
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    return loss, gradient(trainer.model, loss)


@pytest.mark.parametrize("cross_entropy", [0.0, 0.7])
@pytest.mark.parametrize("kind", ["live", "stored", "mixture", "packed"])
def test_the_gradient_is_that_of_a_naive_loop(tmp_path, kind, cross_entropy):
    source, more = teacher(), {}
    given = source
    if kind == "stored":
        given = capture(source, in_teachers_tokens(PAIRS, OURS, THEIRS), output=tmp_path / "signals", progress=False)
    elif kind == "mixture":
        given = Mixture([LiveTeacher(source)])
    elif kind == "packed":
        more = {"packing": True, "max_length": 100}
    objective = Logits("forward_kl", tokens="aligned", least_aligned=0.3, cross_entropy=cross_entropy)
    trainer = trainer_of(tmp_path / "out", given, objective, **more)
    loss, got = step(trainer)
    wanted = naive(trainer.model, source, cross_entropy=cross_entropy)
    # stored states are rounded as the encoding says
    torch.testing.assert_close(loss.detach(), wanted.detach(), rtol=1e-2 if kind == "stored" else 1e-5, atol=1e-6)
    expected = gradient(trainer.model, wanted)
    assert float((got - expected).norm() / expected.norm()) < (2e-2 if kind == "stored" else 1e-5)


def test_one_tokenizer_aligned_with_itself_trains_as_the_plain_objective(tmp_path):
    same = LocalTeacher(build_model(vocab_size=len(OURS), seed=2), OURS)
    ends = [
        trainer_of(tmp_path / str(i), same, objective)
        for i, objective in enumerate((Logits(), Logits(tokens="aligned")))
    ]
    (plain, a), (aligned, b) = (step(trainer) for trainer in ends)
    torch.testing.assert_close(plain, aligned)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_a_training_says_what_is_compared_and_logs_it(tmp_path, capsys):
    trainer = trainer_of(
        tmp_path, objective=Logits("forward_kl", tokens="aligned", least_aligned=0.3, cross_entropy=1.0)
    )
    said = capsys.readouterr()
    said = said.out + said.err
    assert "train_dataset: " in said
    assert "positions align one to one" in said
    assert "is on tokens that both know" in said
    trainer.train()
    logs = [log for log in trainer.state.log_history if "aligned" in log]
    assert len(logs) == 2
    assert logs[0]["aligned"] == pytest.approx(trainer.coverage["train_dataset"].share)
    assert logs[0]["logits"] == pytest.approx(logs[0]["divergence"] + logs[0]["cross_entropy"], rel=1e-5)
    assert logs[1]["logits"] < logs[0]["logits"]


def test_what_cannot_be_compared_is_refused_before_any_step(tmp_path):
    aligned = Logits(tokens="aligned", least_aligned=0.3)
    with pytest.raises(ValueError, match=r"least_aligned is 1: too few"):
        trainer_of(tmp_path, objective=Logits(tokens="aligned", least_aligned=1))
    with pytest.raises(ValueError, match="Routed"):
        trainer_of(tmp_path, Routed({"t": teacher()}, column="teacher"))
    with pytest.raises(ValueError, match="hidden compares them position by position"):
        WhiteBoxTrainer(
            model=student(), teacher=teacher(), objectives=[aligned, HiddenStates()], train_dataset=PAIRS, processing_class=OURS,
            args=TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True),
        )  # fmt: skip
    with pytest.raises(ValueError, match="the teacher's is not known"):
        trainer_of(tmp_path, teacher().model)
    with pytest.raises(ValueError, match="does not make"):
        trainer_of(tmp_path, data_collator=lambda rows: rows)
    lower = sentence_piece(normalizer=normalizers.Lowercase())
    loud = datasets.Dataset.from_list([pair(OURS, " THE CAT SAT ON THE MAT")])
    with pytest.raises(ValueError, match=r"does not keep a capital letter"):
        trainer_of(tmp_path, LocalTeacher(build_model(vocab_size=len(lower), seed=2), lower), pairs=loud)
    with pytest.raises(ValueError, match="tokens is 'other'"):
        Logits(tokens="other")
    with pytest.raises(ValueError, match="least_aligned is 2"):
        Logits(tokens="aligned", least_aligned=2)
    source = teacher()
    drawn = capture(
        source, in_teachers_tokens(PAIRS, OURS, THEIRS), output=tmp_path / "drawn", encoding="draws", progress=False
    )
    with pytest.raises(ValueError, match="no token for: capture with encoding='hidden'"):
        trainer_of(tmp_path, drawn)
    few = capture(source, in_teachers_tokens(PAIRS.select([0]), OURS, THEIRS), output=tmp_path / "few", progress=False)
    with pytest.raises(ValueError, match="lacks 4 of 5 pairs of train_dataset, in the teacher's tokens"):
        trainer_of(tmp_path, few)


def test_the_students_own_text_is_aligned_as_it_comes(tmp_path):
    """Rollouts of a random student are bytes that are no text, mostly: what can be shown is compared, cross-entropy needs nothing."""
    objective = Logits("reverse_kl", tokens="aligned", least_aligned=0.3)
    trainer = trainer_of(tmp_path, objective=objective, rollouts=Rollouts(share=1.0, max_new_tokens=8))
    trainer.train()
    logs = [log for log in trainer.state.log_history if "aligned" in log]
    assert len(logs) == 2
    assert all(0 < log["aligned"] <= 1 and log["logits"] > 0 for log in logs)
