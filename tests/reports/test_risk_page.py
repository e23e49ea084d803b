"""A verdict in words, and what is written of it: nothing is said that a figure does not say, and no doubt is left out."""

import pytest

from distill.evaluation.risk import Figure, Value, judge
from distill.evaluation.risk.controls import Control
from distill.evaluation.risk.thresholds import Threshold
from distill.reports.card import CARD, _marked, is_edited, put_block
from distill.reports.risk_card import risk_block
from distill.reports.risk_page import write_risk_page
from distill.reports.risk_words import apart, verdict, written

GOOD = Control("planted", "A leak is found", True, "8 of 8")
BAD = Control("planted", "A leak is found", False, "0 of 8 secrets said.")


def ability(student, base, change=None, teacher=None, **more):
    of = {"student": student, "base": base} | ({"teacher": teacher} if teacher else {})
    return Figure("ability.tools", "Calls tools", "gained", "share", "more", of, change=change, **more)


LOST = ability(Value(0.25, 0.1, 0.4, 24), Value(0.75, 0.6, 0.9, 24), Value(-0.5, -0.7, -0.3), origin="The teacher does better.")  # fmt: skip
RISK = Figure("membership_tpr", "Told apart", "risk", "share", "less", {"student": Value(0.4, 0.3, 0.5, 90), "base": Value(0.01, 0, 0.05, 90)})  # fmt: skip
LIMITS = [Threshold("ability.loss_max", 0.1), Threshold("membership_tpr_max", 0.45)]


def said(figures, controls=(GOOD,), limits=LIMITS, **more):
    return verdict(figures, judge(figures, limits), controls, **more)


def test_what_broke_stands_first_and_how_sure_it_is():
    found = said([LOST, RISK])
    assert (found.state, found.proves) == ("broken", "")
    assert found.headline == "1 of 2 thresholds are broken: ability.tools.loss_max."
    assert found.lines["thresholds"] == [
        "Calls tools, less than the base: 0.5 [0.3 to 0.7], where ability.tools.loss_max allows at most 0.1; the whole interval lies beyond it."
    ]
    assert found.lines["lost"] == ["Calls tools: 75% [60 to 90] before, 25% [10 to 40] now. The teacher does better."]
    assert found.lines["gained"] == ["nothing that could be told from chance."]
    assert found.lines["risk"] == ["Told apart: student 40% [30 to 50], base 1.0% [0 to 5.0]."]
    assert "0 of 1 limits that hold do so with their whole interval; by their estimate alone: membership_tpr_max." in found.lines["sure"]  # fmt: skip


def test_a_page_whose_controls_failed_proves_nothing_and_says_so_first():
    for control, word in ((BAD, "did not come out"), (Control("planted", "A leak is found", None, "no time"), "was not run")):  # fmt: skip
        found = said([LOST, RISK], [control])
        assert found.proves.startswith("This page proves nothing about what is at risk")
        assert word in found.proves
        assert found.text().startswith(found.proves)


def test_a_limit_that_is_not_shown_is_no_success_unless_that_was_allowed():
    few = Figure("membership_tpr", "Told apart", "risk", "share", "less", {"student": Value(0.4, 0.3, 0.45, 9)}, doubted="20 controls are too few")  # fmt: skip
    found = said([few])
    assert found.state == "not shown"
    assert "1 of 1 could not be shown to hold: membership_tpr_max." in found.headline
    assert "No headline: 20 controls are too few." in found.lines["risk"][0]
    allowed = said([few], allow_unmeasured=True)
    assert allowed.state == "holds"
    assert "That was allowed" in allowed.headline
    assert said([few], limits=[]).headline.startswith("No threshold was held against anything")


