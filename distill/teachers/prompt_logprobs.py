"""Log-probabilities of a prompt's tokens from a server: the likeliest tokens at each place of a text that is there already.

Two shapes are read. vLLM's `prompt_logprobs`: for each token of the prompt a mapping of ids to log-probabilities, the likeliest and
the token itself. And the older one of OpenAI's completions, `echo` with `logprobs`: texts to log-probabilities, or `token_id:123` where a server
gives ids so. A text that several ids decode to names none of them. What has no name, and the slots that a head has beyond its tokens,
are part of the tail.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from distill.teachers.judgements import Malformed

WAYS = ("prompt_logprobs", "echo")
_AS_ID = "token_id:"
_TOO_MUCH = 1e-2  # a sum of probabilities so far above 1 is no rounding
_LEAST = 2.0**-24  # mass that a server's float32 numbers can still tell from none
# a last token above the first leaves more than the second to those behind it, unless somebody divided by the sum
_TELLING, _NONE_LEFT = 1e-4, 1e-5


@dataclass(frozen=True)
class Place:
    """The likeliest tokens at one place.

    Args:
        log_probs: of different ids, the token that stands there among them.
        tail: log of the mass of all others.
        given: how many tokens the server gave, those without an id of their own among them.
        renormalised: whether the mass of those is 1 although the least likely of them is far from 0; None: it cannot be told.
    """

    log_probs: dict[int, float]
    tail: float
    given: int = 0
    renormalised: bool | None = None


def fields_of(way: str, k: int) -> dict[str, Any]:
    """What a request for the k likeliest tokens says beside model and prompt; one token more is generated, and passed over."""
    common = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0}
    if way == "echo":
        return {**common, "echo": True, "logprobs": k, "return_tokens_as_token_ids": True}
    return {**common, "prompt_logprobs": k}


class Texts:
    """Which id a token's text stands for, where only one does.

    Args:
        tokenizer: of the server's model.

    Attributes:
        size: ids of tokens are below it; a padded head has more, which are none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.size = max(tokenizer.get_vocab().values()) + 1
        self._ids: dict[str, int | None] = {}
        for number in range(self.size):
            text = str(tokenizer.decode([number]))
            self._ids[text] = None if text in self._ids else number

    def id_of(self, text: str) -> int | None:
        """The id; None where several tokens, or none, have this text."""
        if text.startswith(_AS_ID) and text[len(_AS_ID) :].isdigit():
            return int(text[len(_AS_ID) :])
        return self._ids.get(text)


def read_places(payload: Any, ids: Sequence[int], way: str, texts: Texts) -> list[Place]:
    """The likeliest tokens at each place but the first, in the order of the prompt's tokens.

    Args:
        payload: what the server answered.
        ids: the prompt that was sent.
        way: one of `WAYS`.
        texts: which ids there are, and for servers that name tokens by their text.

    Raises:
        Malformed: it is not there, not of this prompt, or no distribution.
    """
    try:
        (choice,) = payload["choices"]
        found = _by_ids(choice, payload, len(ids)) if way == "prompt_logprobs" else _echoed(choice, ids, texts)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise Malformed(f"no log-probabilities of the prompt in the shape of {way!r} ({error})") from None
    return [
        _place(named, every, texts.size, token, i)
        for i, ((named, every), token) in enumerate(zip(found, ids[1:], strict=True), 1)
    ]


# tokens that have an id, and the log-probabilities of all that were given
_Found = tuple[dict[int, float], list[float]]


def _by_ids(choice: Mapping[str, Any], payload: Mapping[str, Any], size: int) -> list[_Found]:
    said = choice.get("prompt_logprobs") or payload["prompt_logprobs"]
    if len(said) != size:
        raise ValueError(f"of {len(said)} tokens, where {size} were sent")
    places = []
    for place in said[1:]:
        named = {
            int(token): float(value["logprob"] if isinstance(value, Mapping) else value)
            for token, value in place.items()
        }
        places.append((named, list(named.values())))
    return places


def _echoed(choice: Mapping[str, Any], ids: Sequence[int], texts: Texts) -> list[_Found]:
    said = choice["logprobs"]
    own, top = said["token_logprobs"], said["top_logprobs"]
    # the token that was generated stands behind them
    if not len(ids) <= len(own) <= len(ids) + 1:
        raise ValueError(f"of {len(own)} tokens, where {len(ids)} were sent: it cuts the text in another way")
    places = []
    for token, value, likeliest in zip(ids[1:], own[1:], top[1 : len(ids)], strict=False):
        every = {text: float(log_prob) for text, log_prob in (likeliest or {}).items()}
        named = {texts.id_of(text): log_prob for text, log_prob in every.items()}
        # a text without an id of its own is part of the tail
        places.append(
            (
                {number: v for number, v in named.items() if number is not None} | {token: float(value)},
                [*every.values()],
            )
        )
    return places


def _place(named: dict[int, float], every: list[float], size: int, token: int, number: int) -> Place:
    log_probs = {key: value for key, value in named.items() if 0 <= key < size}
    if token not in log_probs:
        raise Malformed(f"no log-probability of the token {token} itself, at place {number} of the prompt")
    if any(math.isnan(value) or value > 1e-3 for value in [*log_probs.values(), *every]):
        raise Malformed(f"numbers that are no log-probabilities, at place {number} of the prompt")
    mass, given = (math.fsum(map(math.exp, values)) for values in (log_probs.values(), every))
    if max(mass, given) > 1 + _TOO_MUCH:
        raise Malformed(f"probabilities that sum to {max(mass, given):.3f}, at place {number} of the prompt")
    least = min(every, default=-math.inf)
    return Place(
        {key: min(value, 0.0) for key, value in log_probs.items()},
        math.log(max(1 - mass, _LEAST)),
        len(every),
        given > 1 - _NONE_LEFT if len(every) < size and least > math.log(_TELLING) else None,
    )


def likeliest(place: Place, token: int, k: int) -> Place | None:
    """The k likeliest of a place, with the token itself in the place of the last one where it is not among them; None: there are fewer.

    What is left out goes into the tail.
    """
    if len(place.log_probs) < k:
        return None
    order = sorted(place.log_probs, key=lambda number: -place.log_probs[number])
    kept = order[:k] if token in order[:k] else [*order[: k - 1], token]
    rest = math.fsum(math.exp(place.log_probs[number]) for number in order if number not in kept)
    return replace(
        place,
        log_probs={number: place.log_probs[number] for number in kept},
        tail=math.log(math.exp(place.tail) + rest),
    )
