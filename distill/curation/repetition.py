"""How much a text repeats itself: the shares of Gopher's filter (Rae et al. 2021, table A1).

| name | share of what | limit |
|---|---|---|
| `lines`, `paragraphs` | that repeat an earlier one | 0.30 |
| `line_characters`, `paragraph_characters` | the characters in those | 0.20 |
| `top_2` .. `top_4` | the characters in the most frequent n-gram of words | 0.20, 0.18, 0.16 |
| `repeated_5` .. `repeated_10` | the characters in n-grams that repeat an earlier one | 0.15 .. 0.10 |

The limits were set for web pages. An n-gram that occurs once repeats nothing and counts as 0, and no character is counted
twice. A loop of any length up to ten words ends up in `repeated_10` and below; longer ones are lines or paragraphs.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import lru_cache

from distill.text.words import words

GOPHER: dict[str, float] = {
    "lines": 0.30,
    "paragraphs": 0.30,
    "line_characters": 0.20,
    "paragraph_characters": 0.20,
    "top_2": 0.20,
    "top_3": 0.18,
    "top_4": 0.16,
    "repeated_5": 0.15,
    "repeated_6": 0.14,
    "repeated_7": 0.13,
    "repeated_8": 0.12,
    "repeated_9": 0.11,
    "repeated_10": 0.10,
}


def repetition(text: str, names: Mapping[str, float] = GOPHER, *, fewest_words: int = 50) -> dict[str, float]:
    """The named shares of a text, 0 to 1 each; all of them 0 for a text of fewer than `fewest_words` words.

    Args:
        text: a completion.
        names: which shares (the keys), e.g. `GOPHER` or a part of it.
        fewest_words: in a short text any two words are a large share (Gopher kept only pages of 50 words and more).

    Raises:
        ValueError: an unknown name, or a limit that is no share.

    Example:
        >>> repetition("no " * 60)["repeated_5"]
        0.9166666666666666
    """
    longest = _longest_run(tuple(names.items()))
    found = words(text)
    if len(found) < fewest_words:
        return dict.fromkeys(names, 0.0)
    shares = dict.fromkeys(names, 0.0)
    for kind, separator in (("line", "\n"), ("paragraph", "\n\n")):
        if separator in text and {f"{kind}s", f"{kind}_characters"} & shares.keys():
            pieces = [piece.strip() for piece in text.split(separator) if piece.strip()]
            again = list(_again(pieces))
            shares[f"{kind}s"] = len(again) / len(pieces)
            shares[f"{kind}_characters"] = sum(len(pieces[i]) for i in again) / sum(map(len, pieces))
    number: dict[str, int] = {}
    codes = [number.setdefault(word, len(number)) for word in found]  # quicker to hash and to compare, again and again
    sizes = list(map(len, found))
    for n in range(2, longest + 1):
        runs = list(zip(*(codes[i:] for i in range(n)), strict=False))
        if len(set(runs)) == len(runs):
            break  # none comes twice, so no longer one does
        if f"top_{n}" in shares:
            counts = Counter(runs)
            most = max(counts, key=counts.__getitem__)
            shares[f"top_{n}"] = _characters(sizes, [i for i, run in enumerate(runs) if run == most], n)
        if f"repeated_{n}" in shares:
            shares[f"repeated_{n}"] = _characters(sizes, list(_again(runs)), n)
    return {name: shares[name] for name in names}


@lru_cache(maxsize=8)
def _longest_run(limits: tuple[tuple[str, float], ...]) -> int:
    """Words of the longest runs that are asked about.

    Raises:
        ValueError: an unknown name, or a limit that is no share.
    """
    for name, limit in limits:
        if name not in GOPHER or not 0 <= limit <= 1:
            raise ValueError(f"{name} is {limit}; a limit is a share from 0 to 1 of one of {', '.join(GOPHER)}.")
    return max((int(name.rpartition("_")[2]) for name, _ in limits if name[-1].isdigit()), default=0)


def _again(pieces: Sequence[Hashable]) -> Iterator[int]:
    """Where a piece stands that stood there before."""
    seen: set[Hashable] = set()
    for i, piece in enumerate(pieces):
        if piece in seen:
            yield i
        seen.add(piece)


def _characters(sizes: Sequence[int], starts: Sequence[int], n: int) -> float:
    """Share of the characters in the words covered by runs of `n` that begin at `starts`; each word counts once."""
    covered = {i for start in starts for i in range(start, start + n)}
    return sum(sizes[i] for i in covered) / sum(sizes)
