"""Repeated pairs: which rows are left out before training, and what that does to the distribution that is distilled.

Every function here and in `distill.curation.filters` takes pairs and returns `(pairs, Step)`; it keeps the order of the rows, draws nothing at random, and its
`Step` has the counts, some of what was removed, and the effect in words. The law behind those words: fine-tuning on rows
kept by a filter learns the teacher *given that the filter passes* (docs/explanation/equivalence.md; a filter that rejects half of the
sequences changed the expected gradient by 54% there).
"""

import datasets
import numpy as np

from distill.basics.curation_step import Step
from distill.curation.rows import (
    PARTS,
    asked_in,
    distinct_prompts_of,
    each_text,
    keep_rows,
    one_of,
    one_text,
    row_keys,
    short,
)
from distill.pairs.groups import first_like
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
            `"draw"`: the same prompt, completion, teacher, teacher's prompt and sample index (runs with different seeds that were joined
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
    earlier = first_like(*row_keys(pairs, by))
    kept = earlier == np.arange(len(earlier))
    return keep_rows(
        pairs, kept, f"exact duplicates ({by})", effects[by], {"by": by}, lambda row: f"repeats row {earlier[row]}"
    )


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
    first, number = distinct_prompts_of(pairs, "reading prompts")
    said, contexts = what_users_say(asked_in(pairs, first))
    if of == "prompt":  # every prompt is looked at once; what happens to it happens to all of its rows
        found = near_duplicates(said, threshold, contexts=contexts)
        earlier = np.array([-1 if j is None else first[j] for j in found], dtype=np.int64)[number]
    else:
        texts = list(each_text(pairs, "completion"))
        if of == "pair":
            texts = [f"{said[prompt]}\n{text}" for prompt, text in zip(number, texts, strict=True)]
        within = [contexts[prompt] for prompt in number] if of == "pair" else None
        found = near_duplicates(texts, threshold, groups=number.tolist(), contexts=within)
        earlier = np.array([-1 if j is None else j for j in found], dtype=np.int64)
    shown = "prompt" if of == "prompt" else "completion"

    def why(row: int) -> str:
        other = int(earlier[row])
        return f"{short(one_text(pairs, row, shown))} is nearly {short(one_text(pairs, other, shown))}, row {other}"

    effect = (
        "Answers are drawn as before; kinds of prompts that came in many wordings lose weight against rare ones."
        if of == "prompt"
        else "Wordings that the teacher uses for many prompts lose weight; rare ones gain it."
    )
    settings = {"of": of, "threshold": threshold}
    return keep_rows(pairs, earlier < 0, f"near duplicates ({of})", effect, settings, why)
