"""Whether pairs can be learned from, asked before any step."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
from transformers import TrainingArguments
from transformers.utils import logging as transformers_logging

from distill.models.adapters import base_of
from distill.models.configs import set_cache
from distill.models.positions import positions_of
from distill.models.probing import embeddings_of
from distill.pairs.collate import PairCollator
from distill.pairs.packing import PackedPairs
from distill.pairs.row_limits import RowLimits
from distill.signals import Routed, SignalSource, facts_of
from distill.text.vocabulary import shared_vocabulary
from distill.trainers.length_order import row_lengths
from distill.trainers.pair_checks import check_pairs, known_length
from distill.trainers.shown_checks import check_shown

warn_once = transformers_logging.get_logger(__name__).warning_once


def limits_of(model: Any, whose: str = "the model") -> RowLimits:
    """What a model can take of a row, by its config and its embeddings.

    Args:
        model: without an adapter around it.
        whose: what it is called in messages.
    """
    weight: Any = getattr(embeddings_of(model), "weight", None)
    # ZeRO 3 keeps the true shape beside an empty tensor
    vocabulary = None if weight is None else getattr(weight, "ds_shape", weight.shape)[0]
    return RowLimits(positions_of(model), vocabulary, None, whose)


def check_config(model: Any, processing_class: Any, args: TrainingArguments | None) -> None:
    """Refuse a config with which Trainer would end in an AttributeError when it is made, or when training begins.

    Args:
        model: as it was given, perhaps with an adapter.
        processing_class, args: of the trainer.

    Raises:
        ValueError: it is none of `transformers`, and there is a tokenizer, whose special tokens Trainer would put into it; nothing can be set
            in it; there is none, which Trainer asks whether labels may be smoothed.
    """
    base = base_of(model)
    name, config = type(base).__name__, getattr(base, "config", None)
    if hasattr(base, "config") and processing_class is not None and not hasattr(config, "get_text_config"):
        raise ValueError(
            f"{name} has a config of class {type(config).__name__}, into which transformers.Trainer cannot put the tokenizer's "
            "special tokens. Make it a transformers.PreTrainedConfig; or leave processing_class out and give data_collator=PairCollator(tokenizer)."
        )
    if not hasattr(base, "config") and args is not None and args.label_smoothing_factor:
        raise ValueError(
            f"{name} has no config, which transformers.Trainer asks whether its labels may be smoothed. Leave label_smoothing_factor out, or "
            "give the model a config (None will do)."
        )
    try:
        set_cache(base, False if args is None else args.use_cache)  # Trainer does so, too
    except (AttributeError, TypeError, ValueError) as error:  # a frozen pydantic model raises the last
        raise ValueError(
            f"{name} has a config of class {type(config).__name__}, in which use_cache cannot be set, as transformers.Trainer does ({error}). Make it "
            "something with attributes: a transformers.PreTrainedConfig, a dataclass that is not frozen, a types.SimpleNamespace."
        ) from error


def check_kind(rows: Any, name: str) -> None:
    """Refuse what is no set of rows but several.

    Raises:
        ValueError: names the splits.
    """
    if isinstance(rows, Mapping):
        splits = ", ".join(map(repr, rows))
        raise ValueError(
            f"{name} is a {type(rows).__name__} of {splits or 'nothing'}; give one of them, e.g. {name}=dataset[{next(iter(rows), 'train')!r}]."
        )


def check_rows(
    rows: Any,
    name: str,
    collator: Any,
    limits: RowLimits,
    teacher_limits: RowLimits | None = None,
    say_what_is_cut: bool = True,
) -> None:
    """Refuse rows that cannot be learned from, as far as they can be seen before a training; those of a stream come to the collator.

    Args:
        rows: pairs, bins of pairs, a list of pairs, or anything else that a trainer takes.
        name: for messages.
        collator: that of the trainer.
        limits: what the models can take of a row.
        teacher_limits: what the teacher can take of the row that it is shown.
        say_what_is_cut: log what `max_length` will cut.

    Raises:
        ValueError: see `check_pairs` and `PairCollator`.
    """
    if isinstance(rows, PackedPairs):
        rows = rows.pairs
    if not isinstance(collator, PairCollator) and "prompt_ids" not in (getattr(rows, "column_names", None) or ()):
        return  # text, which an own collator reads
    if isinstance(rows, datasets.Dataset):
        max_length = getattr(collator, "max_length", None)
        check_pairs(rows, name, max_length, limits, say_what_is_cut)
        check_shown(rows, name, max_length, teacher_limits or RowLimits(), getattr(collator, "teacher_rows", False))
        if lacking := [column for column in getattr(collator, "columns", ()) if column not in rows.column_names]:
            raise ValueError(
                f"{name} has no column {', '.join(lacking)}, which the teacher reads (it has {', '.join(rows.column_names)})."
            )
    elif isinstance(rows, list | tuple) and isinstance(collator, PairCollator):
        if not len(rows):
            raise ValueError(f"{name} has no rows.")
        for i, row in enumerate(rows):
            for pair in row if isinstance(row, list) else [row]:  # a bin of pairs
                collator.document(pair, f"row {i} of {name}")


def longest_row(trainer: Any) -> int | None:
    """Tokens of the longest row that can come, with its padding, as far as a trainer's datasets and settings say; None: it is not known."""
    collator = trainer.data_collator
    if not isinstance(collator, PairCollator) or collator.flatten_bins:
        return None
    evaluation = trainer.eval_dataset
    several = [trainer.train_dataset, *(evaluation.values() if isinstance(evaluation, dict) else [evaluation])]
    lengths = [
        rows.capacity if isinstance(rows, PackedPairs) else _longest(rows) for rows in several if rows is not None
    ]
    known = [length for length in lengths if length is not None]
    bounds = [max(known)] if known and len(known) == len(lengths) else []
    bounds += [bound for bound in (collator.max_length, trainer.row_limits.positions) if bound is not None]
    multiple = collator.pad_to_multiple_of or 1
    return -(-min(bounds) // multiple) * multiple if bounds else None


def _longest(rows: Any) -> int | None:
    if isinstance(rows, datasets.Dataset) and (known := known_length(rows)) is not None:
        return known
    if isinstance(rows, datasets.Dataset | list | tuple):
        return max(row_lengths(rows, None))
    return None


def check_processes(rows: Any, args: TrainingArguments) -> None:
    """Refuse settings of several processes under which training would not be that of one.

    Raises:
        ValueError: more processes than rows; a loss that depends on how rows fall on processes.
    """
    processes = args.world_size
    if processes > 1 and not args.average_tokens_across_devices:
        raise ValueError(
            "average_tokens_across_devices=False makes the loss depend on how rows fall on processes; leave it on."
        )
    if processes > 1 and hasattr(rows, "__len__") and len(rows) < processes:
        raise ValueError(
            f"train_dataset has {len(rows)} rows, too few for {processes} processes to have one each; give more rows, or start at "
            f"most {len(rows)} processes."
        )


def compared_tokens(student: Any, teacher: Any, student_tokenizer: Any, teacher_tokenizer: Any) -> int | None:
    """As `distill.text.vocabulary.shared_vocabulary`; a tokenizer that was not given is looked for where its model came from.

    Args:
        student, teacher: facts of both sides, or models, perhaps with adapters.
        student_tokenizer, teacher_tokenizer: those that were given; also a processor, which has one.

    Raises:
        ValueError: the tokens differ, or it cannot be told and the heads have different sizes.
    """
    # a tokenizer may have something called so, too
    given = [
        one if hasattr(one, "get_vocab") else getattr(one, "tokenizer", one)
        for one in (student_tokenizer, teacher_tokenizer)
    ]
    sides = [facts_of(base_of(side)) for side in (student, teacher)]
    found = [one or side.find_tokenizer() for one, side in zip(given, sides, strict=True)]
    if None in found:
        whose = [name for name, one in zip(("student", "teacher"), found, strict=True) if one is None]
        warn_once(
            f"Whether student and teacher have the same tokens cannot be told: the tokenizer of the {' and the '.join(whose)} is not known. "
            "Give processing_class= and teacher=LocalTeacher(model, tokenizer)."
        )
    return shared_vocabulary(sides[0], sides[1], found[0], found[1], looked_up=found != given)


def compared_with(source: SignalSource, student: Any, tokenizer: Any) -> dict[str, int | None]:
    """`compared_tokens` with each teacher of a source, by its name; of one teacher, under the name `""`.

    Args:
        source: prepared.
        student: the model, without an adapter around it.
        tokenizer: of the student, if it is given.
    """
    sources = source.sources if isinstance(source, Routed) else {"": source}
    return {
        name: None
        if one.facts.model is student  # its own weights
        else compared_tokens(student, one.facts, tokenizer, one.tokenizer)
        for name, one in sources.items()
    }


def check_names(objectives: Sequence[Any]) -> None:
    """Refuse objectives that a log could not tell apart.

    Raises:
        ValueError: there are none, or two of one name.
    """
    names = [objective.name for objective in objectives]
    weighted = [f"{name}_weight" for name in names]  # in logs, where the weight is a schedule
    if not names or len({*names, *weighted}) < 2 * len(names):
        raise ValueError(
            f"objectives are {names}; give at least one, and a name= of its own to each of several of one kind: "
            "HiddenStates(layers='last', name='last_hidden')."
        )


def check_parallelism(args: TrainingArguments | None, model: Any) -> None:
    """Refuse ways to divide a model or a row over processes: all of them would get rows of their own, and each a part of the loss.

    Args:
        args: with `parallelism_config`, a configuration of DeepSpeed, or accelerate's settings in the environment.
        model: which may have been divided when it was loaded; None: it is not there yet.

    Raises:
        ValueError: names the setting.
    """
    config, environment = getattr(args, "parallelism_config", None), "PARALLELISM_CONFIG_"
    base: Any = None if model is None else base_of(model)
    for name, words in (("tp_size", "Tensor"), ("cp_size", "Context"), ("sp_size", "Sequence")):
        sizes = [getattr(config, name, 1), int(os.environ.get(environment + name.upper(), 1))]
        sizes += [getattr(base, "tp_size", 1), _tensor_parallel_of_deepspeed(args)] if name == "tp_size" else []
        if (size := max(found or 1 for found in sizes)) > 1:
            raise ValueError(
                f"{words} parallelism ({name}) is {size}, which is not supported: rows are divided over all processes. Use DDP or FSDP2 "
                "(recipes/accelerate), which divide batches and weights."
            )
    if getattr(base, "is_distributed_loading_by_transformers", False):
        raise ValueError(
            f"{type(base).__name__} was divided when it was loaded (from_pretrained(distributed_config=...)), which is not supported. Load it "
            "whole; FSDP2 (recipes/accelerate) divides it when training begins."
        )


def _tensor_parallel_of_deepspeed(args: TrainingArguments | None) -> int:
    """`autotp_size` of a configuration of DeepSpeed: that of the arguments, else that of `accelerate launch`."""
    plugin: Any = getattr(args, "deepspeed_plugin", None)
    holders = [getattr(args, "hf_deepspeed_config", None), getattr(plugin, "hf_ds_config", None)]
    configs: list[Any] = [getattr(holder, "config", None) for holder in holders] + [getattr(args, "deepspeed", None)]
    return max(
        [
            int(config.get("tensor_parallel", {}).get("autotp_size") or 1)
            for config in configs
            if isinstance(config, dict)
        ],
        default=1,
    )


def check_one_device(args: TrainingArguments) -> None:
    """Refuse several GPUs in one process, where Trainer copies the model to each of them (`nn.DataParallel`).

    Its threads share out a batch by rows, whatever else the batch holds, and hooks, taps and sums of one copy see their own rows only.

    Raises:
        ValueError: there are several.
    """
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs in one process (nn.DataParallel) are not supported. Start one process for each with `accelerate launch` "
            "(recipes/accelerate/ddp.yaml); or use one of them alone: CUDA_VISIBLE_DEVICES=0."
        )


def check_other_losses(args: TrainingArguments) -> None:
    """Refuse settings that a white box cannot follow.

    Raises:
        ValueError: names the setting.
    """
    if args.label_smoothing_factor:
        raise ValueError("label_smoothing_factor belongs to cross-entropy; WhiteBoxTrainer has no labels to smooth.")
