"""What was answered was paid for: it is kept, or recorded with its reason, and no second time asked for."""

import json

import pytest
from aiohttp import web
from fake_server import FakeServer, with_status
from server_runs import PROMPTS, TOKENIZER, run, teacher

from distill.teachers import Completion, Refusal
from distill.teachers.answers import completion_of, read_answers
from distill.teachers.base import DOZEN
from distill.text.ends import read_end, read_meanings

EOS = TOKENIZER.eos_token_id
CHAT = [{"role": "user", "content": "the cat"}]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def made(message, finish_reason="stop", meanings=None, limit=None, usage=None, **choice):
    payload = {"choices": [{"message": message, "finish_reason": finish_reason, **choice}], "usage": usage}
    return completion_of(read_answers(payload, limit)[0], CHAT, TOKENIZER, meanings)


# ------------------------------------------------------------------------------------------------------- ends
STOPPED = ["stop", "eos", "eos_token", "STOP", "end_turn", "stop_sequence", "COMPLETE", "FINISH_REASON_STOP"]
CUT = ["length", "max_tokens", "MAX_TOKENS", "model_length", "max_output_tokens", "model_context_window_exceeded"]


@pytest.mark.parametrize("said", [*STOPPED, *CUT])
def test_the_ends_of_the_fields_servers_are_known(said):
    found = made({"content": "the cat"}, said)
    assert isinstance(found, Completion)
    assert found.finish_reason == ("stop" if said in STOPPED else "length")
    assert (found.ids[-1] == EOS) == (said in STOPPED)


@pytest.mark.parametrize("said", ["tool_calls", "pause_turn", "abort", "", "cancelled", "stopped?"])
def test_an_end_that_is_not_known_can_be_said_to_mean_something(said):
    found = made({"content": "the cat"}, said)
    assert isinstance(found, Refusal)
    assert f"--finish_reasons {said}=stop" in found.reason
    assert found.answer is not None
    assert made({"content": "the cat"}, said, {said: "length"}).finish_reason == "length"
    assert read_end("eos", {"eos": "length"}) == "length", "what a user says goes before what is known"


def test_without_a_finish_reason_only_a_written_end_is_an_end():
    """Streaming proxies leave it out, and a server that is stopped cuts below the limit: EOS is learned where it was written."""
    usage = {"completion_tokens": 12}
    assert made({"content": "the cat"}, None, limit=12, usage=usage).finish_reason == "length"
    ids = TOKENIZER("the cat", add_special_tokens=False)["input_ids"]
    assert made({"content": "the cat"}, None, limit=12, token_ids=[*ids, EOS]).finish_reason == "stop"
    assert made({"content": "the cat"}, None, limit=len(ids) + 1, token_ids=[*ids, EOS]).finish_reason == "stop"
    assert made({"content": "the cat"}, None, limit=len(ids), token_ids=ids).finish_reason == "length"
    others = [i for i in TOKENIZER.all_special_ids if i != EOS][:1]
    foreign = [*TOKENIZER("a dog", add_special_tokens=False)["input_ids"], EOS]
    for unknown in ({}, {"limit": 12}, {"usage": usage}, {"usage": usage, "limit": 13}, {"token_ids": ids, "limit": 12},
                    {"token_ids": [*ids, *others], "limit": 12}, {"token_ids": foreign, "limit": 12}):  # fmt: skip
        found = made({"content": "the cat"}, None, **unknown)
        assert isinstance(found, Refusal), unknown
        assert "--finish_reasons null=stop" in found.reason
    assert made({"content": "the cat"}, None, {"null": "stop"}, limit=13, usage=usage).finish_reason == "stop"
    assert made({"content": "the cat"}, None, {"null": "stop"}, limit=12, usage=usage).finish_reason == "length"


def test_meanings_are_read_from_a_flag():
    assert read_meanings("done=stop, null=length") == {"done": "stop", "null": "length"}
    assert read_meanings(None) == {}
    for flag, words in (("done", "'done'; it must list"), ("done=yes", "'done' means 'yes'; it must be 'stop'")):
        with pytest.raises(ValueError, match=words):
            read_meanings(flag)


