"""Flags parsed into dataclasses, with `--config file.yaml` of the same names; without torch."""

import argparse
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


def _config_parser() -> Any:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return parser
