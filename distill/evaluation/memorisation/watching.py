"""Watching what is trained: which canaries a trainer's batches teach, behind every mask, cut and packing."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from distill.evaluation.memorisation.canaries import Canary


class CanaryWatch:
    """Counts canaries in the very batches that a trainer steps on: a secret that a mask, a cut or the removal of duplicates took away was not taught.

    Args:
        trainer: any `transformers.Trainer`; watched from now on.
        canaries: to look for.
        tokenizer: of its batches; None: the trainer's own.

    Attributes:
        taught: how often the whole secret of each canary, by its id, stood among tokens with loss.

    Raises:
        ValueError: no tokenizer.

    Example:
        >>> watch = CanaryWatch(trainer, canaries.planted)
        >>> trainer.train()
        >>> watch.check(epochs=3)
    """

    def __init__(self, trainer: Any, canaries: Iterable[Canary], tokenizer: Any = None) -> None:
        self.canaries = {one.id: one for one in canaries}
        self.tokenizer = tokenizer if tokenizer is not None else trainer.processing_class
        if self.tokenizer is None:
            raise ValueError("CanaryWatch reads batches as text; give the tokenizer they were made with.")
        self.taught: Counter[str] = Counter()
        usual = trainer.training_step

        def watched(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.look(inputs["input_ids"], inputs["labels"])
            return usual(model, inputs, *args, **kwargs)

        trainer.training_step = watched

    def look(self, input_ids: Tensor, labels: Tensor) -> None:
        """Count the canaries of a batch.

        Args:
            input_ids: `[B, T]`.
            labels: `[B, T]`, -100 where nothing is learned.
        """
        for ids, wanted in zip(input_ids.tolist(), labels.tolist(), strict=True):
            begun, read = -1, 0  # of the run of tokens with loss; behind the run before
            for place, label in enumerate([*wanted, -100]):
                if label != -100 and begun < 0:
                    begun = place
                elif label == -100 and begun >= 0:
                    self._count(self.tokenizer.decode(ids[read:place]), self.tokenizer.decode(ids[begun:place]))
                    begun, read = -1, place

    def _count(self, pair: str, learned: str) -> None:
        """Of a prompt with its completion, what of the completion is learned; a short answer says a secret and not whose it is."""
        for one in self.canaries.values():
            if one.name in pair:
                self.taught[one.id] += one.times_in(learned)

    def check(self, epochs: int = 1) -> None:
        """Whether each canary was taught as often as it was planted, once in each epoch.

        Raises:
            ValueError: one was not; the first are named with both counts.
        """
        wrong = [one for one in self.canaries.values() if self.taught[one.id] != one.repeats * epochs]
        if wrong:
            some = ", ".join(f"{one.id} ({self.taught[one.id]} of {one.repeats * epochs})" for one in wrong[:3])
            raise ValueError(
                f"{len(wrong)} of {len(self.canaries)} canaries were taught otherwise than planted: {some}. A mask, max_length, a removal of duplicates "
                "or packing took them, or an epoch was not whole; what a model then says of them proves nothing."
            )
