"""What a server's answer says, and the completion it makes: whose token ids, which end, where the reasoning goes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from distill.basics.terminal import printable
from distill.teachers.base import Completion, Refusal
from distill.teachers.judgements import Malformed
from distill.teachers.messages import read_message
from distill.text.encode import CLOSE, OPEN, Prompt, encode_completion, opens_trace, turn_end_id
from distill.text.ends import FILTERED, LENGTH, STOP, bare_end, read_end
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
        Malformed: there are none. One that cannot be read is an answer without text: those beside it were paid for.
    """
    choices = payload.get("choices") if isinstance(payload, dict) else None
    if not isinstance(choices, list) or not choices:
        counted = isinstance(payload, dict) and payload.get("usage")  # else nothing says that it was paid for
        raise Malformed("an answer without choices", payload if counted else None)
    limit = payload.get("asked_tokens", limit)
    beside = {name: payload[name] for name in ("usage", "__verbose") if payload.get(name) and len(choices) == 1}
    return [_read_choice(choice, {"choices": [choice], **beside, "asked_tokens": limit}) for choice in choices]


def _read_choice(choice: Any, raw: dict[str, Any]) -> Answer:
    chat = isinstance(choice, dict) and "message" in choice
    message = choice["message"] if chat else choice
    if not isinstance(message, dict):
        strange = f"a {'message' if chat else 'choice'} that is {_kind_of(message)}"
        return Answer(None, None, None, None, None, None, limit=raw["asked_tokens"], foreign=(strange,), raw=raw)
    said = read_message(message, message.get("content" if chat else "text"))
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
        _top_in(choice),
        refusal and str(refusal),
        tokens if type(tokens) is int else None,
        raw["asked_tokens"],
        said.left,
        tuple(said.foreign),
        raw,
    )


def _kind_of(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _ids_in(choice: dict[str, Any], payload: dict[str, Any]) -> list[int] | None:
    """vLLM and SGLang: `token_ids` of the choice; llama.cpp, started with `--verbose`: `tokens` beside the only one."""
    ids = choice.get("token_ids")
    if ids is None and len(payload["choices"]) == 1 and isinstance(payload.get("__verbose"), dict):
        ids = payload["__verbose"].get("tokens")
    return ids if isinstance(ids, list) and ids and all(type(i) is int and i >= 0 for i in ids) else None


def _top_in(choice: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Chat: a list of places, each with `top_logprobs`; plain completions: a mapping of tokens for each place.

    None where they have another shape; who asked for them refuses that.
    """
    given = choice.get("logprobs")
    if not isinstance(given, dict):
        return None
    try:
        if isinstance(content := given.get("content"), list):
            return [_place((top["token"], top["logprob"]) for top in place["top_logprobs"]) for place in content]
        if isinstance(places := given.get("top_logprobs"), list):
            return [_place((place or {}).items()) for place in places]
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    return None


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
        meanings: of finish reasons that are not known (`distill.text.ends`).

    Returns:
        A completion; or why it cannot be one, with the answer itself, which was paid for.
    """
    refusal = _refusal_of(answer)
    end = _end_without_reason(answer, prompt, tokenizer) if answer.finish_reason is None else None
    end = end or read_end(answer.finish_reason, meanings)
    if refusal is None and end is None:
        refusal = _unknown_end(answer)
    if refusal is None:
        assert end is not None, "an answer without an end was refused above"
        made = _made(replace(answer, finish_reason=end), prompt, tokenizer)
        if isinstance(made, Completion):
            return made
        refusal = made
    return replace(refusal, answer=answer.raw)


def _refusal_of(answer: Answer) -> Refusal | None:
    if answer.refusal:
        return Refusal(f"the model refused: {printable(answer.refusal[:200])}", of_prompt=True)
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


def _end_without_reason(answer: Answer, prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Where the server gave no finish reason: all tokens there were asked for, or ids of this tokenizer that end in an end.

    Fewer tokens than the limit are no end: a server that was stopped cuts, too, and EOS is only learned where it was written.
    """
    tokens = len(answer.ids) if answer.ids else answer.tokens
    ends = {tokenizer.eos_token_id, _end_of(prompt, tokenizer)} - {None}
    if answer.ids and answer.ids[-1] in ends:  # also as the last token that fits
        as_ended = replace(answer, finish_reason=STOP)
        return STOP if _own_ids(as_ended, _whole_text(as_ended, prompt, tokenizer), tokenizer, None) else None
    return LENGTH if tokens and answer.limit and tokens >= answer.limit else None


def _end_of(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> int | None:
    return tokenizer.eos_token_id if isinstance(prompt, str) else turn_end_id(tokenizer)


def _made(answer: Answer, prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> Completion | Refusal:
    end = str(answer.finish_reason)
    text = _whole_text(answer, prompt, tokenizer)
    if end == LENGTH and not text:
        return Refusal("it was cut before its first token")
    ids = _own_ids(answer, text, tokenizer, _end_of(prompt, tokenizer))
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
