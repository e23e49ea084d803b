"""Reading a teacher: it is run over batches of pairs, and what it says becomes bytes."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedTokenizerBase

from distill.basics.redact import public_name
from distill.models.adapters import base_of, check_no_virtual_tokens
from distill.models.evaluating import evaluating
from distill.models.load import config_fingerprint, tokenizer_of
from distill.models.positions import positions_of
from distill.models.probing import place_of
from distill.models.quantising import is_dispatched
from distill.pairs.collate import PairCollator, supervised_rows
from distill.pairs.row_limits import RowLimits
from distill.signals.encodings import Encoding
from distill.signals.head import probe_head
from distill.signals.requests import SignalRequest, Signals, run_with_taps
from distill.signals.rows import SupervisedRows
from distill.signals.signal_folder import Beside, Head
from distill.signals.teacher_rows import Rows
from distill.teachers.local import LocalTeacher
from distill.teachers.server import ServerTeacher

# of a teacher's identity, what decides its signals
_TEACHER = ("teacher_dtype", "teacher_weights", "teacher_quantisation", "teacher_quantised_weights", "teacher_adapters")
_ROWS = 8192  # of a head that are looked at at once


def as_teacher(teacher: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> LocalTeacher:
    """The teacher with its tokenizer.

    Raises:
        ValueError: it has another tokenizer already, cannot be loaded, has virtual tokens or no weights here, or its tokenizer cannot be found.
    """
    if isinstance(teacher, LocalTeacher):
        check_no_other_tokenizer(teacher, tokenizer)
        found = teacher
    elif isinstance(teacher, str | os.PathLike):
        found = LocalTeacher(teacher, tokenizer)
    else:
        its = tokenizer or tokenizer_of(base_of(teacher)) if hasattr(teacher, "config") else tokenizer
        if its is None and hasattr(teacher, "config"):
            raise ValueError(
                "The teacher does not say where it came from, so its tokenizer is not known; give capture(LocalTeacher(model, tokenizer), ...)."
            )
        found = LocalTeacher(teacher, its)
    check_no_virtual_tokens(found.model)
    model = base_of(found.model)
    if isinstance(model, FSDPModule):
        raise ValueError(
            "The teacher is divided over processes (FSDP); load it whole in each, or spread it with device_map='auto'."
        )
    absent = [name for name, p in model.named_parameters() if p.is_meta]
    if absent and not is_dispatched(model):
        raise ValueError(
            f"The teacher has no weights: {len(absent)} of its parameters are on the meta device, the first is {absent[0]}. Load it "
            "with from_pretrained(...), or LocalTeacher(name)."
        )
    return found


def check_no_other_tokenizer(teacher: LocalTeacher | ServerTeacher, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Refuse a tokenizer beside a teacher that brings its own.

    Raises:
        ValueError: it is another one.
    """
    if tokenizer is not None and tokenizer is not teacher.tokenizer:
        kind = type(teacher).__name__
        raise ValueError(
            f"tokenizer is given beside the {kind} {teacher.name}, which has one already; leave tokenizer out, or give it to {kind}."
        )


def describe_teacher(teacher: LocalTeacher) -> dict[str, Any]:
    """What decides a teacher's signals: architecture and config, weights, precision, adapters; plain values to compare."""
    model = base_of(teacher.model)
    config, identity = model.config.get_text_config(decoder=True), teacher.identity()
    return {
        "config": config_fingerprint(model.config),
        "class": type(model).__name__,
        "layers": getattr(config, "num_hidden_layers", None),
        **{name.removeprefix("teacher_"): identity[name] for name in _TEACHER if name in identity},
    }


