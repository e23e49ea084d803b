"""Sets of objectives, trainers of tiny models, and the gradient of one step, for the tests of the trainers."""

import torch
from conftest import build_model, build_pairs, build_tokenizer

from distill import AttentionMaps, BlackBoxTrainer, HiddenStates, Logits, WhiteBoxTrainer

OBJECTIVES = {
    "logits": lambda: [Logits()],
    "logits_t": lambda: [Logits("generalized_jsd", temperature=2.0, weight=0.7)],
    "logits_and_labels": lambda: [Logits("skew_reverse_kl", cross_entropy=0.5)],
    "hidden": lambda: [HiddenStates()],
    "cka": lambda: [HiddenStates(distance="cka")],
    "attention": lambda: [AttentionMaps()],
    "relations": lambda: [AttentionMaps(relations=("query", "key", "value"))],
    "all": lambda: [Logits(), HiddenStates(distance="cosine", weight=0.3), AttentionMaps(weight=0.2)],
}


def trainer(
    arguments,
    objectives,
    student=None,
    teacher=None,
    pairs=None,
    collator=None,
    shard_teacher=False,
    peft_config=None,
    eval_pairs=None,
    route_by=None,
    rollouts=None,
    **changes,
):
    return WhiteBoxTrainer(
        model=student or build_model(seed=7),
        teacher=teacher or build_model(seed=1),
        objectives=objectives,
        args=arguments(**changes),
        train_dataset=pairs or build_pairs(8),
        eval_dataset=eval_pairs,
        processing_class=build_tokenizer(),
        data_collator=collator,
        shard_teacher=shard_teacher,
        peft_config=peft_config,
        route_by=route_by,
        rollouts=rollouts,
    )


def black_box_trainer(arguments, student=None, pairs=None, collator=None, **changes):
    return BlackBoxTrainer(
        model=student or build_model(seed=7),
        args=arguments(**changes),
        train_dataset=pairs or build_pairs(8),
        processing_class=build_tokenizer(),
        data_collator=collator,
    )


def gradient_of_one_step(arguments, objectives=None, **changes):
    """SGD with rate 1: the change of the weights is the gradient itself, at its true scale. No objectives: the black box."""
    settings = {
        "max_steps": 1, "learning_rate": 1.0, "optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0, **changes,
    }  # fmt: skip
    run = trainer(arguments, objectives, **settings) if objectives else black_box_trainer(arguments, **settings)
    before = weights_of(run)
    run.train()
    return {name: before[name] - tensor for name, tensor in weights_of(run).items()}


def step_of(run, rows, scale=1.0):
    """The loss of some rows of a trainer's data, and the gradient of all weights as one vector, in float32.

    Its model is prepared as Trainer does it when training begins: autocast is put on there, and nowhere before.
    """
    run.model = run.accelerator.prepare(run.model)
    run.model.train()
    batch = run.data_collator([run.train_dataset[i] for i in range(rows)])
    batch = {name: v.to(run.args.device) if torch.is_tensor(v) else v for name, v in batch.items()}
    with run.compute_loss_context_manager():
        loss = run.compute_loss(run.model, batch, num_items_in_batch=torch.tensor(90, device=run.args.device))
    (loss * scale).backward()
    return loss.detach(), torch.cat(
        [p.grad.flatten().float() / scale for p in run.model.parameters() if p.grad is not None]
    )


def weights_of(run):
    """Copies of all trained weights, gathered where they are sharded, and of learned projections."""
    model = {name: whole(tensor) for name, tensor in run.model.state_dict().items()}
    learned = run.terms.state_dict() if isinstance(run, WhiteBoxTrainer) else {}
    return model | {f"objectives.{name}": tensor.clone() for name, tensor in learned.items()}


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def fill(model, seed=0):
    """A fresh adapter is B = 0; give it values, and move the trained copies of modules."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
            elif "modules_to_save" in name:
                p.add_(torch.randn(p.shape, generator=generator) * 0.02)
    return model
