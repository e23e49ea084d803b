"""What the teacher was shown and the student was not: the white box compares each side on its own rows."""

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from white_box_runs import OBJECTIVES, black_box_trainer, trainer, weights_of

from distill import AttentionMaps, HiddenStates, Logits, WhiteBoxTrainer
from distill.objectives.divergences import forward_kl
from distill.pairs.collate import PairCollator
from distill.signals import SelfTeacher

WITHOUT_MAPS = [name for name in OBJECTIVES if name not in ("attention", "relations", "all")]


def shown(count=8, more=(11, 12, 13, 14, 15)):
    """Pairs whose teacher was shown `more` before the prompt."""
    pairs = build_pairs(count)
    return pairs.add_column("teacher_prompt_ids", [[*more, *ids] for ids in pairs["prompt_ids"]])


def gradients_of(run, batch):
    run.model.zero_grad()
    loss = run.compute_loss(run.model, dict(batch))
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}


def all_of(run):
    return run.data_collator([run.train_dataset[i] for i in range(len(run.train_dataset))])


@pytest.mark.parametrize("name", WITHOUT_MAPS)
def test_the_same_prompt_on_both_sides_is_no_teacher_prompt_bit_for_bit(arguments, name):
    found = []
    for pairs in (build_pairs(8), shown(more=())):
        torch.manual_seed(0)
        run = trainer(arguments, OBJECTIVES[name](), pairs=pairs, max_steps=3, max_grad_norm=1.0)
        assert ("teacher_input_ids" in all_of(run)) == ("teacher_prompt_ids" in pairs.column_names)
        run.train()
        found.append(weights_of(run))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("max_length", [None, 14])
def test_the_teacher_is_asked_behind_its_own_prompt(arguments, side, max_length):
    """Pair by pair, without padding, written out; in value and gradient."""
    pairs, teacher, naive = shown(), build_model(seed=1), build_model(seed=7)
    collator = PairCollator(build_tokenizer(), max_length=max_length, padding_side=side)
    run = trainer(arguments, [Logits()], teacher=teacher, pairs=pairs, collator=collator)
    loss, gradients = gradients_of(run, all_of(run))
    values = []
    for pair in pairs:
        prompt, theirs, said = pair["prompt_ids"], pair["teacher_prompt_ids"], pair["completion_ids"]
        said = said[: None if max_length is None else max(max_length - len(prompt), 0)]
        ours = naive(torch.tensor([prompt + said])).logits[0, len(prompt) - 1 : -1]
        with torch.no_grad():
            target = teacher(torch.tensor([theirs + said])).logits[0, len(theirs) - 1 : -1]
        values.append(forward_kl(ours, target))
    expected = torch.cat(values).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-4, atol=1e-6)
    for key, p in naive.named_parameters():
        torch.testing.assert_close(gradients[key], p.grad, rtol=1e-3, atol=1e-6, msg=key)
    bare = trainer(arguments, [Logits()], teacher=teacher, pairs=build_pairs(8), collator=collator)
    assert (gradients_of(bare, all_of(bare))[0] - loss).abs() > 1e-3, "the prompt does make a difference"


@pytest.mark.parametrize("name", ["logits", "hidden"])
def test_packed_and_padded_are_the_same(arguments, name):
    torch.manual_seed(0)
    run = trainer(arguments, OBJECTIVES[name](), pairs=shown())
    items = [run.train_dataset[i] for i in range(8)]
    (loss, gradients), (other, others) = (
        gradients_of(run, run.data_collator(rows)) for rows in (items, [items[:3], items[3:]])
    )
    torch.testing.assert_close(loss, other, rtol=1e-5, atol=1e-6)
    for key in gradients:
        torch.testing.assert_close(gradients[key], others[key], rtol=1e-3, atol=1e-6, msg=key)


