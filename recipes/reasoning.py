"""Verified reasoning distillation: sample traces from a teacher, keep those whose answer is right, fine-tune on them.

    python recipes/reasoning.py --output_dir runs/reasoning        (or: distill reasoning ...)
    python recipes/reasoning.py --config recipes/settings/r1_qwen2.5_math_7b.yaml --teacher http://localhost:8000/v1 \\
        --student Qwen2.5-Math-7B-32k --prompts questions.jsonl --output_dir runs/r1

With no other flag the embedded 135M model learns from itself on a CPU (STaR, Zelikman et al. 2022; rejection sampling as in
DeepSeek-R1, 2025): as a teacher it sees worked examples, as a student it does not. Beside the verified student one is trained
on as many completions that nobody verified, for as many steps: the difference is what the verifier adds. Interrupt it when
you like: the same command goes on from there.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase, TrainingArguments

from distill import BlackBoxTrainer, generate
from distill.basics.curation_step import Step, steps_table
from distill.basics.fingerprint import fingerprint
from distill.basics.processes import say
from distill.curation.preflight import check_before_training
from distill.curation.selection import KEEP, pass_rates, select
from distill.curation.verifiers import load_verifier, read_rows, task_rows, verify
from distill.evaluation.accuracy import Accuracy, accuracy, accuracy_table
from distill.generation.worked_examples import CHAIN_SUM, Example, WorkedExamples, read_examples, with_examples
from distill.models.load import fast_dtype, load_model, load_tokenizer
from distill.models.precision import weights_in
from distill.reports.card import write_card
from distill.running.flags import ServerArguments, parse_recipe, settings_of
from distill.running.folder import (
    RunFolder,
    one_sentence,
    remove_checkpoints,
    save_student,
    train_or_resume,
    write_json,
)
from distill.running.parsing import refuse_given
from distill.running.reading_flags import ReadingArguments, reading_of
from distill.running.stages import in_tokens_of, refuse_flags_of_servers, teacher_behind
from distill.running.unread import refuse_unread_files
from distill.teachers import LocalTeacher, Sampling, ServerTeacher
from distill.teachers.server import is_address
from distill.text.traces import CUT_TRACES, cut_traces

Rows = list[dict[str, Any]]

WAYS = {"unverified": "student of as many unverified completions", "verified": "student of verified completions"}


@dataclass
class ReasoningArguments(ReadingArguments, ServerArguments):
    """Whose traces, on which questions, and which of them are learned."""

    teacher: str = field(
        default="smollm2-135m",
        metadata={"help": "Embedded name, local folder, Hub id, or the http:// address of a server."},
    )
    student: str | None = field(default=None, metadata={"help": "A model to train; by default the teacher itself."})
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Of the student, where it shall not have its own: a base model with the template of traces."},
    )
    prompts: str | None = field(
        default=None,
        metadata={"help": "Questions: a file of any format, with what the verifier reads; else a generated task."},
    )
    instruction: str = field(default="", metadata={"help": "Put after each question."})
    task: str = field(default="chain_sum", metadata={"help": "Task of reasoning-gym, without a file of questions."})
    task_config: str = field(
        default='{"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}',
        metadata={"help": "JSON: the task's settings."},
    )
    examples: str = field(
        default="chain_sum",
        metadata={"help": "Worked examples the teacher sees and the student does not: chain_sum, a .jsonl, or none."},
    )
    num_prompts: int = field(default=256, metadata={"help": "Training questions."})
    held_out: int = field(default=200, metadata={"help": "Further questions kept aside for measuring."})
    samples: int = field(default=4, metadata={"help": "Completions a question."})
    max_new_tokens: int = field(default=32, metadata={"help": "Longest completion, in tokens."})
    temperature: float = field(default=0.6, metadata={"help": "Of the teacher's completions; 1 is the teacher itself."})
    top_p: float = field(default=1.0, metadata={"help": "Of the teacher's completions; 1 is the teacher itself."})
    generation_seed: int = field(default=0, metadata={"help": "Of questions and completions."})
    generation_batch_size: int = field(default=64, metadata={"help": "Completions drawn at once."})
    verifier: str = field(
        default="number",
        metadata={"help": "exact, number, regex:PATTERN, task:last_line, or your function as path/file.py:name."},
    )
    verifier_timeout: float | None = field(
        default=None,
        metadata={"help": "Seconds for one score; then the completion has none. For verifiers of your own."},
    )
    cut: str = field(default="drop", metadata={"help": f"Traces cut at the limit: {' or '.join(CUT_TRACES)}."})
    keep: str = field(default="all", metadata={"help": f"Of the correct completions: {', '.join(KEEP)}."})
    k: int | None = field(default=None, metadata={"help": "For --keep up_to."})
    seeds: int = field(default=3, metadata={"help": "Trainings of each way."})
    control: bool = field(default=True, metadata={"help": "Train also on as many completions, not verified."})
    answer_temperature: float = field(default=0.0, metadata={"help": "Of held-out answers; 0: most likely tokens."})
    answer_top_p: float = field(default=1.0, metadata={"help": "Of held-out answers."})
    max_length: int = field(default=512, metadata={"help": "Longest training row, in tokens."})
    packing: bool = field(default=False, metadata={"help": "Several pairs in each row of max_length tokens."})


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Questions, traces, verification, training, accuracy."""
    args, training = parse_recipe(
        ReasoningArguments,
        argv,
        output_dir="runs/reasoning",
        description=__doc__,
        learning_rate=1e-4,
        per_device_train_batch_size=32,  # few, large steps: on a CPU, those of AdamW over all weights cost most
        num_train_epochs=2.0,
    )
    _check(args)
    verifier = load_verifier(args.verifier)
    examples = _examples(args)
    tokenizer = load_tokenizer(args.tokenizer or args.student or args.teacher)
    teacher = _teacher(args, tokenizer)  # first: a mistyped address should leave no folder behind
    start = _student(args, tokenizer)
    run = RunFolder(str(training.output_dir), settings_of(args, training))
    train_rows, held_out_rows, distinct = _questions(args, run)

    sampling = Sampling(args.max_new_tokens, args.temperature, args.top_p, seed=args.generation_seed)
    shown = WorkedExamples(examples) if examples else None
    drawn = generate(
        teacher,
        train_rows if args.prompts else [row["prompt"] for row in train_rows],  # a file's own columns go along
        teacher_prompt=shown,
        samples=args.samples,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        batch_size=args.generation_batch_size,
        output=run / "samples.jsonl",
        allow_refusals=args.allow_refusals,
    )
    whole, cut = cut_traces(drawn, teacher.tokenizer, args.cut)
    scored = verify(whole, train_rows, verifier, tokenizer=teacher.tokenizer, timeout=args.verifier_timeout)
    say(f"\n{pass_rates(scored)}\n")
    verified, chosen = select(scored, args.keep, k=args.k)
    steps = [distinct, cut, chosen]
    say(steps_table(steps) + "\n")
    learned = in_tokens_of(verified, tokenizer)
    check_before_training(learned, tokenizer, args.max_length, start, training.per_device_train_batch_size)

    ask = partial(
        accuracy,
        tokenizer=tokenizer,
        rows=held_out_rows,
        verifier=verifier,
        max_new_tokens=args.max_new_tokens,
        temperature=args.answer_temperature,
        top_p=args.answer_top_p,
        batch_size=args.generation_batch_size,
        timeout=args.verifier_timeout,
    )
    untrained = {"untouched": _once(run / "untouched.json", lambda: ask(_fast(start)))}
    if examples and isinstance(teacher, LocalTeacher):
        asked = [{**row, "prompt": with_examples(row["prompt"], examples)} for row in held_out_rows]
        untrained["teacher, with the examples"] = _once(
            run / "teacher.json", lambda: ask(teacher.model, tokenizer=teacher.tokenizer, rows=asked)
        )
    say("; ".join(f"{name}: {found.mean:.1%}" for name, found in untrained.items()) + " of the held-out questions.")

    trained: dict[str, list[Accuracy]] = {WAYS[way]: [] for way in WAYS if way == "verified" or args.control}
    for seed in range(training.seed, training.seed + args.seeds):
        for way, title in WAYS.items():
            if title not in trained:
                continue
            folder = run / f"{way}-seed{seed}"
            if not (folder / "accuracy.json").is_file():
                pairs, taken = learned, steps
                if way == "unverified":
                    pairs, taken = _as_many(whole, len(verified), seed, [distinct, cut])
                    pairs = in_tokens_of(pairs, tokenizer)
                student = _train(folder, seed, args, training, start, tokenizer, pairs)
                found = ask(_fast(student))
                card = partial(
                    write_card, student=student, pairs=pairs, how="black box", teacher=teacher,
                    sampling={**sampling.as_dict(), **(shown.identity if shown else {})},
                    steps=taken, training=training, max_length=args.max_length, metrics={"accuracy": found.mean},
                )  # fmt: skip
                save_student(student, tokenizer, folder / "student", card)
                write_json(folder / "accuracy.json", found.as_dict())
                remove_checkpoints(folder)
            trained[title].append(_read(folder / "accuracy.json"))
            say(f"{title}, seed {seed}: {trained[title][-1].mean:.1%}")

    report = _report(untrained, trained, held_out_rows, str(pass_rates(scored)), steps)
    (run / "report.md").write_text(report, encoding="utf-8")
    say("\n" + report)
    say(f"The students, their cards and report.md are in {run.path}.")


