"""Configs of models, which may be a user's own: a dataclass, a namespace."""

from types import MemberDescriptorType
from typing import Any


def text_config_of(model: Any) -> Any:
    """The part of a model's config that is about its text; the whole of one of a class that has no such parts; None: it has no config.

    Args:
        model: without an adapter around it.
    """
    config: Any = getattr(model, "config", None)
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def set_cache(model: Any, value: bool) -> None:
    """Say whether a model keeps keys and values where nothing else is said, in its config and in the part about its text, which its layers read.

    With a cache transformers makes no mask that keeps packed pairs apart; `transformers.Trainer` sets the whole config alone.

    Args:
        model: without an adapter around it.
    """
    for config in (getattr(model, "config", None), text_config_of(model)):
        if config is not None:
            config.use_cache = value


def values_of_config(config: Any) -> dict[str, Any]:
    """All that a config says, by name, in whatever way it says it: with values of its own, slots, values of its class; nothing of None."""
    if hasattr(config, "to_dict") and not isinstance(config, type):
        return dict(config.to_dict())
    classes = reversed((config if isinstance(config, type) else type(config)).__mro__)
    found: dict[str, Any] = {}
    for one in classes:
        for name, value in vars(one).items():
            if not name.startswith("_") and (isinstance(value, MemberDescriptorType) or not hasattr(value, "__get__")):
                found[name] = value
    found = {name: getattr(config, name) for name in found if hasattr(config, name)}
    return found if isinstance(config, type) else found | getattr(config, "__dict__", {})
