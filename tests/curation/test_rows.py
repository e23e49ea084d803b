"""Texts, keys and patterns of rows by Arrow: those of a look at one row after the other, whatever shape prompts have."""

import json
import re

import datasets
import pytest
from conftest import build_pairs

from distill.curation import rows
from distill.curation.rows import distinct_prompts_of, each_text, keep_rows, matching, one_text, text_of
from distill.pairs import batches

ASKED = ["the cat", "", "a <b> c", "the cat", "ü 天気\nsecond line", "Why?"]


def plain(text):
    return [{"role": "system", "content": ""}, {"role": "user", "content": text}] if text else []


def shaped(prompts):
    rest = build_pairs(len(prompts)).remove_columns(["prompt"])
    return datasets.Dataset.from_dict({"prompt": prompts}).add_column("id", rest["id"][:])


SHAPES = {
    "texts": ASKED,
    "messages": [plain(text) for text in ASKED],
    "a turn without text": [[*plain(text), {"role": "assistant", "content": None}] for text in ASKED],
    "more fields": [[{"role": "user", "content": text, "name": "Ann"}] for text in ASKED],
}


@pytest.fixture(params=SHAPES)
def pairs(request, monkeypatch):
    monkeypatch.setattr(batches, "ROWS", 4)  # so that there are two
    return shaped(SHAPES[request.param])


@pytest.mark.parametrize("order", [range(6), [5, 3, 0, 2, 4, 1], [2], []])
def test_texts_keys_and_patterns_are_those_of_the_rows(pairs, order):
    chosen = pairs.select(order)
    naive = [text_of(row["prompt"]) for row in chosen]
    assert list(each_text(chosen, "prompt")) == naive
    assert [one_text(chosen, i, "prompt") for i in range(len(chosen))] == naive
    assert matching(chosen, "prompt", re.escape("<b>")).tolist() == ["<b>" in text for text in naive]
    first, number = distinct_prompts_of(chosen)
    keys = [json.dumps(row["prompt"], sort_keys=True) for row in chosen]
    places = list(dict.fromkeys(keys))
    assert first.tolist() == [keys.index(key) for key in places]
    assert number.tolist() == [places.index(key) for key in keys]


def test_a_role_makes_another_prompt():
    same = shaped([[{"role": role, "content": "the cat"}] for role in ("user", "system", "user")])
    assert distinct_prompts_of(same)[1].tolist() == [0, 1, 0]


def test_only_what_is_shown_of_the_rows_that_go_is_looked_up():
    pairs, asked = build_pairs(20), []
    kept, step = keep_rows(
        pairs, rows.np.arange(20) < 4, "test", "Effect.", {}, lambda i: asked.append(i) or f"row {i}"
    )
    assert (len(kept), step.rows_out, asked) == (4, 4, [4, 5, 6])
    assert step.examples[0] == f"{pairs[4]['id']}: row 4"
