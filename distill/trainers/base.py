"""What both trainers share: they train on pairs. Everything else is `transformers.Trainer`."""

import logging
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from distill.collate import PairCollator

logger = logging.getLogger(__name__)


class PairTrainer(Trainer):
    """A `transformers.Trainer` whose datasets are pairs; its collator is `PairCollator`.

    Args:
        model: the student.
        args: `TrainingArguments`.
        train_dataset, eval_dataset: pairs (see `distill.pairs`).
        processing_class: the student's tokenizer.
        max_length: longest row in tokens; what it cuts is logged. Ignored with an own `data_collator`.
        kwargs: as for `transformers.Trainer`.

    Raises:
        ValueError: no tokenizer and no collator; pairs that the model cannot learn from.
    """

    collates_ids = False

    def __init__(
        self,
        model: PreTrainedModel | Any = None,
        args: TrainingArguments | None = None,
        *,
        train_dataset: datasets.Dataset | Any = None,
        eval_dataset: datasets.Dataset | Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("data_collator") is None:
            if processing_class is None:
                raise ValueError(f"{type(self).__name__} needs processing_class=, the student's tokenizer.")
            kwargs["data_collator"] = PairCollator(processing_class, max_length=max_length, with_ids=self.collates_ids)
        evaluations = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
        for name, pairs in {"train_dataset": train_dataset, **evaluations}.items():
            if isinstance(pairs, datasets.Dataset):
                check_pairs(pairs, name, getattr(kwargs["data_collator"], "max_length", None), model)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )

    def _set_signature_columns_if_needed(self) -> None:
        # The collator, not the model, reads the columns; without this, Trainer would remove all of them as unused.
        if self._signature_columns is None:
            self._signature_columns: Any = ["id", "prompt_ids", "completion_ids"]


def check_pairs(pairs: datasets.Dataset, name: str, max_length: int | None, model: Any = None) -> None:
    """Refuse pairs that cannot be learned from, and log what `max_length` will cut. Vectorised: 1e6 rows in a second.

    Raises:
        ValueError: a missing column, an empty completion, a row left without supervised token, a token id beyond the
            model's vocabulary.
    """
    missing = [column for column in ("prompt_ids", "completion_ids") if column not in pairs.column_names]
    if missing:
        raise ValueError(
            f"{name} has no column {' and '.join(missing)} (it has {', '.join(pairs.column_names)}); these are not pairs. "
            "Make pairs with distill.generate, or read them with distill.load_pairs(path, tokenizer)."
        )
    if len(pairs) == 0:
        raise ValueError(f"{name} has no rows.")
    table = pairs.with_format("arrow")[:]
    prompt, completion = (
        np.asarray(pc.list_value_length(table[column]).to_numpy()) for column in ("prompt_ids", "completion_ids")
    )
    length, limit = prompt + completion, max_length if max_length is not None else np.inf
    useless = np.flatnonzero(np.minimum(length, limit) <= np.maximum(prompt, 1))
    if len(useless):
        row = int(useless[0])
        raise ValueError(
            f"{name}: {len(useless)} of {len(pairs)} pairs have no token to learn from, the first is row {row} "
            f"({prompt[row]} prompt tokens, {completion[row]} completion tokens, max_length {max_length}). "
            "Remove them, or raise max_length."
        )
    config = getattr(model, "config", None)
    positions = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None) if config else None
    if positions and min(int(length.max()), limit) > positions:
        raise ValueError(
            f"{name} has a row of {length.max()} tokens, but the model has {positions} positions; give max_length={positions} "
            "or less, which cuts the ends of such completions."
        )
    cut = length > limit
    if cut.any():
        lost = int((length - limit)[cut].sum())
        logger.warning(
            "%s: %d of %d pairs are longer than max_length=%d and lose the end of their completion, %d of %d completion "
            "tokens in all (no EOS is put in its place).",
            name, cut.sum(), len(pairs), max_length, lost, completion.sum(),
        )  # fmt: skip
    embeddings: Any = model.get_input_embeddings() if isinstance(model, PreTrainedModel) else None
    if embeddings is not None:
        highest = max(pc.max(pc.list_flatten(table[c])).as_py() or 0 for c in ("prompt_ids", "completion_ids"))
        if highest >= embeddings.weight.shape[0]:
            raise ValueError(
                f"{name} has token id {highest}, but the model's vocabulary has {embeddings.weight.shape[0]} tokens: the "
                "pairs were made with another tokenizer. Make them anew, or load them as text with this one."
            )
