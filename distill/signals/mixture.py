"""Mixture: several teachers as one, the weighted mean of their next-token distributions."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from distill.signals.base import SignalSource, named_teachers
from distill.signals.facts import TeacherFacts
from distill.signals.head import LogitTransform, MixedHead
from distill.signals.requests import SignalRequest, Signals
from distill.signals.rows import SupervisedRows
from distill.signals.several import Routed
from distill.signals.sources import prepared
from distill.text.vocabulary import shared_vocabulary


class MixedFacts(TeacherFacts):
    """Facts of a mixture: it is a distribution over tokens and nothing else.

    Args:
        parts: facts of its teachers.
    """

    def __init__(self, parts: Sequence[TeacherFacts]) -> None:
        self.parts = list(parts)
        self.name = f"A mixture of {', '.join(facts.name for facts in parts)}"
        self.config, self.vocabulary = parts[0].config, min(facts.vocabulary for facts in parts)
        self.transforms: list[LogitTransform | None] = [None] * len(parts)

    def transform(self) -> LogitTransform | None:
        """Nothing is left to do to the logits of a mixture; those of one teacher are its own."""
        self.transforms = [facts.transform() for facts in self.parts]
        if len(self.parts) == 1:
            return self.transforms[0]
        return LogitTransform() if all(one is not None for one in self.transforms) else None

    def find_tokenizer(self) -> Any:
        """Of the first teacher."""
        return self.parts[0].find_tokenizer()


class Mixture(SignalSource):
    """Several teachers as one: the weighted mean of their next-token *distributions*, p = sum of w_i p_i, computed exactly.

    A mean of logits would be another thing: a product of experts. Where the heads are padded to different sizes, the distributions are over
    the slots that all of them have.

    Args:
        teachers: a list of anything that a white box takes as its teacher, all of one vocabulary.
        weights: above 0, brought to a sum of 1; None: alike.

    Raises:
        ValueError: no list, no teachers, other weights; in `prepare`: teachers of unequal vocabulary, or one that stores no whole distribution.

    Source: the arithmetic mean of an ensemble's distributions (Hinton, Vinyals, Dean 2015).

    Example:
        >>> Mixture(["my/one", "my/other"], weights=[0.7, 0.3])
    """

    def __init__(self, teachers: Sequence[Any], weights: Sequence[float] | None = None) -> None:
        if isinstance(teachers, str | os.PathLike | Mapping):
            raise ValueError(
                f"teachers is a {type(teachers).__name__} ({str(teachers)!r:.60}); a mixture takes a list of teachers, [one, other]"
                f"{', e.g. list(teachers.values()); with route_by= each row has its own' if isinstance(teachers, Mapping) else ''}."
            )
        shares = [1.0] * len(teachers) if weights is None else [float(weight) for weight in weights]
        if not teachers or len(shares) != len(teachers) or not all(0 < w < math.inf for w in shares):
            raise ValueError(
                f"A mixture has {len(teachers)} teachers and the weights {weights}; give one weight above 0 for each of at least one "
                "teacher, or none."
            )
        self._given, self.weights = dict(enumerate(teachers)), [share / sum(shares) for share in shares]
        self.sources: list[SignalSource] = []

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """What its teachers need."""
        return tuple(dict.fromkeys(column for one in self._given.values() for column in getattr(one, "columns", ())))

    @property
    def documents(self) -> bool:  # type: ignore[override]
        """Whether one of them needs it."""
        return any(getattr(one, "documents", False) for one in self._given.values())

    @property
    def any_text(self) -> bool:  # type: ignore[override]
        """Whether all of them can be asked about any text."""
        return all(getattr(one, "any_text", True) for one in self._given.values())

    def prepare(self, student: Any, device: torch.device) -> None:
        """See `SignalSource`."""
        if any(isinstance(one, Mixture | Routed) for one in self._given.values()):
            raise ValueError("A mixture is of single teachers; give the inner teachers themselves, each with a weight.")
        self.sources = list(prepared(self._given, student, device).values())
        facts = [source.facts for source in self.sources]
        if sparse := [one.name for one in facts if one.next_token not in ("head", "logits")]:
            raise ValueError(
                f"{sparse[0]} gives some tokens of a distribution, and a mixture needs all; capture with encoding='hidden', or give the "
                "teacher as a model."
            )
        for source in self.sources[1:]:
            _check_same_tokens(self.sources[0], source)
        self.tokenizer = next((one.tokenizer for one in self.sources if one.tokenizer), None)
        self.together = any(source.together for source in self.sources)
        self.facts: MixedFacts = MixedFacts(facts)

    def check(self, rows: Any, name: str = "the pairs", max_length: int | None = None) -> None:
        """See `SignalSource`."""
        for source in self.sources:
            source.check(rows, name, max_length)

    def signals(self, batch: Mapping[str, Any], rows: SupervisedRows, request: SignalRequest) -> Signals:
        """See `SignalSource`."""
        if request.hidden or request.has_attention():
            raise ValueError(
                f"{self.facts.name} gives next-token distributions, and neither hidden states nor attention."
            )
        wanted = [
            SignalRequest(logits=request.logits, head=None if request.head is None else transform)
            for transform in self.facts.transforms
        ]
        found = [one.signals(batch, rows, own) for one, own in zip(self.sources, wanted, strict=True)]
        if len(found) == 1:
            return found[0]
        logs, mixed, logits = [math.log(weight) for weight in self.weights], None, None
        if request.head is not None:
            heads = tuple(one.head for one in found if one.head is not None)
            mixed = MixedHead(heads, tuple(logs))
        for one, log in zip(found if request.logits else (), logs, strict=request.logits):
            assert one.logits is not None
            part = one.logits[:, : self.facts.vocabulary]
            log_p = part.to(torch.promote_types(part.dtype, torch.float32)).log_softmax(-1) + log
            logits = log_p if logits is None else torch.logaddexp(logits, log_p)
        return Signals(rows=rows.mask, supervised=rows, logits=logits, mixed=mixed)

    def release(self) -> None:
        """See `SignalSource`."""
        for source in self.sources:
            source.release()

    def identity(self, student: Any) -> Any:
        """See `SignalSource`."""
        return [
            {"weight": weight, "teacher": one.identity(student)}
            for weight, one in zip(self.weights, self.sources, strict=True)
        ]

    def models(self) -> list[PreTrainedModel]:
        """See `SignalSource`."""
        return [model for source in self.sources for model in source.models()]

    def teachers(self) -> list[Any]:
        """See `SignalSource`; before `prepare`, as they were given."""
        return [one for source in self.sources or self._given.values() for one in named_teachers(source)]


def _check_same_tokens(one: Any, other: Any) -> None:
    """Refuse a mixture over tokens that are not the same."""
    tokenizers = [source.tokenizer or source.facts.find_tokenizer() for source in (one, other)]
    try:
        shared_vocabulary(one.facts, other.facts, *tokenizers)
    except ValueError as error:
        raise ValueError(f"A mixture of {one.facts.name} and {other.facts.name}: {error}") from None
