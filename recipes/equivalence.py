"""The demonstration: black-box distillation is SFT. Why, when it stops being true, and what a white box adds.

    python recipes/equivalence.py --output_dir runs/equivalence          (or: distill equivalence)
    distill equivalence --sections law,noise                             (any section by itself)
    distill equivalence --quick                                          (in small, under a minute, without the real students)

Writes equivalence.html, its pictures, and equivalence.json, on a CPU. Needs no training of yours and changes nothing.
"""

import importlib.metadata
import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import datasets
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from distill import generate, make_student
from distill.basics.processes import say
from distill.equivalence import (
    TITLES,
    Bed,
    Job,
    Section,
    Settings,
    breaks,
    bridge,
    controls,
    gradients,
    hard_labels,
    ladder,
    law,
    noise_floor,
    provenance,
    real,
    sources,
    write_page,
)
from distill.equivalence.programs import has_trl
from distill.models.load import load_model, load_tokenizer
from distill.reports.pictures import check_report_extra
from distill.running.environment import versions
from distill.running.flags import parse
from distill.running.folder import one_sentence, write_json
from distill.running.parsing import refuse_given
from distill.running.stages import block_sample, in_tokens_of
from distill.teachers import LocalTeacher


@dataclass
class EquivalenceArguments:
    """What is shown."""

    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the page, by default runs/equivalence (of some sections: -NAMES)."}
    )
    sections: str = field(default="all", metadata={"help": f"All, or some by comma: {', '.join(TITLES)}."})
    quick: bool = field(
        default=False, metadata={"help": "Smaller, without the sections on real students (real, sources)."}
    )
    teacher: str = field(
        default="smollm2-135m", metadata={"help": "Whose text is used: embedded name, folder, Hub id."}
    )
    student: str | None = field(
        default=None, metadata={"help": "Model for ladder and controls (30 short trainings); else a small random one."}
    )  # fmt: skip
    seeds: int = field(default=10, metadata={"help": "Orders of the pairs, in the section sources; at least 2."})


# questions of no interest: 8 forms, 12 topics; some are answered in a word, so that completions end and lengths differ
FORMS = ("Is {} old? Answer yes or no.", "What is {}?", "Write one word about {}.", "Why do people like {}?",
         "Name something like {}.", "Tell me a fact about {}.", "Translate '{}' into French.", "What colour is {}?")  # fmt: skip
TOPICS = ("rain", "music", "bread", "the sea", "trains", "winter", "chess", "gardens", "numbers", "friendship", "paint",
          "the moon")  # fmt: skip


