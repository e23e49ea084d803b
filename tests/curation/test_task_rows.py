"""Tasks of `reasoning-gym` as prompt rows, and their own scores."""

import itertools
import json

import pytest

from distill.curation.verifiers import load_verifier, read_rows, task_rows, task_score, verify
from distill.pairs.schema import pairs_from_rows

pytest.importorskip("reasoning_gym", reason="the extra 'tasks' is not installed")
TASKS = ["basic_arithmetic", "chain_sum", "gsm_symbolic", "leg_counting", "decimal_arithmetic", "word_sorting"]


@pytest.mark.parametrize("task", TASKS)
def test_rows_survive_a_file_and_the_right_answer_scores_one(task, tmp_path):
    rows = task_rows(task, 4, seed=3)
    assert rows == task_rows(task, 4, seed=3)
    assert rows != task_rows(task, 4, seed=4)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_rows(file) == rows
    for row, other in itertools.pairwise(rows):
        assert load_verifier("task")(row, f"<think>\nhm\n</think>\n\nSo <answer> {row['answer']} </answer>.") == 1
        assert load_verifier("task:last_line")(row, f"So it is\n{row['answer']}\n") == 1
        assert load_verifier("task")(row, f"it is {row['answer']}") == 0  # no tag
        assert load_verifier("task")(row, f"<think>\n<answer>{row['answer']}</answer>") == 0  # still thinking
        if other["answer"] != row["answer"]:
            assert task_score("all")(row, other["answer"]) < 1


def test_a_tasks_own_settings_decide_its_rows_and_its_score():
    (row,) = task_rows("chain_sum", 1, seed=0, min_terms=2, max_terms=2, instruction=" Be quick.", system="You add.")
    assert row["prompt"][0] == {"role": "system", "content": "You add."}
    assert row["prompt"][1]["content"].endswith(" Be quick.")
    assert row["task_config"] == {"min_terms": 2, "max_terms": 2, "size": 1, "seed": 0}
    near, far = (
        task_rows("decimal_arithmetic", 1, seed=0, min_num_decimal_places=d, max_num_decimal_places=d)[0]
        for d in (2, 5)
    )
    assert [task_score("all")(row, str(float(row["answer"]) + 1e-4)) == 1 for row in (near, far)] == [True, False]


def test_a_small_task_gives_every_question_once():
    digits = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    rows = task_rows("chain_sum", 600, seed=0, **digits)
    assert 100 < len(rows) == len({row["prompt"] for row in rows}) <= 200  # two digits and a sign
    with pytest.raises(ValueError, match="size is 0"):
        task_rows("chain_sum", 0, seed=0)


def test_the_rows_of_two_seeds_overlap_as_the_documentation_says():
    one, next_one = ({row["prompt"] for row in task_rows("chain_sum", 20, seed=seed)} for seed in (0, 1))
    assert len(one & next_one) >= 18


def test_verified_by_their_own_score_through_pairs():
    rows = task_rows("chain_sum", 2, seed=0)
    pairs = pairs_from_rows(
        [
            {
                "id": str(i), "prompt": [{"role": "user", "content": row["prompt"]}], "completion": f"<answer>{text}</answer>",
                "prompt_ids": [i], "completion_ids": [1], "finish_reason": "stop", "sample": 0, "teacher": "t",
            }
            for i, (row, text) in enumerate(zip(rows, (rows[0]["answer"], "none"), strict=True))
        ],
        where="test",
    )  # fmt: skip
    scored = verify(pairs, rows, task_score())
    assert scored["score"][0] == 1
    assert scored["score"][1] < 1


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match=r"There is no task 'sums'; there are ab, .*chain_sum"):
        task_rows("sums", 1, seed=0)
    with pytest.raises(ValueError, match=r"'chain_sum' does not take the settings .*min_terms.*: min_terms must be"):
        task_rows("chain_sum", 1, seed=0, min_terms=0)
    with pytest.raises(ValueError, match=r"does not take the settings .*colour"):
        task_rows("chain_sum", 1, seed=0, colour="red")
    with pytest.raises(ValueError, match=r"'arc_agi' do not survive being written to a file"):
        task_rows("arc_agi", 1, seed=1)
    with pytest.raises(ValueError, match="final is 'first', expected one of"):
        task_score("first")
    with pytest.raises(ValueError, match=r"has no task, task_config, metadata; make it with task_rows"):
        task_score()({"prompt": "a", "answer": "1"}, "1")
