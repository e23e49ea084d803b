"""The stages of a recipe, from a teacher and prompts to pairs and a student."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.basics import processes
from distill.basics.curation_step import Step
from distill.basics.fingerprint import fingerprint
from distill.generation import generate
from distill.generation.prompts import write_prompts
from distill.generation.shown import ShownPrompt
from distill.models.adapters import load_in_4bit
from distill.models.load import load_model, load_tokenizer
from distill.models.quantising import in_bits
from distill.pairs import are_tokens_of, load_pairs, retokenize
from distill.pairs.apart import rows_by_question
from distill.pairs.prompts import Asked, prompt_of, read_asked
from distill.reports.provenance import write_steps
from distill.running.flags import BlackBoxArguments, DataArguments, ServerArguments
from distill.running.folder import RunFolder
from distill.running.parsing import refuse_given
from distill.running.reading_flags import WRITTEN, count_of, reading_of
from distill.running.teacher_prompts import check_teacher_prompts, column_of, distinct_asked, shown_to_teacher
from distill.running.tuning import TuningArguments
from distill.teachers import LocalTeacher, ServerTeacher
from distill.teachers.server import is_address, server_teacher
from distill.text.encode import Prompt
from distill.text.near_duplicates import distinct_prompts

# short ones, a little below temperature 1, where a small model stays on topic
DEMO_PROMPTS: dict[str, Any] = {"max_new_tokens": 48, "temperature": 0.8, "top_p": 1.0, "batch_size": 128}
SHARED_PAIRS = ".pairs"  # what the first process has generated, for the others, in its order


def load_teacher(args: BlackBoxArguments) -> LocalTeacher | ServerTeacher | None:
    """The teacher; None if it is not needed: ready pairs and a student that is not cut from it.

    Raises:
        ValueError: no such teacher; a server without a student to train or prompts to ask.
    """
    if args.pairs and args.student:
        return None
    if not is_address(args.teacher):
        refuse_flags_of_servers(args)
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


def refuse_flags_of_servers(args: Any, *more: str) -> None:
    """Refuse what a teacher that runs here does not read: a flag that changes nothing is a misunderstanding.

    Args:
        args: the recipe's, where `allow_refusals` is for both kinds of teacher.
        more: names of further flags that only a server reads.

    Raises:
        ValueError: flags that differ from their defaults.
    """
    own = [f.name for f in dataclasses.fields(ServerArguments) if f.name != "allow_refusals"]
    why = f"only a teacher behind a server (--teacher http://...) reads this, and {args.teacher!r} runs here; leave it out."
    refuse_given(args, (*own, *more), why)


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
        finish_reasons=args.finish_reasons,
        **settings,
    )


def prepare_pairs(
    args: DataArguments, teacher: LocalTeacher | ServerTeacher | None, run: RunFolder
) -> datasets.Dataset:
    """Pairs, read from a file or generated into the run's folder."""
    check_teacher_prompts(args)
    if args.pairs:
        tokenizer = teacher.tokenizer if teacher else load_tokenizer(str(args.student))
        return load_pairs(args.pairs, tokenizer, turns=args.turns, **reading_of(args, run / "pairs"))
    assert teacher is not None, "load_teacher leaves the teacher out only where there are pairs"
    with processes.first_then_others():
        if not processes.is_main():
            return datasets.load_from_disk(str(run / SHARED_PAIRS))
        prompts, shown = prepare_prompts(teacher, args, run)
        pairs = generate(
            teacher,
            prompts,
            teacher_prompt=shown,
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            seed=args.generation_seed,
            batch_size=64,
            output=run / "pairs.jsonl",
            allow_refusals=args.allow_refusals,
        )
        if processes.count() > 1:
            shutil.rmtree(run / SHARED_PAIRS, ignore_errors=True)
            pairs.save_to_disk(run / SHARED_PAIRS)
    return pairs


def prepare_prompts(
    teacher: LocalTeacher | ServerTeacher, args: Any, run: RunFolder
) -> tuple[list[Asked], ShownPrompt | None]:
    """Prompts of a file (with their other columns) without its repetitions, or written by a local teacher; and what the teacher is asked.

    What was left out is said, and stands beside the run's pairs for the student's card.

    Args:
        args: flags of a recipe: prompts, num_prompts, held_out, generation_seed, near (leave out near duplicates, too; None: only
            among prompts that the teacher writes), what only the teacher is shown, and how files are read.

    Raises:
        ValueError: no file and a server, which cannot be made to write them.
    """
    file: str | None = args.prompts
    if file is None and isinstance(teacher, ServerTeacher):
        raise ValueError("A server is asked prompts that are there already; give a file with --prompts.")
    if file is None:
        assert isinstance(teacher, LocalTeacher)
        count, written = count_of(args.num_prompts, WRITTEN) + args.held_out, run / "prompts.jsonl"
        settings = {"near": args.near, "seed": args.generation_seed, **DEMO_PROMPTS}
        own, step = written_prompts(teacher, count, written, **settings)
        prompts: list[Asked] = [*own]
        shown = shown_to_teacher(args, None)
    else:
        most = None if args.num_prompts is None else count_of(args.num_prompts, 1) + args.held_out
        prompts, shown, step = asked_of_file(args, most, run / "prompts")
    write_steps(run / "pairs.jsonl", [step], source=file or run / "prompts.jsonl")
    return prompts, shown


