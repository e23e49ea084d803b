"""May a batch say which rows the head sees? Asked of the model itself: its loss must be the one it gives without."""

import inspect
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from transformers import TrainingArguments

from distill.models.adapters import base_of
from distill.models.evaluating import evaluating
from distill.models.probing import place_of, probed_before
from distill.pairs.collate import PairCollator, supervised_rows, supervised_tokens
from distill.trainers.watched_collator import name_of


def check_supervised_only(
    model: Any, args: TrainingArguments, collator: Any, others: dict[str, Any], takes_items: bool
) -> None:
    """Refuse what does not go together with a batch that names its supervised positions.

    Two short rows are run with and without `logits_to_keep` and `shift_labels`. A model whose weights are not here now (ZeRO 3), or that cannot
    be run where they lie, is asked for the names of its arguments only, and a warning says so.

    Args:
        model: the student, with its adapter if it has one.
        args: of the training.
        collator: of the trainer.
        others: what of the trainer reads logits and labels side by side, by name; None where it is not used.
        takes_items: whether the model takes `num_items_in_batch`.

    Raises:
        ValueError: names the class, or the setting.
    """
    used = [name for name, value in others.items() if value is not None]
    used += ["label_smoothing_factor"] if args.label_smoothing_factor else []
    used += ["use_liger_kernel, which makes no logits anyway"] if args.use_liger_kernel else []
    used += ["several GPUs in one process (use accelerate launch)"] if args.n_gpu > 1 else []
    config: Any = args.accelerator_config
    if args.world_size > 1 and (config.dispatch_batches or config.split_batches):
        used.append("dispatch_batches and split_batches of accelerator_config, which cut batches by rows")
    if not isinstance(collator, PairCollator):
        used.append(f"data_collator={name_of(collator)}: a PairCollator makes what the model is given")
    if used:
        raise ValueError(
            f"supervised_only=True gives the head the supervised positions alone, one behind the other; that does not go together with "
            f"{'; '.join(used)}. Leave one of the two out."
        )
    base = base_of(model)
    name = type(base).__name__
    if "logits_to_keep" not in inspect.signature(base.forward).parameters:
        raise ValueError(
            f"{name} does not take logits_to_keep, so it makes the logits of all positions; leave supervised_only out."
        )
    place = place_of(base)

    def run() -> "_Found | Exception":
        assert place is not None
        ids = torch.arange(12, device=place.device).view(2, 6) % place.vocabulary
        labels = ids.clone()
        labels[0, :2] = labels[1, :4] = -100
        rows = supervised_rows(labels)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "use_cache": False}
        if takes_items:
            inputs["num_items_in_batch"] = rows.sum()
        with evaluating(model), torch.no_grad(), torch.random.fork_rng():
            whole = model(**inputs)
            try:  # what a model's own code raises over shapes
                kept = model(**inputs, logits_to_keep=rows, shift_labels=supervised_tokens(labels, rows))
                return _Found.of(whole, kept, rows, supervised_tokens(labels, rows))
            except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
                return error

    found = probed_before(base, args.device, "it gives the same loss of supervised positions alone", run)
    if found is None:
        return
    if isinstance(found, Exception):
        first = (str(found).strip().splitlines() or [""])[0]
        raise ValueError(
            f"{name} cannot be given supervised positions alone ({type(found).__name__}: {first[:120]}); leave supervised_only out."
        ) from found
    if not found.is_right():
        raise ValueError(
            f"{name} takes logits_to_keep and shift_labels, but gives logits {list(found.shape)} and the loss {found.loss:.6g} in place of "
            f"[{found.rows}] and {found.wanted:.6g}; leave supervised_only out."
        )


class _Found(NamedTuple):
    """What a model gives of supervised positions alone, beside what it gives of all.

    Args:
        shape: of its logits, without the vocabulary.
        rows: supervised positions.
        loss, wanted: what it gives, and should.
        apart, largest: by how much logits differ; the largest of them.
        rounding: relative, of logits and of the loss.
    """

    shape: tuple[int, ...]
    rows: int
    loss: float
    wanted: float
    apart: float
    largest: float
    rounding: tuple[float, float]

    @classmethod
    def of(cls, whole: Any, kept: Any, rows: torch.Tensor, tokens: torch.Tensor) -> "_Found":
        own, those = kept.logits.float(), whole.logits[rows].float()
        # of equal rows the logits may differ by rounding, which bfloat16 does a lot of; the loss is then held to what it makes of it
        moved = cross_entropy(own, tokens) - cross_entropy(those, tokens)
        logits, loss = (10 * torch.finfo(dtype).eps for dtype in (whole.logits.dtype, kept.loss.dtype))
        return cls(
            tuple(kept.logits.shape[:-1]),
            int(rows.sum()),
            float(kept.loss),
            float(whole.loss + moved),
            float((own - those).abs().max()),
            float(those.abs().max()),
            (logits, loss),
        )

    def is_right(self) -> bool:
        of_logits, of_loss = self.rounding
        if self.shape != (self.rows,) or not self.apart <= max(1e-5, of_logits) * max(1.0, self.largest):
            return False
        return abs(self.loss - self.wanted) <= max(1e-5, of_loss) * max(1.0, abs(self.wanted))
