"""What the recipes share: the demo's training settings, and flags turned into objects."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import datasets
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from distill import AttentionMaps, HiddenStates, Logits, generate, load_pairs, make_student
from distill.arguments import parse
from distill.encode import Prompt
from distill.models import fast_dtype, load_model, load_tokenizer
from distill.objectives import Objective
from distill.pairs import retokenize
from distill.prompts import read_prompts, write_prompts
from distill.runs import RunFolder
from distill.students import STRATEGIES
from distill.teachers import LocalTeacher

Arguments = TypeVar("Arguments")

# Defaults of the recipes where they differ from TrainingArguments'; every one of them is a flag.
DEMO_TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "max_steps": 20,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
    "use_cpu": not torch.cuda.is_available(),
    "bf16": fast_dtype() == torch.bfloat16,  # float32 weights, bfloat16 products
    "logging_steps": 5,
    "logging_first_step": True,
    "save_steps": 0.5,
    "save_total_limit": 1,
    "report_to": "none",
}


def parse_recipe(
    arguments: type[Arguments], argv: list[str] | None, *, output_dir: str, description: str | None
) -> tuple[Arguments, TrainingArguments]:
    """Flags of a training recipe: its own, and all of `TrainingArguments` with the demo's defaults."""
    defaults = {**DEMO_TRAINING, "output_dir": output_dir}
    args, training = parse((arguments, TrainingArguments), argv, defaults=defaults, description=description)
    training.include_num_input_tokens_seen = "non_padding"  # its flag takes only yes and no
    return args, training


# Training settings that do not decide the result of a run, so that a run may be continued with other values of them.
_INCIDENTAL = (
    "output_dir",
    "logging",
    "disable_tqdm",
    "report_to",
    "run_name",
    "save_",
    "dataloader_",
    "log_level",
    "hub_",
    "push_to",
)


@dataclass
class DataArguments:
    """Where pairs and student come from."""

    teacher: str = field(default="smollm2-135m", metadata={"help": "Embedded name, local folder, or Hub id."})
    pairs: str | None = field(
        default=None, metadata={"help": "Ready pairs (.jsonl or folder); else they are generated."}
    )
    prompts: str | None = field(default=None, metadata={"help": "Prompt file; by default the teacher writes them."})
    num_prompts: int = field(default=160, metadata={"help": "Training prompts the teacher writes, without a file."})
    held_out: int = field(default=16, metadata={"help": "Pairs kept aside for measuring."})
    max_new_tokens: int = field(default=64, metadata={"help": "Longest completion, in tokens."})
    temperature: float = field(default=1.0, metadata={"help": "Of the teacher's completions; 1 is the teacher itself."})
    generation_seed: int = field(default=0, metadata={"help": "Of prompts and completions."})
    student: str | None = field(
        default=None, metadata={"help": "A model to train; by default one cut from the teacher."}
    )
    layers: int = field(default=12, metadata={"help": "Teacher layers a cut student keeps."})
    strategy: str = field(default="block_influence", metadata={"help": f"Which layers: {', '.join(STRATEGIES)}."})
    max_length: int = field(default=512, metadata={"help": "Longest training row, in tokens."})


def prepare_pairs(args: DataArguments, run: RunFolder) -> tuple[LocalTeacher, datasets.Dataset]:
    """The teacher, and pairs: read from a file, or generated into the run's folder."""
    teacher = LocalTeacher(args.teacher)
    if args.pairs:
        pairs = load_pairs(args.pairs, teacher.tokenizer)
    else:
        if args.prompts:
            prompts = read_prompts(args.prompts)
        else:
            prompts = demo_prompts(teacher, args.num_prompts + args.held_out, args.generation_seed, run)
        pairs = generate(
            teacher,
            prompts,
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            seed=args.generation_seed,
            batch_size=64,
            output=run / "pairs.jsonl",
        )
    if not 0 < args.held_out < len(pairs):
        raise ValueError(
            f"held_out is {args.held_out}, but there are {len(pairs)} pairs; some must be left to train on."
        )
    return teacher, pairs


def load_student(
    args: DataArguments, teacher: LocalTeacher, pairs: datasets.Dataset
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, datasets.Dataset]:
    """The student, its tokenizer, and the pairs in that tokenizer's tokens."""
    if args.student is None:
        sample = block_sample(pairs, args.strategy)
        student = make_student(teacher.model, args.layers, strategy=args.strategy, sample=sample)
        return student, teacher.tokenizer, pairs
    student, tokenizer = load_model(args.student, dtype=torch.float32), load_tokenizer(args.student)
    if tokenizer.get_vocab() != teacher.tokenizer.get_vocab():
        print("The student has other tokens than the teacher: the pairs are tokenised anew from their text.")
        pairs = retokenize(pairs, tokenizer)
    return student, tokenizer, pairs


def demo_prompts(teacher: LocalTeacher, count: int, seed: int, run: RunFolder) -> list[Prompt]:
    """Prompts the teacher writes itself: short ones, a little below temperature 1, where a small model stays on topic."""
    return write_prompts(
        teacher,
        count,
        max_new_tokens=48,
        temperature=0.8,
        top_p=1.0,
        seed=seed,
        batch_size=128,
        output=run / "prompts.jsonl",
    )


def build_objectives(names: str, *, divergence: str = "forward_kl", temperature: float = 1.0) -> list[Objective]:
    """Objectives from a flag such as `logits,hidden,attention`; a weight may follow each: `logits,hidden=0.1`.

    Raises:
        ValueError: an unknown name, or a weight that is no number.
    """
    known = {
        "logits": lambda weight: Logits(divergence, temperature=temperature, weight=weight),
        "hidden": lambda weight: HiddenStates(weight=weight),
        "attention": lambda weight: AttentionMaps(weight=weight),
    }
    objectives = []
    for part in names.split(","):
        name, _, weight = part.strip().partition("=")
        if name not in known:
            raise ValueError(f"objectives is {names!r}; it must list some of {', '.join(known)}, divided by commas.")
        try:
            number = float(weight or 1)
        except ValueError:
            raise ValueError(f"objectives is {names!r}; {weight!r} is no weight.") from None
        objectives.append(known[name](number))
    return objectives


def block_sample(pairs: datasets.Dataset, strategy: str, rows: int = 12) -> Sequence[Sequence[int]] | None:
    """Token ids of some pairs, for the strategy that measures layers on text."""
    if strategy != "block_influence":
        return None
    return [pair["prompt_ids"] + pair["completion_ids"] for pair in pairs.select(range(min(rows, len(pairs))))]


def settings_of(args: Any, training: TrainingArguments) -> dict[str, Any]:
    """The settings that decide a run's results, for its folder."""
    kept = {name: value for name, value in training.to_dict().items() if not name.startswith(_INCIDENTAL)}
    return {**dataclasses.asdict(args), **kept}
