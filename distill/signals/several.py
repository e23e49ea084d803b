"""Several teachers, each for its own rows, by a column of the pairs."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.pairs.labels import EMPTY, IGNORE
from distill.pairs.row_limits import RowLimits
from distill.signals.base import SignalSource, named_teachers, teachers_inputs
from distill.signals.facts import TeacherFacts
from distill.signals.requests import Part, SignalRequest, Signals
from distill.signals.rows import SupervisedRows, sent_to
from distill.signals.sources import prepared


class RoutedFacts(TeacherFacts):
    """Facts of several teachers, by the value that routes to each.

    Args:
        parts: theirs.
    """

    def __init__(self, parts: Mapping[str, TeacherFacts]) -> None:
        self.parts = dict(parts)
        self.name = ", ".join(f"{value}: {facts.name}" for value, facts in parts.items())


class Routed(SignalSource):
    """Several teachers, each for the rows that name it in a column. A teacher runs on its rows only.

    Each objective is bound to every teacher by itself: their layers, widths, heads and vocabularies may differ. The gradient of a batch
    is the sum of what each part would give alone.

    Args:
        teachers: by the value of the column: anything that a white box takes as its teacher.
        column: of the pairs.

    Raises:
        ValueError: no teachers; in `prepare`: several in one, or one that all processes must run at once; in data: a value without a teacher.

    Example:
        >>> Routed({"maths": "my/maths-model", "chat": "my/chat-model"}, column="domain")
    """

    documents = True

    def __init__(self, teachers: Mapping[str, Any], column: str) -> None:
        if not teachers:
            raise ValueError("There are no teachers to choose from; give at least one: {value of the column: teacher}.")
        self._given, self.column = dict(teachers), column
        self.sources: dict[Any, SignalSource] = {}
        self.limits: dict[Any, RowLimits] = {}  # of the rows that each is shown; whoever trains fills it in

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The column, and what its teachers need."""
        others = (column for one in self._given.values() for column in getattr(one, "columns", ()))
        return tuple(dict.fromkeys((self.column, *others)))

    @property
    def any_text(self) -> bool:  # type: ignore[override]
        """Whether all of them can be asked about any text."""
        return all(getattr(one, "any_text", True) for one in self._given.values())

    def prepare(self, student: Any, device: torch.device) -> None:
        """See `SignalSource`."""
        self.sources = prepared(self._given, student, device)
        for value, source in self.sources.items():
            if isinstance(source, Routed):
                raise ValueError(
                    f"The teacher of {value!r} is routed itself; give all teachers in one mapping, by one column."
                )
            if source.together:
                raise ValueError(
                    f"The weights of the teacher of {value!r} are divided over processes, so it runs in all of them at once, and the rows of one of "
                    "several teachers may be in one process only; give it whole (LiveTeacher), or StoredSignals."
                )
        self.facts = RoutedFacts({value: source.facts for value, source in self.sources.items()})

    def check(self, rows: Any, name: str = "the pairs", max_length: int | None = None) -> None:
        """See `SignalSource`.

        Raises:
            ValueError: names what has no teacher.
        """
        for value, mine in self.split(rows, name).items():
            self.sources[value].check(mine, f"{name} of {self.column}={value!r}", max_length)

    def split(self, rows: Any, name: str) -> dict[Any, Any]:
        """The rows of each teacher that has some; nothing of a stream, whose rows are met when they come.

        Args:
            rows: a dataset, bins, or a list of pairs or of bins.
            name: for messages.

        Raises:
            ValueError: a row that has no teacher.
        """
        if isinstance(rows, list | tuple):
            pairs: Any = [pair for row in rows for pair in (row if isinstance(row, list) else [row])]
            values = [pair.get(self.column) if isinstance(pair, Mapping) else None for pair in pairs]
        else:
            pairs = getattr(rows, "pairs", rows)  # of bins
            if not isinstance(pairs, datasets.Dataset):
                return {}
            values = pairs.with_format(None)[self.column]
        places: dict[Any, list[int]] = {}
        for number, value in enumerate(values):
            if not isinstance(value, Hashable) or value not in self._given:
                if isinstance(pairs, list) and pairs[number].get("id") == EMPTY["id"]:
                    continue
                raise ValueError(f"{name}, row {number}: {self._no_teacher(value)}")
            places.setdefault(value, []).append(number)
        if isinstance(pairs, list):
            return {value: [pairs[i] for i in numbers] for value, numbers in places.items()}
        return {value: pairs.select(numbers) for value, numbers in places.items()}

    def signals(self, batch: Mapping[str, Any], rows: SupervisedRows, request: SignalRequest) -> Signals:
        """See `SignalSource`; in `parts`, one for each teacher that has rows in this batch, and one in any case."""
        parts, order = [], []
        theirs = teachers_inputs(batch, rows)[1]
        for value, places in self._places(batch, rows).items():
            which = _batch_rows(rows, places) if places else list(range(len(rows.mask)))
            sub, where = _rows_of(batch, rows, theirs, places, which, self.column, value)
            self._check_length(value, sub)
            own = self.sources[value].signals(sub, where, request.parts.get(value, SignalRequest()))
            index = torch.as_tensor(places, dtype=torch.long)
            parts.append(Part(value, sent_to(rows.index.device, index), where, which, own))
            order.append(index)
        back = torch.cat(order).argsort()
        return Signals(rows=rows.mask, supervised=rows, parts=tuple(parts), order=sent_to(rows.index.device, back))

    def _places(self, batch: Mapping[str, Any], rows: SupervisedRows) -> dict[Any, list[int]]:
        """Which of the N supervised positions belong to whom; where there are none, the first teacher has these none."""
        found: dict[Any, list[int]] = {}
        place = 0
        for number, documents in enumerate(batch["documents"]):
            for document, (_, count) in enumerate(documents):
                value = batch["columns"][self.column][number][document]
                if not isinstance(value, Hashable) or value not in self.sources:
                    ids = batch["ids"][number] if "ids" in batch else f"row {number} of the batch"
                    many = f" (its {document + 1}. document)" if len(documents) > 1 else ""
                    raise ValueError(f"Pair {ids}{many}: {self._no_teacher(value)}")
                found.setdefault(value, []).extend(range(place, place + count))
                place += count
        if place != len(rows):
            raise ValueError(
                f"A batch has {len(rows)} supervised positions, and its documents say {place}; labels must be those of PairCollator."
            )
        return {value: places for value, places in found.items() if places} or {next(iter(self.sources)): []}

    def _no_teacher(self, value: Any) -> str:
        return (
            f"its {self.column!r} is {value!r:.60}, for which there is no teacher (there are {', '.join(map(repr, self._given))}); add one, or "
            "remove such pairs."
        )

    def _check_length(self, value: Any, sub: Mapping[str, Any]) -> None:
        """Rows of a stream are not looked at before; the device is only asked where they may be too long."""
        most = self.limits.get(value, RowLimits()).positions
        prefix = "teacher_" if "teacher_input_ids" in sub else ""
        mask = sub.get(f"{prefix}attention_mask")
        if most is None or mask is None or mask.shape[1] <= most or (longest := int(mask.sum(1).max())) <= most:
            return
        pairs = f" (pairs {'; '.join(map(str, sub['ids']))})" if "ids" in sub else ""
        raise ValueError(
            f"A batch{pairs} shows the teacher of {self.column}={value!r} a row of {longest} tokens, but {self.limits[value].too_long()}"
        )

    def release(self) -> None:
        """See `SignalSource`."""
        for source in self.sources.values():
            source.release()

    def identity(self, student: Any) -> Any:
        """See `SignalSource`."""
        teachers = {repr(value): source.identity(student) for value, source in self.sources.items()}
        return {"by": self.column, "teachers": teachers}

    def models(self) -> list[PreTrainedModel]:
        """See `SignalSource`."""
        return [model for source in self.sources.values() for model in source.models()]

    def teachers(self) -> list[Any]:
        """See `SignalSource`; before `prepare`, as they were given."""
        return [one for source in (self.sources or self._given).values() for one in named_teachers(source)]


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


