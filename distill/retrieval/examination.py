"""Examination after documents changed, and the control that must fail: training rows with shuffled answers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distill.retrieval.examining import Question
from distill.retrieval.facts import Fact
from distill.retrieval.grading import permuted


def examination(
    facts: Iterable[Fact],
    untrained: Iterable[Fact] = (),
    *,
    held_out: int = 2,
    searched: bool,
    namesakes: Mapping[str, str] | None = None,
) -> list[Question]:
    """The questions of an examination after the documents have changed.

    Columns: `stable` (facts as they were, in wordings that no training saw), `changed` (facts that are another in version 1), `reverse`
    (asked for the subject), and where passages are searched `distractors` (passages that say the answer are left out) and `untrained`
    (facts that no training row asks about).

    Args:
        facts: which were taught.
        untrained: others, in a made-up world of other subjects; in documents of one's own a passage of a training row may say them.
        held_out: wordings of a fact, 1 or 2; fewer where it has no more.
        searched: whether passages will be shown.
        namesakes: of the world (`World.namesakes`): wrong values that stand in its documents, looked out for where the passages shown are
            distractors.
    """
    taught, others, told = list(facts), list(untrained), namesakes or {}
    values: dict[str, set[str]] = {}
    for fact in (*taught, *others):
        values.setdefault(fact.kind, set()).update(
            v for v in (fact.value, fact.changed, told.get(fact.id)) if v is not None
        )

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
            if fact.reverse:
                found.append(ask(fact, "reverse", fact.reverse, 0, **more))
            if searched:
                traps = tuple(sorted(values[fact.kind] - {fact.value}))
                found.append(ask(fact, "distractors", fact.held_out[0], 0, traps=traps, only_distractors=True))
    if searched:
        found += [ask(f, "untrained", f.held_out[0], 0, old=f.value if f.changed else None) for f in others]
    return found


def shuffled(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """The rows with every fact's answer that of another fact, of the same kind where there are two.

    The control that must fail: a model trained on these has seen every question and every value, and answers rightly only by chance.

    Args:
        rows: closed rows, asked forward, each fact with one answer (`rows_of_world(..., reverse=0)`).
        seed: of the exchange.

    Raises:
        ValueError: fewer than two facts, or a fact with several answers.
    """
    answers: dict[str, str] = {}
    kinds: dict[str, list[str]] = {}
    for row in rows:
        fact, answer = row["fact"], row["completion"]
        if fact not in answers:
            kinds.setdefault(row["kind"], []).append(fact)
        if answers.setdefault(fact, answer) != answer:
            raise ValueError(
                f"The fact {fact} has two answers, {answers[fact]!r} and {answer!r}; shuffle closed rows asked forward."
            )
    single = [facts[0] for facts in kinds.values() if len(facts) == 1]
    groups = [facts for facts in kinds.values() if len(facts) > 1]
    if len(single) == 1 and groups:  # alone of its kind: it joins another
        groups[0] = [*groups[0], *single]
    elif single:
        groups.append(single)
    other = {fact: answers[moved] for group in groups for fact, moved in permuted(group, seed).items()}
    if same := [fact for fact, answer in other.items() if answer == answers[fact]]:
        raise ValueError(
            f"The facts {', '.join(same[:3])} share an answer with another of their kind; the control needs others."
        )
    return [{**row, "id": f"{row['id']}/shuffled", "completion": other[row["fact"]]} for row in rows]
