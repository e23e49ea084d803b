"""Preflight of rollouts without a training: a student writes, its teacher reads, and what speaks against the run is said."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from distill.models.adapters import base_of
from distill.models.eos import eos_ids
from distill.pairs.aligned_rows import AlignedRows
from distill.pairs.collate import PairCollator
from distill.pairs.row_limits import RowLimits
from distill.signals.several import Routed
from distill.signals.sources import source_of
from distill.trainers.alignment_checks import some_of
from distill.trainers.checks import compared_with, limits_of
from distill.trainers.first_look import BothSides, FirstLook, first_look
from distill.trainers.on_policy import answered, answers_to, check_any_text, of_prompt
from distill.trainers.rollout_prompts import check_lengths, prompt_rows
from distill.trainers.rollouts import Ask, Rollouts
from distill.trainers.sampling import sample


def preflight_rollouts(
    student: Any,
    teacher: Any,
    prompts: Any,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: Rollouts | None = None,
    *,
    tokens: str = "same",
    seed: int = 0,
) -> FirstLook:
    """The look that `WhiteBoxTrainer(rollouts=)` takes before its first on-policy step, of a student and a teacher alone.

    Args:
        student: the model as it would begin.
        teacher: whatever a white box takes as its teacher.
        prompts: as `Rollouts.prompts`; of many, `rollouts.look` spread evenly are taken.
        tokenizer: the student's.
        rollouts: how to draw, how many to look at, and the limit; prompts in it are not read.
        tokens: `"same"`, or `"aligned"` for a teacher with another tokenizer, as of `Logits`.
        seed: of the drawing, as a training's.

    Returns:
        The look; what would stop a run is among its errors, and nothing is raised for that.

    Raises:
        ValueError: no prompts, or such as the models cannot take; vocabularies that differ; a teacher that knows some texts only; `look=0`.

    Example:
        >>> print(preflight_rollouts(student, teacher, ["Why is the sky blue?"], tokenizer))
    """
    settings = rollouts or Rollouts()
    if not settings.look:
        raise ValueError("look is 0: no rollout would be looked at; it must be at least 1 here.")
    if tokens not in ("same", "aligned"):
        raise ValueError(f"tokens is {tokens!r}; it must be 'same' (one vocabulary) or 'aligned' (two tokenizers).")
    check_any_text(teacher)
    source = source_of(teacher, student, False)
    source.prepare(student, student.device)
    collator = _collator(student, source, tokenizer, tokens)
    shared = None if collator.aligned is None else collator.aligned.shared
    vocabulary = {"": None} if shared else compared_with(source, base_of(student), tokenizer)
    given = list(prompts) if isinstance(prompts, list | tuple) else prompts
    rows: Sequence[Any] = some_of(prompt_rows(given, tokenizer, settings.chat), settings.look)
    rows = [of_prompt(row, number) for number, row in enumerate(rows)]
    check_lengths(rows, "the prompts", settings.max_new_tokens, collator.limits, collator.teacher_limits, None)
    stops = eos_ids(student, tokenizer)
    asks = [Ask(row["prompt_ids"], (seed, 0, number)) for number, row in enumerate(rows)]
    most = min((limit for limit in (collator.limits.vocabulary, *vocabulary.values()) if limit is not None), default=None)  # fmt: skip
    answers = answers_to(asks, student, settings.sampler or sample, settings, stops, most)
    made = [answered(row, answer) for row, answer in zip(rows, answers, strict=True)]
    sides = BothSides(student, source, collator, vocabulary, shared, student.device)
    return first_look(made, sides, tokenizer, stops, settings.highest_kl, settings.verifier)


def _collator(student: Any, source: Any, tokenizer: PreTrainedTokenizerBase, tokens: str) -> PairCollator:
    """As a trainer's, with the limits of both models."""
    limits = limits_of(base_of(student))
    collator = PairCollator(
        tokenizer, teacher_rows=True, documents=source.documents, columns=source.columns, limits=limits
    )
    for model in source.models():
        collator.teacher_limits = collator.teacher_limits.tightened(limits_of(model, "the teacher"))
    if tokens == "aligned":
        if isinstance(source, Routed):
            raise ValueError("tokens='aligned' aligns the student's tokenizer with one other, and there are several teachers by row (Routed).")  # fmt: skip
        other = source.tokenizer or source.facts.find_tokenizer()
        if other is None:
            raise ValueError(
                "tokens='aligned' pairs the tokens of two tokenizers, and the teacher's is not known; give teacher=LocalTeacher(model, tokenizer)."
            )
        collator.words, collator.aligned = True, AlignedRows(tokenizer, other, collator.teacher_limits.positions)
        collator.teacher_limits = RowLimits()
    return collator