def test_some_pairs_have_one_and_others_do_not(arguments):
    """In one batch; a pair without one is shown to the teacher as to the student."""
    rows = [dict(row) for row in shown(4)]
    rows[1]["teacher_prompt_ids"] = rows[3]["teacher_prompt_ids"] = None
    run = trainer(arguments, [Logits()], pairs=rows)
    loss, gradients = gradients_of(run, run.data_collator(rows))
    totals, count, sums = 0.0, 0, {}
    for row in rows:
        batch = run.data_collator([row])
        n = len(row["completion_ids"])
        value, found = gradients_of(run, batch)
        totals, count = totals + value * n, count + n
        sums = {key: sums.get(key, 0) + g * n for key, g in found.items()}
    torch.testing.assert_close(loss, totals / count, rtol=1e-4, atol=1e-6)
    for key, g in gradients.items():
        torch.testing.assert_close(g, sums[key] / count, rtol=1e-3, atol=1e-6, msg=key)


def test_maps_over_different_positions_are_refused(arguments):
    with pytest.raises(ValueError, match=r"train_dataset.*teacher_prompt_ids.*AttentionMaps"):
        trainer(arguments, [Logits(), AttentionMaps(weight=0.1)], pairs=shown())
    run = trainer(arguments, [Logits(), AttentionMaps(weight=0.1)], pairs=[dict(row) for row in build_pairs(4)])
    with pytest.raises(ValueError, match="attention maps over different positions cannot be compared"):
        gradients_of(run, run.data_collator([dict(row) for row in shown(4)]))


def test_a_student_that_teaches_itself_what_it_was_shown(arguments):
    """Self-distillation from privileged context: with the adapter off and the longer prompt, then without the prompt."""
    pytest.importorskip("peft")
    from distill.models.adapters import lora_config

    run = WhiteBoxTrainer(
        model=build_model(seed=7), teacher="self", objectives=[Logits(), HiddenStates(layers="last", weight=0.1)],
        args=arguments(max_steps=30, learning_rate=1e-2), peft_config=lora_config(8), train_dataset=shown(),
        processing_class=build_tokenizer(),
    )  # fmt: skip
    assert isinstance(run.source, SelfTeacher)
    before = run.evaluate(shown())
    assert before["eval_logits"] > 1e-3, "a fresh adapter is the teacher, but it was not shown as much"
    run.train()
    assert run.evaluate(shown())["eval_logits"] < 0.5 * before["eval_logits"]


def test_the_prompt_is_a_part_of_what_a_resume_identifies(arguments, tmp_path):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "output_dir": str(tmp_path / "run")}
    whole, again = (trainer(arguments, [Logits()], pairs=shown(), **settings) for _ in range(2))
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
    other = trainer(arguments, [Logits()], pairs=shown(more=(3, 4, 5)), **settings)
    with pytest.raises(ValueError, match="pairs: '8 rows, sha256 .*' there, '8 rows, sha256"):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))


def test_a_teacher_prompt_beyond_the_teachers_positions_is_refused(arguments):
    short = build_model(seed=1, max_position_embeddings=24)
    long = shown(more=tuple(range(5, 25)))
    with pytest.raises(ValueError, match=r"but the teacher has 24 positions"):
        trainer(arguments, [Logits()], teacher=short, pairs=long)


def test_a_student_that_teaches_itself_has_limits_too(arguments):
    """What it is shown as a teacher may be longer than what it is shown as a student."""
    pytest.importorskip("peft")
    from distill.models.adapters import lora_config

    short = build_model(seed=7, max_position_embeddings=40)
    for pairs, said in ((shown(more=tuple(range(5, 45))), "has 40 positions"), (shown(more=(399,)), "token id 399")):
        with pytest.raises(ValueError, match=said):
            trainer(arguments, [Logits()], student=short, teacher="self", pairs=pairs, peft_config=lora_config(4))


