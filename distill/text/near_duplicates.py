"""Texts that say nearly the same: MinHash with locality-sensitive hashing (Broder 1997), by `datasketch`."""

from collections.abc import Hashable, Iterable, Sequence

from distill.text.encode import Prompt
from distill.text.words import numbers, words

PERMUTATIONS = 64
HIGHEST = 0.9  # with fewer than three bands of permutations, hardly anything is found


def near_duplicates(
    texts: Sequence[str],
    threshold: float = 0.7,
    *,
    groups: Sequence[Hashable] | None = None,
    numbers_matter: bool = False,
) -> list[int | None]:
    """For each text the earlier one it repeats, exactly or nearly; `None` for those that are new.

    Near means: Jaccard similarity of the sets of three consecutive words about `threshold` or more. Case, punctuation and
    spacing do not count. It is a draw of luck at the threshold itself: at 0.7, texts of similarity 0.5 are taken for near
    duplicates in 3% of the cases, of 0.7 in 38%, of 0.8 in 77%, of 0.9 in 99% (always the same ones). Only new texts are compared with, so a chain of small changes does not swallow everything.
    About 1 ms a text of 100 words.

    Args:
        texts: in the order in which they are kept.
        threshold: above 0, at most 0.9. The same words in the same order are always duplicates.
        groups: one key a text; texts of one group are not compared with each other.
        numbers_matter: texts whose numbers differ are never near duplicates: 40 words of an exercise with one number
            changed are another exercise.

    Returns:
        A list as long as `texts`: an index into it, or `None`.

    Raises:
        ValueError: `threshold` out of range, or the `datasketch` package is missing.

    Example:
        >>> near_duplicates(["Name a colour.", "What is rain?", "name a colour"])
        [None, None, 0]
    """
    if not 0 < threshold <= HIGHEST:
        raise ValueError(
            f"The threshold of near duplicates is {threshold}; it must be above 0 and at most {HIGHEST}, what {PERMUTATIONS} "
            "permutations can tell."
        )
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        raise ValueError(
            "Removing near duplicates needs the 'datasketch' package: pip install 'distill[prompts]'."
        ) from None
    keys: Sequence[Hashable] = range(len(texts)) if groups is None else groups
    index, empty = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS), MinHash(num_perm=PERMUTATIONS, seed=1)
    seen: dict[tuple[str, ...], dict[Hashable, int]] = {}
    figures = [tuple(numbers(text)) if numbers_matter else () for text in texts]
    repeated: list[int | None] = []
    for i, text in enumerate(texts):
        found = words(text)
        same = seen.setdefault((" ".join(found) or text.strip(), *figures[i]), {})
        earlier = next((j for group, j in same.items() if group != keys[i]), None)
        if earlier is None:
            sketch = empty.copy()  # a new one would draw its permutations again: half of the time
            sketch.update_batch([" ".join(found[j : j + 3]).encode() for j in range(max(1, len(found) - 2))])
            near = [j for j in index.query(sketch) if keys[j] != keys[i] and figures[j] == figures[i]]
            earlier = min(near, default=None) if found else None
            if earlier is None:
                same.setdefault(keys[i], i)
                index.insert(i, sketch)
        repeated.append(earlier)
    return repeated


def distinct_texts(texts: Sequence[str], threshold: float = 0.7) -> list[str]:
    """Texts in their order, without exact and near duplicates of an earlier one.

    Near means: estimated Jaccard similarity of the sets of three consecutive words above `threshold`, by MinHash with
    locality-sensitive hashing (Broder 1997). Case, punctuation and spacing do not count.

    Raises:
        ValueError: the `datasketch` package is missing.
    """
    return [text for text, earlier in zip(texts, near_duplicates(texts, threshold), strict=True) if earlier is None]


def distinct_prompts(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Like `distinct_texts`, for prompts that may be messages: those are compared by their text."""
    listed = list(prompts)
    texts = [p if isinstance(p, str) else "\n".join(f"{m['role']}: {m['content']}" for m in p) for p in listed]
    kept = set(distinct_texts(texts))
    chosen = []
    for prompt, text in zip(listed, texts, strict=True):
        if text in kept:
            kept.remove(text)
            chosen.append(prompt)
    return chosen
