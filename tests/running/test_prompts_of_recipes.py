"""The user's own prompts in recipes: none is lost in silence, and what is left out is on the record."""

import json

import pytest

from distill.reports.provenance import drawn_as
from distill.running.stages import prepare_prompts, prompts_of

LONG = "please tell me how to bake a good loaf of bread at home with only flour water and salt"


@pytest.fixture
def file(tmp_path):
    prompts = [LONG, LONG + " today", LONG, "Why?"]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return str(path)


@pytest.mark.parametrize(("near", "left"), [(None, 3), (False, 3), (True, 2)])
def test_only_exact_repetitions_go_unless_near_ones_are_asked_for(file, tmp_path, near, left, capsys):
    for _ in range(2):  # a resumed run says the same once
        prompts = prepare_prompts(None, file, 99, 0, tmp_path, near)
        steps = drawn_as(tmp_path / "pairs.jsonl").steps
        assert [(step.name, step.rows_in, step.rows_out) for step in steps] == [("repeated prompts", 4, left)]
    assert len(prompts) == left
    assert f"repeated prompts: {4 - left} of 4 rows removed" in capsys.readouterr().out


def test_prompts_without_repetitions_are_on_the_record_too(tmp_path, capsys):
    (tmp_path / "asked.txt").write_text("Why?\nHow?\n")
    prompts, step = prompts_of(str(tmp_path / "asked.txt"), near=False)
    assert prompts == ["Why?", "How?"]
    assert (step.removed, step.settings["exact_repetitions"]) == (0, 0)
    assert capsys.readouterr().out == ""
