"""What a limited amount of text costs the black box: the law k / (2N), and the noise floor. Both trainers, on a table."""

import math
import statistics
import tempfile
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments

from distill.equivalence.bed import EOS, letters
from distill.equivalence.programs import train_silently
from distill.equivalence.results import Section
from distill.equivalence.table import TableForCausalLM
from distill.generation.asking import generate
from distill.objectives import Logits
from distill.objectives.divergences import forward_kl
from distill.teachers import LocalTeacher
from distill.trainers.black_box import BlackBoxTrainer
from distill.trainers.white_box import WhiteBoxTrainer

VOCABULARY, LENGTH = 8, 24


class Tables:
    """A teacher that is a table of the last two letters, its text, and students of the same form.

    A student can be the teacher exactly, so what is missing at the end is only what the text did not tell.
    """

    def __init__(self, seed: int = 0) -> None:
        self.tokenizer = letters(VOCABULARY)
        self.model = TableForCausalLM.with_order(VOCABULARY, 2)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            weight = self.model.lm_head.weight
            weight.copy_(0.7 * torch.randn(weight.shape, generator=generator))
            weight[EOS] -= 1.0  # longer completions
        self.teacher = LocalTeacher(self.model, self.tokenizer, chat=False, name="table")
        names = [self.tokenizer.convert_ids_to_tokens(i) for i in range(1, VOCABULARY)]
        self.prompts = [f"{one} {two}" for one in names for two in names]
        self.parameters = len(self.prompts) * (VOCABULARY - 1)  # that ever meet text and are free

    def student(self) -> TableForCausalLM:
        """One that knows nothing: every token equally likely."""
        model = TableForCausalLM.with_order(VOCABULARY, 2)
        torch.nn.init.zeros_(model.lm_head.weight)
        return model

    def text(self, samples: int, seed: int = 0) -> datasets.Dataset:
        """Pairs: `samples` completions of every prompt."""
        return generate(
            self.teacher, self.prompts, samples=samples, max_new_tokens=LENGTH, batch_size=2048, seed=seed, progress=False
        )  # fmt: skip

    def kl(self, student: TableForCausalLM) -> float:
        """KL(teacher || student) in nats a token, over all the teacher may write: exact, no sampling."""
        p, q = (table.lm_head.weight.detach().double().t() for table in (self.model, student))
        visits = self.visits(p.softmax(-1))
        return float((visits * forward_kl(q, p)).sum() / visits.sum())

    def fisher_eigenvalues(self) -> Tensor:
        """Eigenvalues of the Fisher information of one token at the teacher: of diag(p) - p p^T in every context."""
        p = self.model.lm_head.weight.detach().double().t().softmax(-1)
        share = self.visits(p) / self.visits(p).sum()
        blocks = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        return torch.linalg.eigvalsh(share[:, None, None] * blocks).flatten().clamp(min=0)

    def visits(self, p: Tensor) -> Tensor:
        """How often each context is met in a completion, prompts equally likely."""
        size = VOCABULARY
        here = torch.zeros(size, size, dtype=torch.float64)
        here[1:, 1:] = 1 / (size - 1) ** 2
        total = torch.zeros_like(here)
        for _ in range(LENGTH):
            total += here
            here = torch.einsum("ab,abc->bc", here, p.view(size, size, size))  # the pair (a, b) goes to (b, c)
            here[:, EOS] = 0
        return total.flatten()


def law(counts: tuple[int, ...] = (4, 8, 16, 32, 64), texts: int = 2, steps: int = 100) -> Section:
    """Fit students to more and more text: the final KL of SFT is k / (2N) for k free parameters and N tokens.

    The law is that of maximum likelihood (Wilks 1938; the same count as in Akaike 1974), so every fit goes to its optimum:
    all text in one batch. The white box is given the smallest text, in the same way.

    Args:
        counts: completions of each of the 49 prompts; one point each.
        texts: independent texts, and fits, a point.
        steps: optimiser steps of a fit.
    """
    section, tables = Section("law"), Tables()
    fits = []
    for count in counts:
        for text in range(texts):
            pairs = tables.text(count, seed=100 * count + text)
            student = tables.student()
            _train(BlackBoxTrainer, student, pairs, tables, steps=steps, batch=len(pairs), rate=0.3, decay=True)
            size, excess = sum(map(len, pairs["completion_ids"])), _excess_loss(student, pairs)
            fits.append({"count": count, "N": size, "kl": tables.kl(student), "excess": excess})
    least = tables.text(counts[0], seed=100 * counts[0])
    informed = tables.student()
    _train(WhiteBoxTrainer, informed, least, tables, steps=steps, batch=len(least), rate=0.3, decay=True)
    white = {"N": fits[0]["N"], "kl": tables.kl(informed)}
    found = []
    for count in counts:
        some = [fit for fit in fits if fit["count"] == count]
        tokens, kl = (statistics.fmean(fit[name] for fit in some) for name in ("N", "kl"))
        found.append({"N": round(tokens), "kl": kl, "predicted": tables.parameters / (2 * tokens)})
    large = [point["kl"] / point["predicted"] for point in found if point["N"] >= 20 * tables.parameters]
    constant = statistics.fmean(large) if large else math.nan
    spread = math.sqrt(2 / tables.parameters / texts / max(len(large), 1))  # of a chi-squared with k degrees of freedom
    section.data = {
        "points": found, "fits": fits, "k": tables.parameters, "constant": constant, "spread": spread, "white_box": white,
    }  # fmt: skip
    gap = max(fit["excess"] / fit["kl"] for fit in fits)
    section.claim(
        "BlackBoxTrainer ends at the best fit of its text, which is known in closed form",
        f"its loss on the text is above the lowest possible by at most {gap:.1%} of the final KL",
        gap < 0.1,
    )
    ratios = [f"{point['kl'] / point['predicted']:.2f}" for point in found]
    section.claim(
        "With enough text (N >= 20 k) the final KL is k / (2N); with less it is more",
        f"k = {tables.parameters}; measured / predicted {', '.join(ratios)} for N = "
        f"{', '.join(str(point['N']) for point in found)}; fitted constant {constant:.2f} where N >= 20 k (chance: +- {spread:.2f})",
        abs(constant - 1) < 0.05 + 3 * spread if large else None,  # 5% for terms of higher order in 1/N
    )
    section.claim(
        "The white box, on the smallest text, comes nearer than the black box on the largest",
        f"KL {white['kl']:.1e} from {white['N']} tokens, {found[-1]['kl']:.1e} from {found[-1]['N']}",
        white["kl"] < found[-1]["kl"],
    )
    return section


