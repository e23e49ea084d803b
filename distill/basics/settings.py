"""Which settings decide what a run ends with, and how two sets of them differ: one notion for run folders and checkpoints."""

import dataclasses
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from transformers import TrainingArguments

# Settings of TrainingArguments that do not decide the result of a run, by how their names begin: it may be continued with
# other values of them. Everything else counts, settings that a later version of transformers adds too.
INCIDENTAL = (
    "output_dir",
    "logging_",
    "log_",
    "disable_tqdm",
    "report_to",
    "run_name",
    "project",
    "trackio_",
    "save_",
    "resume_from_checkpoint",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
    "hub_",
    "push_to",
    "do_",
    "include_",
    "skip_memory_metrics",
    "torch_empty_cache_steps",
    "enable_jit_checkpoint",
    "local_rank",
    "ddp_timeout",
    "_n_gpu",
)

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def training_settings(training: TrainingArguments) -> dict[str, Any]:
    """The settings of `TrainingArguments` that decide the result."""
    return {name: value for name, value in training.to_dict().items() if not name.startswith(INCIDENTAL)}


def plain(value: Any) -> Any:
    """A value as JSON holds it: sets in order, tuples as lists, dataclasses as mappings, the rest by its name or text.

    What has an address in its text, another one in every process, is told by its class alone.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(plain, value), key=str)
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    found = json.loads(json.dumps(value, default=str))
    # text that it is not itself: of an object that says where it lies, which is elsewhere next time
    is_address = isinstance(found, str) and not isinstance(value, str) and _ADDRESS.search(found)
    return type(value).__qualname__ if is_address else found


def differences(there: Mapping[str, Any], now: Mapping[str, Any], allowed: Collection[str] = ()) -> list[str]:
    """`"name: a there, b now"` of every setting that differs; parts of a setting are named `setting.part`.

    A setting that is missing on one side counts as None there. Incidental ones that only an older file has do not count.

    Args:
        there, now: plain values by name, and mappings of them.
        allowed: names that may differ, whole (`"training"`) or in part (`"training.max_steps"`).
    """
    old, new = _flat(there), _flat(now)
    names = [
        name
        for name in {**old, **new}
        if old.get(name) != new.get(name)
        and (name in new or not name.rpartition(".")[2].startswith(INCIDENTAL))
        and not any(name == free or name.startswith(f"{free}.") for free in allowed)
    ]
    return [f"{name}: {old.get(name)!r} there, {new.get(name)!r} now" for name in names]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
