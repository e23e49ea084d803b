"""Whether two models speak the same tokens, and which columns of their heads can be compared."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def shared_vocabulary(
    student: "PreTrainedModel | Any",
    teacher: "PreTrainedModel | Any",
    student_tokenizer: "PreTrainedTokenizerBase | None",
    teacher_tokenizer: "PreTrainedTokenizerBase | None",
    *,
    looked_up: bool = False,
) -> int | None:
    """How many columns of the two heads to compare; None if the heads are of one size and all can be.

    Models of one family may pad their heads to different sizes (Qwen2.5: 151,936 and 152,064, for 151,665 tokens). Their
    real tokens are the same, and only those are compared.

    Args:
        student, teacher: the models, or what has a `vocabulary`, the rows of its head (`distill.signals.facts`).
        student_tokenizer, teacher_tokenizer: theirs, where they are known.
        looked_up: one of them was found by the name of its model, and not given: it may lack tokens that were added since. Then it
            only counts whether one id stands for two tokens (a renamed slot among those added to both is one).

    Raises:
        ValueError: the tokens differ (some are named), or the sizes do and the tokens cannot be checked.
    """
    sizes = [_head_of(side) for side in (student, teacher)]
    if student_tokenizer is not None and teacher_tokenizer is not None:
        ours, theirs = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
        added = student_tokenizer.added_tokens_decoder.keys() & teacher_tokenizer.added_tokens_decoder.keys()
        if ours != theirs and not (looked_up and sizes[0] == sizes[1] and not _contradict(ours, theirs, added)):
            own = " The teacher's tokenizer was found by its model's name; another is given as teacher=LocalTeacher(model, tokenizer)."
            raise ValueError(describe_difference(ours, theirs) + (own if looked_up else ""))
        if sizes[0] == sizes[1]:  # equally padded slots too: a teacher can emit them, and then they are labels
            return None
        real = max(ours.values()) + 1
        if real > min(sizes):
            raise ValueError(
                f"The tokenizer has {real} tokens, but the heads have {sizes[0]} (student) and {sizes[1]} (teacher); "
                "resize the smaller one's embeddings, or use the tokenizer it was trained with."
            )
        return real
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"The student's head has {sizes[0]} tokens and the teacher's {sizes[1]}; whether they are the same tokens can "
            "only be told from both tokenizers: give processing_class= and teacher=LocalTeacher(model, tokenizer)."
        )
    return None


def _head_of(side: Any) -> int:
    """Rows of a side's head."""
    known = getattr(side, "vocabulary", None)
    return int(side.get_output_embeddings().weight.shape[0] if known is None else known)


def _contradict(ours: dict[str, int], theirs: dict[str, int], added: Collection[int]) -> bool:
    """Whether an id stands for two tokens. A reserved slot that was renamed on one side (Llama 3 has 250) is still one."""
    by_id = {number: token for token, number in theirs.items()}
    twice = [(token, other, number) for token, number in ours.items() if (other := by_id.get(number, token)) != token]
    return any(number not in added or token in theirs or other in ours for token, other, number in twice)


def describe_difference(ours: dict[str, int], theirs: dict[str, int]) -> str:
    """Say which tokens differ between two vocabularies (token to id)."""
    differing = [t for t in sorted({**ours, **theirs}, key=str) if ours.get(t) != theirs.get(t)]
    shown = "; ".join(f"{t!r}: {ours.get(t, 'none')} and {theirs.get(t, 'none')}" for t in differing[:3])
    return (
        f"Student and teacher have different vocabularies: {len(differing)} tokens differ, e.g. {shown} (ids of student and "
        "teacher). White box compares token by token; use a student with the teacher's tokenizer, Logits(tokens='aligned'), or black box."
    )
