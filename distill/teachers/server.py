"""A teacher behind one or several OpenAI-compatible servers (retries: `endpoint`): vLLM, SGLang, llama.cpp, a hosted API."""

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from distill.basics.fingerprint import fingerprint
from distill.basics.processes import tell
from distill.basics.redact import secret_in
from distill.models.load import load_tokenizer
from distill.teachers.answers import Answer, completion_of, read_answers
from distill.teachers.base import Ask, Completion, Refusal, Sampling
from distill.teachers.concurrency import UnderWay
from distill.teachers.endpoint import Endpoint, checked_url
from distill.teachers.judgements import Malformed, Refused
from distill.teachers.listing import Listing
from distill.text.dates import day_settings
from distill.text.encode import Prompt, as_prompt, encode_prompt
from distill.text.ends import changed_meanings, checked_meanings, read_meanings
from distill.text.messages import as_sent

# What a server needs to be told to draw from the model itself, and to show the tokens: vLLM takes top-k, top-p and a
# repetition penalty from the model's generation config otherwise, llama.cpp has top-k 40 and min-p 0.05 of its own. Only
# sent to a server that calls itself so in /v1/models, because others refuse fields that they do not know.
_FIELDS: dict[str, dict[str, Any]] = {
    "vllm": {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True},
    "sglang": {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True},
    "llamacpp": {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "return_tokens": True},
}
_OURS = {"model", "messages", "prompt", "n", "stream"}
_LIMITS = ("max_completion_tokens", "max_tokens", "max_new_tokens")


