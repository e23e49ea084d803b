"""How near a student is to its teacher, on held-out pairs. Every figure is a mean over tokens, not over batches."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.evaluation.next_tokens import Compared, compared
from distill.models.evaluating import evaluating
from distill.models.load import fast_dtype
from distill.pairs.collate import PairCollator, supervised_rows, supervised_tokens
from distill.signals import HeadTap, LogitTransform, SignalRequest, probe_head, run_with_taps
from distill.signals.head import head_of
from distill.signals.head_logits import multiplied_in
from distill.text.vocabulary import shared_vocabulary
from distill.trainers.checks import limits_of


@dataclass(frozen=True)
class Agreement:
    """Figures over the supervised tokens of held-out pairs.

    Args:
        kl: KL(teacher || student), nats a token; 0 for the teacher itself.
        kl_error: its standard error, over pairs as the independent units.
        top1: share of positions where both find the same token most likely.
        loss: the student's cross-entropy on the completion's tokens, nats a token.
        teacher_loss: the teacher's own; what no student can be expected to get below.
        tokens: how many tokens were compared.
    """

    kl: float
    kl_error: float
    top1: float
    loss: float
    teacher_loss: float
    tokens: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class HeldOut:
    """Held-out pairs with what the teacher says on them, computed once and used for many students.

    What is kept of a position is what the teacher's head was given, `[D]`, and the head once; the logits of both models are made a few rows at
    a time and forgotten. A head that may yet be trained is copied, so that the teacher stays what it was. Where that would take more
    memory than the logits (few tokens), or the head is not a plain matrix product (an adapter on it, 8 bit), the logits `[V]` are kept.

    Where a pair says what its teacher was shown (`teacher_prompt_ids`), what the teacher says is that behind it; the student sees the
    prompt.

    Args:
        teacher: the model that is imitated.
        pairs: held-out pairs; none of them trained on.
        tokenizer: of both.
        batch_size: rows at once.
        max_length: longest row in tokens.

    Raises:
        ValueError: what is kept would take more than 4 GiB; take fewer pairs. A pair that is too long for the teacher's positions.

    Example:
        >>> HeldOut(teacher.model, held_out, teacher.tokenizer).measure(student).kl
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        pairs: datasets.Dataset,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int = 8,
        max_length: int | None = None,
    ) -> None:
        self._teacher, self._tokenizer = teacher, tokenizer
        collate = PairCollator(tokenizer, max_length=max_length, teacher_rows=True)
        collate.teacher_limits = limits_of(
            teacher, "the teacher"
        )  # what it is shown may be longer than the student's row
        lengths = [len(pair["prompt_ids"]) + len(pair["completion_ids"]) for pair in pairs]
        self._order = sorted(range(len(lengths)), key=lengths.__getitem__)
        ordered = [pairs[number] for number in self._order]
        self._batches = [collate(ordered[i : i + batch_size]) for i in range(0, len(ordered), batch_size)]
        self.tokens = sum(int(supervised_rows(batch["labels"]).sum()) for batch in self._batches)
        weight = teacher.get_output_embeddings().weight
        self.kept_bytes = self.tokens * len(weight) * weight.element_size()
        transform = _readable_head(teacher)
        if transform is not None:
            states = self.tokens * weight.shape[1] * weight.element_size()
            copied = states + (weight.nbytes if weight.requires_grad else 0)
            transform = transform if copied < self.kept_bytes else None
            self.kept_bytes = min(self.kept_bytes, copied)
        if self.kept_bytes > 4 << 30:
            what = "logits" if transform is None else "hidden states"
            raise ValueError(
                f"The teacher's {what} on {len(ordered)} held-out pairs ({self.tokens} tokens) take {self.kept_bytes / 2**30:.1f} GiB; "
                "the limit is 4. Hold out fewer pairs."
            )
        self._head: HeadTap | None = None  # without states, which are kept by batch
        shown = [
            {name.removeprefix("teacher_"): t for name, t in batch.items() if name.startswith("teacher_")} or batch
            for batch in self._batches
        ]
        self._theirs = [self._kept(_signal(teacher, batch, transform, nullcontext())) for batch in shown]

    def _kept(self, signal: HeadTap | Tensor) -> Tensor:
        if isinstance(signal, Tensor):
            return signal.cpu()
        if self._head is None:
            weight, bias = (
                None if t is None else t.detach().cpu().clone() if signal.weight.requires_grad else t.detach()
                for t in (signal.weight, signal.bias)
            )
            assert weight is not None
            self._head = replace(signal, hidden=signal.hidden[:0].cpu(), weight=weight, bias=bias)
        return signal.hidden.cpu()

    def measure(self, student: PreTrainedModel, dtype: torch.dtype | None = None) -> Agreement:
        """The figures of one student.

        Args:
            student: any model with the teacher's tokens; left in the mode it was in.
            dtype: its matrix products run in this; bfloat16 by default where the machine is fast at it.
        """
        return self.by_pair(student, dtype).agreement()

    def by_pair(self, student: PreTrainedModel, dtype: torch.dtype | None = None) -> "ByPair":
        """The same, pair by pair; arguments as of `measure`. For what is compared between two students, or needs an interval."""
        dtype = dtype or fast_dtype()
        shared = shared_vocabulary(student, self._teacher, self._tokenizer, self._tokenizer)
        transform, device, head = _readable_head(student), student.device, self._head
        if head is not None:  # once, in the precision that it is multiplied in, and not for every batch
            kind = multiplied_in(head.dtype, device.type)
            weight, bias = (None if t is None else t.to(device, kind) for t in (head.weight, head.bias))
            assert weight is not None
            head = replace(head, weight=weight, bias=bias, dtype=kind)
        found: list[Compared] = []  # of each pair, by length
        for batch, theirs in zip(self._batches, self._theirs, strict=True):
            autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
            ours, theirs = _signal(student, batch, transform, autocast), theirs.to(device)
            rows = supervised_rows(batch["labels"])
            labels = supervised_tokens(batch["labels"], rows).to(device)
            both = compared(ours, theirs if head is None else replace(head, hidden=theirs), labels, shared)
            parts = [tensor.cpu().split(rows.sum(1).tolist()) for tensor in both]
            found += [Compared(*part) for part in zip(*parts, strict=True)]
        back = sorted(range(len(found)), key=self._order.__getitem__)
        return ByPair([found[number] for number in back])


