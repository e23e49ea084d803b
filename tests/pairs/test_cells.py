"""CSV and YAML, in which everything is text: what was written stays, and what cannot be read is named by its line."""

import json

import pytest
import yaml

from distill.pairs import load_pairs
from distill.pairs.prompts import read_prompts
from distill.pairs.sources import rows_in


def csv(path, *rows):
    path.write_text("".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "text", ['{"a": 1}', "[1,2]", "3", "true", "null", '[{"a": 1}]', '[{"role": "admin"}]', "[]", '"x"', "[", "NaN"]
)
def test_a_completion_that_is_json_is_the_text_that_was_written(tmp_path, tokenizer, text):
    """JSON is what many are asked for; only messages are messages."""
    path = csv(tmp_path / "p.csv", ("prompt", "completion"), ("q", text), (text, "a"))
    pairs = load_pairs(path, tokenizer, chat=False)
    assert pairs["completion"][:] == [text, "a"]
    assert pairs["prompt"][:] == ["q", text]
    assert read_prompts(path) == ["q", text]


def test_messages_in_a_cell_are_messages(tmp_path, tokenizer):
    asked = [{"role": "user", "content": "q"}]
    path = csv(tmp_path / "p.csv", ("prompt", "completion"), (json.dumps(asked), "a"))
    assert load_pairs(path, tokenizer)["prompt"][0] == asked
    assert read_prompts(path) == [asked]


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        ("sample", "x", "a whole number is expected"),
        ("score", "high", "a number is expected"),
        ("prompt_ids", "[1", "JSON is expected"),
        ("tools", "{", "JSON is expected"),
        ("tools", '[{"a": NaN}]', "JSON is expected"),
        ("tools", '[{"a": 1, "a": 2}]', "JSON is expected"),
    ],
)
@pytest.mark.parametrize("line", [2, 3])
def test_a_cell_that_cannot_be_read_is_named_by_its_line(tmp_path, tokenizer, name, bad, words, line):
    """While the shape was being recognised, it was named by nothing."""
    ids = ("[5]", "[6, 2]") if name == "prompt_ids" else ()
    head = ("prompt", "completion", name, *(("completion_ids",) if ids else ()))
    good = ("q", "a", "[5]" if ids else "", *ids[1:])
    rows = [good, good, good]
    rows[line - 2] = ("q", "a", bad, *ids[1:])
    path = csv(tmp_path / "p.csv", head, *rows)
    with pytest.raises(ValueError, match=rf"p\.csv:{line}: {name} is .*, which cannot be read; {words}"):
        load_pairs(path, tokenizer)
    pairs = load_pairs(path, tokenizer, skip_bad=tmp_path / "bad.jsonl")
    assert len(pairs) == 2
    told = json.loads((tmp_path / "bad.jsonl").read_text())
    assert told["where"] == f"{path}:{line}"
    assert told["row"][name] == bad


def test_rows_that_are_no_rows_are_set_aside_with_what_they_say(tmp_path, tokenizer):
    data = 'prompt,completion\nq,a\nq,"b\nc",d\n"q" x,a\nq\nq,z\n'
    (tmp_path / "p.csv").write_text(data)
    pairs = load_pairs(tmp_path / "p.csv", tokenizer, chat=False, skip_bad=tmp_path / "bad.jsonl")
    assert pairs["completion"][:] == ["a", "z"]
    told = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    found = {one["where"].rpartition(":")[2]: one["row"] for one in told}
    assert found == {"3": 'q,"b\nc",d', "5": '"q" x,a', "6": "q"}
    (tmp_path / "p.json").write_text('[{"prompt": "q", "completion": "a"}, 7, [1]]')
    load_pairs(tmp_path / "p.json", tokenizer, chat=False, skip_bad=tmp_path / "json.jsonl")
    told = [json.loads(line) for line in (tmp_path / "json.jsonl").read_text().splitlines()]
    assert [one["row"] for one in told] == [7, [1]]


def test_what_pandas_writes_is_read(tmp_path, tokenizer, capsys):
    """The index has no name; and somebody put blanks behind the commas of the first line."""
    (tmp_path / "p.csv").write_text(",prompt, completion\n0,q,a\n1,r,b\n")
    pairs = load_pairs(tmp_path / "p.csv", tokenizer, chat=False)
    assert pairs["completion"][:] == ["a", "b"]
    assert pairs["Unnamed: 0"][:] == ["0", "1"]
    assert "Carried along: Unnamed: 0." in capsys.readouterr().out


WRITTEN = [
    "no", "yes", "on", "Off", "True", "NULL", "007", "1.10", "1e5", "0x1F", "1_000", "12:30:45", "2020-01-01", "+1", ".5", "1.", "NaN", ".inf",
    "-", "=", "a: b", "0o7", "-0", "42", "1.5", "true", "false", "null and void",
]  # fmt: skip


