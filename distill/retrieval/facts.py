"""Facts: what is taught, changed and asked, with all wordings."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """One fact of some documents, and all its wordings.

    Args:
        id: such as `town.mayor/Ostadrel`.
        kind: such as `town.mayor` (`distill.retrieval.world_kinds`), or how it is asked; chance is counted among facts of one kind.
        subject: what it is about: the answer of the reverse question; empty where there is none.
        value: the answer in version 0 of the documents.
        changed: the answer in version 1; None: the same.
        questions: wordings for training.
        held_out: one or two wordings that no training sees.
        reverse: the question whose answer is the subject, which no training sees either; empty: none.
        reverse_questions: the same question in wordings for training.
        document: id of the document that says it in either version.
    """

    id: str
    kind: str
    subject: str
    value: str
    changed: str | None
    questions: tuple[str, ...]
    held_out: tuple[str, ...]
    reverse: str
    reverse_questions: tuple[str, ...]
    document: str

    def at(self, version: int) -> str:
        """The answer in a version of the documents."""
        return self.changed if version and self.changed is not None else self.value
