"""Match the teacher's hidden states."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from distill.objectives.base import LayerMap, Objective, Term, resolve_layers
from distill.signals import SignalRequest, Signals, facts_of
from distill.signals.facts import Side

DISTANCES = ("mse", "cosine", "cka")
SHORTEST = 8  # positions for a CKA: with 4, the gradient of unlucky states is a hundred times that with 32


@dataclass(frozen=True)
class HiddenStates(Objective):
    """Distance between layer outputs of student and teacher at every supervised position, mean over the paired layers.

    Args:
        layers: which pairs; see `distill.objectives.base.resolve_layers`. For a cut student, `"auto"` pairs each student
            layer with the last teacher layer it stands for.
        distance: `"mse"`: squared distance over the teacher's squared norm, ||s - t||^2 / ||t||^2; `"cosine"`: 1 - cos;
            `"cka"`: 1 - debiased linear CKA over the supervised positions of each sequence, given to each of them (0 in
            sequences with fewer than 8, whose estimate is mostly noise). CKA compares geometry: it needs no projection and ignores rotation and scale.
        projection: a learned linear map from the student's width to the teacher's, one a pair. `None`: only if the widths
            differ (never for CKA). It trains with the student and is saved in checkpoints beside it, never inside it.
        weight, name: of this term; see `Objective`.

    Raises:
        ValueError: an unknown distance or layer; `projection=False` with different widths; a projection with CKA; on
            construction of the trainer: a model that does not show these layers' outputs.

    Source: FitNets (Romero et al. 2015), TinyBERT (Jiao et al. 2020); cosine as in DistilBERT (Sanh et al. 2019); CKA:
    Kornblith et al. 2019, with the unbiased HSIC of Song et al. 2012.

    Example:
        >>> HiddenStates(layers="last", distance="cosine", weight=0.1)
    """

    kind: ClassVar[str] = "hidden"

    layers: LayerMap = "auto"
    _: KW_ONLY
    distance: str = "mse"
    projection: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distance not in DISTANCES:
            raise ValueError(f"distance is {self.distance!r}; it must be one of {', '.join(DISTANCES)}.")
        if self.distance == "cka" and self.projection:
            raise ValueError("CKA compares states of any two widths; leave projection out.")

    def bind(
        self,
        student: Side,
        teacher: Side,
        *,
        vocabulary: int | None = None,
        whole_weights: bool = True,
        longest: int | None = None,
    ) -> "HiddenStatesTerm":
        """See `Objective.bind`."""
        pairs = resolve_layers(self.layers, student, teacher, span_end=True)
        ours = facts_of(student).widths(frozenset(s for s, _ in pairs))
        theirs = facts_of(teacher).widths(frozenset(t for _, t in pairs))
        model = facts_of(student).model
        assert model is not None
        projections = {
            (s, t): _projection(ours[s], theirs[t], model.device, model.dtype)
            for s, t in pairs
            if self.needs_projection(ours[s], theirs[t])
        }
        return HiddenStatesTerm(self, pairs, projections)

    def needs_projection(self, width: int, target: int) -> bool:
        """Whether states of these widths are compared through a learned map; raises `ValueError` if they need one and may not."""
        if self.distance == "cka":
            return False
        if self.projection is False and width != target:
            raise ValueError(
                f"The student is {width} wide and the teacher {target}, so hidden states need a projection; "
                "leave projection=None, or give distance='cka'."
            )
        return bool(self.projection) or width != target


class HiddenStatesTerm(Term):
    """`HiddenStates`, bound.

    Args:
        objective: its settings.
        pairs: (student layer, teacher layer).
        projections: of those pairs that have one, by pair.
    """

    objective: HiddenStates

    def __init__(
        self,
        objective: HiddenStates,
        pairs: Sequence[tuple[int, int]],
        projections: Mapping[tuple[int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__(objective)
        self.pairs = list(pairs)
        self.projections = nn.ModuleDict({f"{s}_{t}": linear for (s, t), linear in (projections or {}).items()})
        self.student_request = SignalRequest(hidden=frozenset(s for s, _ in pairs))
        self.teacher_request = SignalRequest(hidden=frozenset(t for _, t in pairs))
        self.decided = {"pairs": self.pairs}

    def forward(self, student: Signals, teacher: Signals) -> Tensor:
        lengths = student.where().counts() if self.objective.distance == "cka" else []
        return torch.stack(
            [self._distance(student.hidden[s], teacher.hidden[t], f"{s}_{t}", lengths) for s, t in self.pairs]
        ).mean(0)

    def _distance(self, student: Tensor, teacher: Tensor, key: str, lengths: list[int]) -> Tensor:
        exact = torch.promote_types(student.dtype, torch.float32)
        student, teacher = student.to(exact), teacher.to(exact)
        if key in self.projections:
            student = self.projections[key](student)
        if self.objective.distance == "cka":
            parts = zip(student.split(lengths), teacher.split(lengths), strict=True)
            return torch.cat(
                [(1 - debiased_cka(s, t)).expand(len(s)) if len(s) >= SHORTEST else 0 * s[:, 0] for s, t in parts]
            )
        if self.objective.distance == "cosine":
            return 1 - nn.functional.cosine_similarity(student, teacher, dim=-1)
        # relative to the teacher's norm, which grows a hundredfold with depth: every layer counts alike
        return (student - teacher).square().sum(-1) / teacher.square().sum(-1).clamp(min=1e-12)


def _projection(width: int, target: int, device: torch.device, dtype: torch.dtype) -> nn.Linear:
    """In float32, as its optimiser state (float64 for such a student); orthogonal, so that it neither shrinks nor stretches at the start."""
    exact = torch.promote_types(dtype, torch.float32)
    linear = nn.Linear(width, target, bias=False, device=device, dtype=exact)
    nn.init.orthogonal_(linear.weight)
    return linear


def debiased_cka(one: Tensor, other: Tensor) -> Tensor:
    """Debiased linear CKA of `[n, D1]` and `[n, D2]`, n > 3: 1 for equal geometry, around 0 for unrelated states.

    The plain CKA of n points in D dimensions goes to 1 for n << D whatever they are; without the diagonal it does not.

    Source: Kornblith et al. 2019; unbiased HSIC: Song et al. 2012, equation 5.
    """
    # CKA does not see shift and scale; without a common scale the fourth powers would leave float32's range
    grams = []
    for states in (one, other):
        centred = states - states.mean(0)
        centred = centred / centred.square().sum(-1).mean().clamp(min=1e-30).sqrt()
        gram = centred @ centred.t()
        grams.append(gram - torch.diag(gram.diagonal()))
    cross, own, others = (_unbiased_hsic(*both) for both in ((grams[0], grams[1]), (grams[0],) * 2, (grams[1],) * 2))
    return cross / (own.clamp(min=1e-12) * others.clamp(min=1e-12)).sqrt()


def _unbiased_hsic(k: Tensor, other: Tensor) -> Tensor:
    n = len(k)
    k_sums, other_sums = k.sum(0), other.sum(0)
    total = (k * other).sum() + k_sums.sum() * other_sums.sum() / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * (k_sums @ other_sums)) / (n * (n - 3))
