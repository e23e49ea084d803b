"""Values of a YAML file, as people write them, through the flags' own types."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
from distill.recipes.clean import CleanArguments

from distill.running.config_file import read_config
from distill.running.flags import BlackBoxArguments
from distill.running.parsing import parse
from distill.running.reading_flags import ReadingArguments


@dataclass
class Flags(ReadingArguments):
    language: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    layers: int = 1
    rate: float = 1.0
    must: str | None = None
    name: str = "x"
    objectives: str = "logits"
    yes: bool = False
    kind: Literal["a", "b"] = "a"
    more: dict | str | None = None


def read(tmp_path, text, kind=Flags):
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    return parse((kind,), ["--config", str(tmp_path / "c.yaml")], defaults={}, description=None)[0]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("language: en", "language", ["en"]),
        ("language: no", "language", ["no"]),
        ("language: [no, yes, on, de]", "language", ["no", "yes", "on", "de"]),
        ("language:\n- en\n- de", "language", ["en", "de"]),
        ("numbers: 3", "numbers", [3]),
        ("numbers: [1, 2.0]", "numbers", [1, 2]),
        ("layers: 2.0", "layers", 2),
        ("layers: 007", "layers", 7),
        ("layers: 1e3", "layers", 1000),
        ("layers: '2'", "layers", 2),
        ("rate: 1e-4", "rate", 1e-4),
        ("rate: 1", "rate", 1.0),
        ("must: no", "must", "no"),
        ("must: 2020-01-01", "must", "2020-01-01"),
        ("must: '[a]'", "must", "[a]"),
        ("must: null", "must", None),
        ("must: 'null'", "must", "null"),
        ("must:", "must", None),
        ("name: 1.0", "name", "1.0"),
        ("objectives: [logits, hidden=0.1]", "objectives", "logits,hidden=0.1"),
        ("yes: true", "yes", True),
        ("yes: on", "yes", True),
        ("yes: no", "yes", False),
        ("yes: 1", "yes", True),
        ("kind: b", "kind", "b"),
        ("columns: {prompt: q, completion: a}", "columns", "prompt=q,completion=a"),
        ("columns: prompt=q", "columns", "prompt=q"),
        ("limit: 5", "limit", 5),
        ("\ufeffname: y", "name", "y"),
        ("more: {a: 1, b: [x]}", "more", '{"a": 1, "b": ["x"]}'),
    ],
)
def test_a_value_is_what_it_would_be_on_the_command_line(tmp_path, text, name, value):
    found = getattr(read(tmp_path, text), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layers: 2.5", "layers is 2.5; a whole number is expected"),
        ("layers: [8]", "layers is \\[8\\]; this flag takes one value and no list"),
        ("layers: many", "layers is 'many'"),
        ("layers: .inf", "layers is inf"),
        ("layers: {a: 1}", "this flag takes no names and values"),
        ("layers:", "layers is None; leave the line out"),
        ("must: [a]", "this flag takes one value and no list; if brackets are part of a text, put it in quotes"),
        ("numbers: [[1]]", "a single value is expected"),
        ("yes: maybe", "yes is 'maybe'"),
        ("kind: c", "kind is 'c'; expected one of a, b"),
        ("layers: 1\nlayers: 2", "names layers twice"),
        ("config: x", "names config, which is no flag"),
        ("- 1", "must hold names and values, not a list"),
        ("a: [", "is not YAML"),
    ],
)
def test_another_kind_of_value_is_refused_in_one_sentence(tmp_path, text, words):
    with pytest.raises(ValueError, match=words) as error:
        read(tmp_path, text)
    assert str(tmp_path / "c.yaml") in str(error.value)


def test_a_file_of_evaluation_sets_is_no_list_of_letters(tmp_path):
    assert read(tmp_path, "against: test.jsonl", CleanArguments).against == ["test.jsonl"]
    assert read(tmp_path, "lora_targets: [q_proj, v_proj]", BlackBoxArguments).lora_targets == "q_proj,v_proj"


def test_lists_and_objects_of_training_arguments(tmp_path):
    from transformers import TrainingArguments

    text = f"output_dir: {tmp_path}\nreport_to: [none]\nlr_scheduler_kwargs: {{num_cycles: 2}}\nuse_cpu: true\nlearning_rate: 5e-5\n"
    found = read(tmp_path, text, TrainingArguments)
    assert (found.report_to, found.lr_scheduler_kwargs, found.learning_rate) == ([], {"num_cycles": 2}, 5e-5)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"Cannot read --config none\.yaml"):
        read_config("none.yaml", None, ())
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ValueError, match="is not text in UTF-8"):
        read_config(str(tmp_path / "latin.yaml"), None, ())
