"""The rows of one prompt."""

from conftest import build_pairs

from distill.pairs import pairs_from_rows
from distill.pairs.groups import ids_digests, rows_by_prompt

PROMPTS = [[5, 6], [5], [5, 6], [], [6, 5], [5], [5, 6, 0], []]


def pairs_of(prompts):
    rows = build_pairs(len(prompts)).to_list()
    return pairs_from_rows([{**row, "prompt_ids": ids} for row, ids in zip(rows, prompts, strict=True)], where="test")


def naive(prompts):
    found: dict[tuple[int, ...], list[int]] = {}
    for i, ids in enumerate(prompts):
        found.setdefault(tuple(ids), []).append(i)
    return list(found.values())


def test_rows_of_equal_prompts_are_found_in_the_order_of_the_file():
    pairs = pairs_of(PROMPTS)
    assert list(rows_by_prompt(pairs).values()) == naive(PROMPTS) == [[0, 2], [1, 5], [3, 7], [4], [6]]
    order = [7, 2, 5, 1, 0]
    assert list(rows_by_prompt(pairs.select(order)).values()) == naive([PROMPTS[i] for i in order])
    assert rows_by_prompt(pairs.select([])) == {}


def test_keys_of_two_datasets_agree():
    whole, part = rows_by_prompt(pairs_of(PROMPTS)), rows_by_prompt(pairs_of([[6, 5], [9]]))
    assert whole.keys() & part.keys() == set(ids_digests(pairs_of([[6, 5]]), "prompt_ids"))
