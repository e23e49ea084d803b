"""Asked facts of a file: questions of one's own about documents, with their answers; or the rows that `distill generate --documents` wrote."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.pairs.sources import rows_in
from distill.retrieval.row_modes import KnownFact
from distill.retrieval.saying import says, value_words
from distill.retrieval.verifying import kind_of

FORM = (
    "a row has `questions` (two or more wordings of one question), `answer` (short, as it stands in a document) and, if you like, `document`, "
    "`reverse_question` with `reverse_answer`, and `kind`; or the rows are those of `distill generate --documents`"
)


@dataclass(frozen=True)
class AskedFact:
    """A fact as it is asked: before anybody has looked where it stands.

    Args:
        where: file and row, for people.
        answer: short, as it stands in a document.
        questions: wordings of one question.
        reverse: a question the other way round with its answer; None: none.
        document: id of the document that says it; None: it is looked for.
        kind: of the fact; chance is counted among facts of one kind.
    """

    where: str
    answer: str
    questions: tuple[str, ...]
    reverse: tuple[str, str] | None = None
    document: str | None = None
    kind: str = ""

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
        In the order of the file; of rows by `distill generate --documents` those of mode `closed`, together by their fact.

    Raises:
        ValueError: no rows, or a row that is no fact (it is named, with what it lacks); a question that says its own answer.
    """
    own: list[AskedFact] = []
    written: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    passed_over: set[str] = set()
    for where, row in rows_in(path, columns=("questions", "answer")):
        if "fact" in row and "wording" in row:
            if row.get("mode") == "closed":
                written.setdefault(str(row["fact"]), []).append((where, row))
            else:
                passed_over.add(str(row.get("mode")))
        else:
            own.append(_of_row(where, row))
    found = own + [_of_rows(name, rows) for name, rows in written.items()]
    if not found:
        modes = (
            f" It has rows of mode {', '.join(sorted(passed_over))} alone; those of mode closed are read."
            if passed_over
            else ""
        )
        raise ValueError(f"{path} has no facts.{modes} Of facts {FORM}.")
    for fact in found:
        _check(fact)
    return found


def _of_row(where: str, row: Mapping[str, Any]) -> AskedFact:
    asked = row.get("questions", row.get("question"))
    questions = [asked] if isinstance(asked, str) else list(asked or ()) if isinstance(asked, list | tuple) else []
    answer = row.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    if (
        not questions
        or not all(isinstance(one, str) and one.strip() for one in questions)
        or not isinstance(answer, str)
    ):
        raise ValueError(f"{where} has the columns {', '.join(map(str, row))} and is no fact: {FORM}.")
    back = row.get("reverse_question"), row.get("reverse_answer")
    if any(back) and not all(isinstance(one, str) and one.strip() for one in back):
        raise ValueError(f"{where}: reverse_question and reverse_answer are {back!r}; give both as text, or neither.")
    document, kind = row.get("document"), row.get("kind")
    return AskedFact(
        where, answer.strip(), tuple(dict.fromkeys(one.strip() for one in questions)),
        (str(back[0]).strip(), str(back[1]).strip()) if all(back) else None,
        None if document is None else str(document), str(kind or kind_of(questions[0])),
    )  # fmt: skip


def _of_rows(name: str, rows: list[tuple[str, Mapping[str, Any]]]) -> AskedFact:
    forward: dict[str, None] = {}
    reverse = None
    answer = kind = ""
    for where, row in rows:
        question = _last_asked(where, row)
        if str(row["wording"]).startswith("reverse"):
            reverse = reverse or (question, str(row["answer"]))
        else:
            forward.setdefault(question)
            answer, kind = str(row["answer"]), str(row.get("kind") or "")
    where = f"{rows[0][0]} (fact {name})"
    if not forward:
        raise ValueError(f"{where} is only asked in reverse, so nobody knows its question.")
    document = name.rpartition("#")[0] or None
    return AskedFact(where, answer, tuple(forward), reverse, document, kind or kind_of(next(iter(forward))))


def _last_asked(where: str, row: Mapping[str, Any]) -> str:
    prompt = row.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], Mapping):
        prompt = prompt[-1].get("content")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{where}: its prompt is {row.get('prompt')!r:.80}; that of a closed row is a question.")
    return prompt.strip()


def _check(fact: AskedFact) -> None:
    if not value_words(fact.answer):
        raise ValueError(f"{fact.where}: the answer is {fact.answer!r}, which has no word.")
    if told := [question for question in fact.questions if says(question, fact.answer)]:
        raise ValueError(f"{fact.where}: the question {told[0]!r} says its own answer, {fact.answer!r}.")
    if len(fact.questions) < 2:
        raise ValueError(
            f"{fact.where} has one wording, {fact.questions[0]!r}; at least one is trained and another is asked, so give two or more."
        )
