"""Answering: a question, the passages that were found for it, a model's answer, and where it is from."""

from dataclasses import dataclass
from typing import Any

from distill.basics.processes import tell
from distill.retrieval.passages import Passage, Retriever, bare, with_passages
from distill.teachers.base import Ask, Completion, ConcurrentTeacher, Refusal, Sampling
from distill.text.messages import Messages


@dataclass(frozen=True)
class Answer:
    """What a model answered.

    Args:
        text: its answer.
        passages: what it was shown, in that order; none where it answered from its weights.
        prompt: what it was asked, as messages.
        finish_reason: `"stop"`, or `"length"` where the answer was cut.
    """

    text: str
    passages: tuple[Passage, ...]
    prompt: Messages
    finish_reason: str

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the passages are from, each once, in their order."""
        return tuple(dict.fromkeys(passage.source for passage in self.passages))


def answer(
    model: Any,
    question: str,
    index: Retriever,
    k: int = 3,
    *,
    tokenizer: Any = None,
    max_new_tokens: int = 128,
    system: str | None = None,
    without_passages: bool = False,
) -> Answer:
    """Look a question up and let a model answer it, by its most likely tokens.

    Args:
        model: a teacher (`LocalTeacher`, `ServerTeacher`), a name, or a loaded model.
        question: its words.
        index: an `Index`, or any object with `search(query, k)`.
        k: passages at most; the last ones are left out, and that is said, where the model's context does not hold them.
        tokenizer: of a loaded model.
        max_new_tokens: of the answer.
        system: a system text before all.
        without_passages: where nothing is found, ask the model alone. Otherwise that is an error: an answer from memory looks like one
            that was read.

    Raises:
        ValueError: nothing was found; not even one passage fits into the context; the model refuses.

    Example:
        >>> answer("smollm2-135m", "What is a pair?", index).sources  # doctest: +SKIP
        ('design.md',)
    """
    if not callable(getattr(index, "search", None)):
        raise ValueError(f"index is a {type(index).__name__}; it must have search(query, k), as an Index has.")
    teacher = _teacher(model, tokenizer)
    sampling = Sampling(max_new_tokens, temperature=0)
    shown = list(index.search(question, k))
    if not shown and not without_passages:
        raise ValueError(
            f"No passage was found for {question[:80]!r}. With without_passages=True the model answers from what it knows."
        )
    found = len(shown)
    while True:
        prompt = with_passages(question, shown, system=system) if shown else bare(question, system=system)
        reply = _ask(teacher, prompt, sampling)
        if isinstance(reply, Completion):
            break
        if not reply.of_prompt or len(shown) < 2:
            raise ValueError(f"No answer can be had to {question[:80]!r}: {reply.reason}.")
        shown.pop()
    if len(shown) < found:
        tell(f"{question[:80]!r}: {len(shown)} of {found} passages fit into the model's context.")
    return Answer(reply.text.strip(), tuple(shown), prompt, reply.finish_reason)


def _teacher(model: Any, tokenizer: Any) -> Any:
    if hasattr(model, "resolve_prompt"):
        return model
    from distill.teachers.local import LocalTeacher

    return LocalTeacher(model, tokenizer)


def _ask(teacher: Any, prompt: Messages, sampling: Sampling) -> Completion | Refusal:
    asked, ids = teacher.resolve_prompt(prompt)
    if isinstance(teacher, ConcurrentTeacher):
        ((_, reply),) = teacher.complete_each([Ask(0, asked, ids, sampling.seed)], sampling)
        return reply
    refusal_of = getattr(teacher, "refusal_of", None)
    refused = refusal_of(ids, sampling) if refusal_of else None
    if refused is not None:
        assert isinstance(refused, Refusal)
        return refused
    completion = teacher.complete([ids], sampling, sampling.seed)[0]
    assert isinstance(completion, Completion)
    return completion
