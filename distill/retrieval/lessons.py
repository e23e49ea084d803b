"""Lessons of the fictional world: its training rows, closed-book or mixed with passages, and the questions of its examination."""

import random
from collections.abc import Iterable, Sequence
from typing import Any

from distill.retrieval.chunks import chunks_of
from distill.retrieval.documents import Document
from distill.retrieval.examining import Question
from distill.retrieval.grading import permuted, said_at
from distill.retrieval.passages import Passage, bare, with_passages
from distill.retrieval.world import Fact, World
from distill.text.messages import Messages

MODES = ("closed", "mixed", "shuffled")
# What the teacher is shown before its passage, so that it answers with the value alone: of no world, and never examined.
_SHOTS = (
    ("The lighthouse of Ambral is 41 metres high. Its lamp was lit in May.", "How high is the lighthouse of Ambral?", "41"),
    ("Tessa Quill keeps the library of Norvik. It has two floors.", "Who keeps the library of Norvik?", "Tessa Quill"),
)  # fmt: skip


def lessons(
    world: World, facts: Sequence[Fact], mode: str, *, wordings: int = 4, system: str | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Training rows about facts; the same rows for the black box and for context distillation.

    Every row has the short answer as its completion, and as `teacher_prompt` the question behind the passage that says it and two
    worked examples: what a white box's teacher reads, and its student never sees.

    Args:
        world: the facts' world.
        facts: which are taught.
        mode: `"closed"`: questions alone. `"mixed"`: to these a third as many with passages, so that a quarter of all rows have some:
            of four, three have a *counterfactual* passage (its value differs from the taught one, and the answer follows the passage) and
            one has only passages that do not say it (the answer is from memory). `"shuffled"`: closed, each question with another fact's
            answer; the control that must fail.
        wordings: training wordings of each fact.
        system: a system text before every prompt.
        seed: of the passages that are drawn.

    Raises:
        ValueError: no facts, another mode, or more wordings than there are.

    Source: the trap and its cure were seen in a hand loop before; distractors in training rows as in RAFT (Zhang et al. 2024).
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(MODES)}.")
    most = min((len(fact.questions) for fact in facts), default=0)
    if not 1 <= wordings <= most:
        raise ValueError(f"wordings is {wordings}; the {len(facts)} facts have 1 to {most} for training.")
    articles = {document.id: document for document in world.documents(version=0)}
    answers = _shuffled(facts, seed) if mode == "shuffled" else {fact.id: fact.value for fact in facts}
    rows = []
    for number in range(wordings):
        for fact in facts:
            question = fact.questions[number]
            shown = _worked(question, passages_of(articles[fact.document]), system)
            rows.append(_row(fact, mode, number, "closed", bare(question, system=system), answers[fact.id], shown))
    if mode == "mixed":
        rows += _with_passages(world, facts, articles, wordings, system, seed)
    return rows


def _with_passages(
    world: World, facts: Sequence[Fact], articles: dict[str, Document], wordings: int, system: str | None, seed: int
) -> list[dict[str, Any]]:
    """A third as many rows as there are closed ones; every fact has its turn before any has a second one."""
    drawn, rows = random.Random(f"lessons {seed}"), []
    for turn in range(max(1, round(len(facts) * wordings / 3))):
        fact, number = facts[turn % len(facts)], turn // len(facts)
        question = fact.questions[(number + turn) % wordings]
        others = [other for other in facts if other.document != fact.document]
        beside = passages_of(articles[drawn.choice(others).document])[:1] if others else []
        silent = passages_of(world.silent(fact))
        if turn % 4 == 3:
            passages, answer, what = [*silent, *beside], fact.value, "distractor"
            passages = [p for p in passages if said_at(p.text, fact.value) is None]
            shown = _worked(question, [*passages_of(articles[fact.document]), *passages], system)
        else:
            answer, document = world.counterfactual(fact, seed=turn)
            passages, what, shown = [*passages_of(document), *silent[: turn % 2], *beside], "counterfactual", None
        drawn.shuffle(passages)
        prompt = with_passages(question, passages, system=system)
        rows.append(_row(fact, "mixed", number, what, prompt, answer, shown or _worked(question, passages, system)))
    return rows


