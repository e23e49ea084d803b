"""Did a refactoring change a bit? Hashes of everything two tiny trainings end with, to be compared between two commits.

    python scripts/same_bits.py                 # prints one line a run: name, sha256 of all trained parameters, train loss
    diff <(cd before && python scripts/same_bits.py) <(cd after && python scripts/same_bits.py)

A black-box run, and white-box runs with all objectives (streamed and not, mapped and projected), each with accumulation 2, unequal
lengths, decay, clipping and two epochs. One thread and deterministic algorithms, so that equal programs give equal bits. It uses
names that a user imports and nothing else, so it runs on commits with other insides.
"""

import hashlib
import json
import os
import tempfile
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback, TrainingArguments

from distill import AttentionMaps, BlackBoxTrainer, HiddenStates, Logits, Schedule, WhiteBoxTrainer, load_pairs

VOCABULARY = 96


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; no file is needed."""
    words = {f"w{i}": i for i in range(VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w1", pad_token="w1", unk_token="w0")


def model(seed: int, layers: int, width: int = 32, **more: Any) -> LlamaForCausalLM:
    """A random Llama with grouped queries, in evaluation mode."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": 48, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2,
        "eos_token_id": 1, "pad_token_id": 1,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**{**settings, **more})).eval()


def pairs(folder: str) -> datasets.Dataset:
    """21 pairs of unequal lengths, through the file a user would have."""
    generator = torch.Generator().manual_seed(0)
    path = os.path.join(folder, "pairs.jsonl")
    with open(path, "w", encoding="utf-8") as file:
        for i in range(21):
            sizes = torch.randint(2, 14, (2,), generator=generator).tolist()
            prompt, completion = (torch.randint(2, VOCABULARY, (n,), generator=generator).tolist() for n in sizes)
            row = {
                "id": f"row{i}",
                "prompt": "p",
                "completion": "c",
                "prompt_ids": prompt,
                "completion_ids": [*completion, 1],
            }
            file.write(json.dumps(row) + "\n")
    return load_pairs(path)


def digest(state: dict[str, torch.Tensor]) -> str:
    """Of all parameters by name, bit for bit."""
    total = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        total.update(name.encode() + tensor.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:32]


RUNS: dict[str, Any] = {
    "black box": None,
    "logits": lambda: [Logits("generalized_jsd", temperature=2.0, cross_entropy=0.3)],
    "all": lambda: [Logits(), HiddenStates(weight=0.3), AttentionMaps(weight=0.2)],
    "cosine, scheduled": lambda: [
        Logits("skew_reverse_kl"),
        HiddenStates(distance="cosine", weight=Schedule(1.0, 0.1)),
    ],
    "cka": lambda: [HiddenStates(distance="cka"), Logits()],
    "relations": lambda: [AttentionMaps(relations=("query", "key", "value")), Logits()],
    "projected": lambda: [Logits(), HiddenStates(weight=0.5)],
}


def main() -> None:
    """One line a run."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    datasets.disable_progress_bars()
    for name, objectives in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            args = TrainingArguments(
                os.path.join(folder, "run"), per_device_train_batch_size=3, gradient_accumulation_steps=2, num_train_epochs=2,
                learning_rate=3e-3, weight_decay=0.1, max_grad_norm=0.5, report_to="none", save_strategy="no", use_cpu=True,
                disable_tqdm=True, logging_strategy="no", seed=3,
            )  # fmt: skip
            student = model(7, 2)
            given: dict[str, Any] = {
                "model": student,
                "args": args,
                "train_dataset": pairs(folder),
                "processing_class": tokenizer(),
            }
            torch.manual_seed(11)  # projections are drawn when a trainer is made
            if objectives is None:
                trainer: Any = BlackBoxTrainer(**given)
            else:
                wide = {"width": 48, "head_dim": 8} if name == "projected" else {}
                trainer = WhiteBoxTrainer(teacher=model(1, 4, **wide), objectives=objectives(), **given)
            trainer.remove_callback(PrinterCallback)
            loss = trainer.train().training_loss
            print(f"{name:18} {digest(student.state_dict())} {loss:.17g}", flush=True)


if __name__ == "__main__":
    main()
