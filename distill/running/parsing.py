"""Flags parsed into dataclasses, with `--config file.yaml` of the same names; without torch."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from transformers import HfArgumentParser

from distill.running.config_file import read_config


def parse(
    dataclass_types: Any, argv: list[str] | None, *, defaults: dict[str, Any], description: str | None
) -> tuple[Any, ...]:
    """Parse flags into dataclasses.

    Args:
        dataclass_types: as for `transformers.HfArgumentParser`.
        argv: the flags; `None` takes those of the command line.
        defaults: of this recipe, where they differ from the dataclasses'.
        description: shown by `--help`.

    Raises:
        ValueError: a config file that cannot be read, or names something that is no flag.
    """
    parser = HfArgumentParser(
        dataclass_types,
        usage="%(prog)s [flags]   (--help lists them)",
        description=description,
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="YAML file with the same names as these flags; a flag wins over the file.")
    parser.set_defaults(**defaults)
    config, _ = _config_parser().parse_known_args(argv)
    if config.config:
        parser.set_defaults(**read_config(config.config, parser, dataclass_types))
    *parsed, _ = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
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


def _config_parser() -> Any:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return parser
