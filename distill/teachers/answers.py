"""What a server's answer says, and the completion it makes: whose token ids, which end, where the reasoning goes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from distill.teachers.base import Completion, Refusal
from distill.teachers.ends import FILTERED, LENGTH, STOP, bare_end, read_end
from distill.teachers.judgements import Malformed
from distill.teachers.messages import read_message
from distill.text.encode import CLOSE, OPEN, Prompt, encode_completion, opens_trace, turn_end_id
from distill.text.traces import completion_text, fit_trace


@dataclass(frozen=True)
class Answer:
    """One choice of an answer as the server gave it; `None` for what was not in it.

    Args:
        text, reasoning, finish_reason, ids, top_logprobs, refusal: as it came.
        tokens: how many it has, as the server counts.
        limit: how many were asked for at most.
        left: names of what of its reasoning is no text, and so is not kept.
        foreign: names of what it says beside text (tool calls, images): no pair can hold it.
        raw: the choice and what belongs to it, as plain values: what `read_answers` reads again.
    """

    text: str | None
    reasoning: str | None
    finish_reason: str | None
    ids: list[int] | None
    top_logprobs: list[dict[str, Any]] | None
    refusal: str | None
    tokens: int | None = None
    limit: int | None = None
    left: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    raw: Mapping[str, Any] | None = None


def read_answers(payload: Any, limit: int | None = None) -> list[Answer]:
    """The choices of an answer of `/chat/completions` or `/completions`, in their order.

    Args:
        payload: JSON of the answer; or the `raw` of one that was read before.
        limit: tokens that were asked for at most.

    Raises:
        Malformed: there are none, or they cannot be read.
    """
    choices = payload.get("choices") if isinstance(payload, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(c, dict) for c in choices):
        raise Malformed("an answer without choices")
    limit = payload.get("asked_tokens", limit)
    beside = {name: payload[name] for name in ("usage", "__verbose") if payload.get(name) and len(choices) == 1}
    return [_read_choice(choice, {"choices": [choice], **beside, "asked_tokens": limit}) for choice in choices]


def _read_choice(choice: dict[str, Any], raw: dict[str, Any]) -> Answer:
    chat = "message" in choice
    message = choice["message"] if chat else choice
    if not isinstance(message, dict):
        raise Malformed("an answer without a message")
    said, (top, strange) = read_message(message, message.get("content" if chat else "text")), _top_in(choice)
    text, refusal, end = said.text, message.get("refusal") or None, choice.get("finish_reason")
    if text is None and chat and not said.foreign and (said.reasoning or refusal or read_end(end) == LENGTH):
        text = ""
    usage = raw.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Answer(
        text,
        said.reasoning,
        end if end is None or isinstance(end, str) else str(end),
        _ids_in(choice, raw),
        top,
        refusal and str(refusal),
        tokens if type(tokens) is int else None,
        raw["asked_tokens"],
        said.left,
        (*said.foreign, *strange),
        raw,
    )


def _ids_in(choice: dict[str, Any], payload: dict[str, Any]) -> list[int] | None:
    """vLLM and SGLang: `token_ids` of the choice; llama.cpp, started with `--verbose`: `tokens` beside the only one."""
    ids = choice.get("token_ids")
    if ids is None and len(payload["choices"]) == 1 and isinstance(payload.get("__verbose"), dict):
        ids = payload["__verbose"].get("tokens")
    return ids if isinstance(ids, list) and ids and all(type(i) is int and i >= 0 for i in ids) else None


def _top_in(choice: dict[str, Any]) -> tuple[list[dict[str, Any]] | None, list[str]]:
    """Chat: a list of places, each with `top_logprobs`; plain completions: a mapping of tokens for each place."""
    given = choice.get("logprobs")
    if not isinstance(given, dict):
        return None, []
    try:
        if isinstance(content := given.get("content"), list):
            return [_place((top["token"], top["logprob"]) for top in place["top_logprobs"]) for place in content], []
        if isinstance(places := given.get("top_logprobs"), list):
            return [_place((place or {}).items()) for place in places], []
    except (KeyError, TypeError, ValueError, AttributeError):
        return None, ["log-probabilities of a shape that is not OpenAI's"]
    return None, []


def _place(pairs: Any) -> dict[str, Any]:
    kept = [(str(token), float(value)) for token, value in pairs if math.isfinite(value)]
    return {"tokens": [token for token, _ in kept], "logprobs": [value for _, value in kept]}


def completion_of(
    answer: Answer, prompt: Prompt, tokenizer: PreTrainedTokenizerBase, meanings: Mapping[str, str] | None = None
) -> Completion | Refusal:
    """The completion that a student with this tokenizer learns from.

    The server's token ids are taken if they are this tokenizer's, that is if they decode to the server's text. Else the
    text is tokenised once, with the reasoning where the template puts it. A completion that stopped has an end: the one in the ids
    if the server left it there, else that of the template's turns, or EOS behind a plain prompt.

    Args:
        answer: of the server.
        prompt: as it was asked.
        tokenizer: of the student.
        meanings: of finish reasons that are not known (`distill.teachers.ends`).

    Returns:
        A completion; or why it cannot be one, with the answer itself, which was paid for.
    """
    refusal = _refusal_of(answer)
    end = read_end(answer.finish_reason, meanings)
    if refusal is None and end is None:
        end = _end_by_count(answer, tokenizer) if answer.finish_reason is None else None
        refusal = None if end else _unknown_end(answer)
    if refusal is None:
        assert end is not None, "an answer without an end was refused above"
        made = _made(replace(answer, finish_reason=end), prompt, tokenizer)
        if isinstance(made, Completion):
            return made
        refusal = made
    return replace(refusal, answer=answer.raw)


def _refusal_of(answer: Answer) -> Refusal | None:
    if answer.refusal:
        return Refusal(f"the model refused: {answer.refusal[:200]}", of_prompt=True)
    if answer.foreign:
        return Refusal(f"it answered with {', '.join(answer.foreign)}, which a pair of text cannot hold")
    if answer.text is None:
        return Refusal("an answer without text")
    texts = [answer.text, answer.reasoning or "", *(t for place in answer.top_logprobs or () for t in place["tokens"])]
    if any(_has_half_a_character(text) for text in texts):
        return Refusal("half of a character (a lone surrogate) stands in its text, which no file in UTF-8 can hold")
    return None


def _unknown_end(answer: Answer) -> Refusal:
    told = "null" if answer.finish_reason is None else answer.finish_reason
    known = bare_end(told) in FILTERED
    return Refusal(
        f"it ended with finish_reason {answer.finish_reason!r}, "
        + (
            "so its text is not whole"
            if known
            else "so nobody knows whether the text is whole; if you do, say what it means: "
            f'finish_reasons={{"{told}": "stop"}} or "length" (--finish_reasons {told}=stop)'
        ),
        of_prompt=known,
    )


def _end_by_count(answer: Answer, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Where the server gave no finish reason: its ids end with an end, or it says how many tokens there are."""
    if answer.ids and answer.ids[-1] in tokenizer.all_special_ids:
        return STOP
    tokens = len(answer.ids) if answer.ids else answer.tokens
    if not tokens or not answer.limit:
        return None
    return LENGTH if tokens >= answer.limit else STOP


