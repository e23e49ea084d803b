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
from collections.abc import Mapping, Sequence

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
    if wrong := [name for name, limit in names.items() if name not in GOPHER or not 0 <= limit <= 1]:
        raise ValueError(
            f"{wrong[0]} is {names[wrong[0]]}; a limit is a share from 0 to 1 of one of {', '.join(GOPHER)}."
        )
    found = words(text)
    if len(found) < fewest_words:
        return dict.fromkeys(names, 0.0)
    return {name: _share(name, text, found) for name in names}


def _share(name: str, text: str, found: Sequence[str]) -> float:
    kind, _, rest = name.partition("_")
    if kind == "top":
        return _top(found, int(rest))
    if kind == "repeated":
        return _repeated(found, int(rest))
    separator = "\n\n" if kind.startswith("paragraph") else "\n"
    pieces = [piece.strip() for piece in text.split(separator) if piece.strip()]
    seen: set[str] = set()
    again = [piece for piece in pieces if piece in seen or seen.add(piece)]  # type: ignore[func-returns-value]
    if rest:
        return sum(map(len, again)) / sum(map(len, pieces))
    return len(again) / len(pieces)


def _top(found: Sequence[str], n: int) -> float:
    grams = [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]
    ((most, count),) = Counter(grams).most_common(1)
    if count < 2:
        return 0.0
    return _characters(found, [i for i, gram in enumerate(grams) if gram == most], n)


def _repeated(found: Sequence[str], n: int) -> float:
    seen: set[tuple[str, ...]] = set()
    again = []
    for i in range(len(found) - n + 1):
        gram = tuple(found[i : i + n])
        if gram in seen:
            again.append(i)
        seen.add(gram)
    return _characters(found, again, n)


def _characters(found: Sequence[str], starts: Sequence[int], n: int) -> float:
    """Share of the characters in the words covered by n-grams that begin at `starts`; each word counts once."""
    covered = {i for start in starts for i in range(start, start + n)}
    return sum(len(found[i]) for i in covered) / sum(map(len, found))
