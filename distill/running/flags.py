"""Flags of recipes (of adapters and packing: `tuning`; how they are read: `parsing`), as dataclasses."""

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments

from distill.basics import processes
from distill.basics.settings import training_settings
from distill.models.load import fast_dtype
from distill.models.students import STRATEGIES
from distill.objectives import AttentionMaps, HiddenStates, Logits, Objective
from distill.running.holding import KeepArguments
from distill.running.parsing import parse as parse
from distill.running.publishing import PublishingArguments
from distill.running.reading_flags import PromptArguments, RefusalArguments
from distill.running.teacher_prompts import TeacherPromptArguments, system_text
from distill.running.tuning import TuningArguments
from distill.teachers.server import is_address

Arguments = TypeVar("Arguments")

# Defaults of the recipes where they differ from TrainingArguments'; every one of them is a flag.
DEMO_TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "num_train_epochs": 1.0,  # of the demo: 160 pairs, 20 steps
    "seed": 0,
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
    arguments: type[Arguments],
    argv: list[str] | None,
    *,
    output_dir: str,
    description: str | None,
    several: bool = False,
    publishes: bool = False,
    **own_defaults: Any,
) -> tuple[Arguments, TrainingArguments]:
    """Flags of a training recipe: its own, and all of `TrainingArguments` with the demo's defaults or the recipe's own.

    Args:
        several: the recipe runs in several processes (`accelerate launch`).
        publishes: it uploads its student if asked to (`distill.running.publishing`).

    Raises:
        ValueError: it does not, and there are several processes, or it is asked to; a flag that is wrong.
    """
    defaults = {**DEMO_TRAINING, **own_defaults, "output_dir": output_dir}
    args, training = parse((arguments, TrainingArguments), argv, defaults=defaults, description=description)
    training.include_num_input_tokens_seen = "non_padding"  # its flag takes only yes and no
    if training.world_size > 1 and not several:
        raise ValueError(
            f"This recipe runs in one process, and there are {training.world_size}; start it without a launcher. "
            "recipes/black_box.py and recipes/white_box.py run in several."
        )
    if training.push_to_hub and not publishes:
        raise ValueError(
            "push_to_hub would upload the whole run folder, and this recipe makes several students; upload the folder of the one "
            "you want: hf upload NAME FOLDER. recipes/black_box.py and recipes/white_box.py upload theirs."
        )
    processes.only_the_first_speaks()
    training._n_gpu = min(training.n_gpu, 1)  # else Trainer would spread one process over all GPUs (DataParallel)
    return args, training


@dataclass
class DataArguments(PromptArguments, TeacherPromptArguments):
    """Where pairs and student come from."""

    teacher: str = field(
        default="smollm2-135m",
        metadata={
            "help": "Embedded name, local folder, Hub id; for the black box also the http:// address of a server, or several divided by commas."
        },
    )
    teacher_bits: int | None = field(
        default=None, metadata={"help": "Load the teacher in 8 or 4 bits (bitsandbytes); needs --student."}
    )
    pairs: str | None = field(
        default=None, metadata={"help": "Ready pairs: a file of any format, a folder, a Hub dataset; else generated."}
    )
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
    turns: str = field(
        default="last",
        metadata={
            "help": "Of rows with messages: loss on the last or on all turns of the assistant, or each turn a row of its own."
        },
    )


@dataclass
class ServerArguments(RefusalArguments):
    """How a teacher behind a server is asked. Its key is read from an environment variable."""

    teacher_model: str | None = field(default=None, metadata={"help": "The teacher's name on a server with several."})
    api_key_env: str = field(default="OPENAI_API_KEY", metadata={"help": "Environment variable with a server's key."})
    concurrency: int = field(default=32, metadata={"help": "Requests under way at once, at each address."})
    timeout: float = field(default=600.0, metadata={"help": "Seconds a server may take for one completion."})
    finish_reasons: str | None = field(
        default=None, metadata={"help": "What a server's own finish reasons mean: done=stop,null=stop."}
    )
    extra_body: str | None = field(default=None, metadata={"help": "JSON: further fields of requests to a server."})


@dataclass
class BlackBoxArguments(DataArguments, TuningArguments, ServerArguments, PublishingArguments, KeepArguments):
    """Pairs, student, and a teacher that may be behind a server."""

    supervised_only: bool = field(
        default=False,
        metadata={
            "help": "Make no logits of prompts and padding: less memory at a large vocabulary, equal up to rounding."
        },
    )


def build_objectives(
    names: str, *, divergence: str = "forward_kl", temperature: float = 1.0, cross_entropy: float = 0.0
) -> list[Objective]:
    """Objectives from a flag such as `logits,hidden,attention`; a weight may follow each: `logits,hidden=0.1`.

    Raises:
        ValueError: an unknown name, or a weight that is no number.
    """
    known = {
        "logits": lambda weight: Logits(
            divergence, temperature=temperature, cross_entropy=cross_entropy, weight=weight
        ),
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


def is_place(name: str, value: Any) -> bool:
    """Whether a setting only says where a teacher is reached: a server is started anew on another port."""
    return name == "teacher" and isinstance(value, str) and is_address(value)


def settings_of(args: Any, training: TrainingArguments) -> dict[str, Any]:
    """The settings that decide a run's results, for its folder; files are told by their contents."""
    # more seeds, arms, answers or ways can be added to a run that is there; how a server is reached decides nothing
    own = {
        k: value
        for k, value in dataclasses.asdict(args).items()
        if k
        not in (
            "seeds",
            "arms",
            "answers",
            "ablation",
            "concurrency",
            "timeout",
            "api_key_env",
            "allow_refusals",
            "finish_reasons",
            "push_pairs",
            "push_teacher_prompts",
        )
        and not is_place(k, value)
    }
    contents = {
        f"{name}_sha256": hashlib.sha256(Path(own[name]).read_bytes()).hexdigest()
        for name in ("prompts", "pairs")
        if own.get(name) and Path(own[name]).is_file()
    }
    if (text := own.get("teacher_system")) is not None:
        own["teacher_system"] = system_text(text)
    return {**own, **contents, **training_settings(training)}
