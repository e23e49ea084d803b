"""Figures of several models and the thresholds held against them: what breaks, what is not shown, what is refused."""

import datasets
import pytest
import torch
from conftest import SPECIAL, build_model, build_pairs, build_tokenizer

from distill.evaluation.memorisation import plant
from distill.evaluation.risk import Figure, Side, Sides, Value, judge, read_thresholds
from distill.evaluation.risk.likelihood import log_likelihoods
from distill.evaluation.risk.nearness import nearness_figures
from distill.evaluation.risk.secrets import planted_in, read_canaries
from distill.evaluation.risk.thresholds import Threshold, is_broken
from distill.evaluation.risk.training_rows import Rows, membership_figure, overlap_figures
from distill.models.students import make_student
from distill.pairs import pairs_from_rows
from distill.teachers.local import LocalTeacher

NAMES = ("kl_old", "membership_tpr", "ability.tools", "ability.tone")


def figure(name="kl_old", *, student=0.6, base=0.1, change=None, **more):
    return Figure(name, name, "lost", "number", "less", {"student": student_value(student), "base": Value(base)}, change=change, **more)  # fmt: skip


def student_value(value):
    return value if isinstance(value, Value) else Value(value)


def state(one, name, limit=0.5, own=True):
    (found,) = judge([one], [Threshold(name, limit, own)])
    return found.state, found.sure


def test_a_limit_is_held_against_what_its_ending_speaks_of():
    one = figure(student=Value(0.6, 0.55, 0.7), base=0.2, change=Value(0.4, 0.3, 0.55))
    assert state(one, "kl_old_max") == ("broken", True)
    assert state(one, "kl_old_max", 0.65) == ("holds", False)  # its interval reaches over the limit
    assert state(one, "kl_old_max", 0.6) == ("holds", False)
    assert state(one, "kl_old_min") == ("holds", True)
    assert state(one, "kl_old.rise_max") == ("holds", False)
    assert state(one, "kl_old.rise_max", 0.2) == ("broken", True)
    assert state(one, "kl_old.loss_max", 0.0) == ("holds", True)
    fallen = figure(student=0.1, base=0.5, change=Value(-0.4, -0.5, -0.1))
    assert state(fallen, "kl_old.loss_max", 0.2) == ("broken", False)


def test_one_limit_of_all_abilities_is_held_against_each_that_has_none_of_its_own():
    tools, tone = (figure(f"ability.{name}", student=0.2, base=0.9) for name in ("tools", "tone"))
    limits = [Threshold("ability.loss_max", 0.1), Threshold("ability.tone.loss_max", 0.8)]
    assert [(one.name, one.state) for one in judge([tools, tone], limits)] == [
        ("ability.tools.loss_max", "broken"), ("ability.tone.loss_max", "holds"),
    ]  # fmt: skip


def test_what_was_not_measured_or_is_doubted_does_not_pass():
    lost = Figure("kl_old", "KL", "lost", "nats", missing="other tokens")
    nobody = Figure("kl_old", "KL", "lost", "nats", missing="no teacher", given=False)
    assert state(lost, "kl_old_max", own=False)[0] == "not shown"
    assert state(nobody, "kl_old_max", own=False)[0] == "not asked"  # a shipped limit on what nobody gave data for
    assert state(nobody, "kl_old_max", own=True)[0] == "not shown"
    few = figure(student=Value(0.4, 0.3, 0.45), doubted="too few controls")
    assert state(few, "kl_old_max")[0] == "not shown"
    surely = figure(student=Value(0.9, 0.8, 1.0), doubted="too few controls")
    assert state(surely, "kl_old_max")[0] == "broken"  # a doubt never turns what is broken into what is not
    judged = judge([few], [Threshold("kl_old_max", 0.5)])
    assert is_broken(judged)
    assert not is_broken(judged, allow_unmeasured=True)
    assert not is_broken(judge([nobody], [Threshold("kl_old_max", 0.5)]))
    assert judge([], [Threshold("ability.loss_max", 0.1, own=True)])[0].state == "not shown"


