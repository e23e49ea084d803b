"""Flags of private data, and the key of its stand-ins."""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import datasets

from distill.basics.curation_step import Step
from distill.basics.processes import say
from distill.curation.private.kinds import KINDS, check_private, kinds_of
from distill.curation.private.phones import REGIONS
from distill.curation.private.step import WAYS, clean_private
from distill.curation.rows import one_of
from distill.running.pairs_tokenizer import known_tokenizer
from distill.running.parsing import refuse_given

_FLAGS = ("private_kinds", "private_regions", "private_key")


@dataclass
class PrivateArguments:
    """What becomes of personal data and secrets."""

    private: str | None = field(
        default=None, metadata={"help": "Personal data and secrets: report, replace by stand-ins, drop the rows."}
    )
    private_kinds: list[str] = field(
        default_factory=list, metadata={"help": f"Only these: {', '.join(KINDS)}; unsaid: all."}
    )
    private_regions: list[str] = field(
        default_factory=list,
        metadata={"help": f"Countries whose phone numbers stand without their code; unsaid: {' '.join(REGIONS)}."},
    )
    private_key: str | None = field(
        default=None,
        metadata={
            "help": "File with the key of the stand-ins, made if it is not there: the same in all files that share it."
        },
    )


def private_cleaner(
    args: PrivateArguments, tokenizer: str | None
) -> Callable[[datasets.Dataset], tuple[datasets.Dataset, Step]] | None:
    """The step that is asked for, its flags looked at before anything is read; None where none is.

    Args:
        args: the flags.
        tokenizer: the model whose tokens the pairs' ids are; unsaid: the teacher, where it lies here.

    Raises:
        ValueError: an unknown way or kind, a missing package, flags without `--private`.
    """
    if args.private is None:
        refuse_given(
            args, _FLAGS, "only private data have this; say what becomes of them, as --private report, or leave it out."
        )
        return None
    way = args.private
    one_of("private", way, WAYS)
    check_private()
    kinds = kinds_of(args.private_kinds)
    if way != "replace":
        refuse_given(args, ("private_key",), "only stand-ins have a key; say --private replace, or leave it out.")
    key = None if args.private_key is None else read_key(args.private_key)

    def clean(pairs: datasets.Dataset) -> tuple[datasets.Dataset, Step]:
        return clean_private(
            pairs, way, kinds=kinds, regions=args.private_regions or REGIONS, key=key, tokenizer=known_tokenizer(pairs, tokenizer)
        )  # fmt: skip

    return clean


def read_key(path: str | os.PathLike[str]) -> bytes:
    """The key in a file; where there is no such file, a new one that only its owner can read.

    Raises:
        ValueError: the file has fewer than 16 characters.
    """
    file = Path(path)
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as new:
            new.write(secrets.token_hex(32) + "\n")
        say(f"{file} is new: the key of the stand-ins. Who has it can try values; keep it, and not beside the pairs.")
    except FileExistsError:
        pass
    key = file.read_bytes().strip()
    if len(key) < 16:
        raise ValueError(f"private_key: {file} has {len(key)} characters; a key has 16 at least, or it can be guessed.")
    return key
