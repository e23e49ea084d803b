"""Answers in shapes that nobody asked for: none that was paid for is thrown away, and none is paid for nine times."""

import json
from functools import partial

import pytest
import server_runs
from fake_server import with_body, with_status
from server_runs import PROMPTS, run

from distill.generation.kept import Kept
from distill.generation.refusals import RefusalFile
from distill.generation.requests import Request
from distill.teachers import Refusal
from distill.teachers.base import DOZEN

teacher = partial(server_runs.teacher, retries=8)
empty = with_body(b'{"choices": [], "usage": {"completion_tokens": 9}}')  # counted, so paid for


def recorded(path):
    return [json.loads(line) for line in (path.parent / f"{path.name}.refused.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"message": None}, "a message that is null"),
        ({"message": "so"}, "a message that is a str"),
        (None, "a choice that is null"),
    ],
)
def test_one_choice_that_cannot_be_read_costs_not_those_beside_it(server, tmp_path, change, words):
    def change_one(body, payload):
        if change is None:
            payload["choices"][1] = None
        else:
            payload["choices"][1].update(change)

    server.change = change_one
    path = tmp_path / "p.jsonl"
    for _ in range(2):
        pairs = run(teacher(server, n_per_request=4), PROMPTS[:1], samples=4, output=path, allow_refusals=True)
        assert (len(pairs), len(server.asked)) == (3, 1)
    (row,) = recorded(path)
    assert words in row["reason"]
    assert row["answer"]["choices"]


def test_an_answer_without_choices_is_asked_for_once_more_and_kept(server, tmp_path):
    path = tmp_path / "p.jsonl"
    server.fault = lambda number, body: empty if "question 3'" in str(body) else None
    for _ in range(2):
        assert len(run(teacher(server), PROMPTS[:5], output=path, allow_refusals=True)) == 4
        assert len(server.asked) == 4 + 2
    (row,) = recorded(path)
    assert "an answer without choices, 2 times" in row["reason"]
    assert row["answer"] == {"choices": [], "usage": {"completion_tokens": 9}}
    server.fault = lambda number, body: empty if number == 6 else None
    assert len(run(teacher(server), PROMPTS[5:6])) == 1, "one of them is a hiccup"


def strange(body, payload):
    payload["choices"][0]["logprobs"] = {"content": [{"token": "the", "logprob": -0.1}]}


def test_log_probabilities_of_another_shape_matter_only_to_who_asked_for_them(server, tmp_path):
    plain = run(teacher(server)).to_list()
    server.change = strange
    assert run(teacher(server)).to_list() == plain
    server.latency, before, path = 0.02, len(server.asked), tmp_path / "p.jsonl"
    with pytest.raises(ValueError, match="12 requests in a row ended alike.*2 top log-probabilities were asked for"):
        run(teacher(server, top_logprobs=2), output=path)
    asked = len(server.asked) - before
    assert DOZEN <= asked <= DOZEN + 8
    assert sum("answer" in row for row in recorded(path)) == asked, "every answer is kept"


def test_refused_answers_outlive_a_journal_that_takes_no_more(tmp_path):
    class Full:
        def __init__(self):
            self.rows = {}

        def append(self, rows):
            raise OSError(28, "No space left on device")

    file = RefusalFile(tmp_path / "p.jsonl")
    with pytest.raises(OSError, match="No space"):
        Kept(Full(), refusals=file).keep(
            [{"id": "b"}], [(Request("a", "why", [1], 0), Refusal("odd", {"choices": []}))]
        )
    assert [row["id"] for row in recorded(tmp_path / "p.jsonl")] == ["a"]


def test_a_meaning_that_contradicts_an_earlier_one_is_refused(server, tmp_path):
    path = tmp_path / "p.jsonl"
    server.change = lambda body, payload: payload["choices"][0].update(finish_reason="done")
    run(teacher(server, finish_reasons={"done": "stop"}), PROMPTS[:3], output=path)
    run(teacher(server, finish_reasons={"odd": "length"}), PROMPTS[:3], output=path)
    with pytest.raises(ValueError, match="finish_reasons said something else .*'done': 'stop' there, 'length' now"):
        run(teacher(server, finish_reasons={"done": "length"}), PROMPTS[:3], output=path)
    run(teacher(server, finish_reasons={"done": "stop"}), PROMPTS[:4], output=path)
    with pytest.raises(ValueError, match="another run .*finish_reasons_of_its_own"):
        run(teacher(server, finish_reasons={"stop": "length"}), PROMPTS[:3], output=path)


def test_what_a_server_says_reaches_no_reason_raw(server):
    server.fault = lambda number, body: with_status(400, "red \x1b[31m") if "question 1'" in str(body) else None
    server.change = lambda body, payload: payload["choices"][0]["message"].update(
        {"content": None, "refusal": "no \x1b[2J"} if "question 2'" in str(body) else {}
    )
    with pytest.raises(ValueError, match="2 of 3") as told:
        run(teacher(server), PROMPTS[:3])
    assert "\x1b" not in str(told.value)
    assert r"red \x1b[31m" in str(told.value)
    assert r"no \x1b[2J" in str(told.value)
