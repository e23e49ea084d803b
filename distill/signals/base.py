"""Base of all signal sources: what a trainer knows of a teacher; and of a batch, what each side gets.

Where a pair says what its teacher was shown (`teacher_prompt_ids`), the batch brings rows of the teacher's own, whose supervised positions are
those of the student's rows, in the same order. Rows of a teacher with another tokenizer have other positions, and the batch says which are the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.models.adapters import base_of, is_adapted
from distill.pairs.collate import supervised_rows
from distill.signals.facts import TeacherFacts, describe_model
from distill.signals.requests import SignalRequest, Signals
from distill.signals.rows import SupervisedRows

_OWN_ROWS = ("input_ids", "attention_mask", "position_ids", "labels")  # of the teacher, under the names teacher_...
_PLACES = "teacher_rows"  # in a part of a batch: where the teacher's supervised positions are, already looked up
ALIGNED = ("aligned_rows", "aligned_places")  # of a teacher with another tokenizer: which positions are the same
# of a batch, what no model is given
_NO_INPUTS = {
    "labels",
    "skip_logits",  # Trainer's word to a Liger head, in evaluation; it would miss the labels
    "ids",
    "pairs",
    "documents",
    "columns",
    _PLACES,
    *ALIGNED,
    *(f"teacher_{name}" for name in _OWN_ROWS),
}


@dataclass(frozen=True)
class NamedTeacher:
    """A teacher as a card names it; what a `LocalTeacher` says of itself, of any source.

    Args:
        name: as it was loaded.
        decided: what decides its signals; plain values.
        model: where it runs here; what it says of its origin is looked for.
    """

    name: str
    decided: Mapping[str, Any] = field(default_factory=dict)
    model: Any = None

    def identity(self) -> dict[str, Any]:
        """What decides its signals."""
        return dict(self.decided)


def named_teachers(given: Any) -> list[Any]:
    """Whatever a white box takes as its teacher, as teachers with a name and `identity()`, or with an identity as a mapping.

    Args:
        given: a source, a loaded model, a name; what has a name and an identity already, as a `LocalTeacher`; an identity (a mapping with a text under
            `"teacher"`); or several of these, as a list or by routing values. None: none.
    """
    if given is None:
        return []
    if isinstance(given, list | tuple):
        return [one for part in given for one in named_teachers(part)]
    if isinstance(given, Mapping):
        return [given] if _is_identity(given) else named_teachers(list(given.values()))
    if hasattr(given, "teachers"):
        found: list[Any] = given.teachers()
        return found
    model: Any = getattr(given, "_orig_mod", given)  # of torch.compile
    if isinstance(model, torch.nn.Module) and hasattr(model, "config"):
        base, adapted = base_of(model), is_adapted(model)
        name = getattr(base.config, "_name_or_path", "") or type(base).__name__
        whole: Any = model
        adapters = {"teacher_adapters": ", ".join(whole.peft_config)} if adapted else {}
        return [NamedTeacher(name, {"teacher_weights": describe_model(model), **adapters}, base)]
    if hasattr(given, "identity"):
        return [given]
    return [NamedTeacher(str(given))]


def _is_identity(given: Mapping[str, Any]) -> bool:
    """Whether these are plain values about one teacher, and not teachers by routing values of which one is called so."""
    if not isinstance(given.get("teacher"), str):
        return False
    if not all(isinstance(value, str | int | float | list | dict | None) for value in given.values()):
        return False
    others = [name for name in given if name != "teacher"]
    names_alone = all(isinstance(given[name], str) and not name.startswith("teacher_") for name in others)
    return not others or not names_alone


class SignalSource:
    """Where the teacher's signals come from: all that a trainer knows of a teacher. One of your own has `facts` and `signals`.

    Attributes:
        facts: what objectives check when they are bound; after `prepare`.
        columns: of a pair, what it needs in the batch beside ids: `batch["columns"][name]`.
        documents: whether it needs `batch["documents"]`, which say what each document is (`distill.pairs.signal_keys`).
        tokenizer: the teacher's, where it is known.
        any_text: whether it can be asked about any text; False: about pairs that it knows beforehand alone.
        together: whether every process must ask at the same time (weights that are divided over them).
    """

    facts: TeacherFacts
    columns: tuple[str, ...] = ()
    documents: bool = False
    tokenizer: PreTrainedTokenizerBase | None = None
    any_text: bool = True
    together: bool = False

    def prepare(self, student: Any, device: torch.device) -> None:
        """Called before it is used, and anew for each student: what cannot work is refused here.

        Args:
            student: that is trained, perhaps with an adapter.
            device: where training runs.

        Raises:
            ValueError: says what and the way out.
        """

    def signals(self, batch: Mapping[str, Any], rows: SupervisedRows, request: SignalRequest) -> Signals:
        """What the teacher says at the supervised positions of a batch, `[N, ...]` in the order of the student's; of a batch that was aligned
        with another tokenizer (`aligned_rows`), at those of its own rows.

        Args:
            batch: as the collator made it, on the device.
            rows: the student's supervised positions.
            request: what is wanted.
        """
        raise NotImplementedError

    def check(self, rows: Any, name: str = "the pairs", max_length: int | None = None) -> None:
        """Refuse rows for which it has no signals, asked before a training.

        Args:
            rows: as a trainer has them; those of a stream are met when they come.
            name: what they are called in messages.
            max_length: of the training, in tokens.

        Raises:
            ValueError: says which.
        """

    def release(self) -> None:
        """Called when the signals of a batch have been used and are gone."""

    def identity(self, student: Any) -> Any:
        """Which teacher it is, as a plain value: a run is only resumed with the same."""
        return type(self).__qualname__

    def models(self) -> list[PreTrainedModel]:
        """The models that it runs: rows are held against what they can take."""
        return []

    def teachers(self) -> list[Any]:
        """Who they are, for a card (`distill.reports.card.write_card`)."""
        return [NamedTeacher(getattr(self, "name", type(self).__name__), {"teacher_signals": self.identity(None)})]


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Of a batch, what the student is given."""
    return {name: value for name, value in batch.items() if name not in _NO_INPUTS}


def teachers_inputs(batch: Mapping[str, Any], rows: SupervisedRows) -> tuple[dict[str, Any], SupervisedRows]:
    """Of a batch, what the teacher is given, and where its supervised positions are: its own rows, or the student's.

    Args:
        batch: as the collator made it.
        rows: the student's supervised positions.

    Raises:
        ValueError: an own collator's rows of the teacher without labels, or with another number of supervised tokens.
    """
    own = {name: batch[f"teacher_{name}"] for name in _OWN_ROWS if f"teacher_{name}" in batch}
    if not own:
        return inputs_of(batch), rows
    if "labels" not in own or "input_ids" not in own:
        raise ValueError(
            f"A batch has {', '.join(f'teacher_{name}' for name in own)}; rows of the teacher's own have teacher_input_ids and teacher_labels "
            "(and teacher_attention_mask, or teacher_position_ids), as PairCollator(teacher_rows=True) makes them."
        )
    labels = own.pop("labels")
    where = batch[_PLACES] if _PLACES in batch else SupervisedRows.of(supervised_rows(labels))
    if len(where) != len(rows) and ALIGNED[0] not in batch:
        pairs = f" (pairs {'; '.join(map(str, batch['ids']))})" if "ids" in batch else ""
        raise ValueError(
            f"A batch{pairs} has {len(rows)} supervised tokens in the student's rows and {len(where)} in the teacher's; both must be the same "
            "tokens in the same order, as PairCollator(teacher_rows=True) makes them."
        )
    return own, where
