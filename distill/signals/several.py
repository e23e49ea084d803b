"""Several teachers: each for its own rows (`Routed`), or all together as a mixture of their distributions (`Mixture`)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.pairs.labels import IGNORE
from distill.signals.facts import TeacherFacts
from distill.signals.head import LogitTransform, MixedHead
from distill.signals.requests import Part, SignalRequest, Signals
from distill.signals.rows import SupervisedRows, sent_to
from distill.signals.sources import ShardedTeacher, SignalSource, source_of, teachers_inputs
from distill.text.vocabulary import shared_vocabulary


class RoutedFacts(TeacherFacts):
    """Facts of several teachers, by the value that routes to each.

    Args:
        parts: theirs.
    """

    def __init__(self, parts: Mapping[str, TeacherFacts]) -> None:
        self.parts = dict(parts)
        self.name = ", ".join(f"{value}: {facts.name}" for value, facts in parts.items())


class Routed:
    """Several teachers, each for the rows that name it in a column. A teacher runs on its rows only.

    Each objective is bound to every teacher by itself: their layers, widths, heads and vocabularies may differ. The gradient of a batch
    is the sum of what each part would give alone.

    Args:
        teachers: by the value of the column: anything that a white box takes as its teacher.
        column: of the pairs.

    Raises:
        ValueError: no teachers; in a dataset: a value without a teacher, or a row without a value.

    Example:
        >>> Routed({"maths": "my/maths-model", "chat": "my/chat-model"}, column="domain")
    """

    documents = True

    def __init__(self, teachers: Mapping[str, Any], column: str) -> None:
        if not teachers:
            raise ValueError("There are no teachers to choose from; give at least one: {value of the column: teacher}.")
        self._given, self.column = dict(teachers), column
        self.sources: dict[str, SignalSource] = {}
        self.tokenizer = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The column, and what its teachers need."""
        others = (column for one in self._given.values() for column in getattr(one, "columns", ()))
        return tuple(dict.fromkeys((self.column, *others)))

    def prepare(self, student: Any, device: torch.device) -> None:
        """See `SignalSource`."""
        self.sources = self.sources or {value: source_of(one, student) for value, one in self._given.items()}
        _check_runs_anywhere(self.sources)
        for source in self.sources.values():
            source.prepare(student, device)
        self.facts = RoutedFacts({value: source.facts for value, source in self.sources.items()})

    def check(self, rows: Any, name: str = "the pairs", max_length: int | None = None) -> None:
        """See `SignalSource`.

        Raises:
            ValueError: names what has no teacher.
        """
        pairs = getattr(rows, "pairs", rows)  # of bins
        if not isinstance(pairs, datasets.Dataset):
            return
        values = pairs[self.column]
        strange = [value for value in dict.fromkeys(values) if value not in self._given]
        if strange:
            raise ValueError(
                f"{name}: column {self.column!r} has {strange[0]!r}{f' and {len(strange) - 1} further values' if strange[1:] else ''}, for "
                f"which there is no teacher (there are {', '.join(map(repr, self._given))})."
            )
        for value, source in self.sources.items():
            if mine := [i for i, own in enumerate(values) if own == value]:
                source.check(pairs.select(mine), f"{name} of {self.column}={value!r}", max_length)

    def signals(self, batch: Mapping[str, Any], rows: SupervisedRows, request: SignalRequest) -> Signals:
        """See `SignalSource`; in `parts`, one for each teacher that has rows in this batch."""
        parts, order = [], []
        for value, places in self._places(batch).items():
            sub, where = _rows_of(batch, rows, places, self.column, value)
            own = self.sources[value].signals(sub, where, request.parts[value])
            index = torch.as_tensor(places)
            parts.append(Part(value, sent_to(rows.index.device, index), where, _batch_rows(rows, places), own))
            order.append(index)
        back = torch.cat(order).argsort() if order else torch.zeros(0, dtype=torch.long)
        return Signals(rows=rows.mask, supervised=rows, parts=tuple(parts), order=sent_to(rows.index.device, back))

    def _places(self, batch: Mapping[str, Any]) -> dict[str, list[int]]:
        """Which of the N supervised positions belong to whom."""
        found: dict[str, list[int]] = {}
        place = 0
        for number, documents in enumerate(batch["documents"]):
            for document, (_, count) in enumerate(documents):
                if not count:
                    continue  # a row that fills up the batch
                value = batch["columns"][self.column][number][document]
                if value not in self.sources:
                    ids = batch["ids"][number] if "ids" in batch else f"row {number} of the batch"
                    raise ValueError(
                        f"Pair {ids}: its {self.column!r} is {value!r}, for which there is no teacher (there are "
                        f"{', '.join(map(repr, self.sources))})."
                    )
                found.setdefault(value, []).extend(range(place, place + count))
                place += count
        return found

    def release(self) -> None:
        """See `SignalSource`."""
        for source in self.sources.values():
            source.release()

    def identity(self, student: Any) -> Any:
        """See `SignalSource`."""
        return {"by": self.column} | {value: source.identity(student) for value, source in self.sources.items()}

    def models(self) -> list[PreTrainedModel]:
        """See `SignalSource`."""
        return [model for source in self.sources.values() for model in source.models()]


