"""YAML read so that a text stays what was written: `no`, `007`, `1.10` and `2020-01-01` are texts here.

YAML 1.1 makes a truth value, a 7, a 1.1 and a day of them. Taken for something else than a text is only what JSON would write in the
same letters: `true`, `false`, `null`, `42`, `1.5`; whoever needs it as text (a prompt, say) has those letters again (`cells`).
"""

import json
import math
from collections.abc import Iterator
from typing import IO, Any

import yaml

from distill.pairs.blocks import BadRow, Row

_SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_PLAIN = "!plain"
_KNOWN = {_PLAIN, *(_TAG + name for name in ("map", "seq", "str", "int", "float", "bool", "null"))}
_NULLS = ("", "~", "null")


class _Loader(_SAFE):
    """A safe loader that builds a value from what was written, and takes no plain word for anything but `<<`."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is not yaml.ScalarNode:
            return super().resolve(kind, value, implicit)
        return _TAG + "str" if not implicit[0] else _TAG + "merge" if value == "<<" else _PLAIN

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.tag in (_PLAIN, _TAG + "str"):
            return _said(node)
        if node.tag not in _KNOWN:
            kind = node.tag.removeprefix(_TAG)
            raise _Refused(node, f"the type {kind!r} is none of JSON's; write it as text, in quotes")
        value = super().construct_object(node, deep=True)
        if isinstance(value, float) and not math.isfinite(value):
            raise _Refused(node, f"{node.value} is no number of JSON")
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        if not isinstance(node, yaml.MappingNode):
            raise _Refused(node, "an object was expected")
        own = [key.value for key, _ in node.value if key.tag != _TAG + "merge" and isinstance(key, yaml.ScalarNode)]
        if repeated := next((name for name in own if own.count(name) > 1), None):
            raise _Refused(node, f"the name {repeated!r} stands twice; keep one of the two")
        self.flatten_mapping(node)  # `<<`
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Refused(key, "a name is a list or an object; names are texts")
            key.tag = _TAG + "str"  # a name is what was written: 1, no and null are names
        return super().construct_mapping(node, deep=True)


class _Refused(yaml.YAMLError):
    def __init__(self, node: Any, why: str) -> None:
        super().__init__(why)
        self.line = node.start_mark.line + 1


_Loader.add_constructor(_TAG + "map", _Loader.construct_mapping)
_Loader.add_constructor(_TAG + "seq", lambda loader, node: loader.construct_sequence(node, deep=True))


def read_yaml(file: IO[bytes], path: str) -> Any:
    """`(root, rows)`: the object that a file holds, or None, and of a list its items with where each stands.

    Args:
        file: its bytes.
        path: for messages.

    Raises:
        ValueError: no YAML; a value that is none of JSON's, or a name that stands twice, in an object that is no list's item.
    """
    text = file.read().decode("utf-8-sig")
    if "\x85" in text:
        line = text[: text.index("\x85")].count("\n") + 1
        raise ValueError(f"{path}:{line}: YAML takes U+0085 for the end of a line; write it as \\x85 in double quotes.")
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if isinstance(root, yaml.SequenceNode):
                return None, list(_items(loader, root, path, text))
            return None if root is None else loader.construct_object(root), []
        finally:
            loader.dispose()
    except _Refused as error:
        raise ValueError(f"{path}:{error.line}: {error}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: not YAML ({error}).") from None


def _items(loader: Any, root: Any, path: str, text: str) -> Iterator[tuple[str, Row]]:
    for node in root.value:
        where = f"{path}:{node.start_mark.line + 1}"
        try:
            value = loader.construct_object(node)
        except _Refused as error:
            lines = text.split("\n")[node.start_mark.line : node.end_mark.line + (node.end_mark.column > 0)]
            yield where, BadRow(f"{path}:{error.line}: {error}.", "\n".join(lines))
        else:
            yield where, value


def _said(node: Any) -> Any:
    text = node.value
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise _Refused(node, "half of a character (a lone surrogate) is no text")
    if node.tag != _PLAIN:  # in quotes, a block, or `!!str`
        return text
    if text in _NULLS:
        return None
    if text in ("true", "false") or text[:1] in "-0123456789":
        try:
            value = json.loads(text)
        except ValueError:
            return text
        return value if json.dumps(value) == text else text
    return text
