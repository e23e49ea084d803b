"""Asked facts of a file: questions of one's own about documents, with their answers; or the rows that `distill generate --documents` wrote."""

import datetime
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.basics.processes import tell
from distill.pairs.sources import rows_in
from distill.retrieval.row_modes import KnownFact
from distill.retrieval.verifying import kind_of
from distill.text.saying import says, value_words
from distill.text.words import words

FORM = (
    "a row has `questions` (two or more wordings of one question, as a list; or several rows have one `question` each and the same `answer`), `answer` "
    "(short, as it stands in a document) and, if you like, `document`, `changed` (what the document says afterwards), `reverse_question` with "
    "`reverse_answer`, and `kind`; or the rows are those of `distill generate --documents`"
)


@dataclass(frozen=True)
class AskedFact:
    """A fact as it is asked: before anybody has looked where it stands.

    Args:
        where: file (without its folder) and row, for people; no part of what the fact is.
        answer: short, as it stands in a document.
        questions: wordings of one question.
        reverse: a question the other way round with its answer; None: none.
        document: id of the document that says it; None: it is looked for.
        kind: of the fact; chance is counted among facts of one kind.
        changed: the answer after a change of the document; None: another value is made.
    """

    where: str
    answer: str
    questions: tuple[str, ...]
    reverse: tuple[str, str] | None = None
    document: str | None = None
    kind: str = ""
    changed: str | None = None

    @classmethod
    def of(cls, known: KnownFact) -> "AskedFact":
        """A fact that a teacher has written."""
        reverse = known.reverse[0] if known.reverse else None
        return cls(known.id, known.answer, known.questions, reverse, known.passage.document, known.kind)


def read_asked_facts(path: str | os.PathLike[str]) -> list[AskedFact]:
    """The facts of a file.

    Args:
        path: rows of any format that pairs may have.

    Returns:
        In the order of the file. Rows of one question each are one fact where answer and document are the same, which is told; a row with
        several wordings is a fact by itself. Of rows by `distill generate --documents` those of mode `closed`.

    Raises:
        ValueError: no rows, or a row that is no fact (it is named, with what it lacks); a question that says its own answer; one wording alone; one
            question with two answers; rows of one fact that change it to two values.
    """
    own: dict[tuple[str, ...], AskedFact] = {}
    joined: Counter[tuple[str, ...]] = Counter()
    written: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    passed_over: set[str] = set()
    for where, row in rows_in(path, columns=("questions", "answer")):
        if "fact" in row and "wording" in row:
            if row.get("mode") == "closed":
                written.setdefault(str(row["fact"]), []).append((where, row))
            else:
                passed_over.add(str(row.get("mode")))
        else:
            fact = _of_row(where, row)
            # two questions may have one answer: only what has no other wording of its own is one of another row's
            key = (fact.document or "", *value_words(fact.answer)) if len(fact.questions) == 1 else ("row", where)
            if (first := own.setdefault(key, fact)) is not fact:
                own[key], joined[key] = _together(first, fact), joined[key] + 1
    found = [*own.values(), *(_of_rows(name, rows) for name, rows in written.items())]
    if not found:
        modes = (
            f" It has rows of mode {', '.join(sorted(passed_over))} alone; those of mode closed are read."
            if passed_over
            else ""
        )
        raise ValueError(f"{path} has no facts.{modes} Of facts {FORM}.")
    for fact in found:
        _check(fact)
    _check_apart(found)
    _tell_joined(path, [(own[key], count + 1) for key, count in joined.items()])
    folder = os.fspath(Path(path).expanduser().parent / "_")[:-1]
    return [replace(fact, where=fact.where.removeprefix(folder)) for fact in found]


def _tell_joined(path: str | os.PathLike[str], joined: list[tuple[AskedFact, int]]) -> None:
    """Whoever has two questions with one answer has to see that they are taken for one."""
    if joined:
        named = "; ".join(f"{fact.answer!r}: {' / '.join(fact.questions)}" for fact, _ in joined[:3])
        more = f"; and {len(joined) - 3:,} more" if len(joined) > 3 else ""
        tell(
            f"{path}: {sum(count for _, count in joined):,} rows of one question each are {len(joined):,} facts, by their answers ({named}{more}). "
            "Where these are different questions, give each row a list of its wordings in `questions`."
        )


def _together(first: AskedFact, more: AskedFact) -> AskedFact:
    for name in ("changed", "reverse"):
        mine, other = getattr(first, name), getattr(more, name)
        if mine is not None and other is not None and mine != other:
            raise ValueError(
                f"{first.where} and {more.where} are one fact, by their answer {first.answer!r}, and have {name} {mine!r} and {other!r}; give one, or "
                "a list of wordings in `questions` where they are two facts."
            )
    return replace(
        first,
        questions=_distinct([*first.questions, *more.questions]),
        reverse=first.reverse or more.reverse,
        changed=first.changed or more.changed,
    )