def _made(answer: Answer, prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> Completion | Refusal:
    end = str(answer.finish_reason)
    text = _whole_text(answer, prompt, tokenizer)
    if end == LENGTH and not text:
        return Refusal("it was cut before its first token")
    ids = _own_ids(
        answer, text, tokenizer, tokenizer.eos_token_id if isinstance(prompt, str) else turn_end_id(tokenizer)
    )
    if ids is not None:
        return Completion(ids, _decoded(ids, tokenizer), end, "teacher", answer.top_logprobs)
    fitted = fit_trace(text, opened=opens_trace(prompt, tokenizer), finish_reason=end)
    made = encode_completion(fitted, tokenizer, end, chat=not isinstance(prompt, str))
    return Completion(made, fitted, end, "text", answer.top_logprobs)


def _has_half_a_character(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _whole_text(answer: Answer, prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    said = answer.text or ""
    if not answer.reasoning:
        return said
    opened = opens_trace(prompt, tokenizer)
    closed = bool(said) or answer.finish_reason == "stop"  # a cut trace gets no end that nobody wrote
    return completion_text(answer.reasoning, said, opened=opened, closed=closed)


def _own_ids(answer: Answer, text: str, tokenizer: PreTrainedTokenizerBase, end: int | None) -> list[int] | None:
    if answer.ids is None or max(answer.ids) >= len(tokenizer):
        return None
    # a server's parser takes blanks and tags away around the reasoning; without a trace the text is exact
    same = _bare if answer.reasoning else str
    if same(_decoded(answer.ids, tokenizer)) != same(text):
        return None
    special = tokenizer.all_special_ids
    if answer.finish_reason == "length":  # whatever stands there, the teacher did not end: some servers pad with EOS
        last = max((place for place, token in enumerate(answer.ids) if token not in special), default=-1)
        return answer.ids[: last + 1]
    return answer.ids if end is None or answer.ids[-1] in {*special, end} else [*answer.ids, end]


def _decoded(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _bare(text: str) -> str:
    return "".join(text.replace(OPEN, "").replace(CLOSE, "").split())