def noise_floor(steps: int = 300, rate: float = 2.0, batch: int = 16) -> Section:
    """Start at the teacher and train on: the white box stays, the black box is driven away by its samples.

    With plain SGD, for which the way to the floor is known: at equality the noise of the gradient of n tokens is F / n, F
    the Fisher information a token, so that the KL after t steps is the sum over the eigenvalues l of F of
    rate / (4 n) (1 - exp(-2 rate l t)). (AdamW divides a gradient by its own size, and takes full steps even where it is
    rounding alone: the white box would wander at a KL of 1e-6.)
    """
    section, tables = Section("noise"), Tables()
    tables.model.double()
    pairs = tables.text(-(-steps * batch // len(tables.prompts)), seed=1).shuffle(seed=0).select(range(steps * batch))
    tokens = sum(map(len, pairs["completion_ids"])) / steps
    curves = {}
    for name, kind in (("black box", BlackBoxTrainer), ("white box", WhiteBoxTrainer)):
        student = TableForCausalLM.with_order(VOCABULARY, 2).double()
        student.load_state_dict(tables.model.state_dict())
        curve = _Curve(tables)
        _train(
            kind,
            student,
            pairs,
            tables,
            steps=steps,
            batch=batch,
            rate=rate,
            decay=False,
            optim="sgd",
            callbacks=[curve],
        )
        curves[name] = curve.points
    eigenvalues = tables.fisher_eigenvalues()
    predicted = [
        (t, float(rate / (4 * tokens) * (eigenvalues @ (1 - (-2 * rate * eigenvalues * t).exp()))))
        for t, _ in curves["black box"]
    ]
    late = range(len(predicted) * 2 // 3, len(predicted))
    measured, expected = (statistics.fmean(points[i][1] for i in late) for points in (curves["black box"], predicted))
    floor = float(rate / (4 * tokens) * eigenvalues.sum())
    section.data = {"curves": curves, "predicted": predicted, "floor": floor, "rate": rate, "batch": batch}
    section.claim(
        "Starting at the teacher, SFT on its own samples drifts to a noise floor, rate x tr F / (4 tokens a batch)",
        f"KL {measured:.2e} nats a token over the last third of {steps} steps, predicted {expected:.2e}; floor {floor:.2e}",
        0.7 < measured / expected < 1.3,
    )
    most = max(kl for _, kl in curves["white box"])
    section.claim("The white box stays", f"KL {most:.0e} at most", most < 1e-9)
    return section


class _Curve(TrainerCallback):
    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.points: list[tuple[int, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.points.append((0, self.tables.kl(kwargs["model"])))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % 5 == 0:
            self.points.append((state.global_step, self.tables.kl(kwargs["model"])))


def _train(
    kind: type, student: TableForCausalLM, pairs: datasets.Dataset, tables: Tables, *, steps: int, batch: int, rate: float,
    decay: bool, optim: str = "adamw_torch_fused", callbacks: list[TrainerCallback] | None = None,
) -> None:  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, per_device_train_batch_size=batch, max_steps=steps, learning_rate=rate, max_grad_norm=0.0,
            lr_scheduler_type="cosine" if decay else "constant", save_strategy="no", logging_strategy="no",
            report_to="none", disable_tqdm=True, use_cpu=True, seed=0, optim=optim,
        )  # fmt: skip
        extra = {"teacher": tables.teacher, "objectives": [Logits()]} if kind is WhiteBoxTrainer else {}
        trainer = kind(
            model=student,
            args=args,
            train_dataset=pairs,
            processing_class=tables.tokenizer,
            callbacks=callbacks,
            **extra,
        )
        train_silently(trainer)


def _excess_loss(student: TableForCausalLM, pairs: datasets.Dataset) -> float:
    """How far the student's loss on its own text is above the lowest there is (the counted shares), nats a token."""
    counts = torch.zeros(VOCABULARY**2, VOCABULARY, dtype=torch.float64)
    for prompt, completion in zip(pairs["prompt_ids"], pairs["completion_ids"], strict=True):
        ids = torch.tensor(prompt + completion)
        one = torch.ones(len(completion), dtype=torch.float64)
        counts.index_put_((ids[:-2] * VOCABULARY + ids[1:-1], ids[2:]), one, accumulate=True)
    log_q = student.lm_head.weight.detach().double().t().log_softmax(-1)
    met = counts > 0
    log_share = (counts / counts.sum(1, keepdim=True).clamp(min=1))[met].log()
    return float((counts[met] * (log_share - log_q[met])).sum() / counts.sum())
