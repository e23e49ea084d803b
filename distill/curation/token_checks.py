"""Checks of token ids: lengths and what carries loss, where completions end, whose vocabulary it is."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc

from distill.curation.look import Look
from distill.models.eos import eos_ids
from distill.models.positions import positions_of
from distill.pairs.batches import batches
from distill.text.messages import text_of

_DECODED_ROWS = 256


def shape(look: Look, batch_size: int) -> None:
    """Lengths, what max_length cuts, what carries loss, padding."""
    arrays, supervised = look.arrays, look.arrays.supervised()
    before = int(arrays.supervised(cut=False).sum())
    kept = int(np.minimum(arrays.length, arrays.limit).sum())
    over = arrays.length > arrays.limit
    padding = arrays.padding(batch_size)
    look.figures |= {
        "tokens": kept,
        "supervised_tokens": int(supervised.sum()),
        "supervised_share": float(supervised.sum() / max(kept, 1)),
        "padding": {"batch_size": batch_size, "share": padding},
        "lengths": arrays.lengths(),
        "over_max_length": {"rows": int(over.sum()), "supervised_tokens_lost": before - int(supervised.sum())},
    }
    if (useless := np.flatnonzero(supervised == 0)).size:
        first = look.pairs[int(useless[0])]["id"]
        look.say(
            "error", "nothing to learn",
            f"{look.of(useless.size)} have no token with loss, the first is {first}: the prompt alone fills max_length, or "
            "the mask covers all; raise max_length, or leave these rows out.",
        )  # fmt: skip
    if over.any():
        lost = before - int(supervised.sum())
        look.say(
            "warning", "over max_length",
            f"{look.of(over.sum())} are longer than max_length={look.max_length} and lose {lost:,} of {before:,} supervised "
            f"tokens ({lost / max(before, 1):.1%}) with their EOS: the student sees beginnings only; raise max_length (the "
            f"longest row has {arrays.length.max():,} tokens).",
        )  # fmt: skip
    positions = positions_of(look.model) if look.model is not None else None
    if positions and min(int(arrays.length.max()), arrays.limit) > positions:
        look.say(
            "error", "positions",
            f"The longest row has {arrays.length.max():,} tokens, but the model has {positions:,} positions; give "
            f"max_length={positions} or less.",
        )  # fmt: skip
    if padding > 0.5:
        look.say(
            "info", "padding",
            f"Batches of {batch_size} rows in random order are {padding:.0%} padding; pack rows, or group them by length.",
        )  # fmt: skip


def shown(look: Look) -> None:
    """What the teacher was shown, where that is another prompt than the student's."""
    if "teacher_prompt_ids" not in look.pairs.column_names:
        return
    sizes = np.concatenate(
        [
            np.asarray(pc.drop_null(pc.list_value_length(table["teacher_prompt_ids"])))
            for table in batches(look.pairs, ["teacher_prompt_ids"])
        ]
    )
    if not len(sizes):
        return
    most, median = int(sizes.max()), int(np.median(sizes))
    look.figures["teacher_prompts"] = {"rows": len(sizes), "median": median, "most": most}
    look.say(
        "info", "teacher's prompts",
        f"In {look.of(len(sizes))} the teacher was shown another prompt than the student is, of {most:,} tokens at most: a black box "
        "trains on the student's prompt and the completion, and a white box asks the teacher behind its own.",
    )  # fmt: skip
    highest = max(
        pc.max(pc.list_flatten(table["teacher_prompt_ids"])).as_py() or 0
        for table in batches(look.pairs, ["teacher_prompt_ids"])
    )
    if highest >= (known := len(look.tokenizer)):
        look.say(
            "warning", "teacher's vocabulary",
            f"In what the teacher was shown there is a token id {highest:,}, but the tokenizer has {known:,} tokens: it is another tokenizer's.",
        )  # fmt: skip
    if "teacher_prompt" in look.pairs.column_names:
        _shown_words(look)


def _shown_words(look: Look) -> None:
    """Whether what the teacher was shown is in words what it is in tokens: its last turn, without what a template strips."""
    at = np.unique(np.linspace(0, look.rows - 1, min(look.rows, _DECODED_ROWS)).astype(int))
    columns = ["id", "teacher_prompt", "teacher_prompt_ids"]
    rows = [row for row in look.pairs.select(at).select_columns(columns) if row["teacher_prompt"] is not None]
    texts = look.tokenizer.batch_decode([row["teacher_prompt_ids"] for row in rows], skip_special_tokens=True)
    said = [
        row["teacher_prompt"] if isinstance(row["teacher_prompt"], str) else text_of(row["teacher_prompt"][-1])
        for row in rows
    ]
    other = [i for i, (word, text) in enumerate(zip(said, texts, strict=True)) if word.strip() not in text]
    if other:
        first = other[0]
        look.say(
            "warning", "teacher's words",
            f"In {look.of(len(other), len(rows))} looked at, teacher_prompt_ids do not decode to the teacher_prompt beside them (pair "
            f"{rows[first]['id']}: {said[first].strip()[-40:]!r} is not in {texts[first][-60:]!r}); training reads the tokens, an export the words.",
        )  # fmt: skip


