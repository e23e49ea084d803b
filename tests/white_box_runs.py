"""Sets of objectives, and a trainer of tiny models, for the tests of WhiteBoxTrainer."""

import torch
from conftest import build_model, build_pairs, build_tokenizer

from distill import AttentionMaps, HiddenStates, Logits, WhiteBoxTrainer

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


def trainer(arguments, objectives, student=None, teacher=None, pairs=None, collator=None, peft_config=None, **changes):
    return WhiteBoxTrainer(
        model=student or build_model(seed=7),
        teacher=teacher or build_model(seed=1),
        objectives=objectives,
        args=arguments(**changes),
        train_dataset=pairs or build_pairs(8),
        processing_class=build_tokenizer(),
        data_collator=collator,
        peft_config=peft_config,
    )


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
