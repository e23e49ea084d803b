"""Flags parsed into dataclasses, with `--config file.yaml` of the same names; without torch."""

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from distill.running.config_file import read_config
from distill.running.help_page import TRAINING, page_of, show_flags, show_page
from distill.running.telling import known_flags

program: str | None = None  # as the command was called; None: a script that runs by itself


def parse(
    dataclass_types: Any, argv: list[str] | None, *, defaults: dict[str, Any], description: str | None
) -> tuple[Any, ...]:
    """Parse flags into dataclasses.

    `--help` shows the recipe's own flags in groups, `--help_all` those of `TrainingArguments`, too.

    Args:
        dataclass_types: as for `transformers.HfArgumentParser`.
        argv: the flags; `None` takes those of the command line.
        defaults: of this recipe, where they differ from the dataclasses'.
        description: shown by `--help`.

    Raises:
        ValueError: a flag that there is not (the nearest is named); a config file that cannot be read, or names something that is no flag.
    """
    called = program or f"python {Path(sys.argv[0]).name}"
    parser = HfArgumentParser(
        dataclass_types,
        prog=called,
        usage="%(prog)s [flags]   (--help shows them)",
        description=description,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("--config", help="YAML file with the same names as these flags; a flag wins over the file.")
    parser.set_defaults(**defaults)
    given = list(sys.argv[1:] if argv is None else argv)
    if {"--help", "-h"} & set(given):
        print(show_page(page_of(parser, dataclass_types, description), called))
        raise SystemExit(0)
    if {"--help_all", "--help-all"} & set(given):
        print(show_page(page_of(parser, dataclass_types, description), called, screen=0))
        for kind in dataclass_types:
            if kind.__name__ == TRAINING:
                print(f"\nAll flags of transformers.TrainingArguments:\n{show_flags(page_of(parser, [kind], None))}")
        raise SystemExit(0)
    known_flags.update(action.dest for action in parser._actions)
    config, _ = _config_parser().parse_known_args(given)
    if config.config:
        parser.set_defaults(**read_config(config.config, parser, dataclass_types))
    *parsed, _, unknown = parser.parse_args_into_dataclasses(
        given, look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        _refuse_unknown(parser, unknown)
    return tuple(parsed)


def given_flags(args: Any, names: Sequence[str]) -> str:
    """Those of the flags that are not as they are unsaid, as one writes them; an empty text where there are none.

    Args:
        args: a recipe's.
        names: of flags; those that this recipe has not are passed over.
    """
    usual = {
        f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        for f in dataclasses.fields(args)
    }
    given = [name for name in names if name in usual and getattr(args, name) != usual[name]]
    return ", ".join(f"--no_{name}" if usual[name] is True else f"--{name}" for name in given)


def refuse_given(args: Any, names: Sequence[str], why: str) -> None:
    """Refuse flags that nothing reads beside the others: one that changes nothing is a misunderstanding.

    Args:
        args, names: see `given_flags`.
        why: behind the flags and a colon; ends with the way out.

    Raises:
        ValueError: some of them are given.
    """
    if given := given_flags(args, names):
        raise ValueError(f"{given}: {why}")


def _refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> None:
    flags = [option for action in parser._actions for option in action.option_strings]
    wrong = [one.split("=")[0] for one in unknown if one.startswith("-")]
    if not wrong:
        raise ValueError(
            f"{' '.join(unknown)}: no flag takes this. A text with blanks stands in quotes; --help shows the flags."
        )
    near = [difflib.get_close_matches(one.replace("-", "_").replace("__", "--", 1), flags, 1, 0.6) for one in wrong]
    told = [
        f"{one}" + (f" (did you mean {close[0]}?)" if close else "") for one, close in zip(wrong, near, strict=True)
    ]
    raise ValueError(f"There is no flag {', '.join(told)}; --help shows all.")


def _config_parser() -> Any:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return parser
