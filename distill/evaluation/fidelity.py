"""Fidelity of stored signals: what each encoding loses of the student's gradient, for how many bytes and how much time.

Measured on a sample, against the live teacher, at a student of the user's: near its teacher everything coarse gets relatively worse, so
a figure of another student says little.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from distill.models.adapters import base_of
from distill.models.evaluating import evaluating
from distill.models.precision import exact
from distill.objectives.divergences import by_name
from distill.objectives.sparse_next_token import sparse_divergence_of_logits, sparse_next_token_divergence
from distill.objectives.streamed_next_token import Comparison, next_token_divergence
from distill.pairs.collate import PairCollator, supervised_rows
from distill.signals import HeadTap, SignalRequest, Signals, SupervisedRows, probe_head, run_with_taps
from distill.signals.encodings import Encoding, encoding_of
from distill.signals.encodings.base import SparseEncoding
from distill.signals.sparse import Sparse, Top
from distill.trainers.checks import compared_tokens

ENCODINGS = ("hidden", "hidden:8", "threshold:12", "threshold:32", "draws:16", "draws:64", "top:8", "top:32")
_SAME = 1e-6  # nats a token: rounding in float32
_ROWS = 64  # whose probabilities are looked up at once


@dataclass(frozen=True)
class Kept:
    """What one encoding keeps of a teacher.

    Args:
        encoding: its name, with its first setting.
        bytes: a supervised position.
        mass: share of the teacher's probability on the tokens that are named.
        kl: the loss it gives, forward KL in nats a token.
        kl_error: how far that is from the live one.
        head_error: relative error of the student's gradient at the head's input, root mean square over positions.
        parameter_error: of its gradient in all parameters, over the whole sample: where noise has averaged out and bias has not.
        capture_seconds: of an epoch's positions, the teacher's forward pass included.
        epoch_seconds: forward and backward passes of a student that reads them, without the optimiser.
        pays_after: epochs after which capture and training took less than training on the live teacher; infinite: never.
    """

    encoding: str
    bytes: float
    mass: float
    kl: float
    kl_error: float
    head_error: float
    parameter_error: float
    capture_seconds: float
    epoch_seconds: float
    pays_after: float


@dataclass(frozen=True)
class Fidelity:
    """What encodings keep, at one student.

    Args:
        kl: of the live teacher, nats a token.
        live_seconds: an epoch with the live teacher.
        positions: supervised ones of the sample.
        epoch_positions: what the seconds are of.
        rows: one for each encoding.
    """

    kl: float
    live_seconds: float
    positions: int
    epoch_positions: int
    rows: list[Kept] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def table(self) -> str:
        """Markdown, in the order of bytes."""
        lines = [
            f"{self.positions:,} positions of a student at KL {self.kl:.3f}; seconds of an epoch of {self.epoch_positions:,} positions, without the "
            f"optimiser: {self.live_seconds:,.1f} with the live teacher.",
            "",
            "| encoding | bytes a token | mass kept | error of the KL | error of the gradient: head | all parameters | capture s | epoch s | pays after |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in sorted(self.rows, key=lambda row: row.bytes):
            after = "never" if math.isinf(row.pays_after) else f"{row.pays_after:.1f} epochs"
            lines.append(
                f"| {row.encoding} | {row.bytes:,.0f} | {row.mass:.3f} | {row.kl_error:.4f} | {row.head_error:.3f} | {row.parameter_error:.3f} | "
                f"{row.capture_seconds:,.1f} | {row.epoch_seconds:,.1f} | {after} |"
            )
        return "\n".join(lines)


def fidelity(
    teacher: Any,
    student: Any,
    pairs: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    encodings: Sequence[str | Encoding] = ENCODINGS,
    *,
    student_tokenizer: PreTrainedTokenizerBase | None = None,
    temperature: float = 1.0,
    batch_size: int = 4,
    max_length: int | None = None,
    epoch_positions: int | None = None,
) -> Fidelity:
    """What encodings of the teacher's next-token distributions lose, against the teacher that runs beside the student.

    Compared is the gradient of the forward KL. Both models run as they are, in evaluation mode and without autocast; the student's
    gradients are those of all its trainable parameters, of which two copies are held.

    Args:
        teacher: the model that is imitated.
        student: what would be trained; it is not changed.
        pairs: a sample: some hundred supervised positions tell the errors to a tenth of themselves.
        tokenizer: the teacher's, whose tokens the pairs are.
        encodings: names with their first setting (`"threshold:32"`), or encodings.
        student_tokenizer: its own; None: the one that lies where it came from. Where there is none, it cannot be told whether its tokens
            are the teacher's, which is said.
        temperature: of the loss, and of the stored probabilities.
        batch_size: pairs at once.
        max_length: longest row in tokens.
        epoch_positions: supervised positions of the whole training set, for the times of an epoch; None: of the sample.

    Raises:
        ValueError: no pairs, a student of other tokens, one without trainable parameters or one that is the teacher already (KL 0), no such encoding, one of another temperature, or one that
            needs the head's input of a teacher whose head is no plain matrix product.

    Example:
        >>> print(fidelity(teacher.model, student, pairs.select(range(8)), teacher.tokenizer).table())
    """
    bench = _Bench(teacher, student, pairs, (student_tokenizer, tokenizer), temperature, batch_size, max_length)
    chosen = [_chosen(one, temperature) for one in encodings]
    live = bench.student_pass(bench.live, None)
    if not live.value / bench.positions > _SAME:
        raise ValueError(
            f"The student says what the teacher says (forward KL {live.value / bench.positions:.1e} nats a token), so it has no gradient that an encoding "
            "could lose a share of. Measure at the student that is to be trained."
        )
    scale = (epoch_positions or bench.positions) / bench.positions
    live_seconds = (bench.teacher_seconds + live.seconds) * scale
    found = []
    for name, encoding in chosen:
        stored = bench.store(encoding)
        one = bench.student_pass(stored.read, live)
        capture, epoch = (bench.teacher_seconds + stored.seconds) * scale, one.seconds * scale
        kl = one.value / bench.positions
        found.append(
            Kept(
                encoding=name,
                bytes=stored.size / bench.positions,
                mass=stored.mass,
                kl=kl,
                kl_error=abs(kl - live.value / bench.positions),
                head_error=one.head_error,
                parameter_error=one.parameter_error,
                capture_seconds=capture,
                epoch_seconds=epoch,
                pays_after=capture / (live_seconds - epoch) if epoch < live_seconds else math.inf,
            )
        )
    return Fidelity(live.value / bench.positions, live_seconds, bench.positions, round(bench.positions * scale), found)


def _chosen(one: str | Encoding, temperature: float) -> tuple[str, Encoding]:
    encoding = encoding_of(one)
    if isinstance(encoding, SparseEncoding) and encoding.temperature != temperature:
        if isinstance(one, Encoding):
            raise ValueError(
                f"The encoding {encoding.name!r} is of temperature {encoding.temperature}, and the loss of {temperature}; give both the same."
            )
        encoding = replace(encoding, temperature=temperature)
    number = getattr(encoding, encoding.first)
    name = encoding.name if number is None else f"{encoding.name}:{number}"
    # of several sets the first is measured, at the bytes of all
    sets = getattr(encoding, "sets", 1)
    return (f"{name}, {sets} sets" if sets > 1 else name), encoding


@dataclass
class _Pass:
    """A student's passes over the sample: what they gave, beside what another gave."""

    value: float = 0.0
    seconds: float = 0.0
    at_head: list[Tensor] = field(default_factory=list)
    in_parameters: list[Tensor] = field(default_factory=list)
    head_error: float = 0.0
    parameter_error: float = 0.0