def test_a_collator_that_drops_what_the_teacher_was_shown_is_found_out(arguments):
    """The teacher would score the bare prompt, and nothing would be taught."""
    own = PairCollator(build_tokenizer())
    run = trainer(arguments, [Logits()], pairs=shown(), collator=lambda rows: own(rows), remove_unused_columns=False)
    with pytest.raises(ValueError, match="made a batch without teacher_input_ids"):
        gradients_of(run, all_of(run))
    stream = shown().to_iterable_dataset()
    settings = {"pairs": stream, "remove_unused_columns": False, "max_steps": 2}
    run = trainer(arguments, [Logits()], collator=lambda rows: own(rows), **settings)
    with pytest.raises(ValueError, match="made a batch without teacher_input_ids"):
        run.train()
    lists = [dict(row) for row in shown()]
    run = trainer(arguments, [Logits()], pairs=lists, collator=lambda rows: own(rows), max_steps=2)
    with pytest.raises(ValueError, match=r"teacher_prompt_ids: .*made a batch without teacher_input_ids"):
        run.train()
    whole = PairCollator(build_tokenizer(), teacher_rows=True)
    # only some have one: a batch without any has no rows of the teacher's, and that is right
    some = [{**dict(row), "teacher_prompt_ids": None if i % 4 else [9, 8, 7]} for i, row in enumerate(build_pairs(8))]
    trainer(
        arguments, [Logits()], pairs=some, collator=lambda rows: whole(rows), max_steps=8, per_device_train_batch_size=1
    ).train()
    run = trainer(arguments, [Logits()], pairs=shown(), collator=lambda rows: whole(rows), remove_unused_columns=False)
    ours = trainer(arguments, [Logits()], pairs=shown())
    assert torch.equal(gradients_of(run, all_of(run))[0], gradients_of(ours, all_of(ours))[0])
    batch = all_of(ours)
    del batch["teacher_labels"]
    with pytest.raises(ValueError, match="have teacher_input_ids and teacher_labels"):
        gradients_of(ours, batch)
    batch = all_of(ours)
    batch["teacher_labels"][0] = -100
    with pytest.raises(
        ValueError, match=r"\(pairs .*\) has \d+ supervised tokens in the student's rows and \d+ in the teacher's"
    ):
        gradients_of(ours, batch)


def test_the_speed_of_the_teacher_counts_what_it_was_shown(arguments):
    run = trainer(arguments, [Logits()], pairs=shown(), max_steps=1, per_device_train_batch_size=8)
    run.rates.begin()
    run.rates.count(all_of(run))
    with run.rates.teacher():
        pass
    run.rates._teacher_seconds = 1.0
    whole = sum(len(p["teacher_prompt_ids"]) + len(p["completion_ids"]) for p in run.train_dataset)
    assert run.rates.close()["teacher_tokens_per_second"] == pytest.approx(whole)


def test_for_the_black_box_it_is_nothing(arguments):
    found = []
    for pairs in (build_pairs(8), shown()):
        run = black_box_trainer(arguments, pairs=pairs, max_steps=3)
        run.train()
        found.append(weights_of(run))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_a_collator_that_shows_the_teacher_other_answers_is_found_out(arguments):
    """As many supervised tokens on both sides, and not the same."""
    whole = PairCollator(build_tokenizer(), teacher_rows=True)

    def wrong(rows):
        batch = whole(rows)
        batch["teacher_labels"] = torch.where(batch["teacher_labels"] < 0, -100, batch["teacher_labels"].flip(0))
        return batch

    pair = {"prompt_ids": [5, 6], "completion_ids": [7, 8], "teacher_prompt_ids": [9, 5, 6]}
    pairs = [{**pair, "id": "a"}, {**pair, "completion_ids": [10, 11], "id": "b"}]
    run = trainer(arguments, [Logits()], pairs=pairs, collator=wrong, remove_unused_columns=False)
    with pytest.raises(ValueError, match=r"has the token 7 as number 0 of the student's .* and 10 as the teacher's"):
        run.compute_loss(run.model, wrong(pairs))