class TeacherReader:
    """A teacher that is run over batches of pairs, and the bytes of what it says.

    Args:
        teacher: a `LocalTeacher`.

    Attributes:
        limits: what the teacher can take of a row.
        identity: what decides its signals, plain values.
        tokenizer: its own.
        batch_tokens: the usual size of a batch.
        encoding: after `open`.
    """

    batch_tokens = 8192

    def __init__(self, teacher: LocalTeacher) -> None:
        self.name, self.model = teacher.name, base_of(teacher.model)
        self.tokenizer, self.identity = teacher.tokenizer, describe_teacher(teacher)
        place = place_of(self.model)
        self.limits = RowLimits(
            positions_of(self.model), None if place is None else place.vocabulary, None, "the teacher"
        )
        self._collator = PairCollator(teacher.tokenizer)

    def record(self) -> dict[str, Any]:
        """What decides no more than rounding."""
        return {
            "name": public_name(self.name),
            "attention": getattr(self.model.config.get_text_config(decoder=True), "_attn_implementation", None),
            "device": self.model.device.type,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def open(self, encoding: Encoding) -> Beside:
        """Find out how this teacher's distributions can be had for an encoding; what is to be kept of it beside them.

        Raises:
            ValueError: the encoding needs what its head does not give.
        """
        self._transform = probe_head(self.model)
        if self._transform is None and encoding.next_token == "head":
            raise ValueError(
                f"The head of {self.name} is no plain matrix product whose result is scaled or capped (8 bit? an adapter on it? offloaded?), so "
                "its logits cannot be made again from what it is given; choose another encoding: threshold, draws or top."
            )
        with self.reading():
            said = self._run({"input_ids": torch.zeros((1, 2), dtype=torch.long)}, torch.tensor([[True, False]]))
        if said.head is None:
            assert said.logits is not None
            width, dtype = self.model.config.get_text_config(decoder=True).hidden_size, str(said.logits.dtype)
            self.encoding = encoding.of_head(
                vocabulary=said.logits.shape[1], width=width, dtype=dtype.removeprefix("torch.")
            )
            return Beside(self.tokenizer, self.model.config)
        self.encoding = encoding.of_tap(said.head)
        head = Head(said.head.weight, said.head.bias, said.head.transform) if encoding.next_token == "head" else None
        if head is not None:
            self._check_finite(head)
        return Beside(self.tokenizer, self.model.config, head)

    def _check_finite(self, head: Head) -> None:
        """A head is stored once and never run here: what is wrong with it would be seen in the training alone."""
        for start in range(0, len(head.weight), _ROWS):
            if not bool((bad := ~head.weight[start : start + _ROWS].isfinite().all(dim=1)).any()):
                continue
            raise ValueError(
                f"The head of {self.name} has weights that are not finite, the first for token {start + int(bad.nonzero()[0])}; nothing can be learned from "
                "it. Load the teacher in a wider dtype, and look whether its weights are whole."
            )
        # -inf: a token that is never said
        bias = None if head.bias is None else head.bias.detach()
        if bias is not None and bool((bad := bias.isnan() | (bias == torch.inf)).any()):
            raise ValueError(
                f"The bias of the head of {self.name} is {float(bias[bad][0])} for token {int(bad.nonzero()[0])}; look whether its weights are whole."
            )

    def reading(self) -> AbstractContextManager[None]:
        """Within it `read` may be called."""
        return evaluating(self.model)

    def read(self, pairs: list[dict[str, Any]], rows: Rows, numbers: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The bytes of each pair of a batch.

        Args:
            pairs: as the teacher is shown them.
            rows: of all pairs.
            numbers: which of them these are.

        Raises:
            ValueError: what the teacher says is not finite; names the pair.
        """
        batch = self._collator(pairs)
        labels = batch.pop("labels")
        said = self._run(batch, supervised_rows(labels))
        where = said.where()
        counts, tokens = rows.positions[numbers].tolist(), where.next_tokens(labels.to(where.index.device))
        assert where.counts() == counts, (where.counts(), counts)
        seeds = [rows.keys[i].tobytes() for i in numbers]
        try:
            if said.head is not None:
                return self.encoding.encode(said.head, counts, tokens, seeds)
            return self.encoding.encode_logits(said.logits, counts, tokens, seeds)  # type: ignore[attr-defined]
        except ValueError as error:
            raise ValueError(f"{error} The batch holds {', '.join(pair['id'] for pair in pairs[:8])}.") from None

    @torch.no_grad()
    def _run(self, batch: Mapping[str, Tensor], mask: Tensor) -> Signals:
        device = self.model.device
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        request = SignalRequest(head=self._transform, logits=self._transform is None)
        with torch.autocast(device.type, enabled=False):
            return run_with_taps(self.model, self.model, inputs, SupervisedRows.of(mask.to(device)), request)
