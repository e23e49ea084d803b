"""Rollouts: settings of on-policy training, and what a sampler is asked and gives."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from distill.basics.settings import plain
from distill.curation.verifiers import Verifier
from distill.objectives.schedules import Schedule
from distill.teachers.base import Sampling

# of the text that is trained on
_DECIDES_NOTHING = ("prompts", "journal", "rows_together", "look", "highest_kl", "verifier")
HIGHEST_KL = 3.0  # nats a token; e^3 = 20


class Ask(NamedTuple):
    """One completion that the student is asked for.

    Args:
        prompt_ids: what it continues.
        seed: of the run, the optimiser step and the row of that step: all that its chance may depend on.
    """

    prompt_ids: Sequence[int]
    seed: tuple[int, int, int]


class Answer(NamedTuple):
    """What a sampler gave for an `Ask`: the prompt as it was really continued, and the tokens that were emitted, EOS included."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]


class Sampler(Protocol):
    """Whoever lets the student write; by default `distill.trainers.sampling.sample`, with `transformers`."""

    def __call__(
        self, student: Any, asks: Sequence[Ask], sampling: Sampling, stop_ids: set[int], vocabulary: int | None
    ) -> list[Answer]:
        """One answer for each ask, in their order.

        Args:
            student: the model as it is now.
            asks: prompts and seeds. The same seed has to give the same tokens, whatever is asked beside it.
            sampling: how to draw; its own seed is not meant.
            stop_ids: tokens that end a completion, which then ends with it.
            vocabulary: ids are to be below it; None: any that the student has.
        """
        ...


