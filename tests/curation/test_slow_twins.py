"""Repetition and selection against slow twins that follow the definitions word by word."""

import itertools
import math
import random
from collections import Counter

import pytest
from conftest import build_pairs

from distill.curation.effect import effect_of
from distill.curation.pass_rates import pass_rates
from distill.curation.repetition import GOPHER, repetition
from distill.curation.selection import KEEP, select
from distill.pairs.schema import pairs_from_rows
from distill.text.words import words


# ---------------------------------------------------------------------------------------------------------- repetition
def slow_repetition(text, names, fewest_words):
    found = words(text)
    if len(found) < fewest_words:
        return dict.fromkeys(names, 0.0)
    return {name: slow_share(name, text, found) for name in names}


def slow_share(name, text, found):
    kind, _, rest = name.partition("_")
    if kind in ("top", "repeated"):
        n = int(rest)
        runs = [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]
        if kind == "top":
            most, count = max(Counter(runs).items(), key=lambda item: item[1], default=(None, 0))
            starts = [i for i, run in enumerate(runs) if run == most] if count > 1 else []
        else:
            starts = [i for i, run in enumerate(runs) if run in runs[:i]]
        covered = {place for start in starts for place in range(start, start + n)}
        return sum(len(found[i]) for i in covered) / sum(map(len, found))
    pieces = [piece.strip() for piece in text.split("\n\n" if kind.startswith("paragraph") else "\n") if piece.strip()]
    again = [piece for i, piece in enumerate(pieces) if piece in pieces[:i]]
    return sum(map(len, again)) / sum(map(len, pieces)) if rest else len(again) / len(pieces)


def looping(draw):
    vocabulary = ["a", "the", "sea", "wind", "über", "天", "x1", "lighthouse"][: draw.randrange(1, 9)]
    loop = [draw.choice(vocabulary) for _ in range(draw.randrange(1, 14))]
    made = [draw.choice(vocabulary) for _ in range(draw.randrange(0, 30))] + loop * draw.randrange(0, 6)
    return "".join(word + draw.choice([" ", " ", " ", ". ", "\n", "\n\n", " \n"]) for word in made)


@pytest.mark.parametrize(
    "names", [GOPHER, {"top_3": 0.1}, {"repeated_10": 0.1, "lines": 0.3}, {"paragraph_characters": 0.1}]
)
def test_every_share_is_that_of_its_definition(names):
    draw = random.Random(0)
    texts = ["", "a", "a a", "\n\n", *(looping(draw) for _ in range(400))]
    seen = Counter()
    for text in texts:
        found = repetition(text, names, fewest_words=1)
        assert found == slow_repetition(text, names, 1), text
        seen.update(name for name, share in found.items() if 0 < share < 1)
    assert seen.keys() == names.keys()


# ----------------------------------------------------------------------------------------------------------- selection
def scored(draw, prompts):
    row = build_pairs(1).to_list()[0]
    rows = []
    for prompt in range(prompts):
        for sample in range(draw.randrange(1, 6)):
            score = draw.choice([0.0, 0.5, 1.0, 1.0, 2.0, None])
            more = {"score_error": "ValueError: no"} if score is None else {"score": score}
            ids = [5] * draw.randrange(1, 9)
            rows.append({**row, "prompt_ids": [3 + prompt], "sample": sample, "completion_ids": ids, **more})
    draw.shuffle(rows)
    return [{**row, "id": f"row{i}", "completion": f"says {i}"} for i, row in enumerate(rows)]


def slow_groups(rows):
    groups = {}
    for i, row in enumerate(rows):
        groups.setdefault(row["prompt_ids"][0], []).append(i)
    return groups


def slow_choice(rows, keep, k, threshold):
    chosen = []
    for group in slow_groups(rows).values():
        good = [i for i in group if (s := rows[i].get("score")) is not None and (threshold is None or s >= threshold)]
        good.sort(key=lambda i: rows[i]["sample"])
        if keep == "best":
            good.sort(key=lambda i: -rows[i]["score"])
        chosen += good[: {"all": None, "up_to": k}.get(keep, 1)]
    return sorted(chosen)


def slow_effect(rows, chosen, threshold):
    groups = [[i for i in group if rows[i].get("score") is not None] for group in slow_groups(rows).values()]
    groups = [group for group in groups if group]
    counts = [len(set(group) & set(chosen)) for group in groups]
    rates = [sum(threshold is None or rows[i]["score"] >= threshold for i in group) / len(group) for group in groups]
    old, new = [len(g) / sum(map(len, groups)) for g in groups], [count / sum(counts) for count in counts]
    solved = [rate for rate, count in zip(rates, counts, strict=True) if count and rate]
    mean = lambda values: sum(values) / len(values) if values else math.nan  # noqa: E731
    return {
        "pass_rate": mean(rates), "pass_rate_solved": mean(solved), "kl_solved": mean([-math.log(rate) for rate in solved]),
        "prompts": len(groups), "prompts_kept": sum(count > 0 for count in counts),
        "effective_prompts": 1 / sum(weight**2 for weight in new),
        "prompt_shift": sum(abs(a - b) for a, b in zip(old, new, strict=True)) / 2,
        "pass_rate_weighted": sum(w * r for w, r in zip(new, rates, strict=True)),
        "tokens": mean([len(row["completion_ids"]) for row in rows]),
        "tokens_kept": mean([len(rows[i]["completion_ids"]) for i in chosen]),
        "most_samples": max(map(len, groups)),
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [None, 0.5, 1.0])
def test_a_selection_and_its_figures_are_those_of_the_slow_twin(seed, threshold):
    rows = scored(random.Random(seed), 40)
    pairs = pairs_from_rows(rows, where="test")
    for keep, k in itertools.product(KEEP, (1, 2)):
        if keep != "up_to" and k > 1:
            continue
        kept, step = select(pairs, keep, k=k if keep == "up_to" else None, threshold=threshold)
        chosen = slow_choice(rows, keep, k, threshold)
        assert kept["id"][:] == [f"row{i}" for i in chosen]
        expected = slow_effect(rows, chosen, threshold)
        assert effect_of(pairs, kept, threshold).as_dict() == pytest.approx(expected, nan_ok=True)
        assert {name: step.settings[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    rates = pass_rates(pairs, 0.5 if threshold is None else threshold)
    groups = [[rows[i].get("score") for i in group] for group in slow_groups(rows).values()]
    with_score = [[s for s in group if s is not None] for group in groups]
    least = 0.5 if threshold is None else threshold
    assert rates.rates == pytest.approx(tuple(sum(s >= least for s in g) / len(g) for g in with_score if g))
    assert rates.samples == tuple(len(group) for group in with_score if group)
    assert (rates.unscored, rates.without_score) == (
        sum(s is None for g in groups for s in g), sum(not group for group in with_score),
    )  # fmt: skip
