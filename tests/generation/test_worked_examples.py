"""Worked examples: shown to the teacher and not to the student."""

import json

import datasets
import pytest

from distill.generation.worked_examples import CHAIN_SUM, Example, WorkedExamples, read_examples, with_examples


@pytest.mark.parametrize(
    "before", [[], [{"role": "system", "content": "you are a cat"}]], ids=["text", "with a system turn"]
)
def test_examples_stand_between_a_system_turn_and_the_question(before):
    question = {"role": "user", "content": "2 + 2 ="}
    shown = with_examples([*before, question] if before else "2 + 2 =", CHAIN_SUM)
    assert [*shown[: len(before)], shown[-1]] == [*before, question]
    assert shown[-9]["content"] == CHAIN_SUM[0].prompt
    assert shown[-8]["content"] == "<think>\n34 + 5 = 39\n</think>\n\n39"
    assert WorkedExamples(CHAIN_SUM)([*before, question]) == shown


def test_no_examples_change_nothing():
    assert with_examples("2 + 2 =", ()) == "2 + 2 ="


def test_a_run_is_known_by_its_examples():
    assert WorkedExamples(CHAIN_SUM).identity == WorkedExamples(CHAIN_SUM[:]).identity
    assert WorkedExamples(CHAIN_SUM).identity != WorkedExamples(CHAIN_SUM[:2]).identity


def test_examples_of_a_file(tmp_path):
    file = tmp_path / "examples.jsonl"
    file.write_text("".join(json.dumps(example._asdict()) + "\n" for example in CHAIN_SUM))
    assert read_examples(file) == CHAIN_SUM
    file.write_text('{"prompt": "2 + 2 =", "answer": 4}\n')
    with pytest.raises(ValueError, match=r"examples.jsonl:1: a worked example has the texts prompt, reasoning, answer"):
        read_examples(file)
    file.write_text("\n")
    with pytest.raises(ValueError, match="no worked examples"):
        read_examples(file)


@pytest.mark.parametrize("name", ["e.jsonl", "e.json", "e.yaml", "e.csv", "e.parquet"])
def test_examples_are_read_from_files_of_any_format(tmp_path, name):
    rows = [{"prompt": "2 + 2 =", "reasoning": "a, b", "answer": "4"}, {"prompt": "q", "reasoning": "c", "answer": "5"}]
    path = tmp_path / name
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    elif path.suffix == ".csv":
        path.write_text('prompt,reasoning,answer\n2 + 2 =,"a, b",4\nq,c,5\n')
    elif path.suffix == ".yaml":
        path.write_text(
            "".join(f"- prompt: {r['prompt']}\n  reasoning: {r['reasoning']}\n  answer: {r['answer']}\n" for r in rows)
        )
    else:
        path.write_text(json.dumps(rows) if name == "e.json" else "".join(json.dumps(row) + "\n" for row in rows))
    assert read_examples(path) == tuple(Example(**row) for row in rows)
