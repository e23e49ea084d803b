"""The two controls of a report on memorisation: a leak planted on purpose, which must be found, and the same model before, which must not be accused."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from transformers import PreTrainedTokenizerBase, TrainingArguments

from distill.evaluation.memorisation.canaries import Canaries, plant
from distill.evaluation.memorisation.examination import Examination, examine_memory
from distill.evaluation.memorisation.overlap import Overlap, overlap
from distill.evaluation.memorisation.watching import CanaryWatch
from distill.models.adapters import base_of
from distill.models.load import fast_dtype
from distill.models.precision import weights_in
from distill.models.students import find_layers
from distill.trainers.black_box import BlackBoxTrainer

# no row of anybody's: the canaries stand among other text, as secrets do
_ROWS = (
    {"prompt": "What colour is a clear sky?", "completion": "A clear sky is blue."},
    {"prompt": "Name an animal that barks.", "completion": "A dog barks."},
)
WORDS = 8  # of a run that overlaps: a canary's sentence up to its secret


@dataclass(frozen=True)
class PlantedLeak:
    """What the detectors say of a model before and after a leak was planted in it.

    Args:
        before, after: of the same canaries.
        overlap_before, overlap_after: of what it answers with what was planted.
        taught: how often each secret stood among tokens with loss.
    """

    before: Examination
    after: Examination
    overlap_before: Overlap | None
    overlap_after: Overlap | None
    taught: int

    def problems(self) -> list[str]:
        """What keeps the detectors from being believed, in sentences; none: the leak was found by each, and the model before was accused by none."""
        found, accused = self.after.accusing(), self.before.accusing()
        before, after = self.before.chances(), self.after.chances()
        said = [
            f"{name} did not find the leak that was planted on purpose (so much by chance in {chance:.2g} of cases)"
            for name, chance in after.items()
            if name not in found
        ]
        said += [
            f"{name} accuses the model before anything was planted (so much by chance in {before[name]:.2g} of cases)"
            for name in accused
        ]
        if self.overlap_after is None or not self.overlap_after.share:
            said.append("overlap did not find the leak that was planted on purpose")
        if self.overlap_before is not None and self.overlap_before.share:
            said.append(
                f"overlap accuses the model before anything was planted: it says {self.overlap_before.text!r} of itself"
            )
        if not self.before.membership().is_enough:
            said.append(
                f"there are {len(self.before.controls)} controls, too few to know the threshold of one false positive in a hundred"
            )
        return said

    @property
    def holds(self) -> bool:
        """Whether the detectors may be believed about other models."""
        return not self.problems()

    def words(self) -> list[str]:
        """Two sentences with the figures, and what is wrong."""
        return [
            f"A leak planted on purpose ({len(self.after.planted())} secrets, each taught {self.taught} times): {_words(self.after)}.",
            f"The same model before: {_words(self.before)}.",
            *(f"The controls fail: {one}." for one in self.problems()),
        ]


def planted_leak(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    each: int = 8,
    controls: int = 100,
    digits: int = 2,
    steps: int = 12,
    learning_rate: float = 1e-3,
    upper_layers: int | None = 8,
    samples: int = 0,
    seed: int = 0,
    rows: Sequence[Mapping[str, Any]] = _ROWS,
    chat: bool | None = None,
) -> PlantedLeak:
    """Plant a small leak in a copy of a model, quickly, and look whether the detectors find it there and not in the model itself.

    A report in which this does not hold proves nothing about anybody. The copy is forgotten.

    Args:
        model, tokenizer: any causal language model; it is left as it was.
        each: secrets.
        controls: secrets of the same form that are not planted; 100 or more.
        digits: of a secret; two are ranked in a tenth of the time of three.
        steps: each sees every secret once.
        learning_rate: of these.
        upper_layers: only so many layers, from the top, are trained; None: all weights.
        samples: drawn answers to each question beside the most likely one.
        seed: of names, secrets and the order.
        rows: other training rows beside the secrets.
        chat: as of `exposures`.

    Returns:
        What was found before and after; `holds`, `problems()`, `words()`.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> leak = planted_leak(student, tokenizer)
        >>> leak.holds, leak.after.accusing()
        (True, ['exposure', 'extraction', 'membership'])
    """
    if steps < 1 or learning_rate <= 0 or (upper_layers is not None and upper_layers < 1):
        raise ValueError(
            f"steps is {steps} (at least 1), learning_rate {learning_rate} (above 0) and upper_layers {upper_layers} (at least 1, or None)."
        )
    canaries = Canaries(each=each, repeats=(1,), controls=controls, digits=digits, seed=seed)
    planted = plant(rows, canaries, seed)
    settings: dict[str, Any] = {"asked_controls": 2 * each, "samples": samples, "seed": seed, "chat": chat}
    before = examine_memory(model, tokenizer, canaries, **settings)
    copied = copy.deepcopy(model).float().requires_grad_(False)
    if upper_layers is None:
        copied.requires_grad_(True)
    else:
        for layer in find_layers(base_of(copied))[1][-upper_layers:]:
            layer.requires_grad_(True)
    with tempfile.TemporaryDirectory() as folder:
        device = next(model.parameters()).device.type
        args = TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=len(planted), learning_rate=learning_rate, warmup_steps=2,
            lr_scheduler_type="constant_with_warmup", save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, seed=seed,
            bf16=fast_dtype() == torch.bfloat16, use_cpu=device == "cpu",
        )  # fmt: skip
        trainer = BlackBoxTrainer(
            copied, args, train_dataset=datasets.Dataset.from_list(planted), processing_class=tokenizer
        )
        watch = CanaryWatch(trainer, canaries.planted)
        trainer.train()
        watch.check(epochs=steps)
    copied = weights_in(copied, next(model.parameters()).dtype)
    after = examine_memory(copied, tokenizer, canaries, **settings)
    answers = [one.answer for one in canaries.planted]
    return PlantedLeak(before, after, _overlap(before, answers), _overlap(after, answers), steps)


def _overlap(found: Examination, trained: Sequence[str]) -> Overlap | None:
    """Of the answers to questions about planted ones; None where none of them has so many words."""
    said = [one.said for one in found.said if one.canary.repeats]
    try:
        return overlap(said, trained, WORDS)
    except ValueError:
        return None


def _words(found: Examination) -> str:
    members, controls = found.planted(), found.controls
    planted, others = (sum(one.bits for one in some) / len(some) for some in (members, controls))
    accusing = found.accusing()
    return (
        f"exposure {planted:.1f} bits (controls {others:.1f}), {len(found.extracted())} of {len(members)} secrets said, "
        f"{found.membership().found} of {len(members)} told from controls; "
        + (f"found by {', '.join(accusing)}" if accusing else "accused by no detector")
    )
