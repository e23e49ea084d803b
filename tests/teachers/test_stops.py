"""When a run stops for a person, when it goes on, and how a loop that starts it again can tell."""

import json

import pytest
from conftest import free_port
from distill.recipes import generate as generate_recipe
from fake_server import with_status
from server_runs import PROMPTS, TOKENIZER, run, teacher

from distill.running.telling import TRY_AGAIN
from distill.teachers.base import DOZEN
from distill.teachers.judgements import Refused, judge_status


@pytest.mark.parametrize("first", [True, False])
def test_many_samples_of_one_refused_prompt_are_one_prompt(server, tmp_path, first):
    """Sixteen samples of one prompt that is refused once stopped a run for ever, also as the only ones that are left."""
    prompts = PROMPTS[:10]
    bad = "question 0'" if first else "question 9'"
    server.fault = lambda number, body: with_status(400, "this one is odd") if bad in str(body) else None
    for _ in range(2):
        pairs = run(teacher(server), prompts, samples=16, output=tmp_path / "p.jsonl", allow_refusals=True)
        assert len(pairs) == 9 * 16


@pytest.mark.parametrize(
    ("said", "of_prompt"),
    [
        ("prompt is too long: 210000 tokens > 200000 maximum", True),
        ("The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", True),
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2000 `inputs` tokens",
            True,
        ),
        ("Input validation error: `inputs` must have less than 1024 tokens. Given: 1500", True),
        ("max_tokens: 100000 > 8192, which is the maximum number of output tokens", False),
        ("temperature must be <= 2", False),
        ("max_tokens is too large: 9000", False),
    ],
)
def test_a_prompt_that_is_too_long_is_known_whoever_says_it(said, of_prompt):
    found = judge_status(400, {"error": {"message": said}}, {}, said)
    assert isinstance(found, Refused)
    assert found.of_prompt is of_prompt


def test_refusals_now_and_then_are_no_stop(server, tmp_path):
    """The file beside the journal holds refusals only: a dozen of them in it need not have come in a row."""
    server.change = lambda body, payload: payload["choices"][0].update(
        finish_reason="done" if len(server.asked) % 3 == 0 else "stop"
    )
    path = tmp_path / "p.jsonl"
    with pytest.raises(ValueError, match="of 48 completions could not be had"):
        run(teacher(server, concurrency=1), PROMPTS[:48], output=path)
    assert len((tmp_path / "p.jsonl.refused.jsonl").read_text().splitlines()) >= DOZEN
    server.change = None
    assert len(run(teacher(server), PROMPTS, output=path, allow_refusals=True)) == 60 - 16
    with pytest.raises(ValueError, match="16 of 60"):
        run(teacher(server), PROMPTS, output=path)


@pytest.mark.parametrize("allow", [False, True])
def test_a_stop_is_remembered_until_its_answers_can_be_used_or_the_file_is_gone(server, tmp_path, allow):
    server.change = lambda body, payload: payload["choices"][0].update(finish_reason="done")
    path, refused = tmp_path / "p.jsonl", tmp_path / "p.jsonl.refused.jsonl"
    with pytest.raises(ValueError, match="requests in a row ended alike"):
        run(teacher(server), output=path, allow_refusals=allow)
    paid = len(server.asked)
    for _ in range(2):
        with pytest.raises(ValueError, match="no more are asked for.*'done'.*remove that file"):
            run(teacher(server), output=path, allow_refusals=allow)
    assert len(server.asked) == paid
    server.change = None
    kept = refused.read_bytes()
    refused.unlink()
    assert len(run(teacher(server), output=path)) == 60
    path.unlink()
    refused.write_bytes(kept)
    assert len(run(teacher(server, finish_reasons={"done": "stop"}), output=path)) == 60, "it can be used now"


def flags(url, tmp_path, *more):
    TOKENIZER.save_pretrained(tmp_path / "t")
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    return ["--teacher", url, "--tokenizer", str(tmp_path / "t"), "--prompts", str(tmp_path / "p.txt"),
            "--output", str(tmp_path / "p.jsonl"), "--allow_refusals", "--concurrency", "4", *more]  # fmt: skip


def status(argv):
    with pytest.raises(SystemExit) as ended:
        generate_recipe.main(argv)
    return ended.value.code


def test_the_exit_status_tells_what_may_pass_from_what_needs_a_person(server, tmp_path, capsys):
    """A loop that starts a run again must not do so for ever where only a person can mend it."""
    assert status(flags(f"http://127.0.0.1:{free_port()}/v1", tmp_path)) == TRY_AGAIN == 75, "nobody there yet"
    server.models_status = 503
    assert status(flags(server.url, tmp_path)) == TRY_AGAIN, "it loads its model"
    server.models_status = 200
    server.fault = lambda number, body: with_status(429, Retry_After="4000")
    assert status(flags(server.url, tmp_path)) == TRY_AGAIN
    server.fault = lambda number, body: with_status(422, "no such field")
    assert status(flags(server.url, tmp_path)) == 1
    server.fault = lambda number, body: with_status(402)
    assert status(flags(server.url, tmp_path)) == 1
    server.fault, server.latency = None, 0.02
    server.change = lambda body, payload: payload["choices"][0].update(finish_reason="done")
    assert status(flags(server.url, tmp_path)) == 1
    paid = len(server.asked)
    assert status(flags(server.url, tmp_path)) == 1
    assert len(server.asked) == paid
    assert "remove that file" in capsys.readouterr().err
    assert status(flags(server.url, tmp_path, "--temperature", "-1")) == 1


def test_the_stop_of_one_part_is_that_of_the_whole(tmp_path):
    from distill.generation.refusals import RefusalFile
    from distill.generation.requests import Request
    from distill.teachers import Completion, Refusal

    part, whole = RefusalFile(tmp_path / "p.jsonl.part-1"), RefusalFile(tmp_path / "p.jsonl")
    part.add([(Request("a", "why", [1], 0), Refusal("odd", {"choices": []}))])
    part.stop(Request("a", "why", [1], 0), Refusal("odd", {"choices": []}))
    whole.take_in(part)
    for found in (RefusalFile(tmp_path / "p.jsonl"), RefusalFile(tmp_path / "p.jsonl.part-0", tmp_path / "p.jsonl")):
        with pytest.raises(ValueError, match="still odd"):
            found.check_not_stopped(lambda *_: Refusal("still odd"))
        assert list(found.rows) == ["a"]
    found.check_not_stopped(lambda *_: Completion([1], "", "stop"))
    found.check_not_stopped(None)
    assert json.loads(found.path.read_text()) == {"stopped": None}