# ---------------------------------------------------------------------------------------------------- content
def test_a_content_of_parts_is_its_text_and_asked_once(server):
    def parts(body, payload):
        message = payload["choices"][0]["message"]
        text = message["content"]
        message["content"] = [{"type": "text", "text": text[:5]}, {"type": "text", "text": text[5:]}]

    plain = run(teacher(server))
    server.change, before = parts, len(server.asked)
    assert run(teacher(server)).to_list() == plain.to_list()
    assert len(server.asked) - before == len(PROMPTS)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": "x"}]}, "'image_url'"),
        ({"content": {"text": "x"}}, "a content that is a dict"),
        ({"content": "so", "tool_calls": [{"function": {"name": "f"}}]}, "tool_calls"),
        ({"content": None}, "without text"),
        ({"content": "cut \ud83d"}, "half of a character"),
        ({"content": "so", "reasoning": "\udc00"}, "half of a character"),
    ],
)
def test_what_a_pair_cannot_hold_is_refused_with_its_name(message, words):
    found = made(message)
    assert isinstance(found, Refusal)
    assert words in found.reason
    assert json.loads(json.dumps(found.answer))["choices"][0]["message"] == message


@pytest.mark.parametrize(
    "reasoning",
    [
        {"reasoning_content": "I think."},
        {"reasoning": "I think."},
        {"thinking": "I think."},
        {"reasoning_details": [{"type": "reasoning.text", "text": "I "}, {"type": "reasoning.text", "text": "think."}]},
        {"reasoning": "I think.", "reasoning_details": [{"type": "reasoning.text", "text": "I think."}]},
        {"reasoning": {"content": "I think."}},
        {"reasoning": None, "thinking": {"thinking": "I think."}},
    ],
)
def test_reasoning_is_kept_under_every_name(reasoning):
    assert made({"content": "4", **reasoning}).text == "<think>\nI think.\n</think>\n\n4"


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "thinking", "thinking": "I think."}, {"type": "text", "text": "4"}],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "I think."}]}, {"type": "text", "text": "4"}],
        [{"type": "reasoning", "text": "I think."}, "4"],
    ],
)
def test_reasoning_among_the_parts_of_a_content_is_kept(parts):
    assert made({"content": parts}).text == "<think>\nI think.\n</think>\n\n4"


def test_reasoning_that_is_no_text_is_named(server, capsys):
    hidden = [{"type": "reasoning.encrypted", "data": "xyz"}, {"type": "reasoning.summary", "summary": "It thinks."}]
    server.change = lambda body, payload: payload["choices"][0]["message"].update(reasoning_details=hidden)
    assert "think" not in run(teacher(server), PROMPTS[:3])["completion"]
    (told,) = capsys.readouterr().err.splitlines()
    assert "reasoning_details (reasoning.encrypted), reasoning_details (reasoning.summary)" in told


# ------------------------------------------------------------------------------------------------------ money
def test_one_bad_answer_is_a_recorded_refusal_and_never_asked_for_again(server, tmp_path):
    """Half of a character once ended a run for ever: the same error on every rerun."""

    async def half(request):
        body = b'{"choices":[{"index":0,"finish_reason":"stop","message":{"content":"cut \\ud83d"}}]}'
        return web.Response(body=body, content_type="application/json")

    server.fault = lambda number, body: half if "question 7'" in str(body) else None
    path = tmp_path / "pairs.jsonl"
    for _ in range(3):
        assert len(run(teacher(server), output=path, allow_refusals=True)) == 59
    assert len(server.asked) == 60
    (row,) = lines(tmp_path / "pairs.jsonl.refused.jsonl")
    assert "half of a character" in row["reason"]
    assert row["answer"]["choices"][0]["message"]["content"] == "cut \ud83d"
    with pytest.raises(ValueError, match=r"1 of 60.*1 of them were answered.*pairs.jsonl.refused.jsonl"):
        run(teacher(server), output=path)
    (tmp_path / "pairs.jsonl.refused.jsonl").unlink()
    server.fault = None
    assert len(run(teacher(server), output=path)) == 60
    assert len(server.asked) == 61