def test_a_file_changes_what_it_names_and_takes_away_what_it_leaves_empty(tmp_path):
    shipped = {one.name: one.limit for one in read_thresholds(None, NAMES)}
    assert shipped == {"ability.loss_max": 0.1, "kl_old_max": 0.5, "membership_tpr_max": 0.1}
    file = tmp_path / "limits.yaml"
    file.write_text("kl_old_max: 2\nmembership_tpr_max:\nability.tone_min: 0.5\n")
    found = {one.name: (one.limit, one.own) for one in read_thresholds(file, NAMES)}
    assert found == {"ability.loss_max": (0.1, False), "kl_old_max": (2.0, True), "ability.tone_min": (0.5, True)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kl_odl_max: 1", "names 'kl_odl_max', which is no threshold. Nearest: kl_old_max"),
        ("kl_old: 1", "Nearest: kl_old"),
        ("ability.tune.loss_max: 0.1", "ability.tone.loss_max"),
        ("kl_old_max: much", "kl_old_max is 'much'; a threshold is a number"),
        ("kl_old_max: .nan", "a threshold is a number"),
        ("- kl_old_max", "must hold names and numbers"),
        ("kl_old_max: 1\nkl_old_max: 2", "twice"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path, text, said):
    (tmp_path / "limits.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_thresholds(tmp_path / "limits.yaml", NAMES)


def test_a_figure_is_plain_values_and_back():
    one = figure(student=Value(0.6, 0.5, 0.7, 12), change=Value(0.5))
    assert Figure.of_dict(one.as_dict()) == one


def side(key, seed=0, **changes):
    tokenizer = build_tokenizer()
    return Side(key, f"{key}-model", LocalTeacher(build_model(seed=seed, **changes), tokenizer))


def sides(student=1, base=2, teacher=3):
    made = object.__new__(Sides)
    made.student, made.base = side("student", student), side("base", base)
    made.teacher = None if teacher is None else side("teacher", teacher)
    return made


def text_pairs(count, seed=0):
    """Pairs of the tokenizer's own words."""
    generator, words = (
        torch.Generator().manual_seed(seed),
        ["the", "cat", "sat", "on", "mat", "and", "dog", "ran", "what", "is", "a", "colour"],
    )
    draw = lambda n: " ".join(words[i] for i in torch.randint(len(words), (n,), generator=generator))  # noqa: E731
    tokenizer = build_tokenizer()
    rows = []
    for i in range(count):
        prompt, completion = f"{draw(4)} {seed} {i}", draw(12)
        rows.append({
            "id": f"{seed}/{i}", "prompt": prompt, "completion": completion, "sample": 0, "teacher": "t", "finish_reason": "length",
            "prompt_ids": tokenizer(prompt)["input_ids"], "completion_ids": tokenizer(completion)["input_ids"],
        })  # fmt: skip
    return pairs_from_rows(rows, where="test")


def test_the_likelihood_of_a_pair_is_that_of_its_own_run():
    one, pairs = side("student"), text_pairs(5)
    found = log_likelihoods(one, pairs, batch_size=3)
    for pair, value in zip(pairs, found, strict=True):
        ids = torch.tensor([pair["prompt_ids"] + pair["completion_ids"]])
        logs = one.model(ids).logits.float().log_softmax(-1)[0, len(pair["prompt_ids"]) - 1 : -1]
        own = logs.gather(1, torch.tensor(pair["completion_ids"])[:, None]).sum() / len(pair["completion"])
        assert value == pytest.approx(own.item(), rel=2e-2)  # products in bfloat16 where the machine is fast in it


def trained_on(model, pairs, steps=60):
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = [torch.tensor([pair["prompt_ids"] + pair["completion_ids"]]) for pair in pairs]
    for step in range(steps):
        row = rows[step % len(rows)]
        model.train()(input_ids=row, labels=row).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


def test_training_pairs_are_told_from_others_and_the_untrained_are_not_accused():
    members, controls = text_pairs(12), text_pairs(110, seed=1)
    three = sides(student=2, base=2)
    rows = Rows.of(members, controls, 200)
    honest, _, untrained = membership_figure(three, rows)
    assert honest.of["student"].value == 0  # the same weights as the base: every score is 0
    assert untrained.passed
    assert not honest.doubted
    trained_on(three.student.model, members, steps=240)
    found, scores, _ = membership_figure(three, rows)
    assert found.of["student"].value > 0.5
    assert found.of["teacher"].value < 0.3
    assert scores["student"]["chance"] < 1e-6
    assert "Learned from the data" in found.origin
    three.teacher = None
    assert "no teacher to ask" in membership_figure(three, rows)[0].origin


def test_few_controls_have_their_figure_and_no_headline_and_two_kinds_of_pairs_prove_nothing():
    three = sides()
    few, _, _ = membership_figure(three, Rows.of(text_pairs(12), text_pairs(20, seed=1), 200))
    assert few.is_measured
    assert "20 held-out pairs are too few" in few.doubted
    # the base's own likelihood tells pairs of two kinds apart, whoever was trained on which
    base = sides()
    trained_on(base.base.model, text_pairs(12), steps=240)
    two, _, untrained = membership_figure(base, Rows.of(text_pairs(12), text_pairs(110, seed=1), 200))
    assert "are of two kinds" in two.doubted
    assert not untrained.passed


def test_a_prompt_on_both_sides_is_refused_and_missing_data_is_said():
    with pytest.raises(ValueError, match="3 prompts stand among the training pairs and among the held-out ones"):
        Rows.of(text_pairs(5), text_pairs(3), 200)
    three = sides()
    assert "--held_out" in membership_figure(three, Rows.of(text_pairs(3), None, 9))[0].missing
    assert membership_figure(three, None)[0].given is False
    assert len(Rows.of(text_pairs(20), None, 9).members) == 9


def test_overlap_is_of_the_student_and_what_it_said_stands_beside():
    pairs = text_pairs(6)
    rows = Rows.of(pairs, None, 200)
    other = [f"one two three four five six seven eight nine {i}" for i in range(6)]
    figures, stretches = overlap_figures(rows, {"student": list(pairs["completion"]), "base": other, "teacher": other})
    empty, share, longest = figures
    assert share.of["student"].value == 1
    assert share.of["base"].value == 0
    assert (share.change.low, share.change.high) == (1, 1)
    assert "Learned from the data" in share.origin
    assert longest.of["student"].value == 12
    assert stretches["student"] == pairs["completion"][0]
    assert empty.of["student"].value == 0
    same = overlap_figures(rows, {"student": other, "base": other})[0][1]
    assert (same.change.value, same.origin) == (0, "")


def test_a_student_that_answers_with_nothing_is_said_to():
    rows = Rows.of(text_pairs(6), None, 200)
    said = "one two three four five six seven eight nine"
    empty, share, longest = overlap_figures(rows, {"student": [""] * 6, "base": [said] * 6})[0]
    assert empty.of["student"].value == 1
    assert "answered nothing at all" in empty.said
    assert "None of the 6 texts has 8 words" in share.missing
    assert not longest.is_measured
    assert state(share, "overlap_share_max", own=False)[0] == "not shown"


def test_distance_from_the_teacher_is_of_student_and_base():
    three, held_out = sides(student=3, base=2, teacher=3), build_pairs(6)
    kl, top1 = nearness_figures(three, held_out)
    assert kl.of["student"].value == pytest.approx(0, abs=1e-3)  # products in bfloat16 where the machine is fast in it
    assert kl.of["base"].value > 0.1
    assert top1.of["student"].value > 0.9
    three.student.speaker.tokenizer = build_tokenizer(special=[*SPECIAL, "<|more|>"])
    assert "student and teacher have other tokens" in nearness_figures(three, held_out)[0].missing
    three.teacher = None
    missing = nearness_figures(three, held_out)
    assert [one.given for one in missing] == [False, False]


def test_a_base_that_was_cut_is_made_again(tmp_path):
    teacher = build_model(layers=4)
    for name, model in (("teacher", teacher), ("student", make_student(teacher, [0, 3]))):
        model.save_pretrained(tmp_path / name)
        build_tokenizer().save_pretrained(tmp_path / name)
    made = Sides(tmp_path / "student", "cut", tmp_path / "teacher")
    assert made.base.weights == made.student.weights
    assert "2 of its layers, untrained" in made.base.name
    with pytest.raises(ValueError, match="no --teacher is named"):
        Sides(tmp_path / "student", "cut")
    with pytest.raises(ValueError, match="does not say that it was cut from one"):
        Sides(tmp_path / "teacher", "cut", tmp_path / "teacher")


def test_canaries_are_counted_in_the_pairs_they_were_planted_in(tmp_path):
    file = tmp_path / "canaries.yaml"
    file.write_text("each: 2\nrepeats: [1, 4]\ncontrols: 100\nseed: 3\n")
    canaries = read_canaries(file)
    rows = datasets.Dataset.from_list(plant([{"prompt": "Hi", "completion": "Hello."}], canaries))
    found = planted_in(rows, canaries)
    assert (found.here, found.planted) == (4, 4)
    assert planted_in(datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}]), canaries).here == 0
    assert planted_in(None, canaries) is None
    with pytest.raises(ValueError, match="1 of 4 canaries stand otherwise in the pairs"):
        planted_in(rows.filter(lambda row: not row["id"] or not str(row["id"]).endswith("/3") or canaries.planted[2].name not in row["completion"]), canaries)  # fmt: skip
    leaked = rows.add_item({"id": "x", "prompt": "?", "completion": canaries.controls[0].answer})
    with pytest.raises(ValueError, match="they are no controls"):
        planted_in(leaked, canaries)


@pytest.mark.parametrize(
    ("text", "said"),
    [("each: 0", "each is 0"), ("eech: 1", "names 'eech'"), ("- 1", "must hold settings of Canaries"), ("each: a", "canaries.yaml")],
)  # fmt: skip
def test_a_file_of_canaries_that_cannot_be_meant_is_refused(tmp_path, text, said):
    (tmp_path / "canaries.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_canaries(tmp_path / "canaries.yaml")
    with pytest.raises(ValueError, match="no file"):
        read_canaries(tmp_path / "none.yaml")