def _distinct(questions: Iterable[str]) -> tuple[str, ...]:
    """Questions in other words: case and punctuation make none."""
    found: dict[tuple[str, ...], str] = {}
    for one in questions:
        found.setdefault(tuple(words(one)), one)
    return tuple(found.values())


def _of_row(where: str, row: Mapping[str, Any]) -> AskedFact:
    asked = row.get("questions", row.get("question"))
    if isinstance(asked, str) and asked.lstrip().startswith("["):  # a cell of a table
        try:
            asked = json.loads(asked)
        except ValueError:
            asked = [asked]
    questions = [asked] if isinstance(asked, str) else list(asked) if isinstance(asked, list | tuple) else []
    answer = _value(row["answer"] if "answer" in row else row.get("answers"))
    if not questions or not all(isinstance(one, str) and one.strip() for one in questions) or answer is None:
        lacking = "answer" if questions else "questions"
        said = row.get(lacking, row.get("answers" if lacking == "answer" else "question"))
        raise ValueError(
            f"{where} has the columns {', '.join(map(str, row))} and is no fact ({lacking}: {str(said)[:60]!r}): {FORM}."
        )
    reverse = _text(row.get("reverse_question")), _value(row.get("reverse_answer"))
    if any(reverse) and not all(reverse):
        raise ValueError(
            f"{where}: reverse_question and reverse_answer are {reverse!r}; give both as text, or neither."
        )
    return AskedFact(
        where, answer, _distinct(one.strip() for one in questions), (str(reverse[0]), str(reverse[1])) if all(reverse) else None,
        _text(row.get("document")), _text(row.get("kind")) or kind_of(questions[0]), _value(row.get("changed")),
    )  # fmt: skip


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None if value is None else str(value)


def _value(value: Any) -> str | None:
    """A short answer as text: numbers and dates as they are written, the first of a data set's several answers; None where it is nothing of these."""
    if isinstance(value, Mapping):  # SQuAD: {"text": [...], "answer_start": [...]}
        value = value.get("text")
    if isinstance(value, list | tuple):
        value = value[0] if value and len({str(one) for one in value}) == 1 else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, datetime.date | datetime.time):
        value = value.isoformat()
    return str(value).strip() or None if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def _of_rows(name: str, rows: list[tuple[str, Mapping[str, Any]]]) -> AskedFact:
    forward: list[str] = []
    reverse = None
    answer = kind = ""
    for where, row in rows:
        question, value = _last_asked(where, row), _value(row.get("answer"))
        if value is None:
            raise ValueError(f"{where}: its answer is {row.get('answer')!r}; that of a row with a fact is a text.")
        if str(row["wording"]).startswith("reverse"):
            reverse = reverse or (question, value)
        else:
            forward.append(question)
            answer, kind = value, str(row.get("kind") or "")
    where = f"{rows[0][0]} (fact {name})"
    if not forward:
        raise ValueError(f"{where} is only asked in reverse, so nobody knows its question.")
    return AskedFact(
        where, answer, _distinct(forward), reverse, name.rpartition("#")[0] or None, kind or kind_of(forward[0])
    )


def _last_asked(where: str, row: Mapping[str, Any]) -> str:
    prompt = row.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], Mapping):
        prompt = prompt[-1].get("content")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{where}: its prompt is {row.get('prompt')!r:.80}; that of a closed row is a question.")
    return prompt.strip()


def _check(fact: AskedFact) -> None:
    asked = [(question, fact.answer) for question in fact.questions] + ([fact.reverse] if fact.reverse else [])
    asked += [(question, fact.changed) for question in fact.questions if fact.changed is not None]
    for question, answer in asked:
        if not value_words(answer):
            raise ValueError(f"{fact.where}: the answer is {answer!r}, which has no word.")
        if says(question, answer):
            raise ValueError(f"{fact.where}: the question {question!r} says its own answer, {answer!r}.")
    if fact.changed is not None and (says(fact.changed, fact.answer) or says(fact.answer, fact.changed)):
        raise ValueError(
            f"{fact.where}: changed is {fact.changed!r} and the answer {fact.answer!r}; one must not be a part of the other."
        )
    if len(fact.questions) < 2:
        raise ValueError(
            f"{fact.where} has one wording, {fact.questions[0]!r}; at least one is trained and another is asked, so give two or more."
        )


def _check_apart(facts: Iterable[AskedFact]) -> None:
    """One question has one answer, whatever documents they are from."""
    taken: dict[tuple[str, ...], AskedFact] = {}
    for fact in facts:
        for question in fact.questions:
            first = taken.setdefault(tuple(words(question)), fact)
            if value_words(first.answer) != value_words(fact.answer):
                raise ValueError(
                    f"{first.where} and {fact.where} ask {question!r} with two answers, {first.answer!r} and {fact.answer!r}; say in the question what it is about."
                )