@dataclass(frozen=True)
class ByPair:
    """A student beside its teacher, pair by pair in the order of the pairs.

    Args:
        pairs: of each pair the figures of its supervised positions.
    """

    pairs: Sequence[Compared]

    def sums(self, name: str) -> list[float]:
        """Of each pair the sum over its positions of one of the figures of `Compared`."""
        return [float(getattr(pair, name).sum()) for pair in self.pairs]

    def tokens(self) -> list[int]:
        """Supervised positions of each pair."""
        return [len(pair.kl) for pair in self.pairs]

    def agreement(self) -> Agreement:
        """Over all positions."""
        counts, kls = self.tokens(), self.sums("kl")
        tokens = sum(counts)
        kl = sum(kls) / tokens
        return Agreement(
            kl=kl,
            kl_error=_ratio_error(kls, counts, kl),
            top1=sum(self.sums("same")) / tokens,
            loss=sum(self.sums("loss")) / tokens,
            teacher_loss=sum(self.sums("teacher_loss")) / tokens,
            tokens=tokens,
        )


def _readable_head(model: PreTrainedModel) -> LogitTransform | None:
    """What the model does to its logits, if its head can be read after a pass; None: take the logits it makes.

    A head that is a part of a sharded model (FSDP) is whole only inside of the pass.
    """
    head = head_of(model)
    if head is None or isinstance(head.weight, DTensor) or head.weight.shape != (head.out_features, head.in_features):
        return None
    return probe_head(model)


@torch.no_grad()  # and not inference_mode, in which weights that FSDP gathers could not be trained afterwards
def _signal(
    model: PreTrainedModel,
    batch: dict[str, Tensor],
    transform: LogitTransform | None,
    autocast: AbstractContextManager[Any],
) -> HeadTap | Tensor:
    """What the logits of the supervised positions are made from, or they themselves."""
    own = {name: tensor for name, tensor in batch.items() if not name.startswith("teacher_") and name != "labels"}
    inputs = {name: tensor.to(model.device) for name, tensor in own.items()}
    rows = supervised_rows(batch["labels"]).to(model.device)
    request = SignalRequest(logits=True) if transform is None else SignalRequest(head=transform)
    with evaluating(model), autocast:
        signals = run_with_taps(model, model, inputs, rows, request)
    found = signals.logits if transform is None else signals.head
    assert found is not None
    return found


def _ratio_error(sums: list[float], counts: list[int], ratio: float) -> float:
    """Standard error of sum(sums) / sum(counts), units independent (linearised; Cochran 1977, section 2.11)."""
    n = len(sums)
    if n < 2:
        return math.nan
    spread = sum((s - ratio * c) ** 2 for s, c in zip(sums, counts, strict=True))
    return math.sqrt(n * spread / (n - 1)) / sum(counts)