def test_a_dozen_refusals_alike_stop_the_run_and_a_later_meaning_saves_what_was_paid_for(server, tmp_path):
    server.change = lambda body, payload: payload["choices"][0].update(finish_reason="done")
    server.latency = 0.02
    path = tmp_path / "pairs.jsonl"
    with pytest.raises(ValueError, match=rf"{DOZEN} requests in a row ended alike.*finish_reason 'done'.*done=stop"):
        run(teacher(server), output=path)
    paid = len(server.asked)
    assert DOZEN <= paid <= DOZEN + 2 * 4, "only what was under way, four at once, came after the twelfth"
    recorded = lines(tmp_path / "pairs.jsonl.refused.jsonl")
    assert ["stopped" in row for row in recorded] == [False] * paid + [True]
    with pytest.raises(ValueError, match=r"so no more are asked for.*done=stop.*pairs.jsonl.refused.jsonl"):
        run(teacher(server), output=path)
    assert len(server.asked) == paid, "the same call pays no more"
    pairs = run(teacher(server, finish_reasons={"done": "stop"}), output=path)
    assert (len(pairs), len(server.asked)) == (60, 60), (
        "the recorded answers were taken up, and only the others asked for"
    )
    assert not (tmp_path / "pairs.jsonl.refused.jsonl").exists()
    server.change = None
    assert run(teacher(server), output=tmp_path / "other.jsonl")["completion"] == pairs["completion"]


def test_refusals_because_of_the_prompts_do_not_stop_a_run(server, tmp_path):
    server.change = lambda body, payload: payload["choices"][0].update(
        finish_reason="content_filter" if "question 5" not in str(body) else "stop"
    )
    assert len(run(teacher(server), allow_refusals=True)) == 11
    server.change, server.fault = None, lambda number, body: with_status(400, "content_filter") if number % 40 else None
    assert len(run(teacher(server), seed=1, allow_refusals=True)) == 1


def test_refusals_alike_with_answers_between_do_not_stop_a_run(server):
    server.change = lambda body, payload: payload["choices"][0].update(
        finish_reason="done" if len(server.asked) % 3 else "stop"
    )
    assert 0 < len(run(teacher(server, concurrency=1), allow_refusals=True)) < 60


def test_requests_that_are_refused_alike_stop_it_too(server):
    server.fault = lambda number, body: with_status(400, "no such field") if number > 5 else None
    with pytest.raises(ValueError, match=r"12 requests in a row ended alike.*no such field"):
        run(teacher(server))
    assert len(server.asked) < 60


def test_the_address_decides_nothing(server, tmp_path):
    """A restarted job has another port, and a moved one another machine: it goes on."""
    path = tmp_path / "pairs.jsonl"
    run(teacher(server), PROMPTS[:20], output=path)
    with FakeServer() as other:
        pairs = run(teacher(other, concurrency=9, timeout=9), PROMPTS[:40], output=path)
        assert (len(pairs), len(other.asked)) == (40, 20)
        incidental = json.loads((tmp_path / "pairs.jsonl.settings.json").read_text())["incidental"]
        assert incidental["teacher_url"] == [server.url, other.url], "but it stands on the record"


def test_two_outputs_with_a_dot_in_their_names_have_their_own_settings(server, tmp_path):
    for name, seed in (("run.1", 1), ("run.2", 2), ("run.1", 1)):
        assert len(run(teacher(server), PROMPTS[:3], output=tmp_path / name, seed=seed)) == 3
    assert len(server.asked) == 6


def test_a_prompt_that_is_no_text_is_named(server):
    with pytest.raises(ValueError, match="Prompt 2 of 2 .*Half of a character"):
        run(teacher(server), ["so", "cut \ud83d"])


def test_a_key_over_plain_http_to_another_machine_is_told(server, monkeypatch, capsys):
    from distill.teachers import endpoint

    monkeypatch.setenv("MY_KEY", "very-secret-1234")
    teacher(server, api_key_env="MY_KEY")
    assert capsys.readouterr().err == "", "this machine"
    monkeypatch.setattr(endpoint, "_HERE", ())
    teacher(server, api_key_env="MY_KEY")
    told = capsys.readouterr().err
    assert "The key in MY_KEY goes over plain http" in told
    assert "very-secret" not in told
    teacher(server)
    assert capsys.readouterr().err == "", "no key"