class ServerTeacher:
    """A model behind an OpenAI-compatible server, asked for many completions at once.

    Nothing is believed that was not seen in an answer: a server may ignore `n`, the seed or log-probabilities without a
    word. So every sample is a request of its own, with its own seed, unless `n_per_request` says otherwise. Servers keep
    the cache of a prompt, so asking for it again costs them little.

    Args:
        url: the address, e.g. `http://localhost:8000/v1`, or several of one model; nothing secret may be in it. Work goes to
            whichever is free; one that dies costs time only, and is used again when it is back.
        model: the model's name on the server; may be left out where the server has one.
        tokenizer: the student's, or its name. Prompts and completions are kept as its token ids.
        chat: `None` asks a bare string as one user turn if the tokenizer has a chat template; `False` never, by plain
            completion; `True` always. Messages always go to `/chat/completions`.
        api_key_env: the environment variable with the key. There is no other way to give one.
        concurrency: requests under way at once, at each address.
        timeout: seconds for one attempt of a request.
        retries: further attempts of a request that failed; see `distill.teachers.endpoint`.
        backoff: seconds before the first of these, doubled each time.
        top_logprobs: the server's most likely tokens to keep at each place; 0 asks for none.
        n_per_request: samples of one prompt asked for in one request with `n`; what is missing is asked for singly.
        extra_body: further fields of every request, e.g. `{"top_k": 20}`, or others in place of ours; `None` as a value
            leaves a field out: `{"max_tokens": None, "max_completion_tokens": 256}`. They are part of `identity`.
        finish_reasons: what further finish reasons of a server mean, `{"done": "stop"}`; `"null"` stands for none. Those of
            the usual servers are known (`distill.text.ends`).
        name: what pairs are labelled with; by default the model's name.

    Raises:
        ValueError: the extra `server` is missing; addresses of different models; an address that is none, or nobody there; a key that is not taken; a
            server with several models and no `model`; a value out of its range.

    Example:
        >>> teacher = ServerTeacher("http://localhost:8000/v1", tokenizer="Qwen/Qwen3-0.6B")
        >>> pairs = generate(teacher, ["Name a colour."], samples=4, output="pairs.jsonl")
    """

    def __init__(
        self,
        url: str | Sequence[str],
        model: str | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | str | os.PathLike[str],
        chat: bool | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 32,
        timeout: float = 600.0,
        retries: int = 8,
        backoff: float = 0.5,
        top_logprobs: int = 0,
        n_per_request: int = 1,
        extra_body: Mapping[str, Any] | None = None,
        finish_reasons: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> None:
        numbers = {"concurrency": (concurrency, 1), "retries": (retries, 0), "top_logprobs": (top_logprobs, 0)}
        for label, (value, least) in {**numbers, "n_per_request": (n_per_request, 1)}.items():
            if value < least:
                raise ValueError(f"{label} is {value}; it must be at least {least}.")
        if timeout <= 0 or backoff < 0:
            raise ValueError(f"timeout is {timeout} and backoff is {backoff}; they must be above 0, and 0 or more.")
        self.extra_body = dict(extra_body or {})
        if taken := sorted(_OURS & self.extra_body.keys()):
            raise ValueError(f"extra_body has {', '.join(taken)}, which are set from the other arguments.")
        if secret := secret_in(self.extra_body):
            raise ValueError(
                f"extra_body is written into the journal, and {secret}; a key is taken from the environment variable "
                f"{api_key_env} and sent as a header."
            )
        self.urls = tuple(dict.fromkeys(map(checked_url, [url] if isinstance(url, str) else url)))
        if not self.urls:
            raise ValueError("There is no address; give at least one, such as http://localhost:8000/v1.")
        self.api_key_env = api_key_env
        self.timeout, self.retries, self.backoff = timeout, retries, backoff
        self.finish_reasons = checked_meanings(finish_reasons)
        self._said: set[str] = set()
        for endpoint in map(self._endpoint, self.urls):
            if endpoint.sends_its_key_in_the_open():
                self._say(f"The key in {api_key_env} goes over plain http, readable on the way, to {endpoint.url}.")
        patience: dict[str, Any] = {"timeout": min(timeout, 20.0), "retries": 5, "backoff": min(backoff, 0.1)}
        self._listing = Listing([Endpoint(url, api_key_env, **patience) for url in self.urls], model)
        for error in self._listing.gone.values():
            self._say(f"{error} The other addresses begin, and it is looked for again.")
        self.model, self.says = self._listing.model, self._listing.says
        self.tokenizer = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else load_tokenizer(tokenizer)
        self._cut = _tokenizer_fingerprint(self.tokenizer)
        self.chat, self.concurrency = chat, concurrency
        self.top_logprobs, self.n_per_request = top_logprobs, n_per_request
        self.name = name or self.model

    def __repr__(self) -> str:
        return f"ServerTeacher({', '.join(self.urls)}, {self.model!r})"

    def resolve_prompt(self, prompt: Prompt) -> tuple[Prompt, list[int]]:
        """The prompt as it is asked and its ids in the student's tokens; see `distill.text.encode`."""
        asked = as_prompt(prompt, self.tokenizer, self.chat)
        return asked, encode_prompt(asked, self.tokenizer)

    def identity(self) -> dict[str, Any]:
        """Model, what the server says of it, further fields, tokenizer, template. Nothing that a restart changes.

        Where it is reached is not part of it (`incidental`): a server is started anew on another port, and a job on another
        machine. Nor is a time of creation: servers put the time of the question there.
        """
        return {
            "teacher": self.name,
            "teacher_model": self.model,
            "teacher_says": self.says,
            "teacher_fields": {**_FIELDS.get(self.says.get("owned_by", ""), {}), **self.extra_body},
            "chat": self.chat,
            "top_logprobs": self.top_logprobs,
            "tokenizer": self._cut,
            "chat_template": fingerprint(str(self.tokenizer.chat_template)),
            **({"finish_reasons_of_its_own": changed} if (changed := changed_meanings(self.finish_reasons)) else {}),
            **day_settings(self.tokenizer),
        }

    def incidental(self) -> dict[str, Any]:
        """What decides no completion, for the record: the addresses, and what was said of finish reasons."""
        return {"teacher_url": list(self.urls), "finish_reasons": dict(self.finish_reasons)}

    def complete_each(self, asks: Iterable[Ask], sampling: Sampling) -> UnderWay:
        """`(index, completion)` for every ask as it finishes; see `distill.teachers.base.ConcurrentTeacher`.

        Raises:
            ValueError: `top_k` with a server that is not known to take it; while iterating, what hits every request.
        """
        if sampling.top_k and not {"top_k"} & {*_FIELDS.get(self.says.get("owned_by", ""), {}), *self.extra_body}:
            raise ValueError(
                f"top_k is {sampling.top_k}, but OpenAI's API has no such field and {self.urls[0]} does not say that "
                'it is vLLM, SGLang or llama.cpp. If it takes the field, give extra_body={"top_k": ...} in its place.'
            )
        return UnderWay(
            groups=_groups(asks, self.n_per_request),
            ask=lambda endpoint, group: self._ask(endpoint, group, sampling),
            finish=self._finish,
            endpoints=[self._endpoint(url) for url in self.urls],
            concurrency=self.concurrency,
            alive=self._listing.is_there_again,
            say=self._say,
        )

    def read_again(self, prompt: Prompt, answer: Mapping[str, Any]) -> Completion | Refusal:
        """What an answer that could not be used (`Refusal.answer`) is today: more finish reasons may be known.

        Args:
            prompt: as it was asked.
            answer: as it was kept.
        """
        try:
            (found,) = read_answers(dict(answer))
            return self._completion_of(found, prompt)
        except (ValueError, TypeError, KeyError, Malformed) as error:
            return Refusal(f"its answer cannot be read: {error}", answer)

    def request(self, prompt: Prompt, sampling: Sampling, seed: int, n: int = 1) -> tuple[str, dict[str, Any]]:
        """Path and body of a request; `prompt` as `resolve_prompt` gives it."""
        chat = not isinstance(prompt, str)
        body: dict[str, Any] = {
            "model": self.model,
            **({"messages": as_sent(prompt)} if not isinstance(prompt, str) else {"prompt": prompt}),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed,
            **_FIELDS.get(self.says.get("owned_by", ""), {}),
        }
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if n > 1:
            body["n"] = n
        if self.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs} if chat else {"logprobs": self.top_logprobs}
        body |= self.extra_body
        return "/chat/completions" if chat else "/completions", {k: v for k, v in body.items() if v is not None}

    def _endpoint(self, url: str) -> Endpoint:
        patience: dict[str, Any] = {"timeout": self.timeout, "retries": self.retries, "backoff": self.backoff}
        return Endpoint(url, self.api_key_env, others=len(self.urls) > 1, **patience)

    async def _ask(self, endpoint: Endpoint, asks: Sequence[Ask], sampling: Sampling) -> list[tuple[Ask, Answer]]:
        """One request for some samples of one prompt; as many answers as came, at most as many as were asked for."""
        path, body = self.request(asks[0].prompt, sampling, asks[0].seed, len(asks))
        limit = next((body[name] for name in _LIMITS if type(body.get(name)) is int), None)
        try:
            answers = await endpoint.post(path, body, lambda payload: read_answers(payload, limit))
        except Refused as error:
            if len(asks) == 1 or error.lost:
                raise
            self._say(f"{self.name} refuses requests for {len(asks)} samples ({error}); they are asked for singly.")
            return []
        if len(answers) < len(asks):
            self._say(
                f"{self.name} gave {len(answers)} of {len(asks)} samples in one answer; the rest is asked for singly."
            )
        return list(zip(asks, answers, strict=False))

    def _finish(self, ask: Ask, answer: Answer) -> Completion | Refusal:
        try:
            completion = self._completion_of(answer, ask.prompt)
        except (ValueError, TypeError, LookupError) as error:  # of this answer alone; a dozen alike stop the run
            return Refusal(f"its answer cannot be made a pair: {error}", answer.raw)
        if answer.left:
            self._say(f"{self.name} gives reasoning that is not text and is not kept: {', '.join(answer.left)}.")
        if answer.ids is not None and isinstance(completion, Completion) and completion.token_source == "text":
            self._say(
                f"{self.name} gives token ids that are not this tokenizer's (they do not decode to its text); the text is "
                "tokenised in their place."
            )
        return completion

    def _completion_of(self, answer: Answer, prompt: Prompt) -> Completion | Refusal:
        if self.top_logprobs and answer.top_logprobs is None and answer.text:
            return Refusal(
                f"{self.top_logprobs} top log-probabilities were asked for, and it gave none in OpenAI's shape; leave top_logprobs at "
                "0, or use a server that has them",
                answer.raw,
            )
        return completion_of(answer, prompt, self.tokenizer, self.finish_reasons)

    def _say(self, sentence: str) -> None:
        """Tell the user, once."""
        key = sentence.partition("(")[0]
        if key not in self._said:
            self._said.add(key)
            tell(sentence)


