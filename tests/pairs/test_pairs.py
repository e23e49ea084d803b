"""Reading and writing pairs, and what is said of bad lines."""

import json

import datasets
import pytest
from chat_templates import FAMILIES
from conftest import build_pairs, build_tokenizer

from distill import load_pairs
from distill.pairs import are_tokens_of, retokenize, save_pairs
from distill.pairs.schema import COLUMNS, complete_row, pairs_from_rows


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs"])
def test_round_trip(tmp_path, name):
    pairs = build_pairs()
    save_pairs(pairs, tmp_path / name)
    loaded = load_pairs(tmp_path / name)
    assert loaded.column_names == list(COLUMNS)
    assert loaded.to_list() == pairs.to_list()


def test_messages_survive(tmp_path):
    row = {**build_pairs(1)[0], "prompt": [{"role": "user", "content": "hé <|im_end|>\n"}]}
    save_pairs(pairs_from_rows([row], "test"), tmp_path / "pairs.jsonl")
    assert load_pairs(tmp_path / "pairs.jsonl")[0]["prompt"] == row["prompt"]


def test_token_ids_are_the_truth(tmp_path, tokenizer):
    """Ids that decoding and encoding would change are kept, even with a tokenizer at hand."""
    row = {
        **build_pairs(1)[0],
        "completion": "ab",
        "completion_ids": [*tokenizer("a").input_ids, *tokenizer("b").input_ids],
    }
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    assert load_pairs(tmp_path / "p.jsonl", tokenizer)[0]["completion_ids"] == row["completion_ids"]


def test_rows_written_by_people_are_tokenised_once(tmp_path, tokenizer):
    (tmp_path / "p.jsonl").write_text('{"prompt": "what is a cat", "completion": "the dog"}\n')
    row = load_pairs(tmp_path / "p.jsonl", tokenizer)[0]
    assert tokenizer.decode(row["prompt_ids"]) == "<|im_start|>user\nwhat is a cat<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(row["completion_ids"]) == "the dog<|im_end|>"
    assert row["prompt"] == [{"role": "user", "content": "what is a cat"}]
    with pytest.raises(ValueError, match=r"p.jsonl:1: no token ids; pass the student's tokenizer"):
        load_pairs(tmp_path / "p.jsonl")


GOOD = {"prompt": "p", "completion": "c", "prompt_ids": [5], "completion_ids": [6, 2]}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "p", ', "not a JSON object"),
        ("[1]", "a list, expected a JSON object"),
        (b"\xff\xfe{}", "not a JSON object in UTF-8"),
        ('{"prompt": "p"}', "no completion"),
        (json.dumps({**GOOD, "completion_ids": []}), "no completion token, so there is nothing to learn"),
        (json.dumps({**GOOD, "completion_ids": [1.5]}), "completion_ids must be a list of non-negative integers"),
        (json.dumps({**GOOD, "prompt_ids": [-1]}), "prompt_ids must be a list of non-negative integers"),
        (json.dumps({**GOOD, "prompt_ids": [True]}), "prompt_ids must be"),
        (json.dumps({**GOOD, "finish_reason": "gone"}), "finish_reason is 'gone'"),
        (json.dumps({**GOOD, "completion": None}), "completion is a NoneType"),
        (json.dumps({**GOOD, "prompt": [{"role": "user"}]}), "A prompt is text or"),
        (json.dumps({**GOOD, "sample": "x"}), "sample must be an integer"),
        (json.dumps({"prompt": "p", "completion": "c", "prompt_ids": [5]}), "only one of prompt_ids"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, words):
    good = json.dumps(GOOD).encode()
    (tmp_path / "p.jsonl").write_bytes(good + b"\n\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(ValueError, match=r"p\.jsonl:3: ") as error:
        load_pairs(tmp_path / "p.jsonl")
    assert words in str(error.value)


def test_mixed_prompts_and_empty_files(tmp_path):
    mixed = [GOOD, {**GOOD, "prompt": [{"role": "user", "content": "p"}]}]
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, mixed)))
    (tmp_path / "empty.jsonl").write_text("\n")
    for name, words in (("mixed", "some prompts are text"), ("empty", "has no pairs"), ("none", "No file")):
        with pytest.raises(ValueError, match=words):
            load_pairs(tmp_path / f"{name}.jsonl")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="folder without pairs"):
        load_pairs(tmp_path / "nothing")


