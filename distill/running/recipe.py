"""What the recipes share: the demo's training settings, and flags turned into objects."""

import dataclasses
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import datasets
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from distill.basics import processes
from distill.basics.fingerprint import fingerprint
from distill.basics.settings import training_settings
from distill.generation import generate
from distill.generation.prompts import write_prompts
from distill.models.adapters import load_in_4bit
from distill.models.load import fast_dtype, load_model, load_tokenizer
from distill.models.quantising import in_bits
from distill.models.students import STRATEGIES
from distill.objectives import AttentionMaps, HiddenStates, Logits, Objective
from distill.pairs import are_tokens_of, load_pairs, retokenize
from distill.pairs.prompts import read_distinct_prompts
from distill.running.arguments import parse
from distill.running.folder import RunFolder
from distill.teachers import LocalTeacher, ServerTeacher
from distill.teachers.server import is_address, server_teacher
from distill.text.encode import Prompt
from distill.trainers.tuning import TuningArguments

Arguments = TypeVar("Arguments")
SHARED_PAIRS = ".pairs"  # what the first process has generated, for the others, in its order

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
    **own_defaults: Any,
) -> tuple[Arguments, TrainingArguments]:
    """Flags of a training recipe: its own, and all of `TrainingArguments` with the demo's defaults or the recipe's own.

    Args:
        several: the recipe runs in several processes (`accelerate launch`).

    Raises:
        ValueError: it does not, and there are several; a flag that is wrong.
    """
    defaults = {**DEMO_TRAINING, **own_defaults, "output_dir": output_dir}
    args, training = parse((arguments, TrainingArguments), argv, defaults=defaults, description=description)
    training.include_num_input_tokens_seen = "non_padding"  # its flag takes only yes and no
    if training.world_size > 1 and not several:
        raise ValueError(
            f"This recipe runs in one process, and there are {training.world_size}; start it without a launcher. "
            "recipes/black_box.py and recipes/white_box.py run in several."
        )
    processes.only_the_first_speaks()
    training._n_gpu = min(training.n_gpu, 1)  # else Trainer would spread one process over all GPUs (DataParallel)
    return args, training


@dataclass
class DataArguments:
    """Where pairs and student come from."""

    teacher: str = field(
        default="smollm2-135m",
        metadata={
            "help": "Embedded name, local folder, Hub id; for the black box also the http:// address of a server."
        },
    )
    teacher_bits: int | None = field(
        default=None, metadata={"help": "Load the teacher in 8 or 4 bits (bitsandbytes); needs --student."}
    )
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
    turns: str = field(
        default="last", metadata={"help": "Of rows with messages: loss on the last or on all turns of the assistant."}
    )


@dataclass
class ServerArguments:
    """How a teacher behind a server is asked. Its key is read from an environment variable."""

    teacher_model: str | None = field(default=None, metadata={"help": "The teacher's name on a server with several."})
    api_key_env: str = field(default="OPENAI_API_KEY", metadata={"help": "Environment variable with a server's key."})
    concurrency: int = field(default=32, metadata={"help": "Requests to a server under way at once."})
    timeout: float = field(default=600.0, metadata={"help": "Seconds a server may take for one completion."})
    extra_body: str | None = field(default=None, metadata={"help": "JSON: further fields of requests to a server."})
    allow_refusals: bool = field(default=False, metadata={"help": "Go on without completions that a server refused."})


@dataclass
class BlackBoxArguments(DataArguments, TuningArguments, ServerArguments):
    """Pairs, student, and a teacher that may be behind a server."""


def teacher_behind(
    url: str, args: ServerArguments, tokenizer: PreTrainedTokenizerBase | str, **settings: Any
) -> ServerTeacher:
    """The teacher at an address, asked as the flags say; further settings are `ServerTeacher`'s own. Raises as it does."""
    return server_teacher(
        url,
        args.teacher_model,
        tokenizer=tokenizer,
        api_key_env=args.api_key_env,
        concurrency=args.concurrency,
        timeout=args.timeout,
        extra_body=args.extra_body,
        **settings,
    )


def load_teacher(args: BlackBoxArguments) -> LocalTeacher | ServerTeacher | None:
    """The teacher; None if it is not needed: ready pairs and a student that is not cut from it.

    Raises:
        ValueError: no such teacher; a server without a student to train or prompts to ask.
    """
    if args.pairs and args.student:
        return None
    if not is_address(args.teacher):
        return local_teacher(args)
    if args.teacher_bits:
        raise ValueError("teacher_bits loads a teacher here, and this one runs behind a server; leave it out.")
    if not args.student:
        raise ValueError(
            "A server shows no inside, so no student can be cut from its teacher; name a model to train with --student."
        )
    if not args.prompts:
        raise ValueError("A server is asked prompts that are there already; give a file with --prompts.")
    return teacher_behind(args.teacher, args, load_tokenizer(args.student))