@dataclass(frozen=True)
class Rollouts:
    """The student's own text in place of a share of each batch's rows: on-policy distillation.

    Before a step is counted, some of its rows are replaced by what the student, as it is then, makes of a prompt. From there on they are
    rows like all others: the same collator, masks and divisor. The tokens that were emitted are the truth; a completion that was cut at
    the limit has no EOS. Nothing flows back through the drawing: which text is written is taken as given, as in GKD.

    Which rows are replaced, by what prompt, and what chance does, are functions of the seed, the step and the row's number in the step. So a resumed
    run writes what the unbroken one would have written, and several processes write what one would (up to rounding of logits: a number that is
    drawn within that of the border between two tokens).

    Args:
        prompts: texts, messages, lists of token ids, rows with a `prompt` or `prompt_ids` and further columns (a `teacher_prompt`, what
            `route_by` reads), or a dataset of such rows. None: each row's own prompt, with its own teacher's prompt.
        share: of the rows of a step, from 0 to 1, or a `Schedule` of it; the pairs are the rest (the mixture of GKD). In a step of R rows
            it is share * R, rounded up or down so that it is right in the mean.
        every: only each so many-th step has rollouts; the others are of the pairs alone.
        max_new_tokens: a completion is cut here.
        temperature, top_p, top_k: as of `distill.teachers.Sampling`. 1, 1 and 0 draw from the student's own distribution.
        first: share of each rollout's tokens that carry loss, from its beginning on (at least one token).
        rows_together: prompts of one call of `generate`; less takes less memory.
        journal: rollouts of each step and process that are written into `rollouts.jsonl` in the output folder, as pairs.
        chat: of prompts that are bare texts, as `distill.text.encode.as_prompt`.
        sampler: who lets the student write, e.g. a server that its weights are pushed to; see `Sampler`.
        look: rollouts of so many prompts are looked at before the first step that has some (`distill.trainers.first_look`); 0: of none.
        highest_kl: where these are further from the teacher, in nats a token of KL(student || teacher), the run does not begin; `math.inf`: it does.
        verifier: says of a prompt's row and a completion whether it is right (`distill.curation.verifiers`); for that look alone.

    Raises:
        ValueError: a value out of its range; a single text in place of a list.

    Source: Agarwal et al. 2024 (GKD, arXiv 2306.13649); Gu et al. 2024 (MiniLLM).

    Example:
        >>> WhiteBoxTrainer(..., objectives=[Logits("reverse_kl")], rollouts=Rollouts(share=0.5, max_new_tokens=128))
    """

    prompts: Any = field(default=None, repr=False)
    _: KW_ONLY
    share: float | Schedule = 1.0
    every: int = 1
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    first: float = 1.0
    rows_together: int = 64
    journal: int = 16
    chat: bool | None = None
    sampler: Sampler | None = None
    look: int = 8
    highest_kl: float = HIGHEST_KL
    verifier: Verifier | None = None

    def __post_init__(self) -> None:
        _ = self.sampling  # checks its own
        shares = [self.share.start, self.share.end] if isinstance(self.share, Schedule) else [self.share]
        if not all(math.isfinite(share) and 0 <= share <= 1 for share in shares):
            raise ValueError(f"share is {self.share}; it is a share of the rows of a step, from 0 to 1.")
        if not 0 < self.first <= 1:
            raise ValueError(f"first is {self.first}; it is a share of each rollout's tokens, above 0 and at most 1.")
        for name, least in (("every", 1), ("rows_together", 1), ("journal", 0), ("look", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}.")
        if not self.highest_kl > 0:
            raise ValueError(
                f"highest_kl is {self.highest_kl}; it is a KL in nats a token and must be above 0 (math.inf: no limit)."
            )
        if self.verifier is not None and not callable(self.verifier):
            raise ValueError(
                f"verifier is {self.verifier!r}; it must be a function of a prompt's row and a completion. load_verifier('number') finds one by its name."
            )
        if isinstance(self.prompts, str):
            raise ValueError(
                f"prompts is one text ({self.prompts[:40]!r}); give a list of prompts. distill.pairs.prompts.read_prompts(path) reads them "
                "from a file."
            )

    def as_dict(self) -> dict[str, Any]:
        """What decides the text that is trained on, but for its prompts; plain values."""
        return dict(plain({name: value for name, value in vars(self).items() if name not in _DECIDES_NOTHING}))

    @property
    def sampling(self) -> Sampling:
        """How completions are drawn."""
        return Sampling(self.max_new_tokens, self.temperature, self.top_p, self.top_k)

    def share_at(self, step: int, max_steps: int) -> float:
        """The share of rows that are replaced in optimiser step `step` (from 0) of `max_steps`."""
        if step % self.every:
            return 0.0
        return self.share(step, max_steps) if isinstance(self.share, Schedule) else float(self.share)

    def has_loss(self, tokens: int) -> list[int] | None:
        """`loss_mask` of a completion of so many tokens; None: all of them have loss."""
        with_loss = max(1, math.ceil(self.first * tokens))
        return None if with_loss >= tokens else [1] * with_loss + [0] * (tokens - with_loss)


def chosen(seed: int, step: int, rows: Sequence[int], share: float) -> list[bool]:
    """Which rows of a step are replaced: evenly spread, from a beginning that is drawn for the step, so that each has the same chance.

    Args:
        seed: of the run.
        step: the optimiser's.
        rows: numbers of rows in the step over all micro-batches and processes.
        share: from 0 to 1.

    Example:
        >>> chosen(0, 0, range(8), 0.25).count(True)
        2
    """
    if share <= 0 or share >= 1:
        return [share >= 1] * len(rows)
    start = _numbers(seed, step, 0, 1).random()
    return [math.floor((row + 1) * share + start) > math.floor(row * share + start) for row in rows]


def prompt_of_row(seed: int, number: int, prompts: int) -> int:
    """Which of the prompts a row gets: all of them once in an order of chance, then all again in another one.

    Args:
        seed: of the run.
        number: of the row since the beginning of the run.
        prompts: how many there are.
    """
    epoch, place = divmod(number, prompts)
    return int(_order(seed, epoch, prompts)[place])


def uniform_numbers(seed: tuple[int, int, int], count: int) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """`[count]`, from 0 up to 1: the chance of one rollout, a number for each of its tokens."""
    return _numbers(*seed).random(count)


@lru_cache(maxsize=4)  # of a run, the last ones are in use
def _order(seed: int, epoch: int, prompts: int) -> Any:
    return _numbers(seed, epoch, 0, 2).permutation(prompts)


def _numbers(seed: int, step: int, row: int, purpose: int = 0) -> np.random.Generator:
    """Philox by a key of its own: no state goes from one row to the next, and numpy keeps its stream for good."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([purpose, seed % 2**63, step, row])))
