"""Repeated pairs: which rows are left out before training, and what that does to the distribution that is distilled.

Every function here and in `distill.curation.filters` takes pairs and returns `(pairs, Step)`; it keeps the order of the rows, draws nothing at random, and its
`Step` has the counts, some of what was removed, and the effect in words. The law behind those words: fine-tuning on rows
kept by a filter learns the teacher *given that the filter passes* (docs/explanation/equivalence.md; a filter that rejects half of the
sequences changed the expected gradient by 54% there).
"""

from collections.abc import Hashable

import datasets

from distill.basics.curation_step import Step
from distill.curation.rows import PARTS, keep_rows, one_of, prompts_of, row_keys, short, texts_of
from distill.text.near_duplicates import THRESHOLD, near_duplicates, what_users_say

DUPLICATES = ("id", "draw", "pair", "prompt", "completion")


def drop_duplicates(pairs: datasets.Dataset, by: str = "draw") -> tuple[datasets.Dataset, Step]:
    """Leave out rows that repeat an earlier one exactly, in their token ids.

    Two equal completions of one prompt are not a fault when they are two draws: an answer the teacher gives with
    probability 1/2 *should* stand there twice in four draws, and removing it teaches another distribution. So by default
    only the same draw recorded twice is removed.

    Args:
        pairs: see `distill.pairs`.
        by: what makes a row a repetition:
            `"id"`: the same id, so the same row of a file joined twice;
            `"draw"`: the same prompt, completion, teacher and sample index (runs with different seeds that were joined
            have equal indices: use `"id"` for those);
            `"pair"`: the same prompt and completion;
            `"prompt"`: the same prompt, so one completion a prompt is left;
            `"completion"`: the same completion, whatever the prompt.

    Raises:
        ValueError: another `by`.

    Example:
        >>> pairs, step = drop_duplicates(pairs)
        >>> print(step)
        exact duplicates (draw): 0 of 160 rows removed (0.0%). ...
    """
    one_of("by", by, DUPLICATES)
    effects = {
        "id": "No draw is lost: the same row stood there more than once and had too much weight.",
        "draw": "No draw is lost: the same draw stood there more than once and had too much weight.",
        "pair": "An answer that the teacher drew several times now counts once: rare answers gain weight, sure ones lose it.",
        "prompt": "One answer a prompt is left, the first; every prompt has the same weight.",
        "completion": "An answer given to several prompts is kept for the first of them only: common answers, short ones "
        "above all, lose weight.",
    }
    first: dict[Hashable, int] = {}
    keys = row_keys(pairs, by)
    kept = [first.setdefault(key, i) == i for i, key in enumerate(keys)]
    say = {i: f"repeats row {first[key]}" for i, key in enumerate(keys) if not kept[i]}
    return keep_rows(pairs, kept, f"exact duplicates ({by})", effects[by], {"by": by}, say)


def drop_near_duplicates(
    pairs: datasets.Dataset, threshold: float = THRESHOLD, *, of: str = "prompt"
) -> tuple[datasets.Dataset, Step]:
    """Leave out rows that nearly repeat an earlier one of another prompt (see `distill.text.near_duplicates`).

    Completions of one prompt are never compared with each other: being alike is what samples of a sure teacher do. Of a prompt,
    what its user says is compared, with the numbers and symbols in it; a system turn, or a sentence that many prompts have in
    common, makes none a repetition of another.

    Args:
        pairs: see `distill.pairs`.
        threshold: share of common runs of three words, above 0, at most 1.
        of: `"prompt"` (all completions of a repeated prompt go), `"completion"`, or `"pair"` for both as one text.

    Raises:
        ValueError: `threshold` out of range, or another `of`.
    """
    one_of("of", of, (*PARTS, "pair"))
    asked = prompts_of(pairs)
    first: dict[str, int] = {}  # every prompt is looked at once; what happens to it happens to all of its rows
    for row, (key, _) in enumerate(asked):
        first.setdefault(key, row)
    place = {key: i for i, key in enumerate(first)}
    said, contexts = what_users_say([asked[row][1] for row in first.values()])
    if of == "prompt":
        rows, found = list(first.values()), near_duplicates(said, threshold, contexts=contexts)
        shown = texts_of(pairs.select(rows), "prompt") if any(j is not None for j in found) else []
        named = {
            rows[i]: f"{short(shown[i])} is nearly {short(shown[j])}" for i, j in enumerate(found) if j is not None
        }
        say = {row: named[first[key]] for row, (key, _) in enumerate(asked) if first[key] in named}
    else:
        keys = [key for key, _ in asked]
        texts: list[str] = pairs["completion"][:]
        if of == "pair":
            texts = [f"{said[place[key]]}\n{text}" for key, text in zip(keys, texts, strict=True)]
        within = [contexts[place[key]] for key in keys] if of == "pair" else None
        repeated = near_duplicates(texts, threshold, groups=keys, contexts=within)
        say = {
            i: f"{short(texts[i])} is nearly {short(texts[j])}, row {j}"
            for i, j in enumerate(repeated)
            if j is not None
        }
    effect = (
        "Answers are drawn as before; kinds of prompts that came in many wordings lose weight against rare ones."
        if of == "prompt"
        else "Wordings that the teacher uses for many prompts lose weight; rare ones gain it."
    )
    settings = {"of": of, "threshold": threshold}
    return keep_rows(pairs, [i not in say for i in range(len(pairs))], f"near duplicates ({of})", effect, settings, say)
