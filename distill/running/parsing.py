"""Flags parsed into dataclasses, with `--config file.yaml` of the same names; without torch."""

import argparse
from typing import Any

import yaml
from transformers import HfArgumentParser


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
    names = {action.dest for action in parser._actions}
    config, _ = _config_parser().parse_known_args(argv)
    if config.config:
        parser.set_defaults(**_read_yaml(config.config, names))
    *parsed, _ = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    return tuple(parsed)


def _config_parser() -> Any:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return parser


def _read_yaml(path: str, names: set[str]) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file) or {}
    except OSError as error:
        raise ValueError(f"Cannot read --config {path}: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"--config {path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"--config {path} must hold names and values, not a {type(values).__name__}.")
    if unknown := sorted(set(map(str, values)) - names):
        raise ValueError(f"--config {path} names {', '.join(unknown)}, which are no flags of this recipe; see --help.")
    return values