def is_address(teacher: str) -> bool:
    """Whether a `--teacher` flag names a server and not a model."""
    return "://" in teacher


def server_teacher(
    url: str,
    model: str | None,
    *,
    tokenizer: PreTrainedTokenizerBase | str,
    extra_body: str | None = None,
    finish_reasons: str | None = None,
    **settings: Any,
) -> ServerTeacher:
    """A `ServerTeacher` from flags: addresses divided by commas, `extra_body` as JSON, `finish_reasons` as `done=stop`.

    Raises:
        ValueError: text that is no JSON object; as `ServerTeacher`.
    """
    try:
        fields = json.loads(extra_body or "{}")
    except ValueError as error:  # the text itself is not shown: a key may be in it
        raise ValueError(f"--extra_body is not JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise ValueError(
            f'--extra_body is a {type(fields).__name__}; it must be a JSON object, such as {{"top_k": 20}}.'
        )
    meanings = read_meanings(finish_reasons)
    urls = [part.strip() for part in url.split(",") if part.strip()]
    return ServerTeacher(urls, model, tokenizer=tokenizer, extra_body=fields, finish_reasons=meanings, **settings)


def _groups(asks: Iterable[Ask], most: int) -> Iterator[list[Ask]]:
    """Neighbours with one prompt, at most `most` together."""
    for _, same in itertools.groupby(asks, key=lambda ask: ask.prompt_ids):
        while group := list(itertools.islice(same, most)):
            yield group


def _tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of the vocabulary, its ends, and how a text of many kinds is cut."""
    probe = "The naïve  café, 12345 + 6.78e-9;\n\tdef f(x): return '日本語' # 🙂"
    cut = tokenizer(probe, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return fingerprint(sorted(tokenizer.get_vocab().items()), tokenizer.eos_token_id, list(cut))