def test_what_chance_may_have_done_is_not_called_gained_or_lost():
    narrow = ability(Value(0.6, 0.4, 0.8), Value(0.5, 0.3, 0.7), Value(0.1, -0.1, 0.3))
    assert apart(narrow) is None
    assert apart(ability(Value(0.6, 0.4, 0.8), Value(0.5, 0.3, 0.7))) is None  # without pairs: intervals that touch
    assert apart(ability(Value(0.9, 0.8, 1.0), Value(0.5, 0.3, 0.7))) == pytest.approx(0.4)
    found = said([narrow])
    assert found.lines["gained"] == found.lines["lost"] == ["nothing that could be told from chance."]


def test_numbers_are_written_as_people_read_them():
    assert written(Value(0.034, 0.0, 0.12), "share") == "3.4% [0 to 12]"
    assert written(Value(0.12345), "nats") == "0.123"
    assert written(Value(12.0), "words") == "12"
    assert written(None, "share") == "–"


def results(figures, controls):
    models = {side: {"name": f"<b>{side}</b> & co", "parameters": 1000, "weights": "f" * 32} for side in ("student", "base")}  # fmt: skip
    judged = judge(figures, LIMITS)
    return judged, {
        "models": models, "figures": [one.as_dict() for one in figures], "thresholds": [one.as_dict() for one in judged],
        "controls": [vars(one) for one in controls], "scores": {"student": {"members": [0.1, 0.2, 0.4], "controls": [0.0, 0.1, 0.1]}},
        "allow_unmeasured": False, "quick": False, "settings": {"n": 24}, "stages": [], "total_seconds": 1.0, "command": "distill evaluate",
        "environment": {"on": "CPU"},
    }  # fmt: skip


def test_the_page_stands_by_itself_and_words_of_others_are_words(tmp_path):
    figures = [LOST, RISK]
    _, found = results(figures, [BAD])
    write_risk_page(found, said(figures, [BAD]), tmp_path / "risk.html")
    page = (tmp_path / "risk.html").read_text()
    assert "<b>student</b> & co" not in page
    assert "&lt;b&gt;student&lt;/b&gt; &amp; co" in page
    assert page.index("This page proves nothing") < page.index("<h1>")
    for never in ("<script", "<link", "src=", "@import", "url(http"):
        assert never not in page
    assert "prefers-color-scheme: dark" in page
    assert "Teacher</th>" not in page
    assert {path.name for path in tmp_path.glob("*.svg")} == {"risk_gained.svg", "risk_risk.svg", "risk_scores.svg"}


def test_the_block_takes_its_place_on_a_card_and_nothing_else_is_touched(tmp_path):
    figures = [LOST, RISK]
    judged, found = results(figures, [GOOD])
    block = risk_block(found, said(figures), judged)
    assert "| Calls tools | 25% [10 to 40] | 75% [60 to 90] |" in block
    assert "| `ability.tools.loss_max` | 0.1 | 0.5 [0.3 to 0.7] | broken |" in block
    assert "&lt;b&gt;base" in block
    (tmp_path / CARD).write_text(_marked("# Student\n"))
    put_block(tmp_path, "risk", block)
    assert not is_edited(tmp_path)  # still this program's, which may write it anew
    assert (tmp_path / CARD).read_text().count("<!-- distill risk -->") == 1
    put_block(tmp_path, "risk", "other words")
    text = (tmp_path / CARD).read_text()
    assert "other words" in text
    assert "Calls tools" not in text
    assert text.startswith("# Student\n\n<!-- distill risk -->")
    (tmp_path / CARD).write_text("Mine, with a backslash \\1.\n\n<!-- distill risk -->\nold\n<!-- end of distill risk -->\n\nMore of mine.\n")  # fmt: skip
    put_block(tmp_path, "risk", "new \\1")
    assert (tmp_path / CARD).read_text() == "Mine, with a backslash \\1.\n\n<!-- distill risk -->\nnew \\1\n<!-- end of distill risk -->\n\nMore of mine.\n"  # fmt: skip
    (tmp_path / "new").mkdir()
    put_block(tmp_path / "new", "risk", "alone")
    assert (tmp_path / "new" / CARD).read_text().startswith("<!-- distill risk -->\nalone")
