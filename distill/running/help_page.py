"""What `--help` shows: a verb's own flags, in groups, on one screen; `--help_all` has those of `TrainingArguments`, too.

The command prints the page of a verb without importing the recipe, whose flags stand in `recipes/help.json`; `scripts/help_pages.py` writes that file, and a
test holds it against the flags.
"""

import argparse
import dataclasses
import inspect
import json
import shutil
import textwrap
from collections.abc import Sequence
from importlib import resources
from typing import Any

WIDTH = 120  # longest line, on a wide terminal
SCREEN = 60  # lines of a page; of longer ones the last groups show names alone
COLUMN = 30  # where what is said of a flag begins
TRAINING = "TrainingArguments"
# of the many flags of TrainingArguments, those that nearly every run sets
OFTEN = (
    "output_dir", "num_train_epochs", "max_steps", "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "bf16",
    "gradient_checkpointing", "save_steps", "eval_strategy", "logging_steps", "seed", "report_to",
)  # fmt: skip


def page_of(parser: argparse.ArgumentParser, kinds: Sequence[type], description: str | None) -> dict[str, Any]:
    """A verb's flags as plain values, by the dataclass that names each; the recipe's own first.

    Args:
        parser: with the recipe's defaults.
        kinds: dataclasses of the flags.
        description: the recipe's docstring.
    """
    actions = {action.dest: action for action in reversed(parser._actions)}  # --x before --no_x
    groups: list[dict[str, Any]] = []
    for kind in kinds:
        if kind.__name__ == TRAINING and len(kinds) > 1:
            continue
        for home in kind.__mro__:
            own = [f.name for f in dataclasses.fields(kind) if f.name in inspect.get_annotations(home)]
            told = [flag["name"] for group in groups for flag in group["flags"]]
            if flags := [_flag(actions[name]) for name in own if name not in told]:
                groups.append({"title": (home.__doc__ or "").split("\n")[0].rstrip("."), "flags": flags})
    often = []
    if any(kind.__name__ == TRAINING for kind in kinds[1:]):
        # those that depend on the machine are shown without a value
        often = [name if name in ("bf16",) else f"{name} {_said(parser.get_default(name))}".strip() for name in OFTEN]
    return {"description": (description or "").strip(), "groups": groups, "training": often}


def show_page(page: dict[str, Any], program: str, width: int | None = None, screen: int = SCREEN) -> str:
    """A page as text.

    Args:
        page: of `page_of`.
        program: as it was called, such as `distill clean`.
        width: of a line; None: the terminal's.
        screen: lines of it, from which on the last groups show names alone; 0: all are described.
    """
    width = min(width or shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)
    begin = [f"usage: {program} [flags]", "", *_paragraphs(page["description"], width)]
    titles = [["", f"{group['title']}:"] for group in page["groups"]]
    told = [[line for flag in group["flags"] for line in _flag_lines(flag, width)] for group in page["groups"]]
    short = [_names([flag["name"] for flag in group["flags"]], width) for group in page["groups"]]
    end = ["", "  --config file.yaml".ljust(COLUMN) + "The same names in a YAML file; a flag wins over it."]
    if page["training"]:
        end += ["", "Of the training (transformers.TrainingArguments), with their values if they are not given:"]
        end += _names(page["training"], width)
    end.append("  --help_all".ljust(COLUMN) + "What each flag does, and all of the training's.")
    shown = list(told)
    for place in range(len(shown) - 1, 0, -1):
        if not screen or len(begin) + sum(map(len, (*titles, *shown))) + len(end) <= screen:
            break
        shown[place] = short[place]
    return "\n".join(
        [*begin, *(line for title, lines in zip(titles, shown, strict=True) for line in (*title, *lines)), *end]
    )


def show_flags(page: dict[str, Any], width: int | None = None) -> str:
    """All flags of a page, described."""
    width = min(width or shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)
    return "\n".join(line for group in page["groups"] for flag in group["flags"] for line in _flag_lines(flag, width))


def kept_page(verb: str) -> dict[str, Any] | None:
    """The page of a verb as it is kept beside the recipes; None where there is none."""
    file = resources.files("distill.recipes").joinpath("help.json")
    if not file.is_file():
        return None
    found: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")).get(verb)
    return found


def _flag(action: argparse.Action) -> dict[str, Any]:
    is_switch = action.nargs == "?"
    return {
        "name": action.dest,
        "is_switch": is_switch,
        "takes": "" if is_switch else "{" + ",".join(map(str, action.choices)) + "}" if action.choices else _takes(action),
        "help": (action.help or "").strip(),
        "default": None if is_switch and action.default is False else _said(action.default) or None,
    }  # fmt: skip


def _takes(action: argparse.Action) -> str:
    kind = {"int": "N", "float": "X"}.get(getattr(action.type, "__name__", ""), "TEXT")
    return f"{kind} ..." if action.nargs in ("+", "*") else kind


def _said(value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(getattr(value, "value", value))


def _names(names: Sequence[str], width: int) -> list[str]:
    text = "  ".join(f"--{name}".replace(" ", "\xa0") for name in names)
    return [line.replace("\xa0", " ") for line in _wrap(text, width, "  ")]


def _flag_lines(flag: dict[str, Any], width: int) -> list[str]:
    is_on = flag["is_switch"] and flag["default"] == "True"
    left = f"  --{'no_' if is_on else ''}{flag['name']} {flag['takes']}".rstrip()
    said = flag["help"]
    if is_on:
        said = f"Not: {said}"
    elif flag["default"] is not None:
        said = f"{said} [{flag['default']}]"
    indent = " " * COLUMN
    if len(left) + 2 > COLUMN:
        return [left, *_wrap(said, width, indent)]
    first, *others = _wrap(said, width, indent) or [indent]
    return [(left.ljust(COLUMN) + first[COLUMN:]).rstrip(), *others]


def _paragraphs(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for part in text.split("\n\n"):
        # commands stand as they are, prose is filled
        lines += [*(part.split("\n") if part.startswith("    ") else _wrap(" ".join(part.split()), width, "")), ""]
    return lines[:-1]


def _wrap(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
