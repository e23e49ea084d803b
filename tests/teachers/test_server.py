"""A teacher behind a server: every pair once and in order, whatever fails, and nothing believed that was not seen."""

import datetime
import email.utils
import json
import logging
import threading
import time

import pytest
from conftest import build_tokenizer, wait_until
from fake_server import (
    answer_text,
    drop,
    empty_choices,
    half_a_body,
    hang,
    malformed,
    not_utf8,
    web_page,
    with_status,
)

from distill import generate
from distill.teachers import Ask, Completion, Sampling, ServerTeacher
from distill.teachers.judgements import retry_after

PROMPTS = [f"question {i}" for i in range(12)]
TOKENIZER = build_tokenizer()


def teacher(server, **changes):
    settings = {"tokenizer": TOKENIZER, "backoff": 0.01, "timeout": 20, "concurrency": 4, "retries": 4}
    return ServerTeacher(server.url, **{**settings, **changes})


def run(asked, prompts=PROMPTS, **changes):
    return generate(asked, prompts, **{"max_new_tokens": 12, "samples": 2, "progress": False, **changes})


def test_pairs_come_in_the_order_of_the_prompts_and_every_sample_has_its_own_seed(server):
    server.latency = 0.1
    pairs = run(teacher(server))
    assert [(row["prompt"][0]["content"], row["sample"]) for row in pairs] == [(p, s) for p in PROMPTS for s in (0, 1)]
    assert len({body["seed"] for body in server.asked}) == len(pairs) == len(server.asked)
    assert server.most_in_flight == 4
    for row in pairs:
        assert row["token_source"] == "text"
        assert TOKENIZER.decode(row["completion_ids"], skip_special_tokens=True) == row["completion"]
        assert (row["completion_ids"][-1] == TOKENIZER.eos_token_id) == (row["finish_reason"] == "stop")
    assert {"stop", "length"} == set(pairs["finish_reason"])


def test_any_concurrency_gives_the_same_pairs(server):
    one = run(teacher(server, concurrency=1)).to_list()
    assert run(teacher(server, concurrency=9)).to_list() == one
    assert run(teacher(server), seed=1).to_list() != one


def test_what_is_asked_is_what_was_given(server):
    run(
        teacher(server, top_logprobs=2, extra_body={"user": "me", "top_k": 7}), [PROMPTS[0]], temperature=0.5, top_p=0.9
    )
    body = server.asked[0]
    assert body["path"] == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": PROMPTS[0]}]
    wanted = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 12, "top_logprobs": 2, "user": "me", "top_k": 7}
    assert body | wanted == body
    run(teacher(server, chat=False, extra_body={"max_tokens": None, "limit": 3}), [PROMPTS[0]], samples=1)
    body = server.asked[-1]
    assert (body["path"], body["prompt"]) == ("/v1/completions", PROMPTS[0])
    assert "max_tokens" not in body
    assert body["limit"] == 3


FAULTS = {
    "429, seconds": with_status(429, Retry_After="0.02"),
    "429": with_status(429),
    "500": with_status(500),
    "dropped": drop,
    "hang": hang(4),
    "half": half_a_body,
    "malformed": malformed,
    "not UTF-8": not_utf8,
    "no choices": empty_choices,
    "page": web_page,
}


def test_every_pair_arrives_once_through_every_fault(server, tmp_path):
    good = run(teacher(server)).to_list()
    faults = list(FAULTS.values())
    server.fault = lambda number, body: faults[number // 3 % len(faults)] if number % 3 == 1 else None
    found = run(teacher(server, timeout=2, retries=8), output=tmp_path / "pairs.jsonl")
    assert found.to_list() == good
    ids = [json.loads(line)["id"] for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert sorted(ids) == sorted(row["id"] for row in good)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("429", "429: try again"),
        ("500", "500: try again"),
        ("dropped", "connection broke"),
        ("hang", "within 0.5 s"),
        ("half", "connection broke"),
        ("malformed", "not JSON"),
        ("not UTF-8", "not UTF-8"),
        ("no choices", "without choices"),
        ("page", "/v1"),
    ],
)
def test_what_never_mends_is_told(server, fault, words):
    server.fault = lambda number, body: FAULTS[fault]
    with pytest.raises(ValueError, match=words):
        run(teacher(server, timeout=0.5 if fault == "hang" else 20, retries=1), samples=1)


