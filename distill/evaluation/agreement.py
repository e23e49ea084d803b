"""How near a student is to its teacher, on held-out pairs. Every figure is a mean over tokens, not over batches."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.models.evaluating import evaluating
from distill.models.load import fast_dtype
from distill.objectives.divergences import forward_kl
from distill.pairs.collate import PairCollator, supervised_rows, supervised_tokens
from distill.signals import SignalRequest, run_with_taps
from distill.text.vocabulary import shared_vocabulary


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
    """Held-out pairs with the teacher's logits on them, computed once and used for many students.

    Where a pair says what its teacher was shown (`teacher_prompt_ids`), the teacher's logits are those behind that; the student sees the
    prompt.

    Args:
        teacher: the model that is imitated.
        pairs: held-out pairs; none of them trained on.
        tokenizer: of both.
        batch_size: rows at once.
        max_length: longest row in tokens.

    Raises:
        ValueError: the logits would take more than 4 GiB; take fewer pairs.

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
        ordered = sorted(pairs, key=lambda pair: len(pair["prompt_ids"]) + len(pair["completion_ids"]))
        self._batches = [collate(ordered[i : i + batch_size]) for i in range(0, len(ordered), batch_size)]
        self.tokens = sum(int(supervised_rows(batch["labels"]).sum()) for batch in self._batches)
        head = teacher.get_output_embeddings().weight
        size = self.tokens * head.shape[0] * head.element_size()
        if size > 4 << 30:
            raise ValueError(
                f"The teacher's logits on {len(ordered)} held-out pairs ({self.tokens} tokens) take {size / 2**30:.1f} GiB; "
                "the limit is 4. Hold out fewer pairs."
            )
        shown = [
            {name.removeprefix("teacher_"): t for name, t in batch.items() if name.startswith("teacher_")} or batch
            for batch in self._batches
        ]
        self._teacher_logits = [self._logits(teacher, batch, nullcontext()).cpu() for batch in shown]

    def measure(self, student: PreTrainedModel, dtype: torch.dtype | None = None) -> Agreement:
        """The figures of one student.

        Args:
            student: any model with the teacher's tokens; left in the mode it was in.
            dtype: its matrix products run in this; bfloat16 by default where the machine is fast at it.
        """
        dtype = dtype or fast_dtype()
        shared = shared_vocabulary(student, self._teacher, self._tokenizer, self._tokenizer)
        kls, rows_a_pair, same, loss, teacher_loss = [], [], 0, 0.0, 0.0
        for batch, teacher_logits in zip(self._batches, self._teacher_logits, strict=True):
            autocast = torch.autocast(student.device.type, dtype=dtype, enabled=dtype != torch.float32)
            logits = self._logits(student, batch, autocast)
            logits, reference = logits[:, :shared].float(), teacher_logits[:, :shared].to(logits.device).float()
            rows = supervised_rows(batch["labels"])
            labels = supervised_tokens(batch["labels"], rows).to(logits.device)
            per_pair = rows.sum(1).tolist()
            kls += [float(part.sum()) for part in forward_kl(logits, reference).split(per_pair)]
            rows_a_pair += per_pair
            same += int((logits.argmax(-1) == reference.argmax(-1)).sum())
            loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
            teacher_loss += float(nn.functional.cross_entropy(reference, labels, reduction="sum"))
        kl = sum(kls) / self.tokens
        return Agreement(
            kl=kl,
            kl_error=_ratio_error(kls, rows_a_pair, kl),
            top1=same / self.tokens,
            loss=loss / self.tokens,
            teacher_loss=teacher_loss / self.tokens,
            tokens=self.tokens,
        )

    @staticmethod
    @torch.no_grad()  # and not inference_mode, in which weights that FSDP gathers could not be trained afterwards
    def _logits(model: PreTrainedModel, batch: dict[str, Tensor], autocast: AbstractContextManager[Any]) -> Tensor:
        own = {name: tensor for name, tensor in batch.items() if not name.startswith("teacher_") and name != "labels"}
        inputs = {name: tensor.to(model.device) for name, tensor in own.items()}
        rows = supervised_rows(batch["labels"]).to(model.device)
        with evaluating(model), autocast:
            signals = run_with_taps(model, model, inputs, rows, SignalRequest(logits=True))
        assert signals.logits is not None
        return signals.logits


def _ratio_error(sums: list[float], counts: list[int], ratio: float) -> float:
    """Standard error of sum(sums) / sum(counts), units independent (linearised; Cochran 1977, section 2.11)."""
    n = len(sums)
    if n < 2:
        return math.nan
    spread = sum((s - ratio * c) ** 2 for s, c in zip(sums, counts, strict=True))
    return math.sqrt(n * spread / (n - 1)) / sum(counts)
