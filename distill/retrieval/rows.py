"""Rows for training, made of facts: by construction where the answers are known, else answered by a teacher and verified."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from distill.basics import processes
from distill.generation import generate
from distill.generation.prompts import write_prompts
from distill.pairs.prompts import Asked
from distill.pairs.schema import complete_row, pairs_from_rows
from distill.retrieval.chunks import chunks_of
from distill.retrieval.coverage import Coverage
from distill.retrieval.documents import Document
from distill.retrieval.facts import Fact
from distill.retrieval.passages import Passage
from distill.retrieval.row_modes import KnownFact, Setting, rows_of_facts
from distill.retrieval.verifying import WRONG, supported
from distill.retrieval.worked import Answered
from distill.retrieval.world import World
from distill.teachers import LocalTeacher
from distill.teachers.base import ConcurrentTeacher, Teacher
from distill.text.saying import says

# what a replayed row has in the columns of facts; a prompt may have an `answer`, a `source` and the like of its own
REPLAYED = {"fact": "", "kind": "", "wording": "", "mode": "replay", "answer": "", "source": ""}
ANSWERING = {"temperature": 0.0, "max_new_tokens": 32}  # 16 tokens cut right answers


@dataclass(frozen=True)
class Rows:
    """Training rows and what they cover.

    Args:
        rows: pairs; in words alone where no teacher answered.
        coverage: per fact and kind.
    """

    rows: list[dict[str, Any]]
    coverage: Coverage

    def pairs(self, tokenizer: PreTrainedTokenizerBase | None = None) -> datasets.Dataset:
        """The rows as a dataset of pairs.

        Args:
            tokenizer: the student's; needed where rows are in words.

        Raises:
            ValueError: no rows; rows in words without a tokenizer.
        """
        made = (complete_row(row, f"row {i}", tokenizer) for i, row in enumerate(self.rows))
        return pairs_from_rows(made, "The rows of the facts")


def rows_of_world(
    world: World,
    mode: str = "closed",
    seed: int = 0,
    *,
    facts: Sequence[Fact] | None = None,
    wordings: int = 4,
    reverse: int = 1,
    alterations: int = 3,
    teacher: Teacher | ConcurrentTeacher | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **setting: Any,
) -> Rows:
    """Training rows of a fictional world in its version 0.

    Args:
        world: its facts know their wordings and their answers.
        mode: `closed`, `raft` or `mixed`; see `distill.retrieval.row_modes.Setting`.
        seed: of all choices.
        facts: some of the world's; the others are never trained.
        wordings: questions a fact, 1 to 6; those held out are never among them.
        reverse: questions a fact the other way round, 0 to 2.
        alterations: other values a fact in altered passages (mixed).
        teacher: writes the answers, reading what `teacher_prompt` says, instead of the known ones; those that are wrong are
            left out. None: the known answers.
        output: journal of the teacher's answers; see `generate`.
        progress: show a progress bar while it answers.
        setting: further fields of `Setting`: `k`, `share`, `golden`, `examples`.

    Raises:
        ValueError: a number out of range; see `Setting`, `World`.

    Example:
        >>> rows = rows_of_world(World(facts=4), "mixed")
        >>> rows.rows[0]["prompt"][0]["content"].endswith("?"), rows.rows[0]["mode"]
        (True, 'closed')
    """
    known = known_facts(world, facts, wordings=wordings, reverse=reverse, alterations=alterations)
    setting.setdefault("examples", examples_like(world))
    chosen = Setting(mode, seed, **setting)
    if teacher is None:
        return known_rows(known, chosen)
    coverage = Coverage({fact.id: fact.kind for fact in known})
    return answered(teacher, rows_of_facts(known, chosen), coverage, output=output, progress=progress)


def known_rows(known: Sequence[KnownFact], setting: Setting) -> Rows:
    """Training rows with the answers that are known.

    Args:
        known: the facts.
        setting: how rows are made of them.
    """
    rows, coverage = rows_of_facts(known, setting), Coverage({fact.id: fact.kind for fact in known})
    coverage.count(rows)
    return Rows(rows, coverage)


def examples_like(world: World) -> tuple[Answered, ...]:
    """Four worked examples from another world: an answer of each sort, in documents of the same form.

    The teacher copies the form of what it is shown: examples like its passages are worth more than more examples.
    """
    other = World(seed=world.seed + 1_000_003, facts=16)
    passages = {document.id: passages_of(document) for document in other.documents(0)}
    chosen = other.facts[::5]  # another subject and another kind of value each
    return tuple(Answered(_saying(passages[f.document], f.value), f.questions[0], f.value) for f in chosen)


def known_facts(
    world: World, facts: Sequence[Fact] | None = None, *, wordings: int = 4, reverse: int = 1, alterations: int = 3
) -> list[KnownFact]:
    """Facts of a world with their passages in version 0; arguments and errors as of `rows_of_world`."""
    chosen = world.facts if facts is None else tuple(facts)
    most = min((len(fact.questions) for fact in chosen), default=0)
    back = min((len(fact.reverse_questions) for fact in chosen), default=0)
    if not 1 <= wordings <= most or not 0 <= reverse <= back or alterations < 0:
        raise ValueError(
            f"wordings is {wordings} (1 to {most}), reverse is {reverse} (0 to {back}) and alterations is {alterations} (0 or more)."
        )
    passages = {document.id: passages_of(document) for document in world.documents(0)}
    made = []
    for fact in chosen:
        silent = world.silent(fact)
        others = [world.counterfactual(fact, number) for number in range(alterations)]
        made.append(
            KnownFact(
                id=fact.id,
                kind=fact.kind,
                answer=fact.value,
                questions=fact.questions[:wordings],
                reverse=tuple((question, fact.subject) for question in fact.reverse_questions[:reverse]),
                passage=_saying(passages[fact.document], fact.value),
                silent=tuple(passages[silent.id]),
                altered=tuple((value, _saying(passages_of(document), value)) for value, document in others),
            )
        )
    return made


def answered(
    teacher: Teacher | ConcurrentTeacher,
    rows: Sequence[dict[str, Any]],
    coverage: Coverage,
    *,
    output: str | os.PathLike[str] | None = None,
    **asking: Any,
) -> Rows:
    """The same rows, answered by a teacher that is shown their `teacher_prompt`; kept are those with the right answer.

    A right answer that did not end within its tokens is kept as it is, cut: to ask for an end can remove whole kinds of facts.
    The source that a raft answer names is written behind the teacher's words, whose tokens are then made from the text.

    Args:
        teacher: any.
        rows: of `rows_of_facts`.
        coverage: is counted up.
        output: journal; see `generate`, which also takes `asking`.

    Raises:
        ValueError: no answer was right; as `generate`.
    """
    asked = [{name: row[name] for name in row if name not in ("id", "completion", "teacher_prompt")} for row in rows]
    pairs = generate(
        teacher, asked, teacher_prompt=[row["teacher_prompt"] for row in rows], output=output, **{**ANSWERING, **asking}
    )
    wanted = {_key(row): row for row in rows}
    kept: list[dict[str, Any]] = []
    for pair in pairs:
        row = wanted[_key(pair)]
        right = supported(row, pair["completion"])
        if not coverage.look("answers of the teacher", row["kind"], None if right else WRONG):
            continue
        if row["completion"] != row["answer"]:  # raft: with its source
            source = row["completion"].removeprefix(row["answer"])
            kept.append(_in_words(pair, pair["completion"].rstrip() + source, teacher))
        else:
            kept.append(dict(pair))
    coverage.count(kept)
    if not kept:
        raise ValueError(
            f"None of the teacher's {len(pairs)} answers is the one that the passage gives; a larger teacher is needed.\n{coverage.table()}"
        )
    return Rows(kept, coverage)


def with_replay(
    rows: Rows,
    teacher: Teacher | ConcurrentTeacher,
    replay: float,
    *,
    prompts: Iterable[Asked] | None = None,
    seed: int = 0,
    max_new_tokens: int = 64,
    output: str | os.PathLike[str] | None = None,
    **asking: Any,
) -> Rows:
    """The rows, and beside them the untouched model's own answers to other prompts, against forgetting.

    Args:
        rows: of facts.
        teacher: the untouched model.
        replay: share of all rows, those that are replayed.
        prompts: what it is asked; None: it writes them itself, which only a local teacher can.
        seed, max_new_tokens: of the answers, drawn at temperature 1: its own distribution.
        output: journal of the answers; prompts that it writes stand beside it, in `.prompts.jsonl`.
        asking: see `generate`.

    Raises:
        ValueError: a share out of range; no prompts, too few of them, and a teacher that cannot write any.
    """
    if not 0 <= replay < 1:
        raise ValueError(f"replay is {replay}; it is a share of all rows, from 0 to below 1.")
    count = round(len(rows.rows) * replay / (1 - replay))
    if not count:
        return rows
    if prompts is None:
        if not isinstance(teacher, LocalTeacher):
            raise ValueError("Replay asks other prompts, and a teacher behind a server writes none; give some.")
        beside = None if output is None else f"{os.fspath(output)}.prompts.jsonl"
        with processes.first_then_others():  # one writes them, the others read the file
            prompts = write_prompts(
                teacher, count, seed=seed, output=beside, progress=bool(asking.get("progress", True))
            )
    asked = [*prompts][:count]
    if len(asked) < count:
        raise ValueError(
            f"Replay of {replay:g} needs {count} prompts beside {len(rows.rows)} rows, and there are {len(asked)}. Give more, or a smaller share."
        )
    for number, one in enumerate(asked, start=1):
        if isinstance(one, Mapping) and (ours := [name for name in ("fact", "mode") if name in one]):
            raise ValueError(
                f"Prompt {number} of the replay has the column {' and '.join(ours)}, by which rows of facts are counted; rename it."
            )
    pairs = generate(teacher, asked, seed=seed, **{"max_new_tokens": max_new_tokens, **asking}, output=output)
    return replace(rows, rows=[*rows.rows, *({**REPLAYED, **pair} for pair in pairs)])


def passages_of(document: Document) -> list[Passage]:
    """The chunks of a document as they are shown to a model."""
    return [
        Passage(chunk.text, chunk.source, chunk.title, chunk.date, chunk.document, chunk=chunk.id)
        for chunk in chunks_of(document)
    ]


def _saying(passages: Sequence[Passage], answer: str) -> Passage:
    return next(passage for passage in passages if says(passage.text, answer))


def _key(row: Any) -> tuple[str, str, str, str]:
    return row["fact"], row["wording"], row["mode"], str(row["prompt"])


def _in_words(pair: Any, completion: str, teacher: Any) -> dict[str, Any]:
    """A pair with another completion; its tokens are made anew, those of its prompts stay, and what a server said of the first go."""
    text = {"prompt": pair["prompt"], "completion": completion}
    made = complete_row(text, "an answer with its source", teacher.tokenizer)
    anew = ("completion", "completion_ids", "finish_reason")
    kept = {**{name: value for name, value in pair.items() if name != "top_logprobs"}, "token_source": "text"}
    return {**kept, **{name: made[name] for name in anew if name in made}}