def test_a_request_that_always_fails_does_not_stop_the_others(server, tmp_path):
    server.fault = lambda number, body: drop if "question 5" in str(body) else None
    with pytest.raises(ValueError, match="2 of 24 completions could not be had.*question 5.*3 attempts.*the same call"):
        run(teacher(server, retries=2), output=tmp_path / "pairs.jsonl")
    server.fault, before = None, len(server.asked)
    assert run(teacher(server), output=tmp_path / "pairs.jsonl").to_list() == run(teacher(server)).to_list()
    assert len(server.asked) - before == 2 + 24


def test_a_server_that_goes_away_stops_the_run_and_nothing_finished_is_lost(server, tmp_path):
    server.fault = lambda number, body: with_status(503) if number >= 10 else None
    with pytest.raises(ValueError, match="gives no answers; the last of 2 attempts.*503"):
        run(teacher(server, retries=1), output=tmp_path / "pairs.jsonl")
    assert len((tmp_path / "pairs.jsonl").read_text().splitlines()) == 10
    server.fault, before = None, len(server.asked)
    run(teacher(server), output=tmp_path / "pairs.jsonl")
    assert len(server.asked) - before == 14


def test_an_error_that_hits_all_lets_finish_what_is_under_way(server, tmp_path):
    """The key is taken back at the fourth request; the three before it are under way and slow."""
    server.latency = 0.2
    server.fault = lambda number, body: with_status(401, "no such key") if number == 3 else None
    with pytest.raises(ValueError, match="wants a key"):
        run(teacher(server), output=tmp_path / "pairs.jsonl")
    assert len((tmp_path / "pairs.jsonl").read_text().splitlines()) == 3
    assert len(server.asked) == 4


