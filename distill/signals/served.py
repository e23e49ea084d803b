"""Served teacher: while a training runs, a server is asked for the likeliest tokens at each supervised position of each batch."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from distill.pairs.labels import IGNORE
from distill.signals.base import NamedTeacher, SignalSource, teachers_inputs
from distill.signals.encodings.top import Top
from distill.signals.facts import TeacherFacts
from distill.signals.requests import SignalRequest, Signals
from distill.signals.rows import SupervisedRows
from distill.signals.served_reader import ServedReader, ServedText
from distill.signals.sparse import Top as Likeliest
from distill.teachers.server import ServerTeacher

K = 20  # what vLLM gives without a flag of its own


class ServedFacts(TeacherFacts):
    """Facts of a teacher behind a server.

    Args:
        name: for messages.
        vocabulary: tokens of its tokenizer.
        tokenizer: its own.
    """

    next_token, temperature = "top", 1.0

    def __init__(self, name: str, vocabulary: int, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name, self.vocabulary, self._tokenizer = name, vocabulary, tokenizer

    @property
    def config(self) -> PreTrainedConfig:  # type: ignore[override]
        """A server shows none.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{self.name} stands behind a server, which shows no layers: no hidden states and no attention. Leave HiddenStates and AttentionMaps out, or "
            "give the teacher as a model."
        )

    def find_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """See `TeacherFacts`."""
        return self._tokenizer


class ServedTeacher(SignalSource):
    """A signal source behind a server that gives log-probabilities of a text that is there already (vLLM's `prompt_logprobs`, an `echo` with `logprobs`).

    For rollouts, whose text nobody knows beforehand; of pairs that are there, `capture` asks once and for all. At each supervised position the server says its k likeliest tokens, the
    written one among them, and all other mass is one bucket, as in the encoding `top`: any divergence, coarse in the tail, never renormalised. All rows of a batch are asked at once,
    as many at a time as the teacher's `concurrency` says; each process asks about its own rows.

    Args:
        teacher: with the model's own tokenizer: token ids are sent.
        k: tokens a position. vLLM gives 20 unless it was started with `--max-logprobs`.

    Raises:
        ValueError: k out of range; while training, a server that cannot be reached or gives no such log-probabilities (the row is named).

    Example:
        >>> WhiteBoxTrainer(teacher=ServedTeacher(ServerTeacher(url, tokenizer="Qwen/Qwen3-32B")), rollouts=Rollouts(), ...)
    """

    def __init__(self, teacher: ServerTeacher, k: int = K) -> None:
        self.teacher, self.k = teacher, k
        self.reader = ServedReader(teacher)
        self.tokenizer: PreTrainedTokenizerBase | None = teacher.tokenizer
        self.reader.open(Top(k=k))
        self.facts = ServedFacts(teacher.name, self.reader.size, teacher.tokenizer)

    @property
    def name(self) -> str:
        """Of the teacher."""
        return self.teacher.name

    def signals(self, batch: Mapping[str, Any], rows: SupervisedRows, request: SignalRequest) -> Signals:
        """See `SignalSource`.

        Raises:
            ValueError: packed rows; what the server gives cannot be used.
        """
        if request.hidden or request.attention:
            _ = self.facts.config  # refuses
        inputs, where = teachers_inputs(batch, rows)
        if "attention_mask" not in inputs:
            raise ValueError(
                f"Rows are packed, and {self.name} behind a server reads one text at a time; leave packing out, or capture signals beforehand "
                "(distill.signals.capture), which packed rows can read."
            )
        labels = batch["labels" if where is rows else "teacher_labels"]
        ids, wanted, mask = (column.cpu() for column in (inputs["input_ids"], labels, inputs["attention_mask"]))
        there = mask.bool()
        names = batch.get("ids") or [f"row {number} of a batch" for number in range(len(ids))]
        texts = [
            ServedText(str(name), ids[row][there[row]].numpy(), wanted[row][there[row]].numpy())
            for row, name in enumerate(names)
            if bool((wanted[row] != IGNORE).any())
        ]
        places = [place for text in self.reader.places(texts) for place in text] if texts else []
        device, width = where.mask.device, self.reader.width
        listed = torch.tensor([[*place.log_probs] for place in places], dtype=torch.long).reshape(-1, width)
        values = torch.tensor([[*place.log_probs.values()] for place in places]).reshape(-1, width)
        tails = torch.tensor([place.tail for place in places])
        said = Likeliest(listed.to(device), values.to(device), tails.to(device))
        return Signals(rows=where.mask, sparse=said, supervised=where)

    def identity(self, student: Any) -> Any:
        """See `SignalSource`: what the server says of itself, not where it is."""
        return {**self.reader.identity, "k": self.k}

    def teachers(self) -> list[Any]:
        """See `SignalSource`."""
        return [NamedTeacher(self.name, {f"teacher_{name}": value for name, value in self.identity(None).items()})]
