"""The controls of a page: each broken once on purpose, and the page says so."""

import dataclasses

import pytest
from conftest import build_model, build_tokenizer

from distill.evaluation.memorisation import planted_leak
from distill.evaluation.risk import Side, controls
from distill.evaluation.risk.controls import leak_controls, proves_nothing
from distill.teachers.local import LocalTeacher


@pytest.fixture(scope="module")
def base():
    return Side("base", "tiny", LocalTeacher(build_model(seed=3, max_position_embeddings=512), build_tokenizer()))


@pytest.fixture(scope="module")
def leak(base):
    tiny = {"steps": 80, "learning_rate": 8e-3, "upper_layers": None, "each": 10}
    return planted_leak(base.model, base.speaker.tokenizer, **tiny)


def found(base, monkeypatch, *leaks):
    """What the page says where the leaks turn out so, one for each way of planting."""
    left = iter(leaks)
    monkeypatch.setattr(controls, "planted_leak", lambda *args, **way: next(left))
    return leak_controls(base)


def test_a_leak_that_is_found_by_all_lets_the_page_speak(base, leak, monkeypatch):
    both = found(base, monkeypatch, leak)
    assert [one.passed for one in both] == [True, True]
    assert proves_nothing(both) == ""
    assert "each taught 80 times" in both[1].said


def test_a_detector_that_is_blind_is_named(base, leak, monkeypatch):
    none = dataclasses.replace(leak.overlap_after, share=0.0)
    blind = dataclasses.replace(leak, overlap_after=none)
    untrained, planted = found(base, monkeypatch, blind, blind)
    assert (untrained.passed, planted.passed) == (True, False)
    assert planted.said.endswith("Not found by overlap.")
    assert proves_nothing([untrained, planted]).startswith("This page proves nothing about what is at risk")
    deaf = dataclasses.replace(leak, after=leak.before)
    assert "Not found by exposure, extraction, membership." in found(base, monkeypatch, deaf, deaf)[1].said


def test_a_leak_that_is_found_when_it_is_planted_harder_is_found(base, leak, monkeypatch):
    light = dataclasses.replace(leak, after=leak.before, taught=12)
    assert [one.passed for one in found(base, monkeypatch, light, leak)] == [True, True]


def test_a_base_that_is_accused_lets_nothing_be_proved(base, leak, monkeypatch):
    accused = dataclasses.replace(leak, before=leak.after, overlap_before=leak.overlap_after)
    untrained, planted = found(base, monkeypatch, accused)
    assert (untrained.passed, planted.passed) == (False, True)
    assert "Accused by exposure, extraction, membership, overlap." in untrained.said
    assert "“A student that was not trained" in proves_nothing([untrained, planted])
