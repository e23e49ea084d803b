"""The hard-label limit: a teacher without doubt turns the white box into SFT, bit for bit where sums are in one order."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from distill.equivalence.bed import Bed
from distill.equivalence.bitwise import obstacles
from distill.equivalence.programs import Job, black_box, white_box
from distill.equivalence.results import Section
from distill.objectives import Logits
from distill.objectives.divergences import forward_kl
from distill.objectives.logits import LogitsTerm
from distill.signals import Signals

TEMPERATURES = (2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)


class OneHotTeacher(PreTrainedModel):
    """A teacher that is sure of the very token the text goes on with: logit 0 there, -inf everywhere else."""

    config_class = PreTrainedConfig

    def __init__(self, vocabulary: int) -> None:
        super().__init__(PreTrainedConfig())
        self.lm_head = torch.nn.Linear(1, vocabulary, bias=False)  # its size is asked for; it computes nothing
        self.vocabulary = vocabulary

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.lm_head

    def forward(self, input_ids: Tensor, logits_to_keep: Tensor | None = None, **kwargs: Any) -> CausalLMOutput:
        """Logits of the rows in the mask `logits_to_keep`, or of all."""
        following = input_ids.roll(-1, dims=1)
        rows = torch.ones_like(input_ids, dtype=torch.bool) if logits_to_keep is None else logits_to_keep
        return CausalLMOutput(logits=one_hot_logits(following[rows], self.vocabulary))


def one_hot_logits(labels: Tensor, vocabulary: int) -> Tensor:
    """`[N, V]`: 0 at the label, -inf elsewhere."""
    return torch.full((len(labels), vocabulary), float("-inf")).scatter(1, labels[:, None], 0.0)


def hard_labels(bed: Bed, job: Job) -> Section:
    """Teacher temperature to 0, one-hot targets through `Logits`, and a whole training with a one-hot teacher."""
    section = Section("hard_labels")

    # 1. the teacher's temperature alone goes to 0; the student stays at 1
    rows, teacher = bed.student_rows(), bed.teacher_logits
    sure = bed.gradient(cross_entropy(rows.logits, teacher.argmax(-1), reduction="sum"), keep=True)
    distances = []
    for temperature in TEMPERATURES:
        gradient = bed.gradient(forward_kl(rows.logits, teacher / temperature).sum(), keep=True)
        distances.append(float((gradient - sure).norm() / sure.norm()))
    section.claim(
        "As the teacher's temperature goes to 0 (the student's stays 1), the gradient becomes that of SFT on its top token",
        f"relative difference {distances[0]:.2f} at T = {TEMPERATURES[0]:g}, {distances[-1]:.0e} at T = {TEMPERATURES[-1]:g}",
        distances[-1] < 1e-2 * distances[1] and distances == sorted(distances, reverse=True),
    )

    # 2. one-hot targets, four ways to write the loss
    ways = four_ways()
    values, gradients = zip(*ways.values(), strict=True)
    same = all(torch.equal(values[0], other) for other in values)
    rounding = max(float((gradients[0] - other).abs().max()) for other in gradients)
    section.claim(
        "With one-hot targets the Logits objective is cross-entropy: every value bit for bit, the gradient to one rounding "
        "(torch's own cross-entropy takes a faster exponential in its backward pass)",
        f"{len(ways)} ways to write it ({', '.join(ways)}): values equal: {same}, gradients within {rounding:.0e}",
        same and rounding < 1e-7,
    )

    # 3. one temperature for both sides does not lead there, not even up to a factor
    labels = teacher.argmax(-1)
    at_two = bed.gradient(
        forward_kl(rows.logits, one_hot_logits(labels, bed.vocabulary), temperature=2.0).sum(), keep=True
    )
    cosine = float(torch.nn.functional.cosine_similarity(at_two, sure, dim=0))
    section.claim(
        "One temperature on both sides is not SFT even for one-hot targets, and no factor such as T^2 mends it",
        f"cosine of the two gradients {cosine:.3f} at T = 2",
        cosine < 0.99,
    )

    # 4. two trainers, one training
    vocabulary = job.start.get_output_embeddings().weight.shape[0]
    sft, white = black_box(job), white_box(job, OneHotTeacher(vocabulary), [Logits()])
    reasons = obstacles(job.start)
    section.claim_unless(
        reasons,
        "WhiteBoxTrainer with a one-hot teacher trains as BlackBoxTrainer does, up to rounding (its head sees fewer rows)",
        f"{white.equal_steps(sft)} of {len(sft.hashes)} steps equal; largest difference at the end {white.distance(sft):.1e}",
        white.distance(sft) < 1e-4,
    )
    section.data = {
        "temperatures": list(TEMPERATURES),
        "distances": distances,
        "one_hot_teacher": white.distance(sft),
        "same_temperature_cosine": cosine,
    }
    return section


def four_ways(rows: int = 64, vocabulary: int = 512) -> dict[str, tuple[Tensor, Tensor]]:
    """Values `[N]` and gradient of the loss on one-hot targets: two by `torch`, one by hand, and `distill.Logits`."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(rows, vocabulary, generator=generator)
    labels = torch.randint(vocabulary, (rows,), generator=generator)
    mask = torch.ones(1, rows, dtype=torch.bool)
    target = one_hot(labels, vocabulary).float()

    def objective(z: Tensor) -> Tensor:
        teacher = Signals(rows=mask, logits=one_hot_logits(labels, vocabulary))
        return LogitsTerm(Logits("forward_kl"))(Signals(rows=mask, logits=z), teacher)

    return {
        "cross_entropy": _gradient(logits, lambda z: cross_entropy(z, labels, reduction="none")),
        "cross_entropy with probabilities": _gradient(logits, lambda z: cross_entropy(z, target, reduction="none")),
        "minus the log-probability": _gradient(logits, lambda z: -z.log_softmax(-1)[torch.arange(rows), labels]),
        "distill.Logits": _gradient(logits, objective),
    }


def _gradient(logits: Tensor, loss: Any) -> tuple[Tensor, Tensor]:
    z = logits.clone().requires_grad_()
    values = loss(z)
    return values.detach(), torch.autograd.grad(values.sum(), z)[0]