def asked_of_file(args: Any, most: int | None, beside: Any) -> tuple[list[Asked], ShownPrompt | None, Step]:
    """Prompts of the file `--prompts` as `prompts_of` has them, and what the teacher is asked in their place.

    Args:
        args: flags of a recipe.
        most: take only so many; with a column of the teacher's prompts, so many prompts each with one of these.
        beside: the output (see `reading_of`).
    """
    near, reading = bool(args.near), reading_of(args, beside)
    if column_of(args) is None:
        prompts, step = prompts_of(args.prompts, near=near, most=most, **reading)
        return prompts, shown_to_teacher(args, None), step
    asked, shown, step = distinct_asked(args.prompts, near=near, **reading)
    _say_left(step)
    kept = slice(_most_of(len(asked), most, "prompts and teacher's prompts"))
    return asked[kept], shown[kept], step


def prompts_of(file: str, *, near: bool, most: int | None = None, **reading: Any) -> tuple[list[Asked], Step]:
    """The prompts of a file, each with its other columns, without its repetitions (of `near` ones, too); says how many those were. Errors as reading it.

    Args:
        file: see `read_asked`, which takes `reading`, too.
        near: leave out near duplicates.
        most: take only so many of what is left.
    """
    first: dict[str, Asked] = {}
    asked = read_asked(file, **reading)
    for one in asked:
        first.setdefault(json.dumps(prompt_of(one), sort_keys=True), one)
    prompts, step = distinct_prompts(map(prompt_of, asked), near=near)
    kept = [first[json.dumps(prompt, sort_keys=True)] for prompt in prompts]
    _say_left(step)
    return kept[: _most_of(len(kept), most, "prompts")], step


def _say_left(step: Step) -> None:
    if step.removed:
        processes.say("\n".join([str(step), *(f"    {example}" for example in step.examples)]))


def _most_of(there: int, most: int | None, what: str) -> int:
    most = there if most is None else count_of(most, 1)
    if most < there:
        processes.say(f"Of {there} {what}, the first {most} are taken.")
    return most


def written_prompts(
    teacher: LocalTeacher, count: int, file: Path, *, near: bool | None, **settings: Any
) -> tuple[list[Prompt], Step]:
    """Prompts that the teacher writes into `file`, without near repetitions unless `near` is False; the rest as `write_prompts`."""
    steps: list[Step] = []
    kept = write_prompts(teacher, count, output=file, near=near is not False, steps=steps, **settings)
    return kept, steps[0]


def load_student(args: DataArguments) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model named by `--student`, in float32, and its tokenizer."""
    more = {"quantization_config": load_in_4bit()} if isinstance(args, TuningArguments) and args.load_in_4bit else {}
    return load_model(str(args.student), dtype=torch.float32, **more), load_tokenizer(str(args.student))


def in_tokens_of(pairs: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> datasets.Dataset:
    """The pairs as they are if their ids are this tokenizer's; else tokenised anew from their text, and said so."""
    if are_tokens_of(pairs, tokenizer):
        return pairs
    processes.say("The pairs are of another tokenizer: they are tokenised anew from their text.")
    return retokenize(pairs, tokenizer)


def split_pairs(pairs: datasets.Dataset, held_out: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Training pairs, and those of `held_out` prompts kept aside.

    Which prompts is decided by a hash of their tokens: files come sorted in many ways, and all samples of a prompt must
    fall on one side; so must prompts that differ in case and blanks alone.

    Raises:
        ValueError: nothing would be left on one of the sides.
    """
    by_prompt = rows_by_question(pairs)
    if not 0 < held_out < len(by_prompt):
        raise ValueError(
            f"held_out is {held_out}, but there are {len(by_prompt)} distinct prompts; at least one must be left on each side."
        )
    firsts = [rows[0] for rows in by_prompt]
    ids = pairs.select_columns(["prompt_ids"]).select(firsts)["prompt_ids"]
    names = {row: fingerprint(found) for row, found in zip(firsts, ids, strict=True)}
    prompts = sorted(by_prompt, key=lambda rows: names[rows[0]])
    train, kept = (sorted(i for rows in side for i in rows) for side in (prompts[held_out:], prompts[:held_out]))
    return pairs.select(train), pairs.select(kept)


def block_sample(pairs: datasets.Dataset, strategy: str, rows: int = 12) -> Sequence[Sequence[int]] | None:
    """Token ids of some pairs, for the strategy that measures layers on text."""
    if strategy != "block_influence":
        return None
    return [pair["prompt_ids"] + pair["completion_ids"] for pair in pairs.select(range(min(rows, len(pairs))))]
