"""The ways to do one step that bench_white_box.py compares: the floor, ours, TRL's, and eager maps."""

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from distill import WhiteBoxTrainer
from distill.objectives import Objective
from distill.pairs.collate import supervised_rows
from distill.teachers import LocalTeacher

Batch = dict[str, Tensor]


def textbook(name: str, student: Tensor, teacher: Tensor) -> Tensor:
    """By autograd, from log-probabilities."""
    q, p = student.log_softmax(-1), teacher.log_softmax(-1)
    if name == "forward_kl":
        return (p.exp() * (p - q)).sum(-1)
    m = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0))
    return ((p.exp() * (p - m)).sum(-1) + (q.exp() * (q - m)).sum(-1)) / 2


def trl_chunked(
    beta: float, hidden: Tensor, weight: Tensor, other: Tensor, teacher: Tensor,
    mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    mask = torch.ones(hidden.shape[:2], device=hidden.device) if mask is None else mask
    return _chunked_divergence_loss(hidden, other, weight, teacher, mask, beta, num_items_in_batch=int(mask.sum()))[0]


def liger_chunked(
    beta: float, hidden: Tensor, weight: Tensor, other: Tensor, teacher: Tensor,
    labels: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Liger's fused divergence of two heads, compiled as it comes; 0 is its forward KL. Positions with label -100 are left out."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    labels = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device) if labels is None else labels
    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta)
    return loss(hidden, weight, other, teacher, labels)


@torch.no_grad()
def head_products(hidden: Tensor, weight: Tensor, other: Tensor, teacher: Tensor) -> None:
    """The floor of a head: four products that no way can do without, two logits and the two of the backward pass."""
    slope = hidden @ weight.t()
    other @ teacher.t()
    slope @ weight
    slope.t() @ hidden


def forward_only(model: PreTrainedModel, batch: Batch) -> None:
    with torch.no_grad():
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)


def arguments(device: str) -> TrainingArguments:
    folder = tempfile.mkdtemp()
    return TrainingArguments(folder, report_to="none", use_cpu=device == "cpu", disable_tqdm=True)


def sft_step(student: PreTrainedModel, device: str) -> Callable[[Batch], None]:
    """The plain step of `transformers.Trainer`."""
    return trainer_step(Trainer(model=student, args=arguments(device)), student)


def our_step(
    student: PreTrainedModel, teacher: PreTrainedModel, objectives: list[Objective], device: str
) -> Callable[[Batch], None]:
    """The step of our trainer."""
    trainer: Any = WhiteBoxTrainer(
        model=student, teacher=teacher, objectives=objectives, args=arguments(device), data_collator=lambda rows: rows
    )
    return trainer_step(trainer, student)


def trainer_step(trainer: Trainer, student: PreTrainedModel) -> Callable[[Batch], None]:
    def step(batch: Batch) -> None:
        items = supervised_rows(batch["labels"]).sum()
        loss: Any = trainer.compute_loss(student, dict(batch), num_items_in_batch=items)
        loss.backward()
        student.zero_grad()

    return step


def gkd_step(student: PreTrainedModel, teacher: PreTrainedModel, beta: float, batch: Batch) -> None:
    """As TRL's GKDTrainer.compute_loss does it."""
    from trl.experimental.gkd import GKDTrainer

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ours = student(**inputs).logits
    with torch.no_grad():
        theirs = teacher(**inputs).logits
    labels = batch["labels"][:, 1:]
    GKDTrainer.generalized_jsd_loss(
        ours[:, :-1], theirs[:, :-1], labels=labels, beta=beta, num_items_in_batch=(labels != -100).sum()
    ).backward()
    student.zero_grad()


def chunked_step(student: PreTrainedModel, teacher: PreTrainedModel, beta: float, batch: Batch) -> None:
    """As TRL's DistillationTrainer does it: hidden states of the backbones, then its chunked divergence."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ours = student.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    with torch.no_grad():
        theirs = teacher.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    mask = (batch["labels"][:, 1:] != -100).float()
    trl_chunked(beta, ours, student.lm_head.weight, theirs, teacher.lm_head.weight, mask).backward()
    student.zero_grad()


def liger_step(student: PreTrainedModel, teacher: PreTrainedModel, beta: float, batch: Batch) -> None:
    """Hidden states of the backbones at all positions, then Liger's fused divergence."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ours = student.model(**inputs, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    with torch.no_grad():
        theirs = teacher.model(**inputs, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    labels = batch["labels"][:, 1:].flatten()
    liger_chunked(beta, ours, student.lm_head.weight, theirs, teacher.lm_head.weight, labels).backward()
    student.zero_grad()


def eager_step(student: PreTrainedModel, teacher: PreTrainedModel, layers: list[int], batch: Batch) -> None:
    """Maps by output_attentions, everything else by autograd on all logits."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    for model in (student, teacher):
        model.set_attn_implementation("eager")
    try:
        ours = student(**inputs, output_attentions=True)
        with torch.no_grad():
            theirs = teacher(**inputs, output_attentions=True)
    finally:
        for model in (student, teacher):
            model.set_attn_implementation("sdpa")
    rows = supervised_rows(batch["labels"])
    loss = textbook("forward_kl", ours.logits[rows].float(), theirs.logits[rows].float()).sum()
    for layer in layers:
        p, q = (o.attentions[layer].float().clamp(min=1e-30) for o in (theirs, ours))
        loss = loss + (p * (p.log() - q.log())).sum(-1).mean(1)[rows].sum() / len(layers)
    (loss / rows.sum()).backward()
    student.zero_grad()


def load(name: str, device: str, noise: float = 0.0) -> Any:
    """A model in the precision in which this machine is fast; `synthetic` has a large head on a small body.

    `noise`: relative, on every weight; a student that *is* its teacher would have gradients of exactly 0.
    """
    model = _load(name, device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + noise * torch.randn_like(parameter))
    return model


def _load(name: str, device: str) -> Any:
    dtype = torch.bfloat16
    if name != "synthetic":
        model: Any = LocalTeacher(name).model
        return model.to(device=device, dtype=dtype).train()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=151_936, hidden_size=576, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    return model.to(device=device, dtype=dtype).train()


def random_model(config: LlamaConfig, dtype: torch.dtype) -> Any:
    model: Any = LlamaForCausalLM(config)
    return model.to(dtype)


def make_batch(rows: int, time: int, share: float, vocabulary: int, device: str) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (rows, time), generator=generator)
    labels = ids.clone()
    labels[:, : int(share * time)] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {name: tensor.to(device) for name, tensor in batch.items()}
