"""The arms of `findings.py`: what is done from one start on, the texts it is done with, and signals and rollouts that no user would want."""

import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from distill.models.load import fast_dtype
from distill.signals import SignalRequest, Signals, StoredSignals
from distill.signals.rows import SupervisedRows
from distill.signals.sparse import Top
from distill.trainers import Rollouts
from distill.trainers.rollouts import Answer
from distill.trainers.sampling import sample

OPENINGS = (
    "The history of", "A short story about", "Three facts about", "My grandmother knew everything about", "The trouble with", "How to teach children about", "A poem about",
    "What scientists say about", "In our town, people talk about", "The first book on", "A letter to a friend about", "Why I like", "The price of", "A question about",
    "Last summer we learned about", "An old song about", "The museum of", "News about", "A lesson on", "Nobody told me about",
)  # fmt: skip
TOPICS = (
    "rain", "bread", "bridges", "horses", "music", "the moon", "gardens", "trains", "winter", "numbers", "the sea", "clocks", "birds", "paper", "cheese", "maps", "dreams",
    "iron", "tea", "rivers", "shoes", "fire", "windows", "bees",
)  # fmt: skip
NEVER = -1e30  # log of a mass that is none


@dataclass(frozen=True)
class Arm:
    """One way to go on from the start.

    Args:
        text: `"none"` (the start itself), `"teacher"` or `"own"`.
        divergence: of `Logits`; None: fine-tuning, or no training.
        temperature: of both sides.
        hidden: weight of `HiddenStates`, 0: without.
        distance: of these.
        stored: encoding of stored signals, in place of the live teacher.
        changed: what is done to them: `"renormalised"` or `"shuffled"`.
        thirds: of each rollout's tokens, which carry loss: `""` (all), `"first"` or `"last"`.
        points: how often it is measured on the way.
    """

    text: str = "teacher"
    divergence: str | None = "forward_kl"
    temperature: float = 1.0
    hidden: float = 0.0
    distance: str = "mse"
    stored: str = ""
    changed: str = ""
    thirds: str = ""
    points: int = 1


def arms(n: int) -> dict[str, Arm]:
    """All arms by name; stored signals have `n` tokens a position."""
    forward, own = Arm(), Arm("own", "reverse_kl")
    return {
        "the start": Arm("none", None),
        "fine-tuning": Arm(divergence=None),
        "forward KL": forward,
        "reverse KL": Arm(divergence="reverse_kl"),
        "forward KL, T=2": Arm(temperature=2.0),
        "reverse KL, T=2": Arm(divergence="reverse_kl", temperature=2.0),
        "hidden states (MSE, 0.1)": Arm(hidden=0.1),
        "hidden states (MSE, 1)": Arm(hidden=1.0),
        "draws": Arm(stored=f"draws:{n}"),
        "threshold": Arm(stored=f"threshold:{n}"),
        "top and tail": Arm(stored=f"top:{n}"),
        "top, renormalised": Arm(stored=f"top:{n}", changed="renormalised"),
        "top, shuffled rows": Arm(stored=f"top:{n}", changed="shuffled"),
        "own text, reverse KL": own,
        "own text, forward KL": replace(own, divergence="forward_kl"),
        "own text, first third": replace(own, thirds="first"),
        "own text, last third": replace(own, thirds="last"),
    }


def beginnings(count: int) -> list[str]:
    """Bare beginnings of texts, a few tokens each: what is learned is how the teacher goes on, and little time goes into prompts."""
    every = [f"{opening} {topic}" for opening in OPENINGS for topic in TOPICS]
    if count > len(every):
        raise ValueError(
            f"{count} beginnings are needed, and there are {len(every)}; take fewer seeds, steps, rows or held-out pairs."
        )
    random.Random(0).shuffle(every)
    return every[:count]


class ChangedTop(StoredSignals):
    """Stored `top` with its tail taken away and the rest renormalised, or with each position's distribution at another one."""

    how = "renormalised"

    def signals(self, batch: Mapping[str, Any], rows: SupervisedRows, request: SignalRequest) -> Signals:
        found = super().signals(batch, rows, request)
        top = found.sparse
        assert isinstance(top, Top)
        if self.how == "renormalised":
            log_probs = top.log_probs.clamp(min=NEVER)
            top = replace(top, log_probs=log_probs.log_softmax(1), tail=torch.full_like(top.tail, NEVER))
        else:
            order = torch.randperm(len(top.ids), generator=torch.Generator().manual_seed(len(top.ids)))
            top = replace(top, ids=top.ids[order], log_probs=top.log_probs[order], tail=top.tail[order])
        return replace(found, sparse=top)

    def identity(self, student: Any) -> Any:
        return f"{super().identity(student)}, {self.how}"


def train_only(student: Any, part: str) -> None:
    """Freeze all weights but those with `part` in their names (empty: none); all in float32.

    Else most of a small step's time goes into an optimiser that reads and writes every weight.
    """
    for name, weight in student.float().named_parameters():
        weight.requires_grad_(part in name)


def rounded(student: Any) -> Any:
    """A copy in the precision that the machine is fast at, as its matrix products are under autocast; it writes in half the time."""
    return copy.deepcopy(student).to(fast_dtype()).eval()


def write_rounded(student: Any, asks: Any, sampling: Any, stop_ids: Any, vocabulary: Any) -> list[Answer]:
    """The trainer's own sampler, of a rounded copy."""
    return sample(rounded(student), asks, sampling, stop_ids, vocabulary)


class LastThird(Rollouts):
    """Loss on the last third of each rollout alone, and not on the first."""

    def has_loss(self, tokens: int) -> list[int] | None:
        count = sum(Rollouts(first=1 / 3).has_loss(tokens) or [1])
        return [0] * (tokens - count) + [1] * count