class Material:
    """What the sections work on; made when it is first asked for, so that one section alone is quick."""

    def __init__(self, args: EquivalenceArguments, folder: Path) -> None:
        self.args, self.folder = args, folder

    @cached_property
    def teacher(self) -> LocalTeacher:
        """Whose text is used. On the CPU, where sums are repeatable."""
        teacher = LocalTeacher(self.args.teacher)
        teacher.model.to("cpu")  # type: ignore[arg-type]
        return teacher

    @cached_property
    def pairs(self) -> datasets.Dataset:
        """The file of pairs: written once, continued by a rerun."""
        questions = [form.format(topic) for topic in TOPICS for form in FORMS][: 8 if self.args.quick else 66]
        name = f"pairs-{'quick' if self.args.quick else 'full'}.jsonl"
        return generate(
            self.teacher,
            questions,
            max_new_tokens=20 if self.args.quick else 32,
            batch_size=66,
            output=self.folder / name,
        )

    @cached_property
    def bed(self) -> Bed:
        """The pair of models whose every completion can be listed."""
        return Bed()

    @cached_property
    def job(self) -> Job:
        """A small training on real text; 26 pairs do not fill the last optimiser step of an epoch."""
        pairs = self.pairs.select(range(8 if self.args.quick else 26))
        if self.args.student:
            tokenizer = load_tokenizer(self.args.student)
            student = load_model(self.args.student, dtype=torch.float32)
            return Job(student, in_tokens_of(pairs, tokenizer), tokenizer, Settings())
        return self.small_job(pairs)

    def small_job(self, pairs: datasets.Dataset) -> Job:
        """The same for a random model of two layers with the teacher's vocabulary."""
        torch.manual_seed(0)
        vocabulary = self.teacher.model.get_output_embeddings().weight.shape[0]
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.1, tie_word_embeddings=True,
        )  # fmt: skip
        return Job(LlamaForCausalLM(config), pairs, self.teacher.tokenizer, Settings())

    def cut(self, layers: int, strategy: str) -> PreTrainedModel:
        """A student made of some of the teacher's layers, or of all if it has fewer."""
        layers = min(layers, self.teacher.model.config.get_text_config(decoder=True).num_hidden_layers)
        return make_student(
            self.teacher.model, layers, strategy=strategy, sample=block_sample(self.pairs, strategy)
        )  # fmt: skip

    def real_job(self) -> Job:
        """A few steps of a student cut from the teacher."""
        settings = Settings(batch_size=2, accumulation=2, epochs=1)
        pairs = self.pairs.select(range(18))  # 5 steps, the last one of a single batch
        return Job(self.cut(4, "first_last"), pairs, self.teacher.tokenizer, settings)


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Run sections, write page and figures, say what did not come out."""
    (args,) = parse((EquivalenceArguments,), argv, defaults={}, description=__doc__)
    names = _check(args)
    _be_quiet()
    folder = Path(args.output_dir or _default_folder(args))
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    run = _sections(args, Material(args, folder))
    done: list[Section] = []
    for number, name in enumerate(names, start=1):
        say(f"\n[{number}/{len(names)}] {TITLES[name]} ({name}) · {time.monotonic() - begun:.0f} s so far")
        try:
            section = run[name]()
        except KeyboardInterrupt:
            say(
                f"\nStopped in {name}. The {len(done)} finished sections are in {folder}; the others: --sections NAMES."
            )
            raise SystemExit(130) from None
        for claim in section.claims:
            say(f"  {_MARKS[claim.holds]} {claim.text}\n      {claim.measured}")
        done.append(section)
        facts = {
            "command": " ".join(["distill equivalence", *(sys.argv[1:] if argv is None else argv)]),
            "seconds": time.monotonic() - begun,
            "teacher": args.teacher,
            "environment": _environment(),
        }
        write_json(folder / "equivalence.json", {**facts, "sections": [section.as_dict() for section in done]})
        write_page(done, facts, folder / "equivalence.html")  # after every section: nothing is lost by Ctrl-C
    failed = [claim.text for section in done for claim in section.failed]
    if failed:
        raise ValueError(f"{len(failed)} statements did not come out as stated: {'; '.join(failed)}.")
    say(f"\nFinished in {facts['seconds'] / 60:.1f} minutes. Open {(folder / 'equivalence.html').resolve()}")


_MARKS = {True: "yes ", False: "NO  ", None: "--  "}


def _sections(args: EquivalenceArguments, made: Material) -> dict[str, Callable[[], Section]]:
    """What each section does, by its name."""
    small = lambda: made.small_job(made.pairs.select(range(8)))  # noqa: E731
    return {
        "ladder": lambda: ladder(made.job, quick=args.quick),
        "controls": lambda: controls(made.job),
        "provenance": lambda: provenance(small(), made.teacher, made.pairs["prompt"][: 6 if args.quick else 12], 6 if args.quick else 16),
        "gradients": lambda: gradients(made.bed, 2**13 if args.quick else 2**15, beds=0 if args.quick else 20),
        "bridge": lambda: bridge(made.bed, 2000 if args.quick else 20_000),
        "law": lambda: law((3, 32), 1, 60) if args.quick else law(),
        "noise": lambda: noise_floor(60 if args.quick else 300),
        "hard_labels": lambda: hard_labels(made.bed, small()),
        "breaks": lambda: breaks(made.bed),
        "real": lambda: real(made.real_job()),
        "sources": lambda: sources(
            made.cut(6, "block_influence"), made.teacher, made.pairs.select(range(42)), made.pairs.select(range(42, 66)),
            args.seeds,
        ),
    }  # fmt: skip


def _check(args: EquivalenceArguments) -> list[str]:
    names = list(TITLES) if args.sections == "all" else [name.strip() for name in args.sections.split(",")]
    if unknown := [name for name in names if name not in TITLES]:
        raise ValueError(f"sections names {', '.join(unknown)}; it must list some of {', '.join(TITLES)}, by comma.")
    large = [name for name in names if name in ("real", "sources")]
    if args.quick and args.sections == "all":
        names = [name for name in names if name not in large]
    elif args.quick and large:
        raise ValueError(f"There is no quick form of {' and '.join(large)}; leave --quick out, or these sections.")
    if args.seeds < 2:
        raise ValueError(f"seeds is {args.seeds}; a paired test needs at least 2.")
    if "sources" not in names:
        refuse_given(args, ("seeds",), "this is of the section sources, which is not run; leave it out.")
    if not {"ladder", "controls"} & set(names):
        refuse_given(
            args, ("student",), "this is of the sections ladder and controls, which are not run; leave it out."
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            f"There are {os.environ['WORLD_SIZE']} processes, which add gradients in an order of their own; equality bit "
            "for bit is shown in one process: start this recipe without a launcher."
        )
    check_report_extra()
    if "sources" in names and importlib.util.find_spec("scipy") is None:
        raise ValueError("The section sources needs the 'scipy' package: pip install 'distill[report]'.")
    return names


def _default_folder(args: EquivalenceArguments) -> str:
    """A few sections do not overwrite the page of all."""
    parts = ["runs/equivalence", *(["quick"] if args.quick else [])]
    return "-".join(parts if args.sections == "all" else [*parts, *args.sections.replace(" ", "").split(",")])


def _be_quiet() -> None:
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)


def _environment() -> dict[str, str]:
    return {
        **versions(),
        "TRL": importlib.metadata.version("trl") if has_trl() else "not installed",
        "on": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
    }


if __name__ == "__main__":
    main()
