"""Stored signals: a teacher that said all it has to say beforehand, read from a folder in any order."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.basics.fingerprint import fingerprint
from distill.models.load import load_tokenizer
from distill.pairs.columns import TEACHER_PROMPT
from distill.pairs.packing import PackedPairs
from distill.pairs.row_limits import RowLimits
from distill.pairs.signal_keys import SIZE, key_of_pair
from distill.signals.base import ALIGNED, NamedTeacher, SignalSource, teachers_inputs
from distill.signals.encodings import encoding_of
from distill.signals.facts import TeacherFacts
from distill.signals.head import HeadTap
from distill.signals.requests import SignalRequest, Signals
from distill.signals.rows import SupervisedRows
from distill.signals.shard_index import ShardIndex
from distill.signals.signal_folder import (
    RECORD,
    TOKENIZER,
    Head,
    check_files,
    describe_tokenizer,
    read_head,
    read_manifest,
    words_of_shards,
)
from distill.signals.stored_facts import StoredFacts
from distill.signals.teacher_rows import COLUMNS, FEATURES, as_tables, check_pairs, rows_of, teachers_pairs

_NAMED = 5  # of missing pairs
_OF_HEAD = ("vocabulary", "width", "dtype")  # settings of an encoding that the teacher decides


class StoredSignals(SignalSource):
    """A signal source that reads what `distill.signals.capture` has written: no teacher is loaded.

    Any batch, any order, packed or not, any number of processes: what a pair's teacher said is found by the pair's tokens
    (`distill.pairs.signal_keys`). Bytes are read when a batch needs them, and checked whenever they are read. Of an encoding with several
    sets of draws, each document of a batch takes one by chance (torch's own numbers, so `seed` and a checkpoint decide which); without
    gradients, in an evaluation, always the first.

    Args:
        folder: of `capture` or `distill capture`.

    Attributes:
        folder: where it lies.
        manifest: whose signals these are, and how they are written; plain values.
        tokenizer: the teacher's.

    Raises:
        ValueError: no such folder, one of another version, a damaged manifest or shard, another tokenizer than the teacher's.

    Example:
        >>> WhiteBoxTrainer(model=student, teacher=StoredSignals("signals"), objectives=[Logits("forward_kl")], ...)
    """

    columns: tuple[str, ...] = ()
    documents, any_text = True, False

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()
        self.manifest = read_manifest(self.folder)
        said = self.manifest["encoding"]
        self.encoding: Any = encoding_of(said["name"], **said["settings"])
        self.index = ShardIndex(self.folder, words=words_of_shards(self.manifest))
        check_files(self.folder, self.manifest)
        self.tokenizer: PreTrainedTokenizerBase | None = load_tokenizer(self.folder / TOKENIZER)
        found = "none" if self.tokenizer is None else describe_tokenizer(self.tokenizer)
        if found != self.manifest["tokenizer"]:
            raise ValueError(
                f"{self.folder / TOKENIZER} is another tokenizer ({found}) than that of the signals ({self.manifest['tokenizer']}); put back the files that "
                "were there, or capture anew into another folder."
            )
        self.facts: TeacherFacts = StoredFacts(self)
        self._there: tuple[Any, Tensor, Tensor | None] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"StoredSignals({str(self.folder)!r}: {self.identity(None)}; {len(self)} pairs)"

    @property
    def name(self) -> str:
        """Of the teacher."""
        return str(self.manifest[RECORD]["name"])

    @cached_property
    def head(self) -> Head | None:
        """The teacher's head, where the encoding needs it; read when it is first asked for."""
        return read_head(self.folder, self.manifest) if self.encoding.next_token == "head" else None

    def prepare(self, student: Any, device: torch.device) -> None:
        """See `SignalSource`."""

    def release(self) -> None:
        """The head, if there is one, stays where it is."""

    def identity(self, student: Any) -> Any:
        """See `SignalSource`: the teacher by its weights, and how much of it was stored; not where the folder lies."""
        teacher, encoding = self.manifest["teacher"], self.manifest["encoding"]
        said = {name: value for name, value in sorted(encoding["settings"].items()) if name not in _OF_HEAD}
        settings = "".join(f" {name}={value}" for name, value in said.items() if value is not None)
        if "weights" not in teacher:
            served = fingerprint(teacher.get("says"), teacher.get("extra_body") or {})
            noted = self.manifest[RECORD].get("extra_body")  # by a later capture than that which began the folder
            fields = f", with fields {fingerprint(noted)}" if noted else ""
            return f"stored {encoding['name']}{settings} of the {teacher['class']}, {teacher['model']}, which says {served}{fields}"
        more = "".join(f", {name} {teacher[name]}" for name in ("quantised_weights", "adapters") if name in teacher)
        return (
            f"stored {encoding['name']}{settings} of {teacher['class']} of {teacher['layers']} layers in "
            f"{str(teacher['dtype']).removeprefix('torch.')}, weights {teacher['weights']}{more}"
            f"{', config ' + teacher['config'] if 'config' in teacher else ''}"
        )

    def teachers(self) -> list[NamedTeacher]:
        """See `SignalSource`: what decided the signals, as a `LocalTeacher` says it of itself."""
        noted = {name: self.manifest[RECORD][name] for name in ("extra_body",) if name in self.manifest[RECORD]}
        own = {f"teacher_{name}": value for name, value in {**noted, **self.manifest["teacher"]}.items()}
        return [NamedTeacher(self.name, {**own, "stored": self.identity(None)})]

    def models(self) -> list[PreTrainedModel]:
        """None runs."""
        return []

    def signals(self, batch: Mapping[str, Any], rows: SupervisedRows, request: SignalRequest) -> Signals:
        """See `SignalSource`.

        Raises:
            ValueError: a pair that is not there, or with fewer positions than the batch has; bytes that were changed.
        """
        if "documents" not in batch:
            raise ValueError(
                "Stored signals are found by the tokens of a pair, and this batch does not say which pairs it has: the data collator must be a "
                "PairCollator(documents=True)."
            )
        if request.hidden or request.attention:
            raise ValueError(self.refusal("hidden states" if request.hidden else "attention"))
        rows = teachers_inputs(batch, rows)[1] if ALIGNED[0] in batch else rows
        found = [
            (key, wanted, self._name(batch, row, place, key))
            for row, documents in enumerate(batch["documents"])
            for place, (key, wanted) in enumerate(documents)
            if wanted
        ]
        wanted = [count for _, count, _ in found]
        if sum(wanted) != len(rows):
            raise ValueError(
                f"A batch has {len(rows)} supervised positions, and its documents say {sum(wanted)}; labels must be those of PairCollator."
            )
        decoded = self._decoded([key for key, _, _ in found], wanted, [name for _, _, name in found], rows.mask.device)
        if not isinstance(decoded, Tensor):
            return Signals(rows=rows.mask, sparse=decoded, supervised=rows)
        tap = self._tap(decoded)
        logits = None
        if request.logits:  # as the teacher would have made them: not in the precision of the student's autocast
            with torch.no_grad(), torch.autocast(decoded.device.type, enabled=False):
                logits = tap.transform(linear(tap.hidden, tap.weight, tap.bias))
        return Signals(rows=rows.mask, logits=logits, head=tap, supervised=rows)

    def check(self, rows: Any, name: str = "the pairs", max_length: int | None = None) -> None:
        """Whether all of these pairs are there, asked before a training. Rows of a stream are met when they come.

        Args:
            rows: pairs as a trainer takes them (see `distill.pairs.columns`).
            name: what they are called in messages.
            max_length: of the training, in tokens.

        Raises:
            ValueError: some are not there, or not to their whole length; they are named.
        """
        if isinstance(rows, list | tuple) and rows and all(isinstance(row, Mapping) for row in rows):
            for number, row in enumerate(rows):
                if row.get("teacher_prompt") is not None:
                    key_of_pair(row, f"number {number} of {name}")  # refuses words without tokens
            known = [{column: row.get(column) for column in COLUMNS} for row in rows]
            rows = datasets.Dataset.from_list(known, features=FEATURES)
        if not isinstance(rows, datasets.Dataset | PackedPairs):
            return
        dataset = check_pairs(rows)
        asked = rows_of(dataset, max_length, RowLimits(), f"looking for {name} in {self.folder.name}")
        found = self.index.find(asked.keys)
        absent = found < 0
        short = ~absent
        short[~absent] = self.index.positions[found[~absent]] < asked.positions[~absent]
        if not (absent | short).any():
            return
        which = absent if absent.any() else short
        numbers = np.flatnonzero(which)[:_NAMED]
        named = ", ".join(pair["id"] for pair in teachers_pairs(as_tables(dataset), numbers, None))
        more = f" and {which.sum() - len(numbers)} more" if which.sum() > len(numbers) else ""
        if not absent.any():
            first = numbers[0]
            raise ValueError(
                f"{self.folder} holds {short.sum()} of {len(dataset)} pairs of {name} in part only, captured with a smaller max_length: {named}{more} (of "
                f"the first {self.index.positions[found[first]]} positions, where {asked.positions[first]} are wanted). `distill capture` with the same "
                "settings and the max_length of the training completes it."
            )
        if absent.all():
            raise ValueError(
                f"{self.folder} holds signals of other pairs: none of the {len(dataset)} pairs of {name} is among its {len(self)} "
                f"({named}{more}).{self._without_teachers_prompts(dataset)} Pairs are found by their token ids: give the file that was "
                "captured, or capture these with `distill capture`."
            )
        raise ValueError(
            f"{self.folder} lacks {absent.sum()} of {len(dataset)} pairs of {name}: {named}{more}. `distill capture` with the same settings "
            "captures what is missing."
        )

    def _without_teachers_prompts(self, pairs: Any) -> str:
        """Say it where they were captured as the student sees them."""
        if "teacher_prompt_ids" not in pairs.column_names:
            return ""
        shown = [name for name in TEACHER_PROMPT if name in pairs.column_names]
        some = pairs.select(range(min(len(pairs), 100))).remove_columns(shown)
        try:
            there = self.index.find(rows_of(some, None, RowLimits()).keys) >= 0
        except ValueError:  # some are no pairs without it
            return ""
        return " They are there without their teacher prompts, which the pairs had not when they were captured." * bool(
            there.any()
        )

    def _decoded(self, keys: Sequence[bytes], wanted: list[int], names: list[str], device: torch.device) -> Any:
        found = self.index.find(np.frombuffer(b"".join(keys), np.uint8).reshape(-1, SIZE))
        stored = self.index.positions[np.maximum(found, 0)] if len(self.index) else np.zeros(len(found), np.int32)
        for row, have, want, name in zip(found.tolist(), stored.tolist(), wanted, names, strict=True):
            if row < 0 or have < want:
                what = f"not {name}" if row < 0 else f"{name} to its first {have} positions, where {want} are wanted"
                raise ValueError(
                    f"{self.folder} holds {what}. `distill capture` with the same settings (and the max_length of the training) completes it."
                )
        blobs, have = self.index.blobs(found.tolist(), names), stored.tolist()
        # in an evaluation the first set: each sees the same, and a training draws what it would have drawn without it
        if (sets := getattr(self.encoding, "sets", 1)) == 1 or not torch.is_grad_enabled():
            return self.encoding.decode(blobs, have, wanted, device)
        # by torch's own numbers, which a checkpoint holds: a resumed run takes the sets that the unbroken one would have taken
        which = torch.randint(sets, (len(blobs),)).tolist()
        return self.encoding.decode(blobs, have, wanted, device, which)

    def _tap(self, hidden: Tensor) -> HeadTap:
        assert self.head is not None
        if self._there is None or self._there[0] != hidden.device:
            weight, bias = self.head.weight.to(hidden.device), self.head.bias
            self._there = hidden.device, weight, None if bias is None else bias.to(hidden.device)
        _, weight, bias = self._there
        return HeadTap(hidden.to(weight.dtype), weight, bias, self.head.transform, weight.dtype)

    def _name(self, batch: Mapping[str, Any], row: int, place: int, key: bytes) -> str:
        if not (ids := batch.get("ids")):
            return f"the pair with the key {key.hex()}"
        count = len(batch["documents"][row])
        names = [ids[row]] if count == 1 else ids[row].split(", ")  # of a packed row, those of all its pairs
        return (
            f"pair {names[place]}" if len(names) == count else f"pair {place} (from 0) of the packed row of {ids[row]}"
        )

    def refusal(self, what: str) -> str:
        """Why this source does not give it."""
        return (
            f"{self.folder} holds a teacher's next-token distributions alone, and no {what}; take HiddenStates and AttentionMaps out of objectives, or give "
            "the teacher itself."
        )