def routed_by(column: str | None, teacher: Any) -> Any:
    """Several teachers by name as `Routed`; a single one as it is.

    Raises:
        ValueError: several and no column, or one and a column.
    """
    if not isinstance(teacher, Mapping):
        if column is not None:
            raise ValueError(
                f"route_by is {column!r}, but there is one teacher; give teacher={{value of the column: teacher, ...}}."
            )
        return teacher
    if column is None:
        raise ValueError(
            f"teacher is several teachers by name ({', '.join(map(repr, teacher))}). Say by which column of the pairs each row finds its own: "
            "route_by='domain'; or give Mixture([...]), the mean of their distributions, for all rows."
        )
    return Routed(teacher, column)


def _check_runs_anywhere(sources: Mapping[str, SignalSource]) -> None:
    if any(isinstance(one, ShardedTeacher) for one in sources.values()):
        raise ValueError(
            "A teacher whose weights are divided over processes runs in all of them at once, but the rows of one of several teachers may "
            "be in one process only; give LiveTeacher, or StoredSignals."
        )


def _batch_rows(rows: SupervisedRows, places: Sequence[int]) -> list[int]:
    time = max(rows.mask.shape[1], 1)
    return sorted(set((rows.host[list(places)] // time).tolist()))


def _among(rows: SupervisedRows, places: Sequence[int], batch_rows: Sequence[int]) -> SupervisedRows:
    """Some of the supervised positions, in a batch of some of its rows."""
    time = rows.mask.shape[1]
    host = rows.host[list(places)]
    new = torch.as_tensor([batch_rows.index(row) for row in (host // time).tolist()]) * time + host % time
    mask = torch.zeros(len(batch_rows) * time, dtype=torch.bool)
    mask[new] = True
    device = rows.mask.device
    return SupervisedRows(sent_to(device, mask.view(len(batch_rows), time)), sent_to(device, new), new)


def _rows_of(
    batch: Mapping[str, Any], rows: SupervisedRows, places: Sequence[int], column: str, value: str
) -> tuple[dict[str, Any], SupervisedRows]:
    """The part of a batch that one teacher gets: rows with documents of its own, and no loss on others that share a row."""
    which = _batch_rows(rows, places)
    index = sent_to(rows.mask.device, torch.as_tensor(which))

    def taken(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part.index_select(0, index)
        if isinstance(part, Mapping):
            return {name: taken(one) for name, one in part.items()}
        return [part[row] for row in which]

    sub = {name: taken(part) for name, part in batch.items()}
    own = [[one == value for one in row] for row in sub["columns"][column]]
    for name, part in (("documents", sub["documents"]), *sub["columns"].items()):
        kept = [
            [one for one, mine in zip(row, flags, strict=True) if mine] for row, flags in zip(part, own, strict=True)
        ]
        (sub if name == "documents" else sub["columns"])[name] = kept
    where = _among(rows, places, which)
    if "teacher_labels" in batch:
        theirs = _among(teachers_inputs(batch, rows)[1], places, which)
        labels = sub["teacher_labels"].flatten()
        mine = torch.full_like(labels, IGNORE)
        mine[theirs.index + 1] = labels.index_select(0, theirs.index + 1)
        sub["teacher_labels"] = mine.view_as(sub["teacher_labels"])
    return sub, where


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


class Mixture:
    """Several teachers as one: the weighted mean of their next-token *distributions*, p = sum of w_i p_i, computed exactly.

    A mean of logits would be another thing: a product of experts.

    Args:
        teachers: anything that a white box takes as its teacher, all of one vocabulary.
        weights: above 0, brought to a sum of 1; None: alike.

    Raises:
        ValueError: no teachers, other weights; in `prepare`: teachers of unequal vocabulary, or one that stores no whole distribution.

    Source: as the ensembles of Hinton, Vinyals, Dean 2015 (arithmetic mean).

    Example:
        >>> Mixture(["my/one", "my/other"], weights=[0.7, 0.3])
    """

    def __init__(self, teachers: Sequence[Any], weights: Sequence[float] | None = None) -> None:
        shares = [1.0] * len(teachers) if weights is None else [float(weight) for weight in weights]
        if not teachers or len(shares) != len(teachers) or not all(0 < w < math.inf for w in shares):
            raise ValueError(
                f"A mixture has {len(teachers)} teachers and the weights {weights}; give one weight above 0 for each of at least one "
                "teacher, or none."
            )
        self._given, self.weights = list(teachers), [share / sum(shares) for share in shares]
        self.sources: list[SignalSource] = []
        self.tokenizer: Any = None

    @property
    def columns(self) -> tuple[str, ...]:
        """What its teachers need."""
        return tuple(dict.fromkeys(column for one in self._given for column in getattr(one, "columns", ())))

    @property
    def documents(self) -> bool:
        """Whether one of them needs it."""
        return any(getattr(one, "documents", False) for one in self._given)

    def prepare(self, student: Any, device: torch.device) -> None:
        """See `SignalSource`."""
        self.sources = self.sources or [source_of(one, student) for one in self._given]
        for source in self.sources:
            source.prepare(student, device)
        facts = [source.facts for source in self.sources]
        if sparse := [one.name for one in facts if one.next_token not in ("head", "logits")]:
            raise ValueError(
                f"{sparse[0]} gives some tokens of a distribution, and a mixture needs all; capture with encoding='hidden', or give the "
                "teacher as a model."
            )
        if any(isinstance(one, Mixture | Routed) for one in self.sources):
            raise ValueError(
                "A mixture is of single teachers; give the teachers of the inner one, with their weights multiplied."
            )
        for source in self.sources[1:]:
            _check_same_tokens(self.sources[0], source)
        self.tokenizer = next((one.tokenizer for one in self.sources if one.tokenizer), None)
        self.facts = MixedFacts(facts)

    def check(self, rows: Any, name: str = "the pairs", max_length: int | None = None) -> None:
        """See `SignalSource`."""
        for source in self.sources:
            source.check(rows, name, max_length)

    def signals(self, batch: Mapping[str, Any], rows: SupervisedRows, request: SignalRequest) -> Signals:
        """See `SignalSource`."""
        wanted = [
            SignalRequest(logits=True) if request.head is None else SignalRequest(head=one)
            for one in self.facts.transforms
        ]
        found = [one.signals(batch, rows, own) for one, own in zip(self.sources, wanted, strict=True)]
        if len(found) == 1:
            return found[0]
        logs = [math.log(weight) for weight in self.weights]
        if request.head is not None:
            heads = tuple(one.head for one in found if one.head is not None)
            assert len(heads) == len(found), "a mixture of mixtures is refused when it is prepared"
            return Signals(rows=rows.mask, supervised=rows, mixed=MixedHead(heads, tuple(logs)))
        logits: Tensor | None = None
        for one, log in zip(found, logs, strict=True):
            assert one.logits is not None
            log_p = one.logits.to(torch.promote_types(one.logits.dtype, torch.float32)).log_softmax(-1) + log
            logits = log_p if logits is None else torch.logaddexp(logits, log_p)
        return Signals(rows=rows.mask, supervised=rows, logits=logits)

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


def _check_same_tokens(one: Any, other: Any) -> None:
    """Refuse a mixture over tokens that are not the same."""
    tokenizers = [source.tokenizer or source.facts.find_tokenizer() for source in (one, other)]
    try:
        shared_vocabulary(one.facts, other.facts, *tokenizers)
    except ValueError as error:
        raise ValueError(f"A mixture of {one.facts.name} and {other.facts.name}: {error}") from None
