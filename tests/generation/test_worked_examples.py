"""Worked examples: shown to the teacher, taken out for the student."""

import json

import pytest
from conftest import build_tokenizer

from distill.generation.worked_examples import CHAIN_SUM, read_examples, with_examples, without_examples
from distill.pairs.schema import complete_row, pairs_from_rows


def drawn(prompt, tokenizer):
    return pairs_from_rows([complete_row({"prompt": prompt, "completion": "4"}, "here", tokenizer)], "here")


@pytest.mark.parametrize(
    "prompt",
    ["2 + 2 =", [{"role": "system", "content": "you are a cat"}, {"role": "user", "content": "2 + 2 ="}]],
    ids=["text", "with a system turn"],
)
def test_the_student_gets_exactly_the_prompt_there_was_before(prompt):
    tokenizer = build_tokenizer()
    shown = with_examples(prompt, CHAIN_SUM)
    assert shown[-9]["content"] == CHAIN_SUM[0].prompt
    assert shown[-8]["content"] == "<think>\n34 + 5 = 39\n</think>\n\n39"
    (bare,) = without_examples(drawn(shown, tokenizer), CHAIN_SUM, tokenizer)
    (plain,) = drawn(prompt, tokenizer)
    assert {**bare, "id": ""} == {**plain, "id": ""}


def test_no_examples_change_nothing():
    tokenizer = build_tokenizer()
    pairs = drawn("2 + 2 =", tokenizer)
    assert with_examples("2 + 2 =", ()) == "2 + 2 ="
    assert without_examples(pairs, (), tokenizer) is pairs


def test_pairs_of_other_examples_are_refused():
    tokenizer = build_tokenizer()
    pairs = drawn(with_examples("2 + 2 =", CHAIN_SUM[:2]), tokenizer)
    with pytest.raises(ValueError, match="not drawn from a prompt with these 4 worked examples"):
        without_examples(pairs, CHAIN_SUM, tokenizer)


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
