"""`--config file.yaml`: values as they are written there, given to the flags' own types.

YAML guesses: `no` (Norwegian) is false, `1e-4` a text, `007` a number. Here a value is the text that stands in the file, and the flag of its name
reads it as it would on the command line. A flag that takes several values takes one without a list, too.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_type_hints

import yaml

BY_COMMA = ("objectives", "lora_targets", "against_columns")  # one text in which several names are divided by commas
BY_EQUALS = ("columns",)  # and one of name=value


def read_config(path: str, parser: argparse.ArgumentParser, dataclass_types: Any) -> dict[str, Any]:
    """The values of a YAML file by flag.

    Args:
        path: the file.
        parser: of the flags.
        dataclass_types: whose fields they are.

    Raises:
        ValueError: not readable, not YAML, a name that is no flag or stands twice, a value that is none of the flag's.
    """
    values = list(_values(path))
    actions = {action.dest: action for action in reversed(parser._actions)}  # --x before --no_x
    hints = {name: hint for kind in dataclass_types for name, hint in get_type_hints(kind).items()}
    found: dict[str, Any] = {}
    for name, node, value in values:
        if name not in actions or name in ("config", "help"):
            raise ValueError(f"--config {path} names {name}, which is no flag of this recipe; see --help.")
        if name in found:
            raise ValueError(f"--config {path} names {name} twice; keep one of the two.")
        try:
            found[name] = _value(name, node, value, actions[name], hints.get(name))
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"--config {path}: {name} is {_short(value)}; {error}") from None
    return found


def _values(path: str) -> Iterator[tuple[str, Any, Any]]:
    """`(name, value as texts, value as YAML takes it)`."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            loader = yaml.SafeLoader(file)
            root = loader.get_single_node()
            if root is None:
                return
            if not isinstance(root, yaml.MappingNode):
                kind = type(loader.construct_document(root)).__name__
                raise ValueError(f"--config {path} must hold names and values, not a {kind}.")
            for key, node in root.value:
                yield str(key.value), _as_written(node), loader.construct_document(node)
    except OSError as error:
        raise ValueError(f"Cannot read --config {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"--config {path} is not text in UTF-8 ({error}).") from None
    except yaml.YAMLError as error:
        raise ValueError(f"--config {path} is not YAML: {error}") from None


def _as_written(node: Any) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _as_written(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_as_written(one) for one in node.value]
    is_null = node.style is None and node.value in ("", "~", "null", "Null", "NULL")
    return None if is_null else node.value


def _value(name: str, written: Any, value: Any, action: argparse.Action, hint: Any) -> Any:
    if written is None:
        if action.default is not None and type(None) not in get_args(hint):
            raise ValueError("leave the line out to have the default.")
        return None
    if isinstance(value, bool) and (hint is bool or bool in get_args(hint)):
        return value  # YAML has more words for it than the command line
    if isinstance(written, Mapping):
        if name in BY_EQUALS:
            return ",".join(f"{key}={one}" for key, one in written.items())
        if action.type is not str or "dict" not in str(hint):
            raise ValueError("this flag takes no names and values.")
        return json.dumps(value)
    if action.nargs in ("+", "*"):
        return [_one(one, action) for one in (written if isinstance(written, list) else [written])]
    if isinstance(written, list):
        if name in BY_COMMA:
            return ",".join(_text(one) for one in written)
        if "list[" in str(hint):
            return [_text(one) for one in written]
        raise ValueError("this flag takes one value and no list; if brackets are part of a text, put it in quotes.")
    return _one(written, action)


def _one(written: Any, action: argparse.Action) -> Any:
    text = _text(written)
    if action.type is int:
        number = float(text)
        if not number.is_integer():
            raise ValueError("a whole number is expected.")
        return int(text) if text.lstrip("+-").isdecimal() else int(number)
    made = text if action.type is None else action.type(text)  # type: ignore[operator]
    if action.choices is not None and made not in action.choices:
        raise ValueError(f"expected one of {', '.join(map(str, action.choices))}.")
    return made


def _text(written: Any) -> str:
    if not isinstance(written, str):
        raise ValueError("a single value is expected.")
    return written


def _short(value: Any) -> str:
    return f"{value!r:.80}"
