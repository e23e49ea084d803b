"""Start quickly: names of a package imported when they are first asked for, and a command that does without torch."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """`__getattr__` of a package (PEP 562): a name is imported from its module when it is first asked for.

    Args:
        package: the package's `__name__`.
        homes: name -> full name of the module that defines it.

    Example:
        >>> __getattr__ = lazy_names(__name__, {"load_model": "distill.models.load"})
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return find


def do_without_torch() -> None:
    """Let `transformers` take this process for one in which torch is not installed, as its tokenizers run without it.

    Else whatever chooses a tokenizer's class imports torch for the sake of models: 3 s. For commands that end when they have
    looked at text; where torch or `transformers` is loaded already, nothing is changed.
    """
    if "torch" in sys.modules or "transformers" in sys.modules:
        return
    advice = "TRANSFORMERS_NO_ADVISORY_WARNINGS"  # that there is no torch, which is meant
    told = os.environ.get(advice)
    os.environ[advice] = "1"
    sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own way to say: not to be found
    try:
        importlib.import_module("transformers").utils.is_torch_available()
    finally:
        del sys.modules["torch"]
        if told is None:
            del os.environ[advice]
