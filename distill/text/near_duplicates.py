"""Texts that say nearly the same: MinHash with locality-sensitive hashing (Broder 1997), then the similarity itself."""

import json
import re
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from distill.basics.curation_step import Step
from distill.basics.processes import is_main
from distill.text.encode import Prompt
from distill.text.words import numbers, words

THRESHOLD = 0.7
PERMUTATIONS = 64
MISSED = 0.02  # of texts exactly at the threshold, how many may go unseen
_ROW = np.random.default_rng(1).integers(0, 2**63, (2, PERMUTATIONS), dtype=np.uint64)
_FACTORS, _SHIFTS = _ROW[0] | np.uint64(1), _ROW[1]
_MIX = [np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xBF58476D1CE4E5B9)]

_SENTENCE_END = re.compile(r"\n+|(?<=[.!?:])\s+|(?<=[。！？：])")
_SHARED = 3  # prompts that have a sentence in common: then it is their wording, and no repetition
_WORDING = 5  # words; shorter sentences are compared like all others
_ASCII_SYMBOLS = frozenset("#%&*/@\\")  # punctuation for Unicode, but C# is not C


def near_duplicates(
    texts: Sequence[str],
    threshold: float = THRESHOLD,
    *,
    groups: Sequence[Hashable] | None = None,
    contexts: Sequence[Hashable] | None = None,
) -> list[int | None]:
    """For each text the earlier one it repeats, exactly or nearly; `None` for those that are new.

    Near means: Jaccard similarity of the sets of three consecutive words of `threshold` or more, and the same numbers and
    symbols in the same order. Case, punctuation and spacing do not count. Candidates come from MinHash, which overlooks 2%
    at most of those exactly at the threshold, and next to none above; no text below it is ever taken for a duplicate. Only
    new texts are compared with, so a chain of small changes does not swallow everything. About 0.4 ms a text of 100 words.

    Args:
        texts: in the order in which they are kept.
        threshold: above 0, at most 1. The same words in the same order are always duplicates.
        groups: one key a text; texts of one group are not compared with each other.
        contexts: one key a text; only texts of one context are compared with each other.

    Returns:
        A list as long as `texts`: an index into it, or `None`.

    Raises:
        ValueError: `threshold` out of range.

    Example:
        >>> near_duplicates(["Name a colour.", "What is rain?", "name a colour"])
        [None, None, 0]
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"The threshold of near duplicates is {threshold}; it must be above 0 and at most 1.")
    bands, rows = _bands(threshold)
    seen: dict[Hashable, dict[Hashable, int]] = {}
    buckets: dict[Hashable, list[int]] = defaultdict(list)
    shingles: dict[int, NDArray[np.uint64]] = {}
    repeated: list[int | None] = []
    for i, text in enumerate(
        tqdm(texts, "comparing texts", unit="text", delay=3, mininterval=1, leave=False, disable=not is_main())
    ):
        key = i if groups is None else groups[i]
        found, must_agree = words(text), (None if contexts is None else contexts[i], *marks(text))
        same = seen.setdefault((" ".join(found) or text.strip(), must_agree), {})
        earlier = next((j for group, j in same.items() if group != key), None)
        if earlier is None:
            own = _shingles(found)
            sketch, kind = _sketch(own), hash(must_agree)
            places = [(band, kind, sketch[band * rows : (band + 1) * rows].tobytes()) for band in range(bands)]
            if found:
                near = {j for place in places for j in buckets.get(place, ())}
                apart = (j for j in sorted(near) if groups is None or groups[j] != key)
                earlier = next((j for j in apart if _jaccard(own, shingles[j]) >= threshold), None)
            if earlier is None:
                same.setdefault(key, i)
                shingles[i] = own
                for place in places:
                    buckets[place].append(i)
        repeated.append(earlier)
    return repeated


def distinct_prompts(
    prompts: Iterable[Prompt], near: bool = False, threshold: float = THRESHOLD
) -> tuple[list[Prompt], Step]:
    """Prompts in their order without those that repeat an earlier one exactly, and the record of it.

    Args:
        prompts: texts, or messages; equal are those with the same text, or the same messages field by field.
        near: leave out near duplicates, too (see `near_duplicates`), of what users say (`what_users_say`).
        threshold: of these.

    Example:
        >>> distinct_prompts(["Name a colour.", "Name a color.", "Name a colour."])[0]
        ['Name a colour.', 'Name a color.']
    """
    listed = list(prompts)
    first: dict[str, int] = {}
    for i, prompt in enumerate(listed):
        first.setdefault(json.dumps(prompt, sort_keys=True), i)
    kept = [listed[i] for i in first.values()]
    examples = [f"{_short(p)} again" for i, p in enumerate(listed) if first[json.dumps(p, sort_keys=True)] != i][:3]
    settings: dict[str, Any] = {"near": near, "exact_repetitions": len(listed) - len(kept)}
    effect = "Every prompt is asked once, and none is lost."
    if near:
        texts, contexts = what_users_say(kept)
        earlier = near_duplicates(texts, threshold, contexts=contexts)
        pairs = [(p, kept[j]) for p, j in zip(kept, earlier, strict=True) if j is not None]
        examples += [f"{_short(p)} is nearly {_short(other)}" for p, other in pairs[:3]]
        kept = [prompt for prompt, j in zip(kept, earlier, strict=True) if j is None]
        settings |= {"threshold": threshold, "near_duplicates": len(pairs)}
        effect = "Kinds of prompts that came in many wordings lose weight against rare ones."
    return kept, Step("repeated prompts", len(listed), len(kept), effect, settings, tuple(examples[:3]))


def what_users_say(prompts: Sequence[Prompt]) -> tuple[list[str], list[Hashable]]:
    """What of each prompt is compared with that of others, and its context: what must be equal before anything is.

    Compared are the words of the users' turns (or a plain prompt), but for sentences of five words and more that three or
    more prompts have in common: an instruction that stands before many questions says nothing about what tells them apart.
    Those sentences, system turns, answers given before, tools called and whatever else is there are the context.

    Returns:
        Texts and contexts, for `near_duplicates`.
    """
    apart = [_said(prompt) for prompt in prompts]
    sentences = [[s for s in _SENTENCE_END.split(said) if s and s.strip()] for said, _ in apart]
    counts = Counter(s for found in sentences for s in set(found))
    wording = {s for s, count in counts.items() if count >= _SHARED and len(words(s)) >= _WORDING}
    texts = ["\n".join(s for s in found if s not in wording) for found in sentences]
    shared = [tuple(s for s in found if s in wording) for found in sentences]
    return texts, [(rest, common) for (_, rest), common in zip(apart, shared, strict=True)]


def marks(text: str) -> tuple[str, ...]:
    """Numbers (each with an operator before it), then symbols, in their order: `C`, `C++` and `C#` are three languages.

    Example:
        >>> marks("In C++, is 7 - 3 = 4?")
        ('7', '-3', '=4', '+', '+', '=')
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    symbols = (c for c in text if not c.isalnum() and (c in _ASCII_SYMBOLS or unicodedata.category(c)[0] == "S"))
    return (*numbers(text), *symbols)


