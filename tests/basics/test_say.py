"""Who speaks in a run of several processes."""

import builtins
import logging

import pytest

from distill.basics import processes


@pytest.fixture
def second(monkeypatch):
    """As in the second process; what it changes in other libraries is put back."""
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled
    from transformers.utils import logging as transformers_logging

    level, bars = logging.getLogger("distill").level, is_progress_bar_enabled()
    loading = transformers_logging.is_progress_bar_enabled()
    monkeypatch.setenv("RANK", "1")
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
