"""Checks of texts: control tokens written out, traces without an end; and who wrote the rows."""

import re
from collections import Counter

import numpy as np
from tqdm.auto import tqdm

from distill.basics.processes import is_main
from distill.curation.look import Look
from distill.curation.rows import matching, one_text
from distill.pairs.batches import SILENT, column
from distill.text.encode import CLOSE, OPEN, opens_trace
from distill.text.traces import has_cut_trace


def control_tokens(look: Look) -> None:
    """Control tokens where text should be; markers of the template."""
    counts = {"prompt": 0, "completion": 0, "inside": 0}
    look.figures["control_tokens"] = counts
    if not look.control:
        return
    pattern = "|".join(map(re.escape, look.control.values()))
    for part in ("prompt", "completion"):
        hit = matching(look.pairs, part, pattern)
        counts[part] = int(hit.sum())
        if not hit.any():
            continue
        found = re.search(pattern, one_text(look.pairs, int(np.flatnonzero(hit)[0]), part))
        assert found is not None, "RE2 and re agree on escaped words"
        look.say(
            "warning" if part == "completion" else "info", f"control tokens in the {part}",
            f"{look.of(hit.sum())} have a control token written out in the text of the {part}, e.g. {found.group()!r}: "
            + ("the student learns to spell it; leave these rows out, or mend the teacher's output."
               if part == "completion" else "it is encoded as plain characters and forges no turn."),
        )  # fmt: skip
    inside = look.arrays.inside & ~look.arrays.masked
    counts["inside"] = int(inside.sum())
    if inside.any():
        look.say(
            "warning", "control tokens inside",
            f"{look.of(inside.sum())} have a control token before the end of the completion: the teacher went on after its "
            "turn, or several turns are in one row; cut there, or give a loss_mask.",
        )  # fmt: skip
    template = str(look.tokenizer.chat_template or "")
    if template and not re.search(r"{%-?\s*generation", template):
        look.say(
            "info", "generation markers",
            "The chat template has no {% generation %} markers; that matters only for loss on all assistant turns of a "
            "conversation rendered whole. Pairs need none: their completion, or their loss_mask, says what carries loss.",
        )  # fmt: skip


def traces(look: Look) -> None:
    """Traces without an end, and loss masks."""
    masks = int(look.arrays.masked.sum())
    closed = matching(look.pairs, "completion", re.escape(CLOSE))
    begun = matching(look.pairs, "completion", re.escape(OPEN))
    # a template opens the trace in all prompts or in none
    opened = closed.any() or opens_trace(look.pairs[0]["prompt_ids"], look.tokenizer)
    candidates = np.flatnonzero(~closed) if opened else np.flatnonzero(begun & ~closed)
    rows = tqdm(
        look.pairs.select(candidates), "looking for cut traces", delay=SILENT, leave=False, disable=not is_main()
    )
    cut = sum(has_cut_trace(row, look.tokenizer) for row in rows)
    look.figures |= {"loss_mask_rows": masks, "traces": {"closed": int(closed.sum()), "cut": cut}}
    if cut:
        look.say(
            "warning", "traces cut",
            f"{look.of(cut)} end inside their trace, without an answer; raise max_new_tokens, or choose what is done "
            "with them (distill.text.traces.cut_traces).",
        )  # fmt: skip
    if masks:
        look.say("info", "loss mask", f"{look.of(masks)} have a loss_mask: only some of their tokens carry loss.")


def origins(look: Look) -> None:
    """Who wrote the rows, where their ids are from, whether they were verified."""
    names = look.pairs.column_names
    sources = _counted(look, "token_source") if "token_source" in names else Counter[str | None]({None: look.rows})
    look.figures["token_source"] = {str(name or "not said"): count for name, count in sorted(sources.items(), key=str)}
    look.figures["teachers"] = dict(_counted(look, "teacher").most_common(5))
    if count := sources["text"]:
        look.say(
            "info", "tokens from text",
            f"{look.of(count)} have token ids made from the teacher's text, which need not be those it emitted.",
        )  # fmt: skip
    if "score" in names and (missing := column(look.pairs, "score").null_count):
        look.say("info", "no score", f"{look.of(missing)} have no score: the verifier raised, or was not asked.")


def _counted(look: Look, name: str) -> Counter[str | None]:
    return Counter(column(look.pairs, name).to_pylist())
