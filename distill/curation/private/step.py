"""The step of curation: private data in pairs reported, replaced, or the rows left out."""

import dataclasses
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from distill.basics.curation_step import Step
from distill.basics.fingerprint import fingerprint
from distill.curation.private.addresses import documented
from distill.curation.private.kinds import KINDS, Found, check_private, kinds_of
from distill.curation.private.looking import OWN_ID, Looker
from distill.curation.private.phones import REGIONS, fictions
from distill.curation.private.plain import plain
from distill.curation.private.standins import StandIns
from distill.curation.private.tokens import IDS, Swaps, Tokens
from distill.curation.private.walking import text_columns, walk_row
from distill.curation.rows import keep_rows, one_of
from distill.pairs.batches import batches
from distill.pairs.blocks import BLOCK_ROWS, rows_of_table
from distill.pairs.checking import checked_row
from distill.pairs.storing import Store
from distill.pairs.tables import table_of
from distill.pairs.tokens import are_tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WAYS = ("report", "replace", "drop")
_ROUNDS = 5
_EXAMPLES = 5


def clean_private(
    pairs: datasets.Dataset,
    do: str = "report",
    *,
    kinds: Sequence[str] = (),
    regions: Sequence[str] = REGIONS,
    key: bytes | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> tuple[datasets.Dataset, Step]:
    """Find personal data and secrets in every text of pairs, and say so, replace them, or leave their rows out.

    The same value gets the same stand-in in all rows, and in all files with the same key. A value that is found once in a row (because a
    word before it tells what it is) is replaced wherever it stands in that row. Token ids are changed with the text: only the words around a
    stand-in get new tokens, their `token_source` is `"text"`. No value is in what is returned but in the pairs; names of persons and
    addresses of houses are not found.

    Args:
        pairs: see `distill.pairs`.
        do: `"report"`, `"replace"` or `"drop"`.
        kinds: some of `distill.curation.private.kinds.KINDS`; all without any.
        regions: whose phone numbers are known without their country's code.
        key: of the stand-ins; 16 bytes at least. None: a new one that nobody keeps.
        tokenizer: of the pairs' ids; with it these are looked through, too.

    Raises:
        ValueError: a package is missing, an unknown `do`, kind or region, a short key; to replace something in token ids without their tokenizer,
            or with another one.

    Example:
        >>> pairs, step = clean_private(pairs, "replace", tokenizer=tokenizer)
        >>> print(step.settings["found"])
        12 e-mail addresses (9 different), 3 phone numbers (3 different)
    """
    check_private()
    one_of("private", do, WAYS)
    chosen, regions = kinds_of(kinds), _known_regions(regions)
    if key is not None and len(key) < 16:
        raise ValueError(
            f"The key of the stand-ins has {len(key)} bytes; it must have 16 at least, or it can be guessed."
        )
    if do == "replace" and tokenizer is not None and not are_tokens_of(pairs, tokenizer):
        raise ValueError(
            "The pairs' token ids do not decode to their text with this tokenizer; give the one that they are of."
        )
    tokens = None if tokenizer is None else Tokens(tokenizer)
    looker = Looker(chosen, regions, text_columns(pairs), tokens)
    seen = _seen(pairs, looker)
    settings: dict[str, Any] = {
        "do": do,
        "found": told(seen.counts, seen.values),
        "rows": len(seen.rows),
        "looked_for": ", ".join(chosen),
        "phone_regions": ", ".join(regions),
        "token_ids": "read" if tokens else "not read: without a tokenizer",
    }
    if seen.unread:
        settings["not_read"] = f"what {seen.unread} teachers were shown, which is there in token ids alone"
    examples = tuple(f"row {row}: {said}" for row, said in list(seen.rows.items())[:_EXAMPLES])
    if do == "drop":
        kept = np.ones(len(pairs), dtype=bool)
        kept[list(seen.rows)] = False
        effect = (
            "Distilled is the teacher given that nothing private is said; what is talked of beside it is missing, too."
        )
        pairs, step = keep_rows(pairs, kept, "private data", effect, settings, lambda row: "")
        return pairs, dataclasses.replace(step, examples=examples)
    if do == "report" or not seen.rows:
        effect = f"Nothing is changed. Found: {settings['found']}." if seen.rows else "Nothing private was found."
        return pairs, Step("private data", len(pairs), len(pairs), effect, settings, examples)
    standins = StandIns(secrets.token_bytes(32) if key is None else key, seen.taken)
    standins.assign(seen.values.values())
    changed = _replaced(pairs, looker, set(seen.rows), standins, tokens)
    settings["of_key"] = "a new one, not kept" if key is None else fingerprint(key.hex())
    if standins.moved:
        settings["moved"] = (
            f"{standins.moved} stand-ins were in the data already or another value's, and others were taken; in another file they may differ"
        )
    if standins.shared:
        settings["shared"] = f"{standins.shared} values share a stand-in, because the reserved range holds no more"
    effect = f"Replaced by stand-ins: {settings['found']}. The student learns that such a value stands there, and none that is anybody's."
    return changed, Step("private data", len(pairs), len(pairs), effect, settings, examples, len(seen.rows))


@dataclass
class _Seen:
    counts: Counter[str] = field(default_factory=Counter)
    values: dict[tuple[str, str], Found] = field(default_factory=dict)
    rows: dict[int, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    unread: int = 0


def _seen(pairs: datasets.Dataset, looker: Looker) -> _Seen:
    """All that is in the pairs, without a change."""
    seen, row = _Seen(), 0
    columns = [*looker.columns, *(name for name in IDS if name in pairs.column_names and looker.reads_ids)]
    names_ids = "teacher_prompt_ids" in pairs.column_names
    if names_ids and not looker.reads_ids:
        columns.append("teacher_prompt_ids")
    for table in batches(pairs, columns, "looking for private data"):
        for one in rows_of_table(table):
            looked = looker.look(one)
            if not looker.reads_ids and one.get("teacher_prompt_ids") is not None and one.get("teacher_prompt") is None:
                seen.unread += 1
            for text in looked.texts:
                read = plain(text)
                seen.taken.update(fictions(read))
                seen.taken.update(documented(read))
            if found := looked.all():
                seen.counts.update(value.kind for _, value in found)
                seen.values.update({(value.kind, value.same): value for _, value in found})
                seen.rows[row] = "; ".join(f"{value.kind} in {where}: {value.shape}" for where, value in found[:3]) + (
                    f"; and {len(found) - 3} more" if len(found) > 3 else ""
                )
            row += 1
    return seen


def _replaced(
    pairs: datasets.Dataset, looker: Looker, which: set[int], standins: StandIns, tokens: Tokens | None
) -> datasets.Dataset:
    store, at = Store(), 0
    for table in pairs.with_format("arrow").iter(BLOCK_ROWS):
        rows = range(at, at + len(table))
        at += len(table)
        if which.isdisjoint(rows):
            store.add(table)
            continue
        made = [
            checked_row(_replaced_row(row, looker, standins, tokens, number), f"row {number}")
            if number in which
            else row
            for number, row in zip(rows, rows_of_table(table), strict=True)
        ]
        store.add(table_of(made))
    return store.dataset()


def _replaced_row(
    row: dict[str, Any], looker: Looker, standins: StandIns, tokens: Tokens | None, number: int
) -> dict[str, Any]:
    """A row with stand-ins; anew until nothing is found: a stand-in and what stands beside it may look like something, too."""
    for _ in range(_ROUNDS):
        looked = looker.look(row)
        if not looked.all():
            return row
        swaps = {value.value: standins.of(value) for _, value in looked.found}
        for seam in looked.across:
            swaps |= dict(seam.parts(standins.of(seam.found)))
        swap = Swaps(swaps)
        ids: dict[str, Any] = {}
        if looked.needs_tokens():
            if tokens is None:
                raise ValueError(
                    f"Row {number} has private data in what token ids are made of, and these would still say it: give --tokenizer, the "
                    "model whose tokens these are, or leave such rows out (--private drop)."
                )
            try:
                ids = tokens.changed(row, swap)
            except ValueError as error:
                raise ValueError(
                    f"The token ids of row {number} cannot be made anew: {error} Leave such rows out (--private drop), or make the pairs "
                    "anew from conversations without token ids."
                ) from None
        there = [name for name in looker.columns if row.get(name) is not None]
        row = {**row, **walk_row(row, there, swap.in_place), **ids}
        if ids and OWN_ID.fullmatch(row["id"] or ""):
            row["id"] = None  # a hash of the tokens that were there, by which values could be tried
    raise ValueError(
        f"Row {number} still has private data after {_ROUNDS} rounds of stand-ins; please report it, and leave the row out (--private drop)."
    )


def told(counts: Mapping[str, int], values: Collection[tuple[str, str]]) -> str:
    """Counts by kind in words.

    Example:
        >>> told({"email": 3}, [("email", "a@b.de")])
        '3 e-mail addresses (1 different)'
    """
    different = Counter(kind for kind, _ in values)
    return (
        ", ".join(f"{counts[kind]} {KINDS[kind]} ({different[kind]} different)" for kind in KINDS if counts.get(kind))
        or "nothing"
    )


def _known_regions(regions: Sequence[str]) -> tuple[str, ...]:
    import phonenumbers

    chosen = tuple(region.upper() for region in regions)
    if unknown := [region for region in chosen if region not in phonenumbers.SUPPORTED_REGIONS]:
        raise ValueError(
            f"private_regions has {unknown[0]!r}, which is no country's code of two letters, such as DE or US."
        )
    return chosen
