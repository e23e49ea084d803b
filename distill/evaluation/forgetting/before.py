"""What the start says, kept once; and any student of it held against that."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.evaluation.agreement import ByPair, HeldOut
from distill.evaluation.forgetting.answers import Answers, answers_of
from distill.evaluation.forgetting.calibration import bin_gaps
from distill.evaluation.forgetting.figures import MEASURES, Change, Forgetting, of_calibration, of_ratio
from distill.models.load import fast_dtype
from distill.models.precision import weights_in
from distill.pairs.groups import rows_by_prompt
from distill.pairs.tokens import retokenize

DRAWS = 2_000  # of a bootstrap


class Before:
    """The model that a student started from, on old and on new prompts.

    KL on *new* prompts (of the kind that was trained) is said to predict forgetting best (Shenfeld et al. 2025, RL's Razor); KL on *old* ones
    is what a user of the old model meets. On pairs that are the start's own samples (`own_pairs`) the KL is the one in its own text, and the start
    is calibrated. Start and student are measured alike, with products in the same precision, so a student that was not trained is at exactly 0.

    Args:
        start: the model before the training; not changed.
        old_pairs: general text: what the training was not about.
        new_pairs: held-out pairs of what was trained; None: not measured.
        tokenizer: the start's.
        answered: old prompts that are answered, the first so many; 0: none, which leaves lengths and ends out.
        max_new_tokens: of an answer.
        batch_size: pairs at once.
        max_length: longest row in tokens.
        weights: start and student are measured with weights in this precision, in a copy where they have another: a student trained in float32
            is no neighbour of a start in bfloat16. None: both as they are, without a copy.
        draws: resamples of the bootstrap.

    Raises:
        ValueError: no pairs, or pairs that are too many or too long (`HeldOut`).

    Example:
        >>> before = Before(teacher.model, own_pairs(teacher, 48), held_out, teacher.tokenizer)
        >>> print(before.measure(student).table())
    """

    def __init__(
        self,
        start: PreTrainedModel,
        old_pairs: datasets.Dataset,
        new_pairs: datasets.Dataset | None,
        tokenizer: PreTrainedTokenizerBase,
        *,
        answered: int = 32,
        max_new_tokens: int = 64,
        batch_size: int = 8,
        max_length: int | None = None,
        weights: torch.dtype | None = torch.float32,
        draws: int = DRAWS,
    ) -> None:
        self.pairs = {"old": old_pairs} if new_pairs is None else {"old": old_pairs, "new": new_pairs}
        if empty := [name for name, pairs in self.pairs.items() if not len(pairs)]:
            raise ValueError(f"There are no {' and no '.join(empty)} pairs; forgetting is measured on some.")
        self.tokenizer, self.draws, self._weights = tokenizer, draws, weights
        self._rows, self._new_tokens = {"batch_size": batch_size, "max_length": max_length}, max_new_tokens
        firsts = [rows[0] for rows in rows_by_prompt(old_pairs).values()][:answered]
        self._asked = old_pairs.select(firsts)
        with self._as_measured(start) as model, self._products(model):
            self._held = {name: HeldOut(model, pairs, tokenizer, **self._rows) for name, pairs in self.pairs.items()}  # type: ignore[arg-type]
            self._start = {name: held.by_pair(model) for name, held in self._held.items()}
        self._said = self._answers(start, tokenizer, self._asked)

    def measure(
        self, student: PreTrainedModel | Any, tokenizer: PreTrainedTokenizerBase | None = None, *, answers: bool = True
    ) -> Forgetting:
        """A student against the start.

        Args:
            student: any; left as it was. With an adapter it is measured with it.
            tokenizer: its own, where it may be another than the start's. Then what needs the start's tokens is left out, and named in `not_comparable`.
            answers: let it answer the old prompts, too.

        Raises:
            ValueError: another tokenizer without saying so (heads of other sizes), pairs that cannot be tokenised anew.
        """
        if tokenizer is not None and tokenizer.get_vocab() != self.tokenizer.get_vocab():
            return self._of_other_tokens(student, tokenizer, answers)
        with self._as_measured(student) as model:
            after = {name: held.by_pair(model) for name, held in self._held.items()}
        found: dict[str, Change] = {}
        for name, theirs in self._start.items():
            ours, sizes = after[name], theirs.tokens()
            for figure in ("kl", "loss", "same"):
                found[f"{figure}_{name}"] = of_ratio(theirs.sums(figure), ours.sums(figure), sizes, self.draws)
            found[f"bytes_{name}"] = of_ratio(theirs.sums("loss"), ours.sums("loss"), _bytes(self.pairs[name]), self.draws)  # fmt: skip
            found[f"ece_{name}"] = of_calibration(_gaps(theirs), _gaps(ours), sizes, self.draws)
        if answers:
            found |= self._of_answers(self._answers(student, self.tokenizer, self._asked), tokens=True)
        each = {name: {"kl": ours.sums("kl"), "tokens": [float(count) for count in ours.tokens()]} for name, ours in after.items()}  # fmt: skip
        return self._forgetting(found, (), each)

    def _of_other_tokens(self, student: Any, tokenizer: PreTrainedTokenizerBase, answers: bool) -> Forgetting:
        found: dict[str, Change] = {}
        for name, pairs in self.pairs.items():
            said = [row for row in range(len(pairs)) if pairs[row]["completion"]]  # others have no bytes
            theirs, kept = np.asarray(self._start[name].sums("loss"))[said], pairs.select(said)
            own = retokenize(kept, tokenizer)
            with self._as_measured(student) as model:
                ours = HeldOut(model, own, tokenizer, **self._rows).by_pair(model)  # type: ignore[arg-type]
            found[f"bytes_{name}"] = of_ratio(theirs, ours.sums("loss"), _bytes(kept), self.draws)
        if answers and len(self._asked):
            asked = retokenize(self._asked, tokenizer) if all(self._asked["completion"]) else None
            if asked is None:
                raise ValueError(
                    "An old pair that is to be answered has an empty completion, so its prompt cannot be tokenised anew; leave it out."
                )
            found |= self._of_answers(self._answers(student, tokenizer, asked), tokens=False)
        lost = tuple(name for name, measure in MEASURES.items() if measure.own_tokens and self._is_measured(name))
        return self._forgetting(found, lost, {})

    def _is_measured(self, name: str) -> bool:
        """Whether a measure is one of these pairs at all."""
        return (not name.endswith("_new") or "new" in self.pairs) and (name != "tokens" or bool(len(self._asked)))

    def _of_answers(self, ours: Answers, tokens: bool) -> dict[str, Change]:
        theirs, ones = self._said, np.ones(len(self._said.texts))
        if not len(ones):
            return {}
        sides: dict[str, Any] = {
            "characters": [[len(text) for text in side.texts] for side in (theirs, ours)],
            "ended": [side.ended for side in (theirs, ours)],
            "empty": [[not text.strip() for text in side.texts] for side in (theirs, ours)],
        }
        if tokens:
            sides["tokens"] = [theirs.tokens, ours.tokens]
        return {name: of_ratio(own, others, ones, self.draws) for name, (own, others) in sides.items()}

    def _answers(self, model: Any, tokenizer: PreTrainedTokenizerBase, asked: datasets.Dataset) -> Answers:
        prompts: Sequence[list[int]] = asked["prompt_ids"] if len(asked) else []
        return answers_of(model, tokenizer, prompts, max_new_tokens=self._new_tokens)

    def _forgetting(self, found: dict[str, Change], lost: tuple[str, ...], each: dict[str, Any]) -> Forgetting:
        return Forgetting(
            {name: found[name] for name in MEASURES if name in found},
            lost,
            {name: len(pairs) for name, pairs in self.pairs.items()},
            {name: held.tokens for name, held in self._held.items()},
            each,
        )

    @contextmanager
    def _as_measured(self, model: Any) -> Iterator[Any]:
        """The model with its weights in the precision that all are measured in."""
        yield model if self._weights in (None, model.dtype) else weights_in(model, self._weights)

    def _products(self, model: Any) -> Any:
        """What the start says is made with products in the precision of any student's."""
        dtype = fast_dtype()
        return torch.autocast(model.device.type, dtype=dtype, enabled=dtype != torch.float32)


def _bytes(pairs: datasets.Dataset) -> list[int]:
    """Of each pair those of its completion's text."""
    return [len(text.encode()) for text in pairs["completion"]]


def _gaps(found: ByPair) -> NDArray[np.float64]:
    """`[pairs, bins]`."""
    return np.stack([bin_gaps(pair.confidence.numpy(), pair.right.numpy()) for pair in found.pairs])