def _batch_rows(rows: SupervisedRows, places: Sequence[int]) -> list[int]:
    time = max(rows.mask.shape[1], 1)
    return sorted(set((rows.host[list(places)] // time).tolist()))


def _among(rows: SupervisedRows, places: Sequence[int], batch_rows: Sequence[int]) -> SupervisedRows:
    """Some of the supervised positions, in a batch of some of its rows."""
    time = rows.mask.shape[1]
    host = rows.host[list(places)]
    new_row = {row: number for number, row in enumerate(batch_rows)}
    numbers = torch.as_tensor([new_row[row] for row in (host // time).tolist()], dtype=torch.long)
    new = numbers * time + host % time
    mask = torch.zeros(len(batch_rows) * time, dtype=torch.bool)
    mask[new] = True
    device = rows.mask.device
    return SupervisedRows(sent_to(device, mask.view(len(batch_rows), time)), sent_to(device, new), new)


def _rows_of(
    batch: Mapping[str, Any],
    rows: SupervisedRows,
    theirs: SupervisedRows,
    places: Sequence[int],
    which: Sequence[int],
    column: str,
    value: Any,
) -> tuple[dict[str, Any], SupervisedRows]:
    """The part of a batch that one teacher gets: rows with documents of its own, and labels of these documents alone.

    Args:
        batch, rows: of all teachers.
        theirs: where the supervised positions are in the teachers' own rows; `rows` where there are none.
        places: which of the N positions are its own.
        which: rows of the batch that have them.
        column, value: that route to it.
    """
    index = sent_to(rows.mask.device, torch.as_tensor(which, dtype=torch.long))

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
    sub["labels"] = _labels_at(sub["labels"], where)
    if theirs is not rows:
        sub["teacher_rows"] = _among(theirs, places, which)
        sub["teacher_labels"] = _labels_at(sub["teacher_labels"], sub["teacher_rows"])
    return sub, where


def _labels_at(labels: Tensor, where: SupervisedRows) -> Tensor:
    """Labels of these supervised positions alone."""
    flat = labels.flatten()
    mine = torch.full_like(flat, IGNORE).index_copy_(0, where.index + 1, flat.index_select(0, where.index + 1))
    return mine.view_as(labels)
