"""Documents to training rows, as `distill generate --documents` makes them: facts, answers, replay, and what became of each fact."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from distill.basics import processes
from distill.basics.disk import write_durably
from distill.basics.processes import say, tell
from distill.basics.settings import differences
from distill.pairs.writing import FOLDER, output_kind, save_pairs
from distill.reports.provenance import describe_pairs, write_steps
from distill.retrieval.coverage import Coverage
from distill.retrieval.documents import Documents
from distill.retrieval.row_modes import MODES, Setting, rows_of_facts
from distill.retrieval.rows import Rows, answered, passages_of, with_replay
from distill.retrieval.writing import facts_of_documents
from distill.running.flags import DataArguments
from distill.running.parsing import refuse_given
from distill.running.stages import asked_of_file
from distill.running.unread import OF_FILES, refuse_unread_files
from distill.teachers import LocalTeacher, ServerTeacher
from distill.teachers.server import is_address

ANSWERS = ("teacher", "written")
BESIDE = ".coverage.json"  # of a file of rows, behind its whole name: how they were made, and what became of each fact
# flags of `distill generate` that rows of documents have no use for; that a replay has; that its file of prompts has
NEVER = ("system", "teacher_system", "teacher_prompt_column", "plain", "samples", "num_prompts", "top_logprobs")
OF_REPLAY = ("prompts", "max_new_tokens", "temperature", "top_p", "top_k")
OF_PROMPTS = ("near", *OF_FILES)


@dataclass
class DocumentArguments:
    """Rows made of documents."""

    documents: str | None = field(
        default=None,
        metadata={"help": "Make training rows of the facts in a folder or file of documents, in place of prompts."},
    )
    mode: str = field(
        default="closed", metadata={"help": f"What the student is shown beside a question: {', '.join(MODES)}."}
    )
    replay: float = field(
        default=0.0,
        metadata={"help": "Share of the rows that are answers to other prompts (--prompts, or its own), as 0.1."},
    )
    answers: str = field(
        default="teacher",
        metadata={
            "help": "teacher: what it says with the passage in sight, in its own tokens; written: the short answers that it wrote."
        },
    )
    questions: int = field(default=2, metadata={"help": "Questions written about each sentence of the documents."})
    wordings: int = field(default=4, metadata={"help": "Wordings of a fact's question at most."})
    passages: int | None = field(
        default=None, metadata={"help": "Ask about only so many passages of the documents, chosen by a hash."}
    )
    document_column: str | None = field(
        default=None, metadata={"help": "Column with the words, of documents that are rows; unsaid: recognised."}
    )
    suffixes: str | None = field(default=None, metadata={"help": "Files also read as text, as .py,.html."})
    exclude: str | None = field(default=None, metadata={"help": "Paths left out of the folder, as old/*,*.csv."})


def check_documents(args: Any) -> None:
    """Look at these flags before anything is loaded or asked.

    Args:
        args: of a recipe: `DocumentArguments` and the flags of `distill generate`.

    Raises:
        ValueError: a flag that nobody reads with documents, or without; a mode or a share that is none; a server that is to write
            prompts; an output that is no file of rows, or that holds rows of something else.
    """
    if args.documents is None:
        own = [f.name for f in dataclasses.fields(DocumentArguments) if f.name != "documents"]
        refuse_given(args, own, "only rows of documents have this; name them with --documents, or leave it out.")
        return
    Setting(args.mode)
    if args.answers not in ANSWERS:
        raise ValueError(f"answers is {args.answers!r}; it must be one of {', '.join(ANSWERS)}.")
    if not 0 <= args.replay < 1:
        raise ValueError(f"replay is {args.replay}; it is a share of all rows, from 0 to below 1.")
    refuse_given(
        args,
        NEVER,
        "rows of documents are asked in words and with settings of their own, and do not read this; leave it out, or leave "
        "--documents out.",
    )
    if not args.replay:
        refuse_given(
            args,
            (*OF_REPLAY, *OF_PROMPTS),
            "with --documents only a replay of other prompts reads this, everything else is asked with "
            "settings of its own; give --replay, too, or leave it out.",
        )
    refuse_unread_files(args)
    if not args.prompts:
        refuse_given(args, ("near",), "only a file of prompts is read so; give one with --prompts, or leave it out.")
    if args.replay and not args.prompts and is_address(args.teacher):
        raise ValueError(
            "--replay asks other prompts, and a teacher behind a server writes none; give a file with --prompts."
        )
    if output_kind(args.output) == FOLDER:
        raise ValueError(f"--output {args.output}: rows of documents are written as .jsonl, .jsonl.gz or .parquet.")
    _check_output(args)


def documents_of(args: Any) -> Documents:
    """The documents of `--documents`, read as the flags beside it say; what of the folder is none is told."""
    return Documents.read(
        args.documents, text=args.document_column, suffixes=_listed(args.suffixes), exclude=_listed(args.exclude)
    )


def read_documents(args: Any) -> Documents:
    """The documents of `--documents`.

    Raises:
        ValueError: as `Documents.read`; a mode that shows other passages, and there are none.
    """
    documents = documents_of(args)
    there = sum(len(passages_of(document)) for document in documents)
    taken = there if args.passages is None else min(there, args.passages)
    if args.mode == "raft" and taken < 2:
        raise ValueError(
            f"--mode raft shows a question's passage among others, and of {args.documents} there is {taken} passage; give more documents, or "
            "--mode closed."
        )
    return documents


def rows_of_documents(
    args: Any, teacher: LocalTeacher | ServerTeacher, documents: Documents, share: bool = False
) -> None:
    """Make training rows of documents, and write them with what became of each fact.

    What the teacher writes stands in journals beside the output (`.questions.jsonl`, `.wordings.jsonl`, `.reversed.jsonl`,
    `.answers.jsonl` or `.asked_back.jsonl`, `.replay.jsonl`): the same call after an interruption asks for nothing twice. The rows are then made of what
    is there, and the file appears whole.

    Args:
        args: see `check_documents`.
        teacher: who writes questions and answers.
        documents: of `read_documents`.
        share: every process of this run makes this call.

    Raises:
        ValueError: the teacher wrote nothing that can be used (with what it was turned down for); as `generate`.
    """
    # now, and not when everything else was paid for: the file may be a bad one
    prompts = asked_of_file(args, None, args.output)[0] if args.replay and args.prompts else None
    asking = {
        "batch_size": 32 if args.batch_size is None else args.batch_size,
        "allow_refusals": args.allow_refusals,
        "share": share,
    }
    facts, coverage = facts_of_documents(
        teacher,
        documents,
        wordings=args.wordings,
        samples=args.questions,
        alterations=3 if args.mode == "mixed" else 0,
        chunks=args.passages,
        ask_back=args.answers == "written",  # else every row is answered below, with the same prompt
        seed=args.seed,
        output=args.output,
        **asking,
    )
    made = rows_of_facts(facts, Setting(args.mode, args.seed))
    if args.answers == "written":
        coverage.count(made)
        rows = Rows([{**row, "teacher": teacher.name, "token_source": "text"} for row in made], coverage)
    else:
        tell(f"Answers of {len(made):,} rows, each with its passage in sight.")
        rows = answered(teacher, made, coverage, output=f"{args.output}.answers.jsonl", **asking)
    if args.replay:
        sampling = {name: getattr(args, name) for name in ("max_new_tokens", "temperature", "top_p", "top_k", "seed")}
        beside = f"{args.output}.replay.jsonl"
        rows = with_replay(rows, teacher, args.replay, prompts=prompts, output=beside, **sampling, **asking)
    if processes.is_main():
        documents_of = {fact.id: fact.passage.document for fact in facts}
        _write(args, rows, rows.pairs(teacher.tokenizer), documents, documents_of)


def _write(
    args: Any, rows: Rows, pairs: datasets.Dataset, documents: Documents, documents_of: Mapping[str, str]
) -> None:
    """The rows, and before them what stands beside them: a file that is there was made as they say."""
    output = Path(args.output)
    by_document = dict.fromkeys((document.id for document in documents), 0)
    by_document.update(Counter(documents_of[row["fact"]] for row in rows.rows if row["fact"]))
    by_mode = Counter(row["mode"] for row in rows.rows)
    told = {
        "settings": _settings(args),
        "fingerprint": documents.fingerprint,
        "modes": by_mode,
        "documents": by_document,
        "aside": documents.aside,
        **rows.coverage.as_dict(),
    }
    before = _beside(output)
    if output.exists() and before.get("fingerprint") != documents.fingerprint:
        tell(
            f"The documents are not those that the rows of {output} were made of; it is made anew of what they say now."
        )
    part = output.with_name(f"part-of-{output.name}")
    part.unlink(missing_ok=True)
    save_pairs(pairs, part)
    journal = "answers" if args.answers == "teacher" else "asked_back"
    write_steps(output, [*rows.coverage.steps(), rows.coverage.facts_step()], source=f"{output}.{journal}.jsonl")
    write_durably(_path_beside(output), json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    os.replace(part, output)
    say(_summary(rows.coverage, pairs, output, by_mode, by_document))


def _summary(
    coverage: Coverage,
    pairs: datasets.Dataset,
    output: Path,
    by_mode: Mapping[str, int],
    by_document: Mapping[str, int],
) -> str:
    described = describe_pairs(pairs)
    longest, shown = described["longest_row"], described["teacher_prompts"]["longest"]
    ends = pairs["finish_reason"][:]
    stopped = ends.count("stop")
    modes = ", ".join(f"{mode} {count:,}" for mode, count in by_mode.items())
    lines = [
        coverage.table(),
        f"{len(ends):,} rows in {output} ({modes}); {stopped:,} ended by themselves, {len(ends) - stopped:,} were cut.",
    ]
    room = DataArguments.max_length
    lines.append(
        f"The longest row has {longest:,} tokens, the longest prompt of the teacher {shown:,}"
        + (f"; train with --max_length {longest} or more ({room} if unsaid)." if longest > room else ".")
    )
    if without := [name for name, count in by_document.items() if not count]:
        named = ", ".join(without[:12]) + (f" and {len(without) - 12:,} more" if len(without) > 12 else "")
        lines.append(f"No row is left of {len(without):,} of {len(by_document):,} documents: {named}.")
    return "\n".join(lines)


def _settings(args: Any) -> dict[str, Any]:
    """What decides the rows of the same documents; the teacher and its sampling stand in the journals."""
    names = ("mode", "answers", "questions", "wordings", "passages", "replay", "seed")
    of_replay = ("max_new_tokens", "temperature", "top_p", "top_k") if args.replay else ()
    return {name: getattr(args, name) for name in (*names, *of_replay)}


def _check_output(args: Any) -> None:
    output = Path(args.output)
    if not output.exists():
        return
    there, wanted = _beside(output).get("settings"), _settings(args)
    if not isinstance(there, dict):
        raise ValueError(
            f"{output} is there, and {_path_beside(output).name}, by which rows of documents are known, is not beside it; give another "
            "--output."
        )
    if changed := differences(there, wanted):
        raise ValueError(
            f"{output} holds rows that were made otherwise ({'; '.join(changed)}). Give another --output, or move this file away: what the teacher wrote "
            "stands in the journals beside it, and is not asked for again."
        )


def _path_beside(output: Path) -> Path:
    return output.with_name(f"{output.name}{BESIDE}")


def _beside(output: Path) -> dict[str, Any]:
    try:
        found = json.loads(_path_beside(output).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _listed(flag: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (flag or "").split(",") if part.strip())
