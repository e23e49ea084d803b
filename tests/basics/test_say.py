"""Who speaks in a run of several processes."""

import ast
import builtins
import logging
from pathlib import Path

import pytest

from distill.basics import processes

ROOT = Path(__file__).parents[2]
PLAIN = {
    "distill/basics/processes.py": 1,
    "distill/cli.py": 3,
    "distill/running/parsing.py": 3,
    "recipes/chat.py": 5,
}  # `say` itself; help and version, which are there before torch is; a conversation, which is of one process


@pytest.fixture
def second(monkeypatch):
    """As in the second process; what it changes in other libraries is put back."""
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled
    from transformers.utils import logging as transformers_logging

    level, bars = logging.getLogger("distill").level, is_progress_bar_enabled()
    loading = transformers_logging.is_progress_bar_enabled()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    yield
    logging.getLogger("distill").setLevel(level)
    (enable_progress_bar if bars else disable_progress_bar)()
    (transformers_logging.enable_progress_bar if loading else transformers_logging.disable_progress_bar)()


def test_the_first_process_says_what_is_said(capsys):
    processes.say("two", "words")
    assert capsys.readouterr().out == "two words\n"


def test_another_process_says_nothing_and_its_own_print_is_left_alone(second, capsys):
    before = builtins.print
    processes.only_the_first_speaks()
    assert builtins.print is before
    processes.say("once is enough")
    print("a user's line")
    assert capsys.readouterr().out == "a user's line\n"
    assert not logging.getLogger("distill.teachers.server").isEnabledFor(logging.WARNING)


@pytest.mark.parametrize("world", [None, "1"])
def test_a_job_of_one_process_speaks_whatever_number_the_cluster_gave_it(world, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world:
        monkeypatch.setenv("WORLD_SIZE", world)
    assert processes.is_main()
    processes.say("alone")
    assert capsys.readouterr().out == "alone\n"


def plain_prints(path):
    """Calls of `print` that go to the standard output; what goes to stderr is of one process and meant."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        if is_print and not any(keyword.arg == "file" for keyword in node.keywords):
            yield node.lineno


def test_nothing_is_told_to_people_but_through_say():
    """Or it would stand there once for every process."""
    found = {}
    for path in [*(ROOT / "distill").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]:
        if lines := list(plain_prints(path)):
            found[path.relative_to(ROOT).as_posix()] = len(lines)
    assert found == PLAIN
