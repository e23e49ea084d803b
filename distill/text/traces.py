"""Reasoning traces: how they are written into a completion, found in one, and what is done with those that were cut.

A completion with a trace is `<think>\\n{reasoning}\\n</think>\\n\\n{answer}`. Where the generation prompt already ends in
an open `<think>\\n` (see `distill.text.encode.opens_trace`), the completion begins inside the trace, without the tag. Nothing
here goes through a chat template: templates strip traces from earlier turns, and a training row that is made by
rendering the whole conversation can lose the very text it should teach.
"""

from typing import Any, NamedTuple

import datasets
from transformers import PreTrainedTokenizerBase

from distill.basics.curation_step import Step
from distill.text.encode import CLOSE, OPEN, opens_trace

__all__ = [
    "CUT_TRACES", "Trace", "completion_text", "cut_traces", "fit_trace", "has_cut_trace", "opens_trace", "split_trace",
]  # fmt: skip

CUT_TRACES = ("keep", "drop")


class Trace(NamedTuple):
    """A completion taken apart. `closed` is False exactly for a trace that was begun and not ended."""

    reasoning: str
    answer: str
    closed: bool


def completion_text(reasoning: str, answer: str, *, opened: bool, closed: bool = True) -> str:
    """The completion's text as the student's template emits it.

    Line breaks at the ends of the reasoning and before the answer are the template's, as in Qwen3's own.

    Args:
        reasoning: the trace without tags, e.g. a server's `reasoning_content`; empty for a teacher that wrote none.
        answer: what comes after it.
        opened: whether the generation prompt ends in an open `<think>`: `opens_trace(prompt, tokenizer)`.
        closed: False for a trace that was cut at the limit: it gets no closing tag that the teacher did not write.

    Raises:
        ValueError: an answer after a trace that is not closed.

    Example:
        >>> completion_text("2 and 2 is 4.", "4", opened=False)
        '<think>\\n2 and 2 is 4.\\n</think>\\n\\n4'
    """
    if not closed:
        if answer:
            raise ValueError(f"The trace is not closed, so there is no answer yet; got the answer {answer[:60]!r}.")
        return reasoning.lstrip("\n") if opened else f"{OPEN}\n{reasoning.lstrip(chr(10))}"
    if not reasoning.strip("\n") and not opened:
        return answer
    start = "" if opened else f"{OPEN}\n"
    return f"{start}{reasoning.strip(chr(10))}\n{CLOSE}\n\n{answer.lstrip(chr(10))}"


def fit_trace(text: str, *, opened: bool, finish_reason: str) -> str:
    """A completion's text as it must stand after a prompt that opens the trace, or does not.

    Teachers and servers differ: one text begins with `<think>`, another one's prompt had it already, a third has no
    trace. Only the beginning is changed; a text that fits comes back as it is.

    Args:
        text: of a completion, under any prompt.
        opened: whether the student's generation prompt ends in an open `<think>`.
        finish_reason: `"stop"` or `"length"`. A text without any tag that stopped is an answer without a trace, and an
            open trace is closed before it; one that was cut may be the beginning of a trace, and is left as it is.

    Example:
        >>> fit_trace("Two and two.\n</think>\n\n4", opened=False, finish_reason="stop")
        '<think>\nTwo and two.\n</think>\n\n4'
    """
    before, close, _ = text.partition(CLOSE)
    begun = before.lstrip().startswith(OPEN)
    if opened:
        if begun:
            return text.lstrip().removeprefix(OPEN).removeprefix("\n")
        return text if close or finish_reason == "length" else f"\n{CLOSE}\n\n{text}"
    return f"{OPEN}\n{text}" if close and OPEN not in before else text


def split_trace(text: str, opened: bool = False) -> Trace:
    """Take a completion apart into its reasoning and its answer.

    The trace ends at the first `</think>`; one that comes without a `<think>` before it ends a trace that the prompt
    opened, whatever `opened` says. A text that begins with no trace is all answer. Words before a `<think>` belong to
    neither part.

    Args:
        text: of the completion.
        opened: whether the prompt ends in an open `<think>`; without it, a cut trace of such a prompt looks like an
            answer.

    Example:
        >>> split_trace("<think>\\nTwo and two.\\n</think>\\n\\n4").answer
        '4'
    """
    before, close, after = text.partition(CLOSE)
    tagged = before.lstrip().startswith(OPEN)
    if not close and not opened and not tagged:
        return Trace("", text, True)
    within_text = bool(close) and not opened and OPEN in before
    reasoning = before.partition(OPEN)[2] if tagged or within_text else before
    return Trace(reasoning.strip("\n"), after.lstrip("\n"), bool(close))


def has_cut_trace(pair: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the completion ends inside its trace: begun, in the prompt or in the completion, and never closed.

    Almost always that is a trace cut at the limit (`finish_reason` is `"length"`); now and then a teacher stops there.

    Args:
        pair: with `prompt_ids` and `completion`.
        tokenizer: of the pair's ids.
    """
    return not split_trace(pair["completion"], opens_trace(pair["prompt_ids"], tokenizer)).closed


def cut_traces(
    pairs: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, treatment: str = "keep"
) -> tuple[datasets.Dataset, Step]:
    """Keep or drop pairs whose trace was cut, and count them.

    `"keep"` (the default) leaves such a pair as it is: it has no closing tag and no EOS, so it teaches the tokens that
    are there and nothing about where to end. That is exact: the expected gradient of these tokens is the teacher's own.
    `"drop"` removes long traces more often than short ones, so the student learns another distribution, one of shorter
    traces; it also saves their compute, which is why people do it. Nothing is ever closed by us.

    Args:
        pairs: as `distill.pairs` describes them.
        tokenizer: of the pairs' ids.
        treatment: `"keep"` or `"drop"`.

    Returns:
        The pairs, and a record in which `settings["cut"]` is the number of cut traces.

    Raises:
        ValueError: another treatment; `"drop"` would leave nothing.
    """
    if treatment not in CUT_TRACES:
        raise ValueError(f"treatment is {treatment!r}, expected one of {', '.join(CUT_TRACES)}.")
    whole = [i for i, pair in enumerate(pairs) if not has_cut_trace(pair, tokenizer)]
    cut = len(pairs) - len(whole)
    if treatment == "drop" and not whole:
        raise ValueError(f"All {cut} traces were cut at the limit; raise max_new_tokens, or keep them.")
    effect = (
        f"{cut} traces without an end stay as they are: their tokens are the teacher's, and no end is invented."
        if treatment == "keep"
        else "Long traces are lost more often than short ones: the student learns the distribution of those that ended."
    )
    kept = pairs if treatment == "keep" else pairs.select(whole)
    return kept, Step("cut traces", len(pairs), len(kept), effect, {"treatment": treatment, "cut": cut})
