"""The look before an on-policy run: its figures against hand-made ones, what it stops, and that no bit of the training depends on it."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from resume_runs import Halt, assert_same_end
from rollout_runs import journal, on_policy, short
from signal_runs import captured
from two_tokenizers import WORDS, byte_level, sentence_piece

from distill import Logits, Schedule
from distill.objectives.divergences import forward_kl, reverse_kl
from distill.signals import Mixture, Routed
from distill.teachers import LocalTeacher
from distill.text.two_templates import two_templates
from distill.trainers import Rollouts
from distill.trainers.first_look import TOP
from distill.trainers.rollout_preflight import preflight_rollouts
from distill.trainers.rollouts import Ask

TOKENIZER = build_tokenizer()


def sharp(model, factor=12.0):
    """The same model with a head so steep that its distributions are far from another's."""
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(factor)
    return model


def by_hand(it, rows):
    """KL both ways and the overlap, position by position."""
    found = {"reverse_kl": [], "forward_kl": [], "overlap": []}
    for row in rows:
        ids = torch.tensor([[*row["prompt_ids"], *row["completion_ids"]]])
        places = slice(len(row["prompt_ids"]) - 1, ids.shape[1] - 1)
        with torch.no_grad():
            ours, theirs = (m.eval()(input_ids=ids).logits[0, places].double() for m in (it.student, it.source.model))
        found["reverse_kl"] += reverse_kl(ours, theirs).tolist()
        found["forward_kl"] += forward_kl(ours, theirs).tolist()
        for one, other in zip(ours, theirs, strict=True):
            same = {*one.topk(TOP).indices.tolist()} & {*other.topk(TOP).indices.tolist()}
            found["overlap"].append(len(same) / TOP)
    return {name: sum(values) / len(values) for name, values in found.items()}, len(found["overlap"])


def test_figures_are_those_of_a_loop_by_hand(arguments, tmp_path):
    """The pairs' own prompts, each written by itself and read by both models without padding."""
    it = on_policy(arguments, short(look=4), student=sharp(build_model(seed=7), 3.0), pairs=build_pairs(4))
    look = it.on_policy.look()
    rows = []
    for number, pair in enumerate(build_pairs(4)):
        (answer,) = it.on_policy.sampler(
            it.model, [Ask(pair["prompt_ids"], (3, 0, number))], it.rollouts.sampling, {2}, None
        )
        rows.append({"prompt_ids": pair["prompt_ids"], "completion_ids": list(answer.completion_ids)})
    expected, positions = by_hand(it, rows)
    assert look.figures["compared"] == look.figures["tokens"] == positions
    assert look.figures["ended"] == sum(row["completion_ids"][-1] == 2 for row in rows)
    for name, value in expected.items():
        assert look.figures[name] == pytest.approx(value, rel=1e-4), name
    assert expected["reverse_kl"] != pytest.approx(expected["forward_kl"], rel=0.01)


@pytest.mark.parametrize("share", [1.0, Schedule(0.0, 1.0, steps=2)])
def test_no_bit_of_a_training_depends_on_the_look(arguments, tmp_path, share):
    """With dropout; and torch's chance stands where it stood."""
    runs = []
    for look in (0, 5):
        folder = tmp_path / str(look)
        runs.append(on_policy(arguments, short(look=look, share=share, journal=100), output_dir=str(folder)))
        runs[-1].train()
        assert (folder / "preflight.json").exists() == bool(look)
    assert_same_end(*runs)
    assert journal(tmp_path / "0") == journal(tmp_path / "5")
    state = torch.get_rng_state()
    runs[-1].model.train()
    runs[-1].on_policy.look()
    assert torch.equal(state, torch.get_rng_state())
    assert runs[-1].model.training