@pytest.mark.parametrize("text", WRITTEN)
def test_a_text_of_yaml_is_what_was_written(tmp_path, tokenizer, text):
    """YAML 1.1 makes a truth value of `no`, a 7 of `007`, 1.1 of `1.10` and a day of `2020-01-01`."""
    said = f"'{text}'" if text in ("-", "=", "a: b") else text
    path = tmp_path / "p.yaml"
    path.write_text(
        f"- prompt: {said}\n  completion: {said}\n- messages:\n  - {{role: user, content: {said}}}\n".partition(
            "- mess"
        )[0]
    )
    pairs = load_pairs(path, tokenizer, chat=False)
    assert (pairs["prompt"][0], pairs["completion"][0]) == (text, text)
    assert read_prompts(path) == [text]
    path.write_text(
        f"- messages:\n  - role: user\n    content: {said}\n  - role: assistant\n    content: {said}\n  own: {said}\n"
    )
    pairs = load_pairs(path, tokenizer)
    assert (pairs["prompt"][0][0]["content"], pairs["completion"][0]) == (text, text)
    own = pairs["own"][0]
    assert (own if isinstance(own, str) else json.dumps(own)) == text
    assert type(own) is {"42": int, "1.5": float, "true": bool, "false": bool}.get(text, str)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("- prompt: a\n- prompt: b\n  prompt: c\n", r"p\.yaml:2: the name 'prompt' stands twice"),
        ("- prompt: a\n-\n  prompt: b\n  deep: {x: 1, x: 2}\n", r"p\.yaml:4: the name 'x' stands twice"),
        ("- prompt: a\n  ? [b]\n  : c\n", r"p\.yaml:2: a name is a list or an object"),
        ("- prompt: a\n  when: !!timestamp 2020-01-01\n", r"p\.yaml:2: the type 'timestamp' is none of JSON's"),
        ("- prompt: !!python/object:os.system x\n", r"p\.yaml:1: the type 'python/object:os.system'"),
        ("- prompt: a\n  x: !!float .nan\n", r"p\.yaml:2: \.nan is no number of JSON"),
        (
            '- prompt: a\n- prompt: "\\ud800"\n',
            r"(?s)p\.yaml:2: half of a character|p\.yaml: not YAML .*line 2.*invalid Unicode",
        ),
        ("- &a [*a]\n", r"not YAML .*recursive"),
        ("- prompt: a\x85b\n", r"p\.yaml:1: YAML takes U\+0085 for the end of a line"),
        ("prompt: a\nprompt: b\n", r"p\.yaml:1: the name 'prompt' stands twice"),
    ],
)
def test_what_yaml_would_change_is_refused_by_its_line(tmp_path, data, words):
    (tmp_path / "p.yaml").write_text(data)
    with pytest.raises(ValueError, match=words):
        read_prompts(tmp_path / "p.yaml")


def test_a_bad_row_of_yaml_is_set_aside_alone(tmp_path, tokenizer):
    (tmp_path / "p.yaml").write_text(
        "- prompt: a\n  completion: b\n- prompt: c\n  prompt: d\n- prompt: e\n  completion: f\n"
    )
    pairs = load_pairs(tmp_path / "p.yaml", tokenizer, chat=False, skip_bad=tmp_path / "bad.jsonl")
    assert pairs["prompt"][:] == ["a", "e"]
    told = json.loads((tmp_path / "bad.jsonl").read_text())
    assert told["where"] == f"{tmp_path / 'p.yaml'}:3"
    assert told["row"] == "- prompt: c\n  prompt: d"


def test_names_anchors_and_merges_of_yaml(tmp_path):
    text = (
        "- &a {prompt: a, no: 1, 1: x, null: y, 2020-01-01: z}\n- {<<: *a, prompt: b, '<': c}\n- {prompt: d, kept: *a}\n"
        "- prompt: |\n    two\n    lines\n  x: !!str 42\n  y: !!int 42\n  z: ~\n"
    )
    (tmp_path / "p.yaml").write_text(text)
    rows = [row for _, row in rows_in(tmp_path / "p.yaml")]
    first = {"prompt": "a", "no": 1, "1": "x", "null": "y", "2020-01-01": "z"}
    assert rows == [
        first, {**first, "prompt": "b", "<": "c"}, {"prompt": "d", "kept": first},
        {"prompt": "two\nlines\n", "x": "42", "y": 42, "z": None},
    ]  # fmt: skip
    assert [where.rpartition(":")[2] for where, _ in rows_in(tmp_path / "p.yaml")] == ["1", "2", "3", "4"]


def test_what_yaml_dumps_of_json_is_read_as_it_was(tmp_path):
    values = [
        "no",
        "007",
        7,
        1.5,
        1e300,
        -0.1,
        True,
        None,
        [],
        {},
        [1, "1"],
        {"a": {"b": None}},
        "é🙂",
        "\u2028",
        "a\nb",
        " ",
        "",
    ]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump([{"own": value} for value in values], allow_unicode=False))
    found = [row["own"] for _, row in rows_in(tmp_path / "p.yaml")]
    assert [json.loads(v) if isinstance(v, str) and v == "1.0e+300" else v for v in found] == values


@pytest.mark.parametrize("blank", ["", "  "])
@pytest.mark.parametrize("with_ids", [True, False])
def test_an_empty_cell_of_what_a_pair_says_of_itself_is_none(tmp_path, tokenizer, with_ids, blank):
    """A table of which some rows say how they ended, and by whom they are."""
    names = ("finish_reason", "token_source", "teacher", "score", "score_error", "message")
    ids = ("[5]", "[6, 2]") if with_ids else ()
    head = ("prompt", "completion", *names, *(("prompt_ids", "completion_ids") if with_ids else ()))
    rows = (("q", "a", "length", "teacher", "me", "1", "", "", *ids), ("p", "b", *[blank] * 6, *ids))
    pairs = load_pairs(csv(tmp_path / "p.csv", head, *rows), tokenizer, chat=False)
    assert pairs["finish_reason"][:] == ["length", "stop"]
    assert pairs["teacher"][:] == ["me", "unknown"]
    assert pairs["score"][:] == [1.0, None]
    assert "score_error" not in pairs.column_names
    assert "message" not in pairs.column_names
    if with_ids:
        assert pairs["token_source"][:] == ["teacher", None]
        lines = [{"prompt": "p", "completion": "b", "prompt_ids": [5], "completion_ids": [6], "finish_reason": ""}]
        (tmp_path / "p.jsonl").write_text(json.dumps(lines[0]))
        assert load_pairs(tmp_path / "p.jsonl")["finish_reason"][:] == ["stop"]