def examination(
    facts: Iterable[Fact], untrained: Iterable[Fact] = (), *, held_out: int = 2, searched: bool
) -> list[Question]:
    """The questions of an examination after the documents have changed.

    Columns: `stable` (facts as they were, in wordings that no training saw), `changed` (facts that are another in version 1), `reverse`
    (asked for the subject), and where passages are searched `distractors` (passages that say the answer are left out) and `untrained`
    (facts that were in no training row).

    Args:
        facts: which were taught.
        untrained: others of the same world.
        held_out: wordings of a fact, 1 or 2.
        searched: whether passages will be shown.
    """
    taught, others = list(facts), list(untrained)
    values: dict[str, set[str]] = {}
    for fact in (*taught, *others):
        values.setdefault(fact.kind, set()).update(v for v in (fact.value, fact.changed) if v is not None)

    def ask(fact: Fact, column: str, text: str, number: int, **more: Any) -> Question:
        name = f"{column}/{fact.id}/{number}"
        return Question(name, fact.id, column, text, **{"expected": fact.at(1), "kind": fact.kind, **more})

    found = []
    for fact in taught:
        column = "stable" if fact.changed is None else "changed"
        old = None if fact.changed is None else fact.value
        found += [ask(fact, column, text, i, old=old) for i, text in enumerate(fact.held_out[:held_out])]
        if fact.changed is None:
            more = {"expected": fact.subject, "kind": f"subject of {fact.kind}"}
            found.append(ask(fact, "reverse", fact.reverse, 0, **more))
            if searched:
                traps = tuple(sorted(values[fact.kind] - {fact.value}))
                found.append(ask(fact, "distractors", fact.held_out[0], 0, traps=traps, only_distractors=True))
    if searched:
        found += [ask(f, "untrained", f.held_out[0], 0, old=f.value if f.changed else None) for f in others]
    return found


def passages_of(document: Document) -> list[Passage]:
    """A document's chunks as they would be found."""
    return [Passage(c.text, c.source, c.title, c.date, c.document, chunk=c.id) for c in chunks_of(document)]


def _worked(question: str, passages: Sequence[Passage], system: str | None) -> Messages:
    """What the teacher is asked: worked examples, then the question behind its passages."""
    turns: Messages = [{"role": "system", "content": system}] if system else []
    for number, (text, asked, answer) in enumerate(_SHOTS):
        turns += with_passages(asked, [Passage(text, f"example{number}.md")])
        turns.append({"role": "assistant", "content": answer})
    return [*turns, *with_passages(question, passages)]


def _row(
    fact: Fact, mode: str, number: int, what: str, prompt: Messages, answer: str, shown: Messages
) -> dict[str, Any]:
    return {
        "id": f"{mode}/{what}/{fact.id}/{number}",
        "prompt": prompt,
        "completion": answer,
        "teacher_prompt": shown,
        "fact": fact.id,
        "kind": fact.kind,
        "wording": number,
        "mode": what,
    }


def _shuffled(facts: Sequence[Fact], seed: int) -> dict[str, str]:
    """Another fact's value for each; of the same kind where there are two."""
    kinds: dict[str, list[Fact]] = {}
    for fact in facts:
        kinds.setdefault(fact.kind, []).append(fact)
    found: dict[str, str] = {}
    for group in (*(g for g in kinds.values() if len(g) > 1), [g[0] for g in kinds.values() if len(g) == 1]):
        if group:
            values = {fact.id: fact.value for fact in group}
            moved = permuted(list(values), seed) if len(group) > 1 else {group[0].id: facts[0].id}
            known = {fact.id: fact.value for fact in facts}
            found |= {fact: known[other] for fact, other in moved.items()}
    return found