def test_nothing_of_the_look_is_in_float64_where_the_device_has_none(arguments, monkeypatch, without_float64):
    """`Tensor.double` is not there on Apple's GPUs. The other sums of a training: tests/trainers/test_ways_to_make_a_trainer.py."""
    it = on_policy(arguments, short(look=3))
    written, ask = [], it.on_policy._answers
    monkeypatch.setattr(it.on_policy, "_answers", lambda *args: written.append(ask(*args)) or written[-1])
    expected = it.on_policy.look().figures
    it.on_policy._answers = lambda *args: written[0]  # the numbers that they are drawn by are made on the host
    with monkeypatch.context() as patch, without_float64():
        patch.setattr(torch.Tensor, "double", lambda self: pytest.fail("Tensor.double, which MPS has not"))
        found = it.on_policy.look().figures
    assert found.keys() == expected.keys()
    for name in ("reverse_kl", "forward_kl", "overlap"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name


def test_a_resumed_run_does_not_look_again_and_ends_the_same(arguments, tmp_path, capsys):
    saved = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4}
    whole = on_policy(arguments, short(look=3), output_dir=str(tmp_path / "whole"), **saved)
    whole.train()
    broken = on_policy(arguments, short(look=3), output_dir=str(tmp_path / "broken"), callbacks=[Halt(2)], **saved)
    broken.train()
    capsys.readouterr()
    # the look decides nothing, so another one is no other run
    again = on_policy(arguments, short(look=5, highest_kl=9.0), output_dir=str(tmp_path / "broken"), **saved)
    again.train(resume_from_checkpoint=True)
    assert "Preflight of rollouts" not in capsys.readouterr().out
    assert_same_end(whole, again)


def test_the_look_waits_for_the_first_step_with_rollouts(arguments, monkeypatch):
    it = on_policy(arguments, short(look=2, share=Schedule(0.0, 1.0, steps=4)), per_device_train_batch_size=4)
    steps, usual = [], it.on_policy.look
    monkeypatch.setattr(it.on_policy, "look", lambda rows: steps.append(it.state.global_step) or usual(rows))
    it.train()
    assert steps == [1]


def test_a_student_too_far_away_is_stopped_before_any_step_and_can_be_let_go(arguments, tmp_path, capsys):
    far = sharp(build_model(seed=7), 60.0)
    before = {name: tensor.clone() for name, tensor in far.state_dict().items()}
    it = on_policy(arguments, short(look=3), student=far)
    with pytest.raises(
        ValueError,
        match=r"does not begin.*nats a token from the teacher, above highest_kl=3:.*the limit is ours.*share=0",
    ):
        it.train()  # fmt: skip
    assert it.state.global_step == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in it.model.state_dict().items())
    assert "error: The student's own text" in capsys.readouterr().out
    saved = json.loads((tmp_path / "out" / "preflight.json").read_text())
    assert saved["figures"]["reverse_kl"] > 3
    assert saved["findings"][0]["level"] == "error"
    allowed = on_policy(arguments, short(look=3, highest_kl=math.inf), student=far, output_dir=str(tmp_path / "allowed"))  # fmt: skip
    allowed.train()
    assert allowed.state.global_step == 4


@pytest.mark.parametrize("kind", ["self", "routed", "mixture", "shown", "stream"])
def test_every_teacher_can_be_looked_at(arguments, kind, tmp_path):
    from distill.models.adapters import lora_config

    pairs, settings = build_pairs(8), {}
    if kind == "self":
        settings = {"teacher": "self", "own": {"peft_config": lora_config(4)}}
    if kind == "routed":
        pairs = pairs.add_column("domain", ["chat", "maths"] * 4)
        settings = {"teacher": Routed({"chat": build_model(seed=1), "maths": build_model(3, seed=2)}, column="domain")}
    if kind == "mixture":
        settings = {"teacher": Mixture([build_model(seed=1), build_model(3, seed=2)])}
    if kind == "shown":
        pairs = pairs.add_column("teacher_prompt_ids", [[11, 12, *ids] for ids in pairs["prompt_ids"]])
    if kind == "stream":
        pairs = pairs.to_iterable_dataset()
    it = on_policy(arguments, short(look=4), pairs=pairs, **settings)
    it.train()
    saved = json.loads((tmp_path / "out" / "preflight.json").read_text())
    figures, names = saved["figures"], [one["name"] for one in saved["findings"]]
    assert figures["rollouts"] == (2 if kind == "stream" else 4)
    if kind == "self":
        assert figures["reverse_kl"] < 1e-5
        assert figures["overlap"] == 1
        assert "nothing to learn" in names
    else:
        assert figures["reverse_kl"] > 1e-4
        assert 0 < figures["overlap"] < 1


