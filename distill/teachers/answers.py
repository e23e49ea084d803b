"""What a server's answer says, and the completion it makes: whose token ids, which end, where the reasoning goes."""

import math
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from distill.teachers.base import Completion, Refusal
from distill.teachers.endpoint import Malformed
from distill.text.encode import CLOSE, OPEN, Prompt, encode_completion, opens_trace
from distill.text.traces import completion_text, fit_trace


@dataclass(frozen=True)
class Answer:
    """One choice of an answer as the server gave it; `None` for what was not in it."""

    text: str
    reasoning: str | None
    finish_reason: str | None
    ids: list[int] | None
    top_logprobs: list[dict[str, Any]] | None
    refusal: str | None


def read_answers(payload: Any) -> list[Answer]:
    """The choices of an answer of `/chat/completions` or `/completions`, in their order.

    Raises:
        Malformed: there are none, or one has no text.
    """
    choices = payload.get("choices") if isinstance(payload, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(c, dict) for c in choices):
        raise Malformed("an answer without choices")
    return [_read_choice(choice, payload) for choice in choices]


def _read_choice(choice: dict[str, Any], payload: dict[str, Any]) -> Answer:
    chat = "message" in choice
    message = choice["message"] if chat else choice
    if not isinstance(message, dict):
        raise Malformed("an answer without a message")
    # "reasoning_content" is what DeepSeek's API, SGLang, llama.cpp and transformers call it; newer vLLM "reasoning"
    reasoning = next((r for n in ("reasoning_content", "reasoning") if isinstance(r := message.get(n), str)), None)
    text, refusal = message.get("content" if chat else "text"), message.get("refusal") or None
    if text is None and chat and (reasoning or refusal or choice.get("finish_reason") not in (None, "stop")):
        text = ""
    if not isinstance(text, str):
        raise Malformed("an answer without text")
    return Answer(
        text,
        reasoning,
        choice.get("finish_reason"),
        _ids_in(choice, payload),
        _top_in(choice),
        refusal and str(refusal),
    )


def _ids_in(choice: dict[str, Any], payload: dict[str, Any]) -> list[int] | None:
    """vLLM and SGLang: `token_ids` of the choice; llama.cpp, started with `--verbose`: `tokens` beside the only one."""
    ids = choice.get("token_ids")
    if ids is None and len(payload["choices"]) == 1 and isinstance(payload.get("__verbose"), dict):
        ids = payload["__verbose"].get("tokens")
    return ids if isinstance(ids, list) and ids and all(type(i) is int and i >= 0 for i in ids) else None


def _top_in(choice: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Chat: a list of places, each with `top_logprobs`; plain completions: a mapping of tokens for each place."""
    given = choice.get("logprobs")
    if not isinstance(given, dict):
        return None
    try:
        if isinstance(content := given.get("content"), list):
            return [_place((top["token"], top["logprob"]) for top in place["top_logprobs"]) for place in content]
        if isinstance(places := given.get("top_logprobs"), list):
            return [_place((place or {}).items()) for place in places]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Malformed("log-probabilities of a shape that is not OpenAI's") from None
    return None


def _place(pairs: Any) -> dict[str, Any]:
    kept = [(str(token), float(value)) for token, value in pairs if math.isfinite(value)]
    return {"tokens": [token for token, _ in kept], "logprobs": [value for _, value in kept]}


def completion_of(answer: Answer, prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> Completion | Refusal:
    """The completion that a student with this tokenizer learns from.

    The server's token ids are taken if they are this tokenizer's, that is if they decode to the server's text. Else the
    text is tokenised once, with the reasoning where the template puts it. A completion that stopped ends with EOS: the
    one in the ids if the server left it there, else the tokenizer's.

    Args:
        answer: of the server.
        prompt: as it was asked.
        tokenizer: of the student.
    """
    if answer.refusal:
        return Refusal(f"the model refused: {answer.refusal[:200]}")
    if answer.finish_reason not in ("stop", "length"):
        return Refusal(
            f"it ended with finish_reason {answer.finish_reason!r} and not with 'stop' or 'length', so nobody knows "
            "whether the text is whole"
        )
    text = _whole_text(answer, prompt, tokenizer)
    if answer.finish_reason == "length" and not text:
        return Refusal("it was cut before its first token")
    ids = _own_ids(answer, text, tokenizer)
    if ids is not None:
        text = _decoded(ids, tokenizer)
        return Completion(ids, text, answer.finish_reason, "teacher", answer.top_logprobs)
    fitted = fit_trace(text, opened=opens_trace(prompt, tokenizer), finish_reason=answer.finish_reason)
    made = encode_completion(fitted, tokenizer, answer.finish_reason)
    return Completion(made, fitted, answer.finish_reason, "text", answer.top_logprobs)


def _whole_text(answer: Answer, prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    if not answer.reasoning:
        return answer.text
    opened = opens_trace(prompt, tokenizer)
    closed = bool(answer.text) or answer.finish_reason == "stop"  # a cut trace gets no end that nobody wrote
    return completion_text(answer.reasoning, answer.text, opened=opened, closed=closed)


def _own_ids(answer: Answer, text: str, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
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
    ends = answer.ids[-1] in special or tokenizer.eos_token_id is None
    return answer.ids if ends else [*answer.ids, tokenizer.eos_token_id]


def _decoded(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _bare(text: str) -> str:
    return "".join(text.replace(OPEN, "").replace(CLOSE, "").split())
