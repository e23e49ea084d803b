"""The day that a template writes: one a run, whatever the calendar says meanwhile; recorded, and given back."""

import datetime
import json

import pytest
from conftest import TEMPLATE, build_model, build_tokenizer
from tool_chats import ASK, SAY, WEATHER, chat_tokenizer

from distill import generate, load_pairs
from distill.generation.prompts import write_prompts
from distill.running.folder import RunFolder
from distill.teachers import LocalTeacher
from distill.text import dates
from distill.text.encode import encode_prompt

DATED = "{{ '<|im_start|>system\nToday is ' + strftime_now('%Y-%m-%d') + '<|im_end|>\n' }}" + TEMPLATE
FIRST, NEXT = datetime.date(2031, 1, 31), datetime.date(2031, 2, 1)


@pytest.fixture(autouse=True)
def nothing_fixed(monkeypatch):
    monkeypatch.setattr(dates, "_fixed", [])
    monkeypatch.setattr(dates, "_today", lambda: FIRST)


def a_day_later(monkeypatch, new_process=True):
    monkeypatch.setattr(dates, "_today", lambda: NEXT)
    if new_process:
        monkeypatch.setattr(dates, "_fixed", [])


def asked(tokenizer):
    return tokenizer.decode(encode_prompt([ASK], tokenizer))


def test_a_process_writes_one_day_and_a_context_another():
    tokenizer = build_tokenizer(DATED)
    assert dates.template_day(build_tokenizer()) is None
    assert dates.day_settings(build_tokenizer()) == {}
    assert dates.template_day(tokenizer) == "2031-01-31"
    assert "Today is 2031-01-31<" in asked(tokenizer)
    with dates.on_day("2030-12-24"):
        assert "Today is 2030-12-24<" in asked(tokenizer)
        assert dates.template_day(tokenizer) == "2030-12-24"
    assert "Today is 2031-01-31<" in asked(tokenizer)
    assert tokenizer.chat_template == DATED, "a student is saved with the template as it is"
    for bad in ("tomorrow", 3):
        with pytest.raises(ValueError, match="expected one like 2026-11-27"), dates.on_day(bad):
            pass


@pytest.mark.parametrize("name", ["llama3_2", "gptoss", "smollm3_tools"])
def test_published_templates_write_what_they_write_on_that_day(name, monkeypatch):
    """The oracle: transformers on a computer whose clock says so."""
    import transformers.utils.chat_template_utils as clock

    class Day(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime(2031, 1, 31)

    monkeypatch.setattr(clock, "datetime", Day)
    tokenizer = chat_tokenizer(name)
    theirs = tokenizer.apply_chat_template([ASK], tools=[WEATHER], add_generation_prompt=True, tokenize=False)
    assert "31" in theirs
    assert tokenizer.decode(encode_prompt([ASK], tokenizer, [WEATHER])) == theirs


def test_a_template_keeps_its_first_line_end_its_marks_and_formats_that_are_put_together_are_refused():
    first = "\n\n" + DATED
    assert asked(build_tokenizer(first)).startswith("\n\n<|im_start|>system")
    assert asked(build_tokenizer("\n" + TEMPLATE)) == asked(build_tokenizer("\n" + TEMPLATE + "{# strftime_now #}"))
    named = "{% set f = '%d/%m' %}{% if strftime_now is defined %}{{ strftime_now(f) }}{% endif %}" + TEMPLATE
    assert asked(build_tokenizer(named)).startswith("31/01<|im_start|>")
    with pytest.raises(ValueError, match="no date of the format %d%m is fixed"):
        asked(build_tokenizer("{{ strftime_now('%d' + '%m') }}" + TEMPLATE))


def test_a_generation_goes_on_the_next_day_and_asks_for_nothing_twice(monkeypatch, tmp_path):
    teacher = LocalTeacher(build_model(), build_tokenizer(DATED))
    complete, calls = teacher.complete, []
    monkeypatch.setattr(
        teacher, "complete", lambda prompts, *a, **k: calls.append(len(prompts)) or complete(prompts, *a, **k)
    )
    settings = {"max_new_tokens": 4, "output": tmp_path / "pairs.jsonl", "progress": False, "batch_size": 1}
    first = generate(teacher, ["the cat"], **settings)
    assert json.loads((tmp_path / "pairs.jsonl.settings.json").read_text())["template_day"] == "2031-01-31"
    a_day_later(monkeypatch)
    again = generate(teacher, ["the cat", "a dog"], **settings)
    assert calls == [1, 1]
    assert again[0] == first[0]
    assert all("2031-01-31" in teacher.tokenizer.decode(ids) for ids in again["prompt_ids"])
    other = generate(teacher, ["the cat"], **{**settings, "output": tmp_path / "new.jsonl"})
    assert "2031-02-01" in teacher.tokenizer.decode(other["prompt_ids"][0]), "another run is of its own day"


def test_prompts_that_a_teacher_writes_go_on_the_next_day(monkeypatch, tmp_path):
    teacher = LocalTeacher(build_model(), build_tokenizer(DATED))
    headers = []

    def complete(prompts, sampling, seed):
        headers.append(teacher.tokenizer.decode(prompts[0]))
        from distill.teachers.base import Completion

        return [Completion([5], f"what is the number {len(headers)}{i}", "stop") for i in range(len(prompts))]

    monkeypatch.setattr(teacher, "complete", complete)
    settings = {"output": tmp_path / "prompts.jsonl", "batch_size": 2, "progress": False, "near": False}
    first = write_prompts(teacher, 2, **settings)
    a_day_later(monkeypatch)
    assert write_prompts(teacher, 4, **settings)[:2] == first
    assert len(headers) == 2
    assert all("2031-01-31" in header for header in headers)


@pytest.mark.parametrize("midnight", ["between two processes", "within one"])
def test_a_run_folder_fixes_the_day_of_its_beginning(midnight, monkeypatch, tmp_path):
    tokenizer = build_tokenizer(DATED)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"messages": [ASK, SAY]}))
    run = RunFolder(tmp_path / "run", {"a": 1})
    before = load_pairs(rows, tokenizer)
    a_day_later(monkeypatch, new_process=midnight == "between two processes")
    if midnight == "between two processes":
        run._lock.release()
        RunFolder(tmp_path / "run", {"a": 1})
    assert load_pairs(rows, tokenizer).to_list() == before.to_list()
    RunFolder(tmp_path / "another", {"a": 1})
    assert load_pairs(rows, tokenizer)["prompt_ids"] != before["prompt_ids"]
    run._lock.release()
    with pytest.raises(ValueError, match="holds another run"):
        RunFolder(tmp_path / "run", {"a": 2})