def ends(look: Look) -> None:
    """EOS where a completion ended by itself, and only there."""
    arrays, eos = look.arrays, {i for i in eos_ids(look.model, look.tokenizer) if i < len(look.tokenizer)}
    is_eos = np.isin(arrays.last_id, sorted(eos))
    without, invented = arrays.stopped & ~is_eos, ~arrays.stopped & is_eos
    supervised = arrays.stopped & is_eos & arrays.last_carries_loss()
    look.figures |= {
        "stopped": int(arrays.stopped.sum()),
        "cut": int((~arrays.stopped).sum()),
        "eos": {
            "ids": sorted(eos), "supervised": int(supervised.sum()),
            "stopped_without": int(without.sum()), "cut_with": int(invented.sum()),
        },
    }  # fmt: skip
    if without.any():
        ((last, _),) = Counter(arrays.last_id[without].tolist()).most_common(1)
        name = look.tokenizer.convert_ids_to_tokens(last) if 0 <= last < len(look.tokenizer) else last
        look.say(
            "warning", "no EOS",
            f"{look.of(without.sum())} ended by themselves but do not end with an EOS token "
            f"({', '.join(repr(str(look.tokenizer.convert_ids_to_tokens(i))) for i in sorted(eos)) or 'the tokenizer has none'}; most of them end with {name!r}): the "
            "student does not learn to stop there; make these pairs anew, or set the tokenizer's eos_token.",
        )  # fmt: skip
    if invented.any():
        look.say(
            "warning", "invented EOS",
            f"{look.of(invented.sum())} were cut at the limit but end with EOS: the student learns to stop in the middle; "
            "remove that token, or correct finish_reason.",
        )  # fmt: skip
    masked = arrays.stopped & is_eos & ~arrays.last_carries_loss() & (arrays.length <= arrays.limit)
    if masked.any():
        look.say(
            "warning", "EOS without loss",
            f"{look.of(masked.sum())} end with EOS, but their loss_mask leaves it out: the student does not learn to stop; "
            "set the mask's last place to 1.",
        )  # fmt: skip
    if not arrays.stopped.any():
        look.say(
            "warning", "all cut",
            f"All {look.rows:,} completions were cut at the limit, so nothing shows where an answer ends; generate with a "
            "larger max_new_tokens.",
        )  # fmt: skip


def vocabulary(look: Look) -> None:
    """Whether the ids are this tokenizer's and fit the model."""
    highest = look.arrays.highest
    known, embeddings = len(look.tokenizer), _embeddings(look.model)
    look.figures["vocabulary"] = {"highest_id": highest, "tokenizer": known, "model": embeddings}
    if embeddings is not None and highest >= embeddings:
        look.say(
            "error", "vocabulary",
            f"There is a token id {highest:,}, but the model has {embeddings:,} tokens: the pairs are another tokenizer's; "
            "load them as text with this one.",
        )  # fmt: skip
    elif highest >= known:
        look.say(
            "warning", "vocabulary",
            f"There is a token id {highest:,}, but the tokenizer has {known:,} tokens: the pairs are another tokenizer's, "
            "or the teacher emitted a spare slot of its padded head.",
        )  # fmt: skip
    at = np.unique(np.linspace(0, look.rows - 1, min(look.rows, _DECODED_ROWS)).astype(int))
    sample = look.pairs.select(at)
    texts = look.tokenizer.batch_decode(sample["completion_ids"][:], skip_special_tokens=True)
    other = [i for i, (row, text) in enumerate(zip(sample, texts, strict=True)) if row["completion"] not in text]
    look.figures["decoded"] = {"rows": len(at), "other_text": len(other)}
    if other:
        row, text = sample[other[0]], texts[other[0]]
        look.say(
            "error" if len(other) > len(at) / 2 else "warning", "decoded text",
            f"The ids of {look.of(len(other), len(at))} looked at do not decode to the text beside them (pair {row['id']}: "
            f"{text[:40]!r}, not {row['completion'][:40]!r}): they are another tokenizer's; give that model's tokenizer, or "
            "distill.pairs.retokenize(pairs, tokenizer).",
        )  # fmt: skip


def _embeddings(model: Any) -> int | None:
    if model is None:
        return None
    from distill.models.probing import embeddings_of  # with torch, which a look without one does without

    weight = getattr(embeddings_of(model), "weight", None)
    return int(weight.shape[0]) if weight is not None else None
