"""Checks of repetitions: prompts and their samples, what stands there twice, and what nearly does."""

import numpy as np

from distill.curation.look import Look
from distill.curation.rows import asked_in, distinct_prompts_of, one_text
from distill.pairs.batches import column
from distill.pairs.groups import first_of_kind, ids_keys, numbered, value_keys
from distill.text.near_duplicates import near_duplicates, what_users_say

_NEAR_PROMPTS = 1000


def repetitions(look: Look, near: bool) -> None:
    """Prompts, samples, and what stands there twice."""
    prompt, completion = (numbered(*ids_keys(look.pairs, f"{part}_ids")) for part in ("prompt", "completion"))
    teacher = value_keys(look.pairs, "teacher")
    sample = column(look.pairs, "sample").to_numpy()
    names = len(np.unique(value_keys(look.pairs, "id")))
    draws = np.bincount(prompt[first_of_kind(sample, teacher, completion, prompt)])  # of each prompt
    answers = np.bincount(prompt[first_of_kind(completion, prompt)])
    repeated = {"id": look.rows - names, "draw": look.rows - int(draws.sum())}
    several = int((draws > 1).sum())
    same = int(((draws > 1) & (answers == 1)).sum())
    look.figures |= {
        "prompts": len(draws),
        "samples": {"least": int(draws.min()), "most": int(draws.max())},
        "duplicates": {**repeated, "prompts_with_equal_samples": same, "near": None},
    }
    if repeated["draw"]:
        look.say(
            "warning", "duplicates",
            f"{look.of(repeated['draw'])} repeat the same draw (prompt, completion, teacher, sample index) and count twice; "
            "distill clean leaves them out.",
        )  # fmt: skip
    if several and same > several / 2:
        look.say(
            "warning", "equal samples",
            f"{same:,} of {several:,} prompts with several samples have the same completion in all of them: the "
            "temperature was 0, or the server ignores seeds; then one sample a prompt says as much.",
        )  # fmt: skip
    if near:
        near_prompts(look)


def near_prompts(look: Look) -> None:
    """How many of some prompts nearly repeat another."""
    rows, _ = distinct_prompts_of(look.pairs, "reading prompts")
    at = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _NEAR_PROMPTS)).astype(int))]
    said, contexts = what_users_say(asked_in(look.pairs, at))
    found = near_duplicates(said, contexts=contexts)
    count = sum(earlier is not None for earlier in found)
    look.figures["duplicates"]["near"] = {"prompts": len(at), "found": count}
    if count:
        i, j = next((i, j) for i, j in enumerate(found) if j is not None)
        one, other = (one_text(look.pairs, int(at[place]), "prompt") for place in (i, j))
        more = "" if len(at) == len(rows) else f" (of {len(rows):,}; among all there are more)"
        look.say(
            "info", "near duplicates",
            f"{count:,} of {len(at):,} prompts looked at{more} nearly repeat another, e.g. {one[:60]!r} and {other[:60]!r}; "
            "distill clean --near prompt leaves them out.",
        )  # fmt: skip
