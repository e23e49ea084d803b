"""`distill chat`: prompts line by line, on a terminal and without one."""

import io
import os
import pty
import select
import subprocess
import sys
import time

import pytest
from conftest import build_model, build_tokenizer, save_teacher

from distill.basics.terminal import printable
from distill.teachers import LocalTeacher
from distill.teachers.base import Sampling
from distill.teachers.talk import Talk


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("student"))


@pytest.fixture
def chat(told, monkeypatch):
    def run(words, *flags, status=0):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(words.encode())))
        return told("chat", *flags, status=status)

    return run


def answers(shown):
    """What stands under each echoed prompt."""
    parts = shown.split("\n> ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2].strip("\n") for part in parts}


def test_lines_are_answered_in_one_conversation(chat, folder):
    shown = chat(
        "the cat\n\na dog\n/reset\nthe cat\n/quit\nnever\n", folder, "--temperature", "0", "--max_new_tokens", "6"
    )
    talk = Talk(LocalTeacher(folder), Sampling(max_new_tokens=6, temperature=0))
    first, second = talk.answer("the cat"), talk.answer("a dog")
    found = answers(shown)
    assert "never" not in shown
    assert [*found] == ["the cat", "a dog", "/reset", "/quit"], "an empty line is no prompt"
    assert shown.count(f"> the cat\n{printable(first.text)}") == 2, "forgotten, and answered as at first"
    assert found["a dog"].startswith(printable(second.text))
    assert found["/reset"] == "[forgotten]"
    assert f"{folder}, 0.1 million parameters" in shown


def test_an_answer_that_is_cut_is_marked(chat, folder):
    shown = chat("the cat\n", folder, "--max_new_tokens", "2")
    assert "[cut at --max_new_tokens 2]" in answers(shown)["the cat"]
    long = chat("the cat " * 200 + "\nthe cat\n", folder, "--max_new_tokens", "2")
    first, second = answers(long).values()
    assert "[no answer: " in first
    assert "exceed the model's context" in first
    assert "[cut at" in second, "and the conversation goes on"


def test_a_teacher_beside_has_its_own_conversation(chat, folder, tmp_path):
    build_model(layers=3, seed=5).save_pretrained(tmp_path / "other")
    build_tokenizer().save_pretrained(tmp_path / "other")
    flags = ("--temperature", "0", "--max_new_tokens", "5")
    shown = chat("the cat\na dog\n", folder, "--beside", tmp_path / "other", *flags)
    for name, place in (("student", folder), ("teacher", tmp_path / "other")):
        talk = Talk(LocalTeacher(place), Sampling(max_new_tokens=5, temperature=0))
        for words in ("the cat", "a dog"):
            assert f"{name}: {printable(talk.answer(words).text)}" in answers(shown)[words]


def test_what_a_model_says_repaints_no_terminal(chat, folder, monkeypatch):
    def speak(self, said, tell):
        tell("red \x1b[31m")
        return type("A", (), {"text": "red \x1b[31m", "end": "stop"})()

    monkeypatch.setattr(Talk, "answer", speak)
    shown = chat("a \x1b]0;title\x07\n", folder)
    assert "\x1b" not in shown
    assert "red \\x1b[31m" in shown


def test_a_model_without_a_template_says_so(chat, tmp_path):
    build_model().save_pretrained(tmp_path)
    plain = build_tokenizer()
    plain.chat_template = None
    plain.save_pretrained(tmp_path)
    assert "no chat template: your text is continued" in chat("the cat\n", tmp_path, "--max_new_tokens", "3")
    assert "no chat template in which it could stand" in chat("", tmp_path, "--system", "x", status=1)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["nowhere/at/all"], "No folder nowhere/at/all"),
        (["--temperature", "-1"], "--temperature is -1.0; it must be 0 or more"),
        (["--max_new_tokens", "0"], "--max_new_tokens is 0; it must be at least 1"),
        (["--student", "http://localhost:1/v1"], "the address of a server"),
        (["STUDENT", "--base", "smollm2-135m"], "--base is 'smollm2-135m', which belongs below an adapter"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(chat, folder, flags, said):
    assert said in chat("", *[folder if flag == "STUDENT" else flag for flag in flags], status=1)


def test_a_folder_without_weights_is_refused(chat, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert "has a config.json but no weights" in chat("", tmp_path, status=1)


def test_on_a_terminal_a_key_ends_it(folder):
    """A real terminal: `loading ...` at once, an answer, the end by Ctrl-D."""
    ours, theirs = pty.openpty()
    code = f"import sys; sys.argv = ['distill', 'chat', {str(folder)!r}, '--max_new_tokens', '110']; from distill import cli; cli.main()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, close_fds=True,
                               preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0))  # fmt: skip
    os.close(theirs)
    seen = b""

    def until(words, seconds=240):
        nonlocal seen
        end = time.monotonic() + seconds
        while words not in seen:
            assert time.monotonic() < end, seen[-2000:]
            if select.select([ours], [], [], 1)[0]:
                try:
                    seen += os.read(ours, 4096)
                except OSError:  # its other end is closed
                    break
        assert words in seen, seen[-2000:]

    try:
        until(b"loading ...")
        until(b"Ctrl-C stops an answer.")
        until(b"> ")
        os.write(ours, b"the cat\n")
        until(b"the cat\r\n")
        seen = b""
        until(b"\r\n> ")  # so small a model is at its end at once; before it the terminal itself would take the key
        os.write(ours, b"\x04")
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