def test_two_tokenizers_are_compared_where_they_align(arguments):
    ours, theirs = byte_level([*WORDS, "zebra zebra"], 330), sentence_piece([*WORDS, "xylophone"], 110)
    teacher = LocalTeacher(build_model(vocab_size=len(theirs), seed=2), theirs)
    student = build_model(vocab_size=len(ours), seed=1)
    look = preflight_rollouts(
        student, teacher, [" the cat", " a dog"], ours, Rollouts(max_new_tokens=8), tokens="aligned"
    )
    assert look.figures["aligned"] is not None
    assert look.figures["compared"] <= look.figures["tokens"]
    assert not any(finding.name == "templates" for finding in look.findings)
    with pytest.raises(ValueError, match="different vocabularies"):
        preflight_rollouts(student, teacher, [" the cat"], ours, Rollouts(max_new_tokens=8))


def test_ends_repetitions_and_pass_rates_are_counted():
    """A student that says one token for ever, and one that ends at once."""
    loop, over = build_model(seed=7), build_model(seed=7)
    word = next(i for i in range(320) if TOKENIZER.decode([i]) == " the")
    for model, token in ((loop, word), (over, 2)):
        head = torch.nn.Linear(32, 320)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(torch.full((320,), -20.0)).index_fill_(0, torch.tensor([token]), 20.0)
        model.set_output_embeddings(head)
    settings = Rollouts(max_new_tokens=40, highest_kl=math.inf, verifier=lambda row, said: said.strip().startswith(row["answer"]))  # fmt: skip
    prompts = [{"prompt": "the cat", "answer": "the"}, {"prompt": "a dog", "answer": "dog"}]
    look = preflight_rollouts(loop, build_model(seed=1), prompts, TOKENIZER, settings)
    assert look.figures["ended"] == 0
    assert (look.figures["repeating"], look.figures["long_enough"]) == (2, 2)
    assert look.figures["pass_rate"] == 0.5
    assert {finding.name for finding in look.findings} == {"no end", "repetition"}
    look = preflight_rollouts(over, build_model(seed=1), prompts, TOKENIZER, settings)
    assert look.figures["ended"] == look.figures["rollouts"] == look.figures["tokens"] == 2


def test_a_verifier_that_fails_is_told(arguments):
    settings = Rollouts(max_new_tokens=4, verifier=lambda row, said: row["nothing"])
    look = preflight_rollouts(build_model(seed=7), build_model(seed=1), ["the cat"], TOKENIZER, settings)
    assert look.figures["pass_rate"] is None
    assert "The verifier scored 0 of 1 rollouts; the first problem: KeyError" in str(look)


def test_templates_stand_side_by_side_with_what_differs_marked():
    other = build_tokenizer()
    other.chat_template = TOKENIZER.chat_template.replace("assistant", "the cat")
    same = two_templates(TOKENIZER, TOKENIZER)
    assert same.differing == (0, 0)
    assert "⟦" not in str(same)
    found = two_templates(TOKENIZER, other)
    assert all(found.differing)
    assert found.student.replace("⟦", "").replace("⟧", "").endswith("assistant⏎")
    assert "⟦" in found.student
    other.chat_template = None
    assert "teacher's template (none: the bare text)" in str(two_templates(TOKENIZER, other))