def _said(prompt: Prompt) -> tuple[str, str]:
    """The words of a prompt's users, and all the rest of it as one text."""
    if isinstance(prompt, str):
        return prompt, ""
    said: list[str] = []
    rest: list[dict[str, Any]] = []
    for message in prompt:
        content: Any = message.get("content")
        parts = content if isinstance(content, list) else [content]
        texts = [p if isinstance(p, str) else p["text"] for p in parts if isinstance(p, str) or _is_text(p)]
        if message.get("role") == "user":
            said += texts
            rest.append({**message, "content": [p for p in parts if not isinstance(p, str) and not _is_text(p)]})
        else:
            rest.append(dict(message))
    return "\n".join(said), json.dumps(rest, sort_keys=True)


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _short(prompt: Prompt) -> str:
    said, _ = _said(prompt)
    return repr(said if len(said) <= 80 else f"{said[:76]} ...")


def _bands(threshold: float) -> tuple[int, int]:
    """Bands and rows of each: as many rows (fewer candidates) as `MISSED` allows."""
    fitting = [rows for rows in range(1, PERMUTATIONS + 1) if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= MISSED]
    rows = max(fitting, default=1)
    return PERMUTATIONS // rows, rows


def _shingles(found: Sequence[str]) -> NDArray[np.uint64]:
    """64-bit hashes of all runs of three words (of all words, where they are fewer), each once, sorted."""
    codes = np.fromiter((zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in found), np.uint64, len(found))
    codes = np.pad(codes, (0, max(0, 3 - len(codes))))
    mixed = codes[:-2] * _MIX[0] + codes[1:-1] * _MIX[1] + codes[2:] * _MIX[2]
    mixed = (mixed ^ (mixed >> np.uint64(32))) * _MIX[3]
    return np.unique(mixed ^ (mixed >> np.uint64(29)))


def _sketch(shingles: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """`[PERMUTATIONS]`: the least of the shingles under each permutation (multiply, shift)."""
    permuted = (shingles[:, None] * _FACTORS + _SHIFTS) >> np.uint64(32)
    return permuted.min(axis=0).astype(np.uint32)


def _jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    common = np.intersect1d(one, other, assume_unique=True).size
    return float(common / (one.size + other.size - common))
