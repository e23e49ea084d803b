"""Fidelity: its errors are those of gradients, it changes nothing, and it names what it cannot do."""

import math

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer

from distill.evaluation.fidelity import fidelity
from distill.objectives.divergences import forward_kl
from distill.pairs.collate import PairCollator, supervised_rows
from distill.signals.encodings import encoding_of


def measured(encodings, teacher=None, student=None, pairs=None, **settings):
    teacher, student = teacher or build_model(seed=1), student or build_model()
    return fidelity(
        teacher, student, pairs if pairs is not None else build_pairs(6), build_tokenizer(), encodings, **settings
    )


def test_what_is_stored_whole_has_no_error():
    """The head's input bit by bit; all tokens in any sparse form but for their codes."""
    found = measured(["hidden", "top:320", "threshold:320"])
    hidden, *whole = found.rows
    assert hidden.kl_error == hidden.head_error == hidden.parameter_error == 0
    assert hidden.bytes == 32 * 4
    for row in (hidden, *whole):
        assert abs(row.mass - 1) < 1e-3
        assert row.kl_error < 1e-3
        assert 0 <= row.head_error < 2e-3
        assert 0 <= row.parameter_error < 2e-3
    assert found.positions == sum(len(pair["completion_ids"]) for pair in build_pairs(6))


def test_the_kl_is_that_of_whole_logits_and_top_sees_less_of_it():
    teacher, student, pairs = build_model(seed=1), build_model(), build_pairs(6)
    batch = PairCollator(build_tokenizer())(list(pairs))
    rows = supervised_rows(batch.pop("labels"))
    with torch.no_grad():
        both = [model(**batch).logits[rows] for model in (student, teacher)]
    expected = float(forward_kl(*both).mean())
    found = measured(["top:4", "threshold:8"], teacher, student, pairs)
    assert abs(found.kl - expected) < 1e-4
    assert found.rows[0].kl < found.kl
    assert abs(found.rows[1].kl - found.kl) == found.rows[1].kl_error < 0.3 * found.kl


def test_more_bytes_lose_less():
    found = measured(["threshold:4", "threshold:16", "threshold:64", "top:4", "top:64", "hidden:8", "hidden"]).rows
    for rows in (found[:3], found[3:5], found[5:]):
        for name in ("head_error", "parameter_error"):
            errors = [getattr(row, name) for row in rows]
            assert errors == sorted(errors, reverse=True)
        assert [row.bytes for row in rows] == sorted(row.bytes for row in rows)
    assert found[0].mass < found[1].mass < found[2].mass < 1


def test_the_error_of_all_parameters_is_that_of_their_gradients():
    """Of top-4 and a bucket, against gradients taken here from whole logits by autograd."""
    teacher, student, pairs = build_model(seed=1), build_model(), build_pairs(3)
    batch = PairCollator(build_tokenizer())(list(pairs))
    labels = batch.pop("labels")
    rows = supervised_rows(labels)
    tokens = labels.flatten()[rows.flatten().nonzero().squeeze(1) + 1]
    with torch.no_grad():
        log_p = teacher(**batch).logits[rows].log_softmax(-1)
    log_q = student(**batch).logits[rows].log_softmax(-1)
    listed = torch.zeros_like(log_p, dtype=torch.bool)
    for row, (likely, token) in enumerate(zip(log_p.topk(4).indices.tolist(), tokens.tolist(), strict=True)):
        listed[row, likely if token in likely else [*likely[:3], token]] = True
    p, q = log_p.exp(), log_q.exp()
    (tail_p, tail_q), live = ((one * ~listed).sum(1) for one in (p, q)), (p * (log_p - log_q)).sum()
    coarse = (p * (log_p - log_q) * listed).sum() + (tail_p * (tail_p / tail_q).log()).sum()
    parameters = list(student.parameters())
    theirs, ours = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)])
        for loss in (live, coarse)
    )
    (row,) = measured(["top:4"], teacher, student, pairs).rows
    assert row.parameter_error == pytest.approx(float((ours - theirs).norm() / theirs.norm()), rel=2e-2)
    assert row.kl == pytest.approx(float(coarse.detach() / len(tokens)), rel=1e-3)


def test_nothing_is_left_behind():
    """Neither gradients nor weights nor the mode; what the student had is there again."""
    student = build_model()
    student.train()
    weight = student.lm_head.weight
    weight.grad = torch.ones_like(weight)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    measured(["threshold:8"], student=student)
    assert student.training
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert all(
        parameter.grad is None
        for name, parameter in student.named_parameters()
        if parameter is not weight and "lm_head" not in name
    )
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_the_teachers_own_prompt_is_what_it_is_shown():
    pairs = build_pairs(4)
    shown = pairs.add_column("teacher_prompt_ids", [[5, 6, 7, *pair["prompt_ids"]] for pair in pairs])
    assert measured(["hidden"], pairs=shown).kl != measured(["hidden"], pairs=pairs).kl


def test_a_temperature_is_that_of_both():
    found = measured(["threshold:32", "top:320", encoding_of("draws", n=64, temperature=2.0)], temperature=2.0)
    assert found.rows[1].kl_error < 1e-3 * found.kl + 1e-3
    with pytest.raises(ValueError, match="of temperature 2.0, and the loss of 1.0"):
        measured([encoding_of("draws", n=64, temperature=2.0)])


def test_times_and_the_table():
    found = measured(["threshold:8", "hidden"], epoch_positions=1000)
    text = found.table()
    assert "| threshold:8 |" in text
    assert text.index("threshold:8") < text.index("| hidden |")
    assert found.epoch_positions == 1000
    for row in found.rows:
        assert row.capture_seconds > 0
        assert row.epoch_seconds > 0
        saved = found.live_seconds - row.epoch_seconds
        assert row.pays_after == (pytest.approx(row.capture_seconds / saved) if saved > 0 else math.inf)


def test_what_cannot_be_measured_is_refused():
    student = build_model()
    for parameter in student.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="No parameter of the student is trainable"):
        measured(["hidden"], student=student)
    with pytest.raises(ValueError, match="There are no pairs"):
        measured(["hidden"], pairs=build_pairs(3).select([]))
    with pytest.raises(ValueError, match="must be one of hidden"):
        measured(["logits"])


def test_the_picture_has_every_kind(tmp_path):
    pytest.importorskip("matplotlib")
    from distill.reports.fidelity_picture import fidelity_picture

    picture = fidelity_picture(measured(["threshold:8", "hidden", "top:4", "draws:4"]).as_dict())
    assert picture.startswith("<svg")
    for title in ("hidden states", "threshold sampling", "draws", "top and a bucket", "bytes a token"):
        assert title in picture


def test_a_student_of_other_tokens_is_refused(tmp_path):
    """By the tokenizer that lies beside it, or that is given."""
    other = build_tokenizer(special=["<|im_start|>", "<|im_end|>", "<|other|>"])
    with pytest.raises(ValueError, match="tokens differ, e.g"):
        measured(["hidden"], student_tokenizer=other)
    build_model().save_pretrained(tmp_path)
    other.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="tokens differ, e.g"):
        measured(["hidden"], student=type(build_model()).from_pretrained(tmp_path))
