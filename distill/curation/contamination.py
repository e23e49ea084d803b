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

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import datasets
import numpy as np

from distill.basics.curation_step import Step
from distill.curation.rows import PARTS, each_text
from distill.pairs.batches import column
from distill.pairs.evaluation_sets import Question, read_evaluation
from distill.text.words import words

__all__ = ["Hit", "Overlap", "drop_contaminated", "find_contamination", "read_evaluation"]
Phrase = tuple[str, ...]


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
    against: Mapping[str, Sequence[str | Question]],
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

    Looked at are `prompt` and `completion`, which a student is trained on; not `teacher_prompt`, of which it sees what its teacher said.

    Time: 100,000 pairs of 110 words against 1,000 questions take about 5 s of CPU time, half of it splitting
    the texts into words; 18 s where every pair holds one.

    Args:
        pairs: see `distill.pairs`.
        against: name -> questions, e.g. from `read_evaluation`; one of several texts (its solution, say) counts once.
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
    ids = column(pairs, "id")  # as Arrow: few of them are asked for
    sets = {name: _Questions(listed, n, shortest, common) for name, listed in against.items()}
    found: dict[str, list[Hit]] = {name: [] for name in sets}
    for part in PARTS:
        for row, text in enumerate(each_text(pairs, part, f"looking for questions in {part}s")):
            said = words(text)
            for name, questions in sets.items():
                for question, held, phrase in questions.held_by(said, whole=part == "prompt"):
                    if held >= share:
                        found[name].append(Hit(row, str(ids[row].as_py()), part, question, held, phrase))
    return [_overlap(name, questions, found[name]) for name, questions in sets.items()]


def drop_contaminated(
    pairs: datasets.Dataset, against: Mapping[str, Sequence[str | Question]], **settings: Any
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
    kept = np.ones(len(pairs), bool)
    kept[list(held)] = False
    return pairs.select(np.flatnonzero(kept)), step


class _Questions:
    """One evaluation set, ready to be looked for: a dictionary of its phrases (n words in a row, or a whole short question)."""

    def __init__(self, questions: Sequence[str | Question], n: int, shortest: int, common: int) -> None:
        rows = [(question,) if isinstance(question, str) else question for question in questions]
        self.count, self.n = len(rows), n
        self.owner = [number for number, texts in enumerate(rows) for _ in texts]  # of each text
        self.texts = [words(text) for texts in rows for text in texts]
        self.not_compared = self.count - len({self.owner[i] for i, found in enumerate(self.texts) if found})
        self.tiny: dict[str, list[int]] = defaultdict(list)
        places: dict[Phrase, list[tuple[int, int]]] = defaultdict(list)  # the question, where in it the phrase begins
        for question, found in enumerate(self.texts):
            size = min(len(found), n)
            if len(found) >= min(n, shortest):
                for at in range(len(found) - size + 1):
                    places[tuple(found[at : at + size])].append((question, at))
            elif found:
                self.tiny[" ".join(found)].append(question)
        self.phrases: dict[int, dict[Phrase, list[tuple[int, int]]]] = defaultdict(dict)  # by their length
        for phrase, listed in places.items():
            if len({" ".join(self.texts[question]) for question, _ in listed}) <= common:
                self.phrases[len(phrase)][phrase] = listed
        self.shortest = min(self.phrases, default=0)
        self.sizes: dict[Phrase, set[int]] = defaultdict(set)  # of the phrases that begin with these few words
        for phrases in self.phrases.values():
            for phrase in phrases:
                self.sizes[phrase[: self.shortest]].add(len(phrase))

    def held_by(self, text: list[str], whole: bool) -> Iterator[tuple[int, float, str]]:
        """`(question, share, common)` for every question that shares a phrase with a text; of its texts, by that with the most.

        Args:
            text: its words.
            whole: tiny questions count where they are all of the text.
        """
        best: dict[int, tuple[float, str]] = {}
        for number, held, common in self._texts_held_by(text, whole):
            if held > best.get(self.owner[number], (-1.0, ""))[0]:
                best[self.owner[number]] = held, common
        return ((question, *found) for question, found in best.items())

    def _texts_held_by(self, text: list[str], whole: bool) -> Iterator[tuple[int, float, str]]:
        sizes = {size for head in self.sizes.keys() & _runs(text, self.shortest) for size in self.sizes[head]}
        common = [
            place
            for size in sizes
            for phrase in self.phrases[size].keys() & _runs(text, size)
            for place in self.phrases[size][phrase]
        ]
        for question, places in groupby(sorted(common), key=itemgetter(0)):
            begins, asked = [at for _, at in places], self.texts[question]
            size = min(len(asked), self.n)
            covered = size + sum(min(size, later - sooner) for sooner, later in pairwise(begins))
            yield question, covered / len(asked), " ".join(asked[begins[0] : begins[0] + size])
        if whole:
            for question in self.tiny.get(" ".join(text), ()):
                yield question, 1.0, " ".join(text)


def _runs(text: list[str], size: int) -> Iterator[Phrase]:
    """All runs of `size` words."""
    return zip(*(text[i:] for i in range(size)), strict=False)


def _overlap(name: str, questions: _Questions, hits: list[Hit]) -> Overlap:
    hits.sort(key=lambda hit: (hit.row, hit.part != "prompt", hit.question))
    return Overlap(
        name=name,
        questions=questions.count,
        found=len({hit.question for hit in hits}),
        rows=tuple(sorted({hit.row for hit in hits})),
        rows_by_part={part: len({hit.row for hit in hits if hit.part == part}) for part in PARTS},
        not_compared=questions.not_compared,
        hits=tuple(hits),
    )
