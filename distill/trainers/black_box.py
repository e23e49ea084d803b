"""Black-box distillation: supervised fine-tuning on the teacher's pairs. Look for a loss in here: there is none."""

import inspect
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from distill.generation.asking import generate
from distill.models.adapters import base_of
from distill.teachers.base import Teacher
from distill.text.encode import Prompt
from distill.trainers.base import PairTrainer
from distill.trainers.router_loss import check_one_batch_a_step
from distill.trainers.supervised_only import check_supervised_only


class BlackBoxTrainer(PairTrainer):
    """`transformers.Trainer` on pairs, with its own cross-entropy on the completion's tokens.

    Args:
        model: the student.
        args: `TrainingArguments`.
        train_dataset: pairs. Or give, in its place:
        teacher, prompts: the pairs are generated first.
        generation: with `teacher`, keyword arguments of `distill.generate` (`max_new_tokens`, `output`, ...). Several processes
            share the work.
        processing_class: the student's tokenizer.
        supervised_only: let the batch name its supervised positions (`logits_to_keep` and `shift_labels`, which are the model's own
            arguments), so that no logits of prompts and padding are made. Less memory and time at a large vocabulary; the loss stays the
            model's own, but sums are taken in another order than in plain `transformers.Trainer`: equal up to rounding, not in bits.
        kwargs: `max_length`, `packing`, `peft_config` as for `PairTrainer`, and as for `transformers.Trainer`.

    Raises:
        ValueError: pairs and teacher both or neither; pairs that cannot be learned from; a model whose loss Trainer cannot
            normalise over an accumulation window, or of which a part (a router's loss) is not; `supervised_only` with a model that
            does not give the same loss then, or with something that reads logits beside labels.

    Example:
        >>> BlackBoxTrainer(model=student, args=args, train_dataset=pairs, processing_class=tokenizer).train()
    """

    def __init__(
        self,
        model: PreTrainedModel | Any = None,
        args: TrainingArguments | None = None,
        *,
        train_dataset: datasets.Dataset | Any = None,
        teacher: Teacher | None = None,
        prompts: Iterable[Prompt] | datasets.Dataset | None = None,
        generation: dict[str, Any] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        supervised_only: bool = False,
        **kwargs: Any,
    ) -> None:
        if teacher is not None or prompts is not None:
            if train_dataset is not None or teacher is None or prompts is None:
                raise ValueError(
                    "Give either train_dataset=pairs, or both teacher= and prompts= to generate the pairs."
                )
            if args is not None:
                _ = args.device  # here several processes meet; then they share the work
            train_dataset = generate(teacher, prompts, **{"share": True, **(generation or {})})
        self.supervised_only = supervised_only
        super().__init__(model, args, train_dataset=train_dataset, processing_class=processing_class, **kwargs)
        if supervised_only:
            collator: Any = self.data_collator
            self.data_collator = replace(collator, supervised_only=True)

    def _check_loss(self, model: Any) -> None:
        super()._check_loss(model)
        self.model_accepts_loss_kwargs = takes_items(base_of(model))  # Trainer looks at the first one only
        one_batch_a_step = self.args.gradient_accumulation_steps == 1 and self.args.world_size == 1
        if not (self.model_accepts_loss_kwargs or self.compute_loss_func or one_batch_a_step):
            raise ValueError(
                f"{type(model).__name__} does not take num_items_in_batch, so Trainer would average the means of "
                "micro-batches, and the loss would depend on how a batch is split. Use gradient_accumulation_steps=1 in one "
                "process, or give compute_loss_func=."
            )
        if not self.compute_loss_func:
            check_one_batch_a_step(self.args, model, ", or give compute_loss_func=")
        if self.supervised_only:
            others = {
                "compute_loss_func": self.compute_loss_func,
                "compute_metrics": self.compute_metrics,
                "preprocess_logits_for_metrics": self.preprocess_logits_for_metrics,
            }
            check_supervised_only(model, self.args, self.data_collator, others, self.model_accepts_loss_kwargs)

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """As `PairTrainer`'s; who wants the logits gets those of all positions, which stand beside the labels."""
        if not prediction_loss_only:
            inputs = {name: value for name, value in inputs.items() if name not in ("logits_to_keep", "shift_labels")}
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def identity(self) -> dict[str, Any]:
        """As every trainer's; and whether sums are taken over the supervised positions alone."""
        return super().identity() | ({"supervised_only": True} if self.supervised_only else {})


def takes_items(base: Any) -> bool:
    """Whether a model's loss can be divided by `num_items_in_batch`, told as Trainer tells it.

    Args:
        base: without an adapter around it.
    """
    if hasattr(base, "accepts_loss_kwargs"):
        return bool(base.accepts_loss_kwargs)
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(base.forward).parameters.values())