def _train(
    folder: Path,
    seed: int,
    args: ReasoningArguments,
    training: TrainingArguments,
    start: Any,
    tokenizer: PreTrainedTokenizerBase,
    pairs: datasets.Dataset,
) -> Any:
    """A student from the untouched one, trained on pairs."""
    run_arguments = copy.copy(training)
    run_arguments.output_dir, run_arguments.seed = str(folder), seed
    student = copy.deepcopy(start)
    trainer = BlackBoxTrainer(
        model=student,
        args=run_arguments,
        train_dataset=pairs,
        processing_class=tokenizer,
        max_length=args.max_length,
        packing=args.packing,
    )
    train_or_resume(trainer)
    return student


def _student(args: ReasoningArguments, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The untouched one. Loaded before anything is asked: a tokenizer that does not fit would show after hours only."""
    start = load_model(args.student or args.teacher, dtype="float32")
    embeddings: Any = start.get_input_embeddings()
    if len(tokenizer) > (slots := embeddings.weight.shape[0]):
        raise ValueError(
            f"The tokenizer {args.tokenizer} has {len(tokenizer)} tokens, but {args.student or args.teacher} has room for "
            f"{slots}: it is another model's."
        )
    return start


def _teacher(args: ReasoningArguments, tokenizer: PreTrainedTokenizerBase) -> LocalTeacher | ServerTeacher:
    if not is_address(args.teacher):
        return LocalTeacher(args.teacher)
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{args.tokenizer or args.student} has no chat template, so the server's model would be asked to continue plain text. "
            "Name a tokenizer of the same tokens that has one with --tokenizer."
        )
    return teacher_behind(args.teacher, args, tokenizer)


def _questions(args: ReasoningArguments, run: RunFolder) -> tuple[Rows, Rows, Step]:
    """Training and held-out rows: distinct questions, shuffled by a hash of their words; and what was left out for that."""
    wanted = args.num_prompts + args.held_out
    if args.prompts:
        rows = read_rows(args.prompts, **reading_of(args, run / "questions"))
    else:
        # small tasks repeat themselves: draw more, then leave out what was there before
        rows = task_rows(args.task, 2 * wanted, args.generation_seed, **json.loads(args.task_config))
    distinct = list({fingerprint(row["prompt"]): row for row in rows}.items())
    if len(distinct) < wanted:
        raise ValueError(
            f"There are {len(distinct)} distinct questions, but num_prompts + held_out is {wanted}; ask for fewer."
        )
    chosen = [{**row, "prompt": _told(row["prompt"], args.instruction)} for _, row in sorted(distinct)[:wanted]]
    effect = f"Each of {len(distinct)} distinct questions counts once; which of them are taken does not depend on what they say."
    settings = {"repeated": len(rows) - len(distinct), "held_out": args.held_out}
    step = Step("questions", len(rows), wanted, effect, settings)
    return chosen[args.held_out :], chosen[: args.held_out], step


def _examples(args: ReasoningArguments) -> tuple[Example, ...]:
    if args.examples == "chain_sum":
        return CHAIN_SUM
    return () if args.examples == "none" else read_examples(args.examples)


def _told(prompt: Any, instruction: str) -> Any:
    """The prompt with the instruction after its last turn."""
    if isinstance(prompt, str):
        return prompt + instruction
    return [*prompt[:-1], {**prompt[-1], "content": prompt[-1]["content"] + instruction}]


def _as_many(pairs: datasets.Dataset, count: int, seed: int, before: list[Step]) -> tuple[datasets.Dataset, list[Step]]:
    """`count` completions that nobody verified, other ones for each seed."""
    order = sorted(range(len(pairs)), key=lambda i: fingerprint(seed, pairs[i]["id"]))
    effect = "Which ones does not depend on what they say: the teacher's own distribution."
    return pairs.select(sorted(order[:count])), [
        *before,
        Step("as many at random", len(pairs), count, effect, {"seed": seed}),
    ]


def _fast(model: Any) -> Any:
    """A copy in the dtype this machine generates fastest in."""
    return weights_in(model, fast_dtype())


def _once(file: Path, measure: Callable[[], Accuracy]) -> Accuracy:
    """A measurement that is taken once a run."""
    if not file.is_file():
        write_json(file, measure().as_dict())
    return _read(file)


def _read(file: Path) -> Accuracy:
    return Accuracy(**json.loads(file.read_text(encoding="utf-8")))


def _report(
    untrained: dict[str, Accuracy], trained: dict[str, list[Accuracy]], rows: Rows, rates: str, steps: list[Step]
) -> str:
    """Accuracies with intervals, what the verifier kept, and three held-out questions that tell the models apart."""
    models = {**untrained, **{name: seeds[0] for name, seeds in trained.items()}}
    last = models[WAYS["verified"]]
    order = sorted(range(len(rows)), key=lambda i: (not last.correct[i], untrained["untouched"].correct[i], i))
    lines = ["# Verified reasoning distillation", "", accuracy_table(untrained, trained), ""]
    lines += ["## What was kept", "", f"```\n{rates}\n```", "", steps_table(steps), "", "## Held-out answers", ""]
    for i in (*order[:2], order[-1]):
        question = rows[i]["prompt"] if isinstance(rows[i]["prompt"], str) else rows[i]["prompt"][-1]["content"]
        lines += [f"**{question}** (right: {rows[i].get('answer', '?')})", ""]
        for name, found in models.items():
            lines += [
                f"{name}, {'right' if found.correct[i] else 'wrong'}:",
                "",
                f"```\n{found.completions[i]}\n```",
                "",
            ]
    return "\n".join(lines)


def _check(args: ReasoningArguments) -> None:
    """Refuse at once what would fail at the very end."""
    for name in ("num_prompts", "held_out", "samples", "seeds"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} is {getattr(args, name)}; it must be at least 1.")
    if args.cut not in CUT_TRACES or args.keep not in KEEP or (args.keep == "up_to") != (args.k is not None):
        raise ValueError(
            f"cut is {args.cut!r} ({' or '.join(CUT_TRACES)}), keep is {args.keep!r} ({', '.join(KEEP)}) and k is {args.k} "
            "(for up_to, and only for that)."
        )
    refuse_unread_files(args)
    if args.prompts:
        refuse_given(
            args, ("task", "task_config"), "this is of generated questions, and --prompts has others; leave it out."
        )
    if not is_address(args.teacher):
        refuse_flags_of_servers(args)
    if args.examples == "chain_sum" and (args.prompts or args.task != "chain_sum"):
        raise ValueError("The worked examples are of chain_sum; with other questions give --examples none, or a file.")
    if is_address(args.teacher) and not args.student:
        raise ValueError("A server shows no inside, so its model cannot be trained; name a student with --student.")


if __name__ == "__main__":
    main()
