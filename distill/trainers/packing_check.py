"""May this model be trained on packed rows? It is asked itself, before the first step."""

import copy
import inspect
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import datasets
import torch
from transformers import TrainingArguments

from distill.models.adapters import base_of
from distill.models.configs import text_config_of
from distill.models.evaluating import evaluating
from distill.models.probing import logits_of, place_of, probed_before
from distill.pairs.collate import PairCollator, document_tokens
from distill.pairs.packing import PackedPairs, pack_pairs
from distill.signals.base import inputs_of

logger = logging.getLogger(__name__)

_CUTS_LOGITS = ("logits_to_keep", "shift_labels")  # arguments of models; here the logits of all tokens are wanted


def packed(trainer: Any, pairs: Any) -> PackedPairs:
    """Training pairs in bins, as a `PairTrainer` packs them; how full they are is logged. Its student is not asked here (`check_packing`).

    Raises:
        ValueError: no length, another collator or dataset, padding at the left, grouping by length as well.
    """
    collator, args = trainer.data_collator, trainer.args
    if not isinstance(collator, PairCollator) or collator.max_length is None or collator.padding_side != "right":
        raise ValueError(
            "packing=True needs max_length=, the length of a packed row, and the collator of "
            f"{type(trainer).__name__} with its padding at the right."
        )
    if not isinstance(pairs, datasets.Dataset):
        raise ValueError(f"packing=True needs a train_dataset of pairs, not {type(pairs).__name__}.")
    if str(getattr(args, "train_sampling_strategy", "")) == "group_by_length":
        raise ValueError("train_sampling_strategy='group_by_length' saves padding, as packing does; give one of them.")
    seed = order_seed(args)
    bins = pack_pairs(pairs, collator.max_length, seed, collator.reads)
    logger.warning("%s", bins.describe(args.per_device_train_batch_size, seed))
    return bins


def order_seed(args: TrainingArguments) -> int:
    """The seed of the order in which equally long pairs are packed."""
    return args.seed if args.data_seed is None else args.data_seed


def holds_bins(rows: Any) -> bool:
    """Whether several pairs share a row: `PackedPairs`, or a list of lists of pairs."""
    return isinstance(rows, PackedPairs) or (
        isinstance(rows, list | tuple) and any(isinstance(row, list) for row in rows[:1])
    )


def check_packing(trainer: Any, model: Any, *, use_cache: bool | None = None) -> None:
    """`check_keeps_documents_apart` with the trainer's own batches and precision."""
    check_keeps_documents_apart(
        model,
        trainer.data_collator,
        trainer.compute_loss_context_manager,
        use_cache=use_cache,
        device=trainer.args.device,
    )


def check_keeps_documents_apart(
    model: Any,
    collator: PairCollator,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    *,
    use_cache: bool | None = False,
    device: torch.device | None = None,
) -> None:
    """Refuse a model in which pairs that share a row would see each other, or whose positions do not begin anew.

    It is asked, not looked up: two short documents are run by themselves and in one row, behind two different neighbours. The
    model's mode and the random state are left as they were. One that cannot be run where its weights lie now (FSDP, DeepSpeed) is not
    asked, and a warning says so.

    Args:
        model: as it will be called in training.
        collator: what makes the batches.
        autocast: makes the context of training's forward passes.
        use_cache: what they are called with; None: nothing, so that the config decides.
        device: where training runs; None: where the model is.

    Raises:
        ValueError: the logits differ by more than rounding.
    """
    base = base_of(model)
    name = type(base).__name__
    way_out = "Leave packing out for this model."
    takes = inspect.signature(base.forward).parameters
    if "position_ids" not in takes and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        raise ValueError(f"{name} takes no position_ids, so it cannot keep packed pairs apart. {way_out}")
    place = place_of(base)
    collator = copy.copy(collator)
    collator.documents, collator.columns, collator.aligned = False, (), None  # these documents are nobody's

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        assert place is not None
        size = min(place.vocabulary, 1000)
        one, other, second = (
            [1 + (start + 7 * i) % (size - 1) for i in range(n)] for start, n in ((3, 5), (11, 5), (6, 7))
        )
        documents = [{"prompt_ids": ids[:2], "completion_ids": ids[2:]} for ids in (one, second, other)]
        bins = [[documents[0], documents[1]], [documents[2], documents[1], documents[2]]]
        with evaluating(model), torch.no_grad(), autocast():
            alone = [_logits(model, collator([document]), use_cache, place.device) for document in documents]
            together = _logits(model, collator(bins), use_cache, place.device)
        return together, torch.cat([alone[0], alone[1], alone[2], alone[1], alone[2]])

    found = probed_before(base, device, "it keeps packed pairs apart", run)
    if found is None:
        return
    together, expected = found
    exact = together.dtype in (torch.float32, torch.float64)
    error, scale = (together - expected).abs().max().item(), expected.abs().max().item()
    # Apart, only rounding is left. The smallest leak seen was 8e-4, in a random hybrid of attention and state space.
    if not error <= (1e-4 if exact else 3e-2) * scale:
        if getattr(text_config_of(base), "use_cache", False) if use_cache is None else use_cache:
            way_out = "With use_cache=True transformers keeps no packed pairs apart: leave it False."
        raise ValueError(
            f"{name} does not keep packed pairs apart: the logits of a document of 5 or 7 tokens change by {error:.2g} (of "
            f"{scale:.2g}) when others stand in its row. {way_out}"
        )


def _logits(
    model: Any, batch: Mapping[str, torch.Tensor], use_cache: bool | None, device: torch.device
) -> torch.Tensor:
    """`[tokens, V]` without padding, in the order of the documents."""
    inputs = {name: value.to(device) for name, value in inputs_of(batch).items() if name not in _CUTS_LOGITS}
    more = {} if use_cache is None else {"use_cache": use_cache}
    logits = logits_of(model(**inputs, **more))
    if logits is None:
        raise ValueError(
            f"{type(base_of(model)).__name__} gives no logits by that name, so it cannot be asked whether it keeps packed pairs apart. Leave "
            "packing out for this model."
        )
    return logits[document_tokens(inputs)]