def local_teacher(args: DataArguments) -> LocalTeacher:
    """The teacher named by `--teacher`, in so many bits as `--teacher_bits` says.

    Raises:
        ValueError: no such teacher; bits without a named student (one that is cut from the teacher needs its weights whole).
    """
    if args.teacher_bits and not args.student:
        raise ValueError(
            "teacher_bits rounds the teacher's weights, and without --student the student would be cut from them; name a model "
            "to train with --student."
        )
    return LocalTeacher(args.teacher, quantization_config=in_bits(args.teacher_bits) if args.teacher_bits else None)


def prepare_pairs(
    args: DataArguments, teacher: LocalTeacher | ServerTeacher | None, run: RunFolder
) -> datasets.Dataset:
    """Pairs, read from a file or generated into the run's folder."""
    if args.pairs:
        return load_pairs(
            args.pairs, teacher.tokenizer if teacher else load_tokenizer(str(args.student)), turns=args.turns
        )
    assert teacher is not None, "load_teacher leaves the teacher out only where there are pairs"
    with processes.first_then_others():
        if not processes.is_main():
            return datasets.load_from_disk(str(run / SHARED_PAIRS))
        pairs = generate(
            teacher,
            prepare_prompts(teacher, args.prompts, args.num_prompts + args.held_out, args.generation_seed, run),
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            seed=args.generation_seed,
            batch_size=64,
            output=run / "pairs.jsonl",
            allow_refusals=isinstance(args, ServerArguments) and args.allow_refusals,
        )
        if processes.count() > 1:
            shutil.rmtree(run / SHARED_PAIRS, ignore_errors=True)
            pairs.save_to_disk(run / SHARED_PAIRS)
    return pairs


def prepare_prompts(
    teacher: LocalTeacher | ServerTeacher, file: str | None, count: int, seed: int, run: RunFolder
) -> list[Prompt]:
    """Prompts of a file without its repetitions, or `count` of them written by a local teacher.

    Raises:
        ValueError: no file and a server, which cannot be made to write them.
    """
    if file is not None:
        return read_distinct_prompts(file)
    if isinstance(teacher, ServerTeacher):
        raise ValueError("A server is asked prompts that are there already; give a file with --prompts.")
    return demo_prompts(teacher, count, seed, run)


def load_student(args: DataArguments) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model named by `--student`, in float32, and its tokenizer."""
    more = {"quantization_config": load_in_4bit()} if isinstance(args, TuningArguments) and args.load_in_4bit else {}
    return load_model(str(args.student), dtype=torch.float32, **more), load_tokenizer(str(args.student))


def in_tokens_of(pairs: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> datasets.Dataset:
    """The pairs as they are if their ids are this tokenizer's; else tokenised anew from their text, and said so."""
    if are_tokens_of(pairs, tokenizer):
        return pairs
    print("The pairs are of another tokenizer: they are tokenised anew from their text.")
    return retokenize(pairs, tokenizer)


def split_pairs(pairs: datasets.Dataset, held_out: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Training pairs, and those of `held_out` prompts kept aside.

    Which prompts is decided by a hash of their tokens: files come sorted in many ways, and all samples of a prompt must
    fall on one side.

    Raises:
        ValueError: nothing would be left on one of the sides.
    """
    prompts = sorted(set(map(tuple, pairs["prompt_ids"])), key=lambda ids: fingerprint(list(ids)))
    if not 0 < held_out < len(prompts):
        raise ValueError(
            f"held_out is {held_out}, but there are {len(prompts)} distinct prompts; at least one must be left on each side."
        )
    aside = set(prompts[:held_out])
    is_aside = [tuple(ids) in aside for ids in pairs["prompt_ids"]]
    train, kept = ([i for i, a in enumerate(is_aside) if a is side] for side in (False, True))
    return pairs.select(train), pairs.select(kept)


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


def block_sample(pairs: datasets.Dataset, strategy: str, rows: int = 12) -> Sequence[Sequence[int]] | None:
    """Token ids of some pairs, for the strategy that measures layers on text."""
    if strategy != "block_influence":
        return None
    return [pair["prompt_ids"] + pair["completion_ids"] for pair in pairs.select(range(min(rows, len(pairs))))]


def settings_of(args: Any, training: TrainingArguments) -> dict[str, Any]:
    """The settings that decide a run's results, for its folder; files are told by their contents."""
    # more seeds, answers or ways can be added to a run that is there; how a server is reached decides nothing
    own = {
        k: value
        for k, value in dataclasses.asdict(args).items()
        if k not in ("seeds", "answers", "ablation", "concurrency", "timeout", "api_key_env", "allow_refusals")
    }
    contents = {
        f"{name}_sha256": hashlib.sha256(Path(own[name]).read_bytes()).hexdigest()
        for name in ("prompts", "pairs")
        if own.get(name) and Path(own[name]).is_file()
    }
    return {**own, **contents, **training_settings(training)}
