"""Evaluation questions inside the pairs: word n-gram overlap of prompts and completions with given evaluation sets.

Published conventions, all a choice of `n` and `share` here:

| who | n | contaminated is |
|---|---|---|
| GPT-3 (Brown et al. 2020, appendix C) | 13 words (8 for sets of short questions) | any n-gram in common |
| PaLM (Chowdhery et al. 2022) | 8 | 70% of the question's n-grams found |
| Llama 2 (Touvron et al. 2023) | 10 tokens or more | share of the question's tokens inside a common n-gram; 80% and more is dirty |
| DeepSeekMath (Shao et al. 2024) | 10 | any n-gram in common; shorter questions of at least 3 words: exactly equal |
| Llama 3 (2024) | 8 tokens | share of tokens inside a common n-gram; the threshold is chosen for each set |
| Tulu 3 (Lambert et al. 2024), prompts of fine-tuning data | 8 | more than half of the question's tokens inside common n-grams |
| Qwen2.5 (2024) | 13 | common subsequence of 13 tokens that is 60% of the shorter text |
| Open-R1 (2025), prompts of reasoning data | 8 | any n-gram in common |

ConTAM (Singh et al. 2024) compared such rules by the advantage that flagged questions really give: n = 8 found more than
13, and rare matches count. Hence the defaults: n = 8, half of the question. A paraphrase or a translation is not found by any of them.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from distill.basics.jsonl import read_jsonl
from distill.basics.steps import Step
from distill.curation.phrases import PhraseIndex
from distill.text.words import words

PARTS = ("prompt", "completion")
_FIELDS = ("prompt", "question", "problem", "input", "text", "completion", "answer", "solution", "output", "messages")
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Hit:
    """One pair that holds one evaluation question, or enough of it.

    Args:
        row: index of the pair.
        id: the pair's id.
        part: `"prompt"` or `"completion"`.
        question: index into the evaluation set.
        share: of the question's words, how many lie in a common n-gram.
        common: the first n-gram in common, or the whole short question.
    """

    row: int
    id: str
    part: str
    question: int
    share: float
    common: str


@dataclass(frozen=True)
class Overlap:
    """What one evaluation set and the pairs have in common."""

    name: str
    questions: int
    found: int
    rows: tuple[int, ...]
    rows_by_part: Mapping[str, int]
    not_compared: int
    hits: tuple[Hit, ...]

    def as_dict(self, examples: int = 3) -> dict[str, Any]:
        """Plain values, for JSON; counts instead of row numbers, and a few hits."""
        return {
            "name": self.name, "questions": self.questions, "found": self.found, "rows": len(self.rows),
            "rows_by_part": dict(self.rows_by_part), "not_compared": self.not_compared,
            "examples": [asdict(hit) for hit in self.hits[:examples]],
        }  # fmt: skip

    def __str__(self) -> str:
        parts = ", ".join(f"{count} by the {part}" for part, count in self.rows_by_part.items())
        skipped = f"; {self.not_compared} questions are too short to compare" if self.not_compared else ""
        return f"{self.name}: {self.found} of {self.questions} questions found, in {len(self.rows)} pairs ({parts}){skipped}."


def find_contamination(
    pairs: datasets.Dataset,
    against: Mapping[str, Sequence[str]],
    *,
    n: int = 8,
    share: float = 0.5,
    shortest: int = 5,
    common: int = 10,
) -> list[Overlap]:
    """Which pairs hold questions of which evaluation set.

    A question of at least `n` words is held by a text if `share` of its words, and at least one n-gram, lie in n-grams
    that occur in the text, too. A shorter one must occur whole, word for word; one of fewer than `shortest` words must be
    all of a prompt, because three words in a row are in everything. Case, punctuation and spacing do not count.

    Time: 100,000 pairs of 110 words against 1,000 questions take about 12 s of CPU time, most of it splitting
    the texts into words.

    Args:
        pairs: see `distill.pairs`.
        against: name -> questions (texts; solutions may be among them), e.g. from `read_evaluation`.
        n: words in a row.
        share: of a question's words, 0 to 1; 0 takes any n-gram in common (with n=13: GPT-3's rule).
        shortest: words.
        common: an n-gram of more than this many questions of one set is its wording ("choose the correct answer ...")
            and not counted.

    Returns:
        One `Overlap` a set, its hits in the order of the pairs.

    Raises:
        ValueError: nothing to compare with, or a setting out of range.

    Example:
        >>> find_contamination(pairs, {"gsm8k": read_evaluation("gsm8k_test.jsonl")})[0].found
        0
    """
    if n < 2 or not 0 <= share <= 1 or shortest < 1 or common < 1:
        raise ValueError(
            f"n is {n}, share {share}, shortest {shortest}, common {common}; n must be at least 2, share from 0 to 1, "
            "the others at least 1."
        )
    if not against or not all(against.values()):
        empty = ", ".join(name for name in against if not against[name])
        raise ValueError(f"There is nothing to compare with{': ' + empty + ' is empty' if empty else ''}.")
    prompts, completions = [_prompt_text(p) for p in pairs["prompt"][:]], pairs["completion"][:]
    ids = pairs["id"][:]
    sets = {name: _Questions(listed, n, shortest, common) for name, listed in against.items()}
    found: dict[str, list[Hit]] = {name: [] for name in sets}
    for part, texts in zip(PARTS, (prompts, completions), strict=True):
        for first in range(0, len(texts), _ROWS_AT_ONCE):
            listed = [words(text) for text in texts[first : first + _ROWS_AT_ONCE]]
            for name, questions in sets.items():
                for row, question, part_share, shared in questions.held_by(listed, whole=part == "prompt"):
                    if part_share >= share:
                        found[name].append(Hit(first + row, str(ids[first + row]), part, question, part_share, shared))
    return [_overlap(name, questions, found[name]) for name, questions in sets.items()]


def drop_contaminated(
    pairs: datasets.Dataset, against: Mapping[str, Sequence[str]], **settings: Any
) -> tuple[datasets.Dataset, Step]:
    """The pairs that hold no question of the evaluation sets; arguments and errors as in `find_contamination`."""
    overlaps = find_contamination(pairs, against, **settings)
    held = {row for overlap in overlaps for row in overlap.rows}
    counts = {overlap.name: overlap.as_dict(0) for overlap in overlaps}
    examples = [
        f"{hit.id}: {overlap.name} question {hit.question}, {hit.share:.0%} of it in the {hit.part}: {hit.common!r}"
        for overlap in overlaps
        for hit in overlap.hits[:3]
    ]
    step = Step(
        "evaluation questions",
        len(pairs),
        len(pairs) - len(held),
        "The student never sees these prompts: what is distilled lacks a neighbourhood of the evaluation sets, and their "
        "scores then measure what it can do and not what it has seen. Paraphrases are not found.",
        {"n": 8, "share": 0.5, **settings, "sets": counts},
        tuple(examples),
    )
    return pairs.select([i for i in range(len(pairs)) if i not in held]), step


def read_evaluation(path: str | os.PathLike[str], columns: Iterable[str] = _FIELDS) -> list[str]:
    """The texts of an evaluation set: a `.jsonl` file (every text of the named columns), or a text file (one a line).

    Args:
        path: the file.
        columns: which of a JSON object's keys hold texts; messages are taken by their contents.

    Raises:
        ValueError: no such file, not UTF-8, no texts, or a line without any of the columns (file and line are named).
    """
    source, columns = Path(path), tuple(columns)
    texts: list[str] = []
    if source.suffix == ".jsonl":
        for where, row in read_jsonl(source):
            found = [_prompt_text(row[name]) for name in columns if name in row and isinstance(row[name], str | list)]
            if not found:
                raise ValueError(f"{where}: none of the columns {', '.join(columns)}; the line has {', '.join(row)}.")
            texts.extend(text for text in found if text.strip())
    else:
        if not source.is_file():
            raise ValueError(f"No file {source}.")
        try:
            texts = [line.strip() for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{source} is not text in UTF-8 ({error}).") from None
    if not texts:
        raise ValueError(f"{source} has no texts; an evaluation set needs at least one line.")
    return texts


class _Questions:
    """One evaluation set, ready to be looked for."""

    def __init__(self, texts: Sequence[str], n: int, shortest: int, common: int) -> None:
        listed = [words(text) for text in texts]
        self.lengths = np.array([len(found) for found in listed], dtype=np.int64)
        self.not_compared = int((self.lengths == 0).sum())
        self.tiny: dict[str, list[int]] = {}
        phrases: list[tuple[list[str], int, int]] = []  # its words, the question, where in the question it begins
        for question, found in enumerate(listed):
            if len(found) >= n:
                phrases += [(found[at : at + n], question, at) for at in range(len(found) - n + 1)]
            elif len(found) >= shortest:
                phrases.append((found, question, 0))
            elif found:
                self.tiny.setdefault(" ".join(found), []).append(question)
        many = Counter(phrase for phrase, _ in {(" ".join(found), " ".join(listed[q])) for found, q, _ in phrases})
        kept = [entry for entry in phrases if many[" ".join(entry[0])] <= common]
        self.index = PhraseIndex([found for found, _, _ in kept])
        self.question = np.array([question for _, question, _ in kept], dtype=np.int64)
        self.at = np.array([at for _, _, at in kept], dtype=np.int64)
        self.texts = listed

    def held_by(self, texts: Sequence[list[str]], whole: bool) -> list[tuple[int, int, float, str]]:
        """`(text, question, share, common)` for every question that shares a phrase with a text.

        Args:
            texts: words of each.
            whole: tiny questions count where they are all of a text.
        """
        text, entry = self.index.find(texts)
        found = _coverage(text, self.question[entry], self.at[entry], self.index.lengths[entry])
        held = [
            (row, question, covered / len(self.texts[question]), " ".join(self.texts[question][at : at + length]))
            for row, question, covered, at, length in zip(*(column.tolist() for column in found), strict=True)
        ]
        if whole and self.tiny:
            held += [
                (i, question, 1.0, " ".join(text))
                for i, text in enumerate(texts)
                for question in self.tiny.get(" ".join(text), ())
            ]
        return sorted(held)


def _coverage(
    row: NDArray[Any], question: NDArray[Any], at: NDArray[Any], length: NDArray[Any]
) -> tuple[NDArray[Any], ...]:
    """For each (row, question): words of the question inside common phrases, and the first of those phrases."""
    order = np.lexsort((at, question, row))
    row, question, at, length = row[order], question[order], at[order], length[order]
    new = np.ones(len(row), dtype=bool)
    new[1:] = (row[1:] != row[:-1]) | (question[1:] != question[:-1])
    gain = length.copy()
    # all phrases of one question have one length, so each adds what lies beyond the one before it
    gain[1:] = np.where(new[1:], length[1:], np.minimum(length[1:], at[1:] - at[:-1]))
    starts = np.flatnonzero(new)
    covered = np.add.reduceat(gain, starts) if len(starts) else gain[:0]
    return row[starts], question[starts], covered, at[starts], length[starts]


def _overlap(name: str, questions: _Questions, hits: list[Hit]) -> Overlap:
    hits.sort(key=lambda hit: (hit.row, hit.part != "prompt", hit.question))
    return Overlap(
        name=name,
        questions=len(questions.lengths),
        found=len({hit.question for hit in hits}),
        rows=tuple(sorted({hit.row for hit in hits})),
        rows_by_part={part: len({hit.row for hit in hits if hit.part == part}) for part in PARTS},
        not_compared=questions.not_compared,
        hits=tuple(hits),
    )


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    contents = (message.get("content") if isinstance(message, dict) else message for message in prompt)
    return "\n".join(content for content in contents if isinstance(content, str))
