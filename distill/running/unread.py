"""Unread flags: what nobody reads beside the others is refused by its name, with the way out."""

import dataclasses
from typing import Any

from distill.running.flags import ServerArguments
from distill.running.parsing import refuse_given

OF_FILES = ("columns", "split", "limit", "skip_bad")
_OF_ASKING = ("prompts", "num_prompts", "near", "max_new_tokens", "temperature", "generation_seed")
_OF_SERVERS = tuple(f.name for f in dataclasses.fields(ServerArguments))


def refuse_unread(args: Any) -> None:
    """Refuse flags of a training that nothing reads beside the others.

    Args:
        args: a recipe's: `DataArguments` and what else it has.

    Raises:
        ValueError: flags of asking beside ready pairs; of files without one; of conversations without pairs; of a student that is cut
            beside a named one.
    """
    if args.pairs:
        refuse_given(
            args,
            (*_OF_ASKING, *_OF_SERVERS),
            "this says how a teacher is asked, and --pairs are answered already; leave it out, or --pairs.",
        )
    else:
        refuse_given(
            args, ("turns",), "this is for conversations among ready pairs; give them with --pairs, or leave it out."
        )
        refuse_unread_files(args)
    refuse_unread_cut(args)


def refuse_unread_cut(args: Any) -> None:
    """Refuse flags of how a student is cut, where one is named.

    Raises:
        ValueError: some are given.
    """
    if args.student:
        refuse_given(
            args,
            ("layers", "strategy"),
            "this says how a student is cut from the teacher, and --student names one; leave one of them out.",
        )


def refuse_unread_files(args: Any) -> None:
    """Refuse flags of how a file of prompts is read, where there is none.

    Raises:
        ValueError: some are given.
    """
    if not args.prompts:
        refuse_given(
            args,
            OF_FILES,
            "this says how a file of prompts is read, and there is none; give one with --prompts, or leave it out.",
        )


def refuse_unread_teacher(args: Any) -> None:
    """Refuse a teacher that is neither asked nor cut nor matched: of a black box, beside ready pairs and a named student.

    Raises:
        ValueError: one is given.
    """
    if args.pairs and args.student:
        refuse_given(
            args,
            ("teacher", "teacher_bits"),
            "nobody is asked, because --pairs are answered already, and no student is cut, because "
            "--student names one; leave it out.",
        )