@dataclass
class _Stored:
    read: Any
    seconds: float
    size: int
    mass: float


class _Bench:
    """A sample, what the teacher says about it, and the student."""

    def __init__(
        self,
        teacher: Any,
        student: Any,
        pairs: datasets.Dataset,
        tokenizers: tuple[PreTrainedTokenizerBase | None, PreTrainedTokenizerBase],
        temperature: float,
        batch_size: int,
        max_length: int | None,
    ) -> None:
        if not len(pairs):
            raise ValueError("There are no pairs; fidelity is measured on some.")
        self.student, self.model, self.teacher = student, base_of(student), base_of(teacher)
        self.parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise ValueError(
                "No parameter of the student is trainable, so it has no gradient; measure at the student that is to be trained."
            )
        self.head, self.teachers_head = probe_head(self.model), probe_head(self.teacher)
        vocabulary = compared_tokens(self.model, self.teacher, *tokenizers)
        self.comparison = Comparison(by_name("forward_kl"), temperature, temperature**2, vocabulary=vocabulary)
        collate = PairCollator(tokenizers[1], max_length=max_length, teacher_rows=True, documents=True)
        ordered = sorted(pairs, key=lambda pair: len(pair["prompt_ids"]) + len(pair["completion_ids"]))
        self.batches = [collate(ordered[first : first + batch_size]) for first in range(0, len(ordered), batch_size)]
        self.documents = [
            [document for row in batch.pop("documents") for document in row if document[1]] for batch in self.batches
        ]
        self.rows = [SupervisedRows.of(supervised_rows(b["labels"]).to(self.model.device)) for b in self.batches]
        self.positions = sum(map(len, self.rows))
        self._said: list[Signals] = []
        self._ask(self.batches[0])  # the first pass of a process is slower than all others
        start = self._now()
        self._said = [self._ask(batch) for batch in self.batches]
        self.teacher_seconds = self._now() - start

    def _now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @torch.no_grad()
    def _ask(self, batch: dict[str, Tensor]) -> Signals:
        prefix = "teacher_" if "teacher_labels" in batch else ""
        names = ("input_ids", "attention_mask", "position_ids")
        inputs = {name: batch[prefix + name].to(self.teacher.device) for name in names if prefix + name in batch}
        rows = SupervisedRows.of(supervised_rows(batch[prefix + "labels"]).to(self.teacher.device))
        request = SignalRequest(head=self.teachers_head, logits=self.teachers_head is None)
        with evaluating(self.teacher):
            return run_with_taps(self.teacher, self.teacher, inputs, rows, request)

    def live(self, number: int) -> HeadTap | Tensor:
        """What the teacher said about a batch."""
        said = self._said[number]
        found = said.logits if said.head is None else said.head
        assert found is not None
        return found

    def store(self, encoding: Encoding) -> _Stored:
        """Every batch written, and how it is read."""
        blobs, seconds, mass = [], 0.0, 0.0
        for number, documents in enumerate(self.documents):
            theirs, counts = self.live(number), [count for _, count in documents]
            labels = self._labels(number)
            seeds = [key for key, _ in documents]
            start = self._now()
            if isinstance(theirs, HeadTap):
                encoding = encoding.of_tap(theirs)
                blobs.append(encoding.encode(theirs, counts, labels, seeds))
            elif isinstance(encoding, SparseEncoding):
                width = self.teacher.config.get_text_config(decoder=True).hidden_size
                encoding = encoding.of_head(vocabulary=theirs.shape[1], width=width, dtype=str(theirs.dtype)[6:])
                blobs.append(encoding.encode_logits(theirs, counts, labels, seeds))
            else:
                raise ValueError(
                    f"The head of {type(self.teacher).__name__} is no plain matrix product, so the encoding {encoding.name!r} cannot hold what its "
                    "logits are made of; choose threshold, draws or top."
                )
            seconds += self._now() - start
            mass += self._mass(theirs, encoding.decode(blobs[-1], counts, counts))

        def read(number: int) -> HeadTap | Sparse:
            counts = [count for _, count in self.documents[number]]
            found, theirs = encoding.decode(blobs[number], counts, counts, self.model.device), self.live(number)
            if not isinstance(found, Tensor):
                return found
            assert isinstance(theirs, HeadTap)
            return replace(theirs, hidden=found)

        size = sum(len(blob) for batch in blobs for blob in batch)
        return _Stored(read, seconds, size, mass / self.positions)

    def student_pass(self, theirs_of: Any, live: _Pass | None) -> _Pass:
        """Gradients of the student against what `theirs_of` gives for a batch; compared with those of `live`, if there are any."""
        found, away, whole = _Pass(), 0.0, 0.0
        with evaluating(self.model), self._gradients():
            for number in range(-1 if live is None else 0, len(self.batches)):  # the first one again: to warm up
                start = self._now()
                value, at_head = self._one(max(number, 0), theirs_of(max(number, 0)))
                if number < 0:
                    self.student.zero_grad(set_to_none=True)
                    continue
                found.seconds += self._now() - start
                found.value += value
                if live is None:
                    found.at_head.append(at_head)
                else:
                    away += _squares(at_head - live.at_head[number])
                    whole += _squares(live.at_head[number])
            given = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
            if live is None:
                found.in_parameters = given
            else:
                found.head_error = math.sqrt(away / whole) if whole else math.nan
                pairs = list(zip(given, live.in_parameters, strict=True))
                error = sum(_squares(a - b) for a, b in pairs)
                size = sum(_squares(b) for _, b in pairs)
                found.parameter_error = math.sqrt(error / size) if size else math.nan
        return found

    def _one(self, number: int, theirs: HeadTap | Sparse | Tensor) -> tuple[float, Tensor]:
        batch, rows = self.batches[number], self.rows[number]
        names = ("input_ids", "attention_mask", "position_ids")
        inputs = {name: batch[name].to(self.model.device) for name in names if name in batch}
        streams = self.head is not None and not isinstance(theirs, Tensor)
        request = SignalRequest(head=self.head) if streams else SignalRequest(logits=True)
        signals = run_with_taps(self.student, self.model, inputs, rows, request)
        if signals.head is not None:
            leaf = signals.head.hidden
            leaf.retain_grad()
            if isinstance(theirs, HeadTap):
                values = next_token_divergence(signals.head, theirs, self.comparison)[0]
            else:
                assert not isinstance(theirs, Tensor)
                values = sparse_next_token_divergence(signals.head, theirs, self.comparison)[0]
        else:
            assert signals.logits is not None
            leaf = signals.logits
            leaf.retain_grad()
            values = self._of_logits(leaf, theirs)
        values.sum().backward()
        assert leaf.grad is not None
        return float(values.detach().sum()), leaf.grad

    def _of_logits(self, logits: Tensor, theirs: HeadTap | Sparse | Tensor) -> Tensor:
        if not isinstance(theirs, HeadTap | Tensor):
            return sparse_divergence_of_logits(logits, theirs, self.comparison)[0]
        known = theirs if isinstance(theirs, Tensor) else _logits_of(theirs)
        cut = slice(self.comparison.vocabulary)
        temperature = self.comparison.temperature
        values = self.comparison.divergence(logits[:, cut], known[:, cut].to(logits.device), temperature=temperature)
        return values * self.comparison.factor

    def _labels(self, number: int) -> Tensor:
        return (
            self.rows[number].next_tokens(self.batches[number]["labels"].to(self.model.device)).to(self.teacher.device)
        )

    @torch.no_grad()
    def _mass(self, theirs: HeadTap | Tensor, stored: Tensor | Sparse) -> float:
        """The sum over positions of the teacher's probability on the tokens that are named."""
        if isinstance(stored, Tensor):
            return float(len(stored))
        if isinstance(stored, Top):
            return float((1 - exact(stored.tail).exp()).sum())
        total = 0.0
        for first in range(0, len(stored.ids), _ROWS):
            rows = slice(first, first + _ROWS)
            logits = theirs[rows] if isinstance(theirs, Tensor) else _logits_of(theirs, rows)
            p = (logits.float() / self.comparison.temperature).softmax(dim=-1)
            named = stored.weights[rows].to(p.device) > 0
            total += float((p.gather(1, stored.ids[rows].to(p.device)) * named).sum())
        return total

    @contextmanager
    def _gradients(self) -> Iterator[None]:
        """Within it the student's gradients are these passes' own; those it had are there again afterwards."""
        before = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter, grad in zip(self.parameters, before, strict=True):
                parameter.grad = grad


def _squares(tensor: Tensor) -> float:
    return float(exact(tensor).square().sum())


def _logits_of(tap: HeadTap, rows: slice = slice(None)) -> Tensor:
    bias = None if tap.bias is None else tap.bias.float()
    return tap.transform(torch.nn.functional.linear(tap.hidden[rows].float(), tap.weight.float(), bias))
