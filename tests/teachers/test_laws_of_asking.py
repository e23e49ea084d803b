"""Laws of asking a server: how long is waited between attempts, and that a cut completion has no end."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from conftest import build_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.teachers import Completion, Refusal, endpoint
from distill.teachers.answers import completion_of, read_answers
from distill.teachers.endpoint import HOPELESS, LONGEST_PAUSE, LONGEST_WAIT, Endpoint
from distill.teachers.judgements import Malformed, Refused, Unavailable

TOKENIZER = build_tokenizer()
EOS, TURN = TOKENIZER.eos_token_id, TOKENIZER.convert_tokens_to_ids("<|endoftext|>")
WORDS = TOKENIZER("the cat sat on the mat", add_special_tokens=False)["input_ids"]


# ------------------------------------------------------------------------------------------------------ waits
def waits_of(monkeypatch, chance, trouble=None, **settings):
    """What one request waits for between its attempts where every answer is unreadable, or `trouble()` is raised.

    Nothing is really waited for.
    """
    waited = []

    async def wait_for(event, seconds):
        event.close()
        waited.append(seconds)
        raise TimeoutError

    async def send(*args, **kwargs):
        if trouble:
            raise trouble()
        return {}

    def read(payload):
        raise Malformed("nothing in it")

    async def ask():
        async with Endpoint("http://localhost:1/v1", "NO_KEY", timeout=5, **settings) as asked:
            asked._client = SimpleNamespace(post=send, close=asked._client.close)
            with contextlib.suppress(Refused):
                await asked.post("/completions", {}, read)

    own = SimpleNamespace(**{**vars(asyncio), "wait_for": wait_for})
    monkeypatch.setattr(endpoint, "asyncio", own)
    monkeypatch.setattr(endpoint.random, "uniform", lambda low, high: low + chance * (high - low))
    asyncio.run(ask())
    return waited


@pytest.mark.parametrize("backoff", [1.0, 0.25])
def test_the_waits_between_attempts_double_up_to_a_limit(monkeypatch, backoff):
    """1, 2, 4 ... times the backoff; by chance as little as half of it, and never more."""
    expected = [min(LONGEST_PAUSE, backoff * factor) for factor in (1, 2, 4, 8, 16, 32, 64, 128)]
    assert waits_of(monkeypatch, 1, retries=8, backoff=backoff) == expected
    assert waits_of(monkeypatch, 0, retries=8, backoff=backoff) == [wait / 2 for wait in expected]
    assert expected[-1] == LONGEST_PAUSE, "else the limit was not met"


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_there_are_as_many_waits_as_further_attempts(monkeypatch, retries):
    assert len(waits_of(monkeypatch, 1, retries=retries, backoff=1.0)) == retries


def busy(**headers):
    """Status 429."""
    response: Any = SimpleNamespace(status_code=429, headers=headers, request=None, reason_phrase="busy")
    return openai.RateLimitError("busy", response=response, body=None)


@pytest.mark.parametrize("seconds", [LONGEST_WAIT, LONGEST_WAIT + 1])
def test_a_server_is_waited_for_as_long_as_it_asks_up_to_a_limit(monkeypatch, seconds):
    """Beyond it the run stops and says so; no test and no user sits through it."""
    send = lambda: busy(**{"retry-after": str(seconds)})  # noqa: E731
    if seconds > LONGEST_WAIT:
        with pytest.raises(Unavailable, match="asks to wait 15 minutes"):
            waits_of(monkeypatch, 0, send, retries=1, backoff=1.0)
    else:
        assert waits_of(monkeypatch, 0, send, retries=1, backoff=1.0) == [seconds]


def test_an_answer_between_lost_requests_begins_their_count_anew():
    """Some requests of a long run are lost; only as many in a row mean that the server is gone."""

    async def ask():
        said = []
        async with Endpoint("http://localhost:1/v1", "NO_KEY", timeout=5, retries=0, backoff=0) as asked:

            async def send(*args, **kwargs):
                return {"had": True} if (len(said) + 1) % HOPELESS == 0 and len(said) < HOPELESS else {}

            def read(payload):
                if not payload:
                    raise Malformed("nothing in it")
                return "had"

            asked._client = SimpleNamespace(post=send, close=asked._client.close)
            while len(said) < 3 * HOPELESS and "gone" not in said:
                try:
                    said.append(await asked.post("/completions", {}, read))
                except Refused:
                    said.append("lost")
                except Unavailable:
                    said.append("gone")
        return said

    lost = ["lost"] * (HOPELESS - 1)
    assert asyncio.run(ask()) == [*lost, "had", *lost, "gone"]


@pytest.mark.parametrize("others", [True, False], ids=["others get through", "nobody does"])
def test_to_be_told_to_wait_is_a_failure_only_where_nobody_gets_through(monkeypatch, others):
    """A server with a queue says 429 as often as it likes, and the request is had in the end."""
    refusals = iter(range(10))

    async def ask():
        async with Endpoint("http://localhost:1/v1", "NO_KEY", timeout=5, retries=2, backoff=0) as asked:

            async def send(*args, **kwargs):
                asked.answered += others
                if next(refusals, None) is not None:
                    raise busy()
                return {"had": True}

            asked._client = SimpleNamespace(post=send, close=asked._client.close)
            return await asked.post("/completions", {}, lambda payload: payload)

    if others:
        assert asyncio.run(ask()) == {"had": True}
    else:
        with pytest.raises(Refused, match="no answer in 3 attempts"):
            asyncio.run(ask())


# ------------------------------------------------------------------------------------------------------- ends
def completion(ids, finish_reason, text=None):
    """Of an answer with these ids, and the text that they decode to."""
    said = TOKENIZER.decode(ids, skip_special_tokens=True) if text is None else text
    message = {"role": "assistant", "content": said}
    choice = {"message": message, "finish_reason": finish_reason, "token_ids": ids}
    return completion_of(read_answers({"choices": [choice]})[0], [{"role": "user", "content": "go on"}], TOKENIZER)


@pytest.mark.parametrize("tail", [[], [EOS], [TURN], [EOS, EOS], [TURN, EOS]], ids=str)
@pytest.mark.parametrize("own", [True, False], ids=["the teacher's ids", "ids made from its text"])
def test_a_completion_that_was_cut_carries_no_eos_whatever_the_server_sent(tail, own):
    found = completion([*WORDS, *tail], "length", None if own else "the cat sat on the mat.")
    assert isinstance(found, Completion)
    assert found.token_source == ("teacher" if own else "text")
    assert EOS not in found.ids
    assert found.ids[: len(WORDS)] == WORDS
    assert found.finish_reason == "length"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=8),
    st.lists(st.sampled_from([EOS, TURN]), max_size=3),
    st.sampled_from(["stop", "length"]),
)
def test_ids_end_with_an_end_exactly_if_the_completion_stopped(words, tail, finish_reason):
    found = completion([*words, *tail], finish_reason)
    if isinstance(found, Refusal):
        assert finish_reason == "length"
        return
    ends = [place for place, token in enumerate(found.ids) if token in (EOS, TURN)]
    assert bool(ends) == (finish_reason == "stop")
    assert found.ids[: len(words)] == words
