"""The user's own prompts in recipes: none is lost in silence, and what is left out is on the record."""

import json

import pytest

from distill.reports.provenance import drawn_as
from distill.running.flags import DataArguments
from distill.running.stages import prepare_prompts, prompts_of

LONG = "please tell me how to bake a good loaf of bread at home with only flour water and salt"


@pytest.fixture
def file(tmp_path):
    prompts = [LONG, LONG + " today", LONG, "Why?"]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return str(path)


def flags(file, **more):
    return DataArguments(prompts=file, **more)


@pytest.mark.parametrize(("near", "left"), [(None, 3), (False, 3), (True, 2)])
def test_only_exact_repetitions_go_unless_near_ones_are_asked_for(file, tmp_path, near, left, capsys):
    for _ in range(2):  # a resumed run says the same once
        prompts, shown = prepare_prompts(None, flags(file, near=near), tmp_path)
        steps = drawn_as(tmp_path / "pairs.jsonl").steps
        assert [(step.name, step.rows_in, step.rows_out) for step in steps] == [("repeated prompts", 4, left)]
    assert shown is None
    assert len(prompts) == left
    assert f"repeated prompts: {4 - left} of 4 rows removed" in capsys.readouterr().out


@pytest.mark.parametrize(("num_prompts", "asked"), [(None, 27), (3, 5), (25, 27), (99, 27)])
def test_as_many_prompts_of_a_file_are_asked_as_was_said(tmp_path, num_prompts, asked, capsys):
    """`--num_prompts 3` asked all 27; with two more to measure on."""
    (tmp_path / "asked.txt").write_text("".join(f"Why {i}?\n" for i in range(27)))
    args = flags(str(tmp_path / "asked.txt"), num_prompts=num_prompts, held_out=2)
    assert prepare_prompts(None, args, tmp_path)[0] == [f"Why {i}?" for i in range(asked)]
    assert ("Of 27 prompts, the first 5 are taken." in capsys.readouterr().out) == (asked == 5)


@pytest.mark.parametrize("number", [0, -3])
def test_fewer_than_one_prompt_is_refused(file, tmp_path, number):
    with pytest.raises(ValueError, match=f"num_prompts is {number}; it must be at least 1"):
        prepare_prompts(None, flags(file, num_prompts=number), tmp_path)


def test_bad_prompts_are_set_aside_beside_the_output(tmp_path):
    (tmp_path / "asked.jsonl").write_text('{"q": "Why?"}\n{"q": ""}\n')
    args = flags(str(tmp_path / "asked.jsonl"), columns="prompt=q", skip_bad=True)
    assert prepare_prompts(None, args, tmp_path)[0] == ["Why?"]
    assert json.loads((tmp_path / "prompts.bad.jsonl").read_text())["where"].endswith("asked.jsonl:2")


def test_prompts_without_repetitions_are_on_the_record_too(tmp_path, capsys):
    (tmp_path / "asked.txt").write_text("Why?\nHow?\n")
    prompts, step = prompts_of(str(tmp_path / "asked.txt"), near=False)
    assert prompts == ["Why?", "How?"]
    assert (step.removed, step.settings["exact_repetitions"]) == (0, 0)
    assert capsys.readouterr().out == ""
