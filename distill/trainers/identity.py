"""What a run is made of, as plain values to compare: settings, pairs, models, objectives, and the machine."""

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import accelerate
import datasets
import numpy as np
import pyarrow.compute as pc
import torch
import transformers

from distill.basics.settings import plain, training_settings
from distill.models.adapters import base_of, is_adapted
from distill.models.configs import values_of_config
from distill.models.load import UNSTABLE, weights_fingerprint
from distill.pairs.collate import PairCollator
from distill.pairs.columns import READ
from distill.pairs.packing import PackedPairs
from distill.trainers.watched_collator import name_of


def run_settings(trainer: Any) -> dict[str, Any]:
    """Settings and data of a trainer, as they are when training begins."""
    args, collator = trainer.args, trainer.data_collator
    columns = collator.reads if isinstance(collator, PairCollator) else READ
    settings = {
        "trainer": type(trainer).__name__,
        "training": training_settings(args),
        "processes": args.world_size,
        "distributed": str(trainer.accelerator.distributed_type).rpartition(".")[2],
        "mixed_precision": trainer.accelerator.mixed_precision,
        # accelerate draws the order of rows from it where data_seed is not given
        "order_seed": torch.initial_seed() if args.data_seed is None else args.data_seed,
        "pairs": describe_rows(trainer.train_dataset, columns),
        "packing": isinstance(trainer.train_dataset, PackedPairs),
        "collator": name_of(collator),
        "max_length": collator.max_length if isinstance(collator, PairCollator) else None,
        "loss_function": plain(trainer.compute_loss_func),
    }
    if str(args.eval_strategy.value) != "no":
        several = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"": trainer.eval_dataset}
        settings["evaluation_pairs"] = {name: describe_rows(rows, columns) for name, rows in several.items()}
    return settings


def describe_rows(rows: Any, columns: Sequence[str] = READ) -> str:
    """Number of rows and a hash of their token ids and masks, in their order.

    Args:
        rows: pairs, or whatever a trainer was given.
        columns: those that its batches are made of; of the teacher's prompt and of further ones only where they are there.
    """
    pairs = rows.pairs if isinstance(rows, PackedPairs) else rows
    if not isinstance(pairs, datasets.Dataset):
        return f"{type(pairs).__name__} of {len(pairs) if hasattr(pairs, '__len__') else 'unknown'} rows"
    names = [name for name in columns if name != "id" and name in pairs.column_names]
    digest = hashlib.sha256(repr(names).encode())
    for table in pairs.select_columns(names).with_format("arrow").iter(10_000):
        for name, column in zip(names, table.columns, strict=True):
            values = column.combine_chunks()
            if name not in READ:  # of whatever type
                digest.update(json.dumps(values.to_pylist(), default=str).encode())
                continue
            lengths = pc.fill_null(pc.list_value_length(values), -1)
            for part in (lengths, pc.list_flatten(values)):
                digest.update(np.asarray(part).astype("<i4").tobytes())
    return f"{len(pairs)} rows, sha256 {digest.hexdigest()[:16]}"


def describe_student(model: Any, optimizers: Any) -> dict[str, Any]:
    """Architecture, adapter, frozen weights that no checkpoint holds, and an optimiser that the caller made.

    And the weights that a run began with: a checkpoint brings its own, but it is of another student where those differ.
    """
    base = base_of(model)
    config = values_of_config(getattr(base, "config", None))
    described: dict[str, Any] = {
        "model": type(base).__name__,
        "attention": getattr(getattr(base, "config", None), "_attn_implementation", None),
        "dtypes": sorted({str(p.dtype) for p in model.parameters() if p.is_floating_point()}),
        "config": {name: value for name, value in config.items() if name not in UNSTABLE},
        "optimizer": [None if one is None else type(one).__name__ for one in optimizers],
    }
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    described["weights"] = f"{len(trained)} trained tensors, at the start {weights_fingerprint(trained.items())}"
    if is_adapted(model):
        described["adapter"] = {
            name: {k: v for k, v in one.to_dict().items() if k not in ("base_model_name_or_path", "peft_version")}
            for name, one in model.peft_config.items()
        }
        described["base"] = f"weights {_fingerprint(model, lambda p: not p.requires_grad)}"
    return described


def describe_terms(terms: Iterable[Any]) -> dict[str, Any]:
    """The settings of every objective by its name, and what binding it to the models decided."""
    return {
        one.objective.name: {"kind": type(one.objective).__name__} | plain({**vars(one.objective), **one.decided})
        for one in terms
    }


def environment(trainer: Any) -> dict[str, Any]:
    """What decides rounding and is no setting."""
    device = trainer.args.device
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type} {platform.machine()}",
        "threads": torch.get_num_threads(),
    }


def _fingerprint(model: Any, counts: Callable[[torch.Tensor], bool]) -> str:
    """Of the parameters that count and are no packed integers: some kernels lay those out anew when they are first used."""
    return weights_fingerprint((n, p) for n, p in model.named_parameters() if p.is_floating_point() and counts(p))