def test_differing_templates_are_a_warning_unless_the_teacher_has_prompts_of_its_own():
    other = build_tokenizer()
    other.chat_template = TOKENIZER.chat_template.replace("assistant", "the cat")
    sides = build_model(seed=7), LocalTeacher(build_model(seed=1), other)
    look = preflight_rollouts(*sides, ["the cat"], TOKENIZER, Rollouts(max_new_tokens=4))
    assert "The chat templates differ" in str(look)
    shown = [{"prompt_ids": [5, 6], "teacher_prompt_ids": [7, 8, 9]}]
    assert "The chat templates differ" not in str(
        preflight_rollouts(*sides, shown, TOKENIZER, Rollouts(max_new_tokens=4))
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"look": -1}, "look is -1; it must be a whole number of at least 0"),
        ({"look": 2.0}, "look is 2.0; it must be a whole number"),
        ({"highest_kl": 0}, "highest_kl is 0; it is a KL in nats a token and must be above 0"),
        ({"highest_kl": math.nan}, "highest_kl is nan"),
        ({"verifier": "number"}, "verifier is 'number'; it must be a function"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Rollouts(**settings)


def test_what_cannot_be_looked_at_is_refused(tmp_path):
    student, teacher = build_model(seed=7), build_model(seed=1)
    for prompts, settings, message in (
        ([], {}, "Rollouts have no prompts"),
        (["the cat"], {"rollouts": Rollouts(look=0)}, "look is 0"),
        (["the cat"], {"tokens": "other"}, "tokens is 'other'"),
        ([list(range(3, 200))], {}, "128"),
        ([3], {}, "Prompt 0 of the rollouts"),
    ):
        with pytest.raises(ValueError, match=message):
            preflight_rollouts(student, teacher, prompts, TOKENIZER, **settings)
    with pytest.raises(ValueError, match="Rollouts are new text"):
        preflight_rollouts(student, captured(tmp_path), ["the cat"], TOKENIZER)


def test_a_model_without_numbers_is_named():
    broken = build_model(seed=1)
    with torch.no_grad():
        broken.get_output_embeddings().weight.fill_(math.nan)
    look = preflight_rollouts(build_model(seed=7), broken, ["the cat"], TOKENIZER, Rollouts(max_new_tokens=4))
    assert "gives no finite logits" in look.errors[0]
    assert np.isnan(look.figures["reverse_kl"])


def test_the_verb_prints_and_its_status_says_whether_a_run_would_begin(told, tmp_path):
    build_model(seed=7).save_pretrained(tmp_path / "student")
    TOKENIZER.save_pretrained(tmp_path / "student")
    build_model(layers=3, seed=1).save_pretrained(tmp_path / "teacher")
    TOKENIZER.save_pretrained(tmp_path / "teacher")
    (tmp_path / "prompts.jsonl").write_text(
        '{"prompt": "the cat", "answer": "sat"}\n{"prompt": "a dog", "answer": "ran"}\n'
    )
    flags = ["--teacher", tmp_path / "teacher", "--student", tmp_path / "student", "--prompts", tmp_path / "prompts.jsonl", "--max_new_tokens", 6]  # fmt: skip
    said = told("preflight", *flags, "--verifier", "exact", "--json", tmp_path / "seen.json")
    assert "Preflight of rollouts: 2 by the student as it is" in said
    assert "Chat templates: the same." in said
    assert json.loads((tmp_path / "seen.json").read_text())["figures"]["pass_rate"] == 0
    assert "above highest_kl=1e-05" in told("preflight", *flags, "--highest_kl", 1e-5, status=1)
    assert "num_prompts is 0" in told("preflight", *flags, "--num_prompts", 0, status=1)
    assert "is no verifier" in told("preflight", *flags, "--verifier", "nothing", status=1)


def test_prompts_of_ones_own_keep_their_words(arguments):
    """Words of prompts stay with them, for a teacher with another tokenizer and for a verifier."""
    it = on_policy(arguments, short(prompts=["the cat", [5, 6]], look=2), objectives=[Logits("reverse_kl")])
    assert it.on_policy.prompts[0]["prompt"] == "the cat"
    assert "prompt" not in it.on_policy.prompts[1]
    assert it.on_policy.look().figures["rollouts"] == 2