def test_nothing_is_overwritten(tmp_path, pairs):
    save_pairs(pairs, tmp_path / "p.jsonl")
    with pytest.raises(ValueError, match="exists already"):
        save_pairs(pairs, tmp_path / "p.jsonl")


def test_an_arrow_folder_of_something_else(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(ValueError, match="no columns that make a pair; it has text"):
        load_pairs(tmp_path / "d")


def test_whose_tokens_pairs_are(tokenizer):
    ids = [*tokenizer("the cat").input_ids, tokenizer.eos_token_id]
    own = pairs_from_rows([{**build_pairs(1)[0], "completion": "the cat", "completion_ids": ids}], "test")
    assert are_tokens_of(own, tokenizer)
    other = own.map(lambda row: {"completion_ids": [i + 1 for i in row["completion_ids"]]})
    assert not are_tokens_of(other, tokenizer)
    far = own.map(lambda row: {"completion_ids": [100_000]})
    assert not are_tokens_of(far, tokenizer)


def test_retokenize_makes_other_tokens_of_the_same_text(tokenizer):
    rows = [{**build_pairs(1)[0], "prompt": "the cat", "completion": "sat", "finish_reason": "length"}]
    again = retokenize(pairs_from_rows(rows, "test"), tokenizer)[0]
    assert tokenizer.decode(again["completion_ids"]) == "sat"
    assert again["id"] == rows[0]["id"]


def test_ids_that_another_model_of_the_family_renamed_are_noticed():
    """DeepSeek-R1-Distill-Qwen calls Qwen2.5's <|im_start|> <｜User｜>; ordinary text decodes the same with both."""
    tokenizer = build_tokenizer()
    row = {"prompt": [{"role": "user", "content": "the cat"}], "completion": "sat"}
    pairs = pairs_from_rows([complete_row(row, "here", tokenizer)], "here")
    assert are_tokens_of(pairs, tokenizer)
    renamed = build_tokenizer(
        "{{ '<|im_start|>' + messages[-1]['content'] + '<|im_end|>' }}"  # what <｜User｜> and <｜Assistant｜> stand for
    )
    assert not are_tokens_of(pairs, renamed)
    assert retokenize(pairs, renamed)[0]["prompt_ids"] != pairs[0]["prompt_ids"]


def test_tokens_made_from_text_are_marked_and_a_score_survives_another_tokenizer():
    tokenizer = build_tokenizer()
    row = complete_row({"prompt": "the cat", "completion": "sat", "score": 1.0}, "here", tokenizer, chat=False)
    assert row["token_source"] == "text"
    assert retokenize(pairs_from_rows([row], "here"), tokenizer)[0]["score"] == 1.0


def test_a_trace_written_under_another_prompt_is_fitted_to_this_one():
    opening = FAMILIES["deepseek-r1-distill"].tokenizer()
    plain = FAMILIES["qwen3"].tokenizer()
    row = {"prompt": [{"role": "user", "content": "the cat"}], "completion": "<think>\nsat on\n</think>\n\nthe mat"}
    for tokenizer in (opening, plain):
        pair = complete_row(row, "here", tokenizer)
        whole = tokenizer.decode(pair["prompt_ids"] + pair["completion_ids"])
        assert whole.count("<think>") == 1
        assert whole.count("</think>\n\nthe mat") == 1


def test_a_score_without_any_error_can_be_written_again():
    scored = [{**row, "score": 1.0, "score_error": None} for row in build_pairs(2)]
    assert pairs_from_rows(scored, "here").column_names == [*COLUMNS, "score"]