def test_ctrl_c_keeps_what_is_finished(server, tmp_path, monkeypatch):
    server.latency = 0.005
    asked, real, taken = teacher(server, concurrency=1), ServerTeacher._finish, []

    def interrupted(self, *args):
        taken.append(1)
        if len(taken) == 6:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(ServerTeacher, "_finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(asked, output=tmp_path / "pairs.jsonl")
    monkeypatch.undo()
    kept = len((tmp_path / "pairs.jsonl").read_text().splitlines())
    assert kept >= 5
    assert not [t for t in threading.enumerate() if t.name == "requests"], "requests go on after the interruption"
    wait_until(lambda: not server.in_flight)  # the one that was given up may still be there
    sent = len(server.asked)
    run(asked, output=tmp_path / "pairs.jsonl")
    assert 24 - kept <= len(server.asked) - sent <= 25 - kept, "at most one that was sent already arrives late"


def test_a_server_is_waited_for_as_long_as_it_asks(server):
    server.fault = lambda number, body: with_status(429, Retry_After="0.4") if number == 0 else None
    start = time.monotonic()
    run(teacher(server), PROMPTS[:1], samples=1)
    assert time.monotonic() - start >= 0.4
    server.fault = lambda number, body: with_status(429, Retry_After="7200")
    with pytest.raises(ValueError, match="asks to wait 120 minutes"):
        run(teacher(server), PROMPTS[1:2])


def test_retry_after_in_all_its_forms():
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    date = email.utils.format_datetime(now + datetime.timedelta(seconds=90), usegmt=True)
    for headers, seconds in (
        ({}, None),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": date}, 90),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
    ):
        assert retry_after(headers, now.timestamp) == seconds


def test_refusals_name_the_prompt_and_can_be_allowed(server, capsys):
    server.context = 8
    prompts = ["short", "a prompt of many more words than this model can ever take in"]
    with pytest.raises(ValueError, match="2 of 4 completions.*'a prompt of many.*exceed the model's context"):
        run(teacher(server), [[{"role": "user", "content": p}] for p in prompts])
    pairs = run(teacher(server), prompts, allow_refusals=True)
    assert [row["prompt"][0]["content"] for row in pairs] == ["short", "short"]
    assert "2 of 4 completions could not be had" in capsys.readouterr().err
    with pytest.raises(ValueError, match="could not be had"):
        run(teacher(server), prompts[1:], allow_refusals=True)


@pytest.mark.parametrize("most", [1, 2, None])
def test_several_samples_in_one_request_where_the_server_gives_fewer(server, capsys, most):
    server.most = most
    pairs = run(teacher(server, n_per_request=3, concurrency=1), samples=3)
    assert pairs["sample"] == [0, 1, 2] * 12
    assert len(server.asked) == 12 * {1: 3, 2: 2, None: 1}[most]
    assert capsys.readouterr().err.count("asked for singly") == (most is not None)


def test_identical_samples_are_noticed(server, capsys):
    run(teacher(server))
    assert capsys.readouterr().err == ""
    server.uses_seed = False
    run(teacher(server))
    assert "12 of 12 prompts have identical samples at temperature 1" in capsys.readouterr().err
    run(teacher(server), temperature=0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("chat", [None, False])
def test_top_log_probabilities_are_kept_or_missed_by_name(server, chat):
    (row,) = run(teacher(server, chat=chat, top_logprobs=2), PROMPTS[:1], samples=1)
    assert [place["tokens"][0] for place in row["top_logprobs"]] == row["completion"].split()
    assert row["top_logprobs"][0]["logprobs"] == [-0.5, -1.0]
    server.top_logprobs = False
    with pytest.raises(ValueError, match="2 top log-probabilities were asked for, and it gave none"):
        run(teacher(server, chat=chat, top_logprobs=2))


def test_every_ask_is_answered_once_by_its_own_index(server):
    sampling = Sampling(max_new_tokens=12)
    asked = teacher(server)
    asks = [Ask(i, *asked.resolve_prompt(p), seed=i) for i, p in enumerate(PROMPTS)]
    found = dict(asked.complete_each(iter(asks), sampling))
    assert found.keys() == set(range(12))
    for i, completion in found.items():
        assert isinstance(completion, Completion)
        assert (completion.text, completion.finish_reason) == answer_text(f"user: {PROMPTS[i]}", (i, 0), 12)


def test_no_key_is_ever_shown(server, tmp_path, monkeypatch, caplog, capsys):
    """A server that echoes the Authorization header in its errors, and one that takes the key."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", "very-secret-1234")
    server.key = "very-secret-1234"
    asked = teacher(server, api_key_env="MY_KEY")
    run(asked, output=tmp_path / "pairs.jsonl")
    assert server.asked[0]["authorization"] == "Bearer very-secret-1234"
    server.key = "another"
    with pytest.raises(ValueError, match=r"MY_KEY is not accepted.*provided: Bearer \[key\]") as error:
        run(asked, PROMPTS[:1], seed=1)
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ValueError, match="MY_KEY is not set"):
        teacher(server, api_key_env="MY_KEY")
    shown = [str(error.value), repr(error.value), repr(asked), json.dumps(asked.identity()), caplog.text]
    shown += [path.read_text() for path in tmp_path.iterdir()] + list(capsys.readouterr())
    assert not any("very-secret" in text for text in shown)


def test_a_key_is_taken_without_blanks_and_refused_unseen_where_it_cannot_be_sent(server, monkeypatch):
    """`export KEY="$(cat file)"` brings a line's end along; the HTTP library would show such a key in its error."""
    server.key = "very-secret-1234"
    monkeypatch.setenv("OPENAI_API_KEY", "  very-secret-1234\r\n")
    assert len(run(teacher(server), PROMPTS[:1], samples=1)) == 1
    for key in ("very-sécret-1234", "very-secret\n1234", "very-secret\x7f"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(ValueError, match="OPENAI_API_KEY cannot be sent: character \\d+ of 1\\d") as error:
            teacher(server)
        assert "ret" not in str(error.value)


@pytest.mark.parametrize(
    "extra",
    [
        {"api_key": "abc"},
        {"deep": [{"Authorization": "x"}]},
        {"user": "sk-abcdefghijklmnop"},
        {"user": "my very-secret-1234"},
    ],
)
def test_a_key_in_the_further_fields_is_refused_before_it_is_written_anywhere(server, extra, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "very-secret-1234")
    with pytest.raises(ValueError, match="extra_body is written into the journal, and .*OPENAI_API_KEY") as error:
        teacher(server, extra_body=extra)
    assert not any(secret in str(error.value) for secret in ("abc", "sk-", "very-secret"))
