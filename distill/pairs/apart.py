"""Apart: training and held-out pairs have no prompt in common, or what is measured on the latter is what was learned by heart."""

import json
from collections.abc import Sequence
from typing import Any

import datasets

from distill.pairs.batches import column
from distill.pairs.groups import ids_digests, rows_by_prompt


def rows_by_question(pairs: datasets.Dataset) -> list[list[int]]:
    """Rows that ask the same, each group in the order of the file; groups in the order in which they first appear.

    The same are prompts with the same ids, and those that differ in case and blanks alone: samples and copies of one question.

    Example:
        >>> questions = len(rows_by_question(pairs))
    """
    by_ids = list(rows_by_prompt(pairs).values())
    found: dict[str, list[int]] = {}
    for rows, key in zip(by_ids, _said(pairs, [rows[0] for rows in by_ids]), strict=True):
        found.setdefault(key, []).extend(rows)
    return [sorted(rows) for rows in found.values()]


def check_apart(train: datasets.Dataset, held_out: datasets.Dataset) -> None:
    """Refuse sides that have a prompt in common, by its ids or but for case and blanks.

    A model that has seen an answer to a prompt knows this prompt, whatever other sample of it is held out.

    Args:
        train, held_out: pairs.

    Raises:
        ValueError: says how many prompts and rows, shows one, and the way out.

    Example:
        >>> check_apart(*split_pairs(pairs, 16))
    """
    ids = set(ids_digests(train, "prompt_ids"))
    same = {row for row, prompt in enumerate(ids_digests(held_out, "prompt_ids")) if prompt in ids}
    said = set(_said(train, range(len(train))))
    theirs = _said(held_out, range(len(held_out)))
    both = sorted(same | {row for row, key in enumerate(theirs) if key in said})
    if not both:
        return
    count = len({theirs[row] for row in both})
    raise ValueError(
        f"{len(both)} of {len(held_out)} held-out pairs, of {count} prompts, have a prompt that is trained as well (e.g. {held_out[both[0]]['prompt']!r:.120}), so they "
        "tell what was learned by heart. Split by prompts (distill.running.stages.split_pairs, which puts all samples of a prompt on one side), or leave "
        "these out of one side."
    )


def _said(pairs: datasets.Dataset, rows: Sequence[int]) -> list[str]:
    """Prompts of some rows, with tools that may be called, without case and blanks; of a prompt without words its ids."""
    names = [name for name in ("prompt", "tools") if name in pairs.column_names]
    chosen = pairs.select(rows) if len(rows) < len(pairs) else pairs
    told = zip(*(column(chosen, name).to_pylist() for name in names), strict=True)
    ids = column(chosen, "prompt_ids").to_pylist()
    return [_key(values) if values[0] else f"ids {numbers}" for values, numbers in zip(told, ids, strict=True)]


def _key(values: tuple[Any, ...]) -> str:
    return json.dumps(_plain(values), sort_keys=True, ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    """Every text in it without case and without blanks that say nothing."""
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
