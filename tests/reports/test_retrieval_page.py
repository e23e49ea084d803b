"""The page of tuning and retrieval from made-up answers: the table, and what its words say of it."""

import json
import random

import pytest

from distill.reports.retrieval_page import TITLES, retrieval_table, table_rows, write_retrieval_page
from distill.reports.retrieval_words import examinations, verdict
from distill.retrieval.examining import Examined, Question, graded

FACTS = 40


def answers(rng, right, old=0.0, columns=("stable", "changed", "reverse"), tokens=50):
    """Answers to made-up questions: `right` a share of each column, or of all."""
    found = []
    for column in columns:
        share = right[column] if isinstance(right, dict) else right
        for i in range(FACTS):
            was = str(1000 + i) if column == "changed" else None
            traps = (str(3000 + (i + 1) % FACTS),) if column == "distractors" else ()
            question = Question(
                f"{column}{i}", f"f{i}", column, f"What is {i}?", str(2000 + i), old=was, traps=traps, kind="n"
            )
            draw = rng.random()
            text = f"It is {2000 + i}." if draw < share else f"It was {1000 + i}." if draw < share + old else "No idea."
            found.append(Examined(question, text, *graded(question, text), tokens, 0.5).as_dict())
    return found


ALL = ("stable", "changed", "reverse", "distractors", "untrained")


def run(arm, closed, retrieved, old=0.0, seed=0, kl=0.0):
    rng = random.Random(f"{arm} {seed}")
    return {
        "arm": arm,
        "seed": seed if arm != "untouched" else None,
        "closed": answers(rng, closed),
        "retrieved": answers(rng, retrieved, old, ALL, tokens=300),
        "kept": {"kl": kl, "top1": 1 - kl / 2},
        "train_seconds": 10.0,
    }


def results(*runs):
    return {
        "runs": list(runs),
        "model": "tiny <b>model</b>",
        "facts": {"taught": FACTS, "changed": FACTS // 2, "untrained": 8},
        "documents": {"before": 100, "of": "a made-up world"},
        "update": {"documents": 20, "seconds": 0.1, "answered_seconds": 0.4},
        "told": "Some words.",
        "stages": [{"name": "sft seed 0", "seconds": 10.0, "peak_memory_gib": 1.0}],
        "total_seconds": 100.0,
        "command": "distill retrieval",
        "environment": {"torch": "2"},
    }


UNTOUCHED = run("untouched", 0.0, 0.85)
TRAP = run(
    "sft", {"stable": 0.97, "changed": 0, "reverse": 0.1}, dict.fromkeys(ALL, 0.9) | {"changed": 0.5}, 0.45, kl=0.9
)
CURED = run("sft_mixed", {"stable": 0.94, "changed": 0, "reverse": 0.1}, 1.0, kl=0.9)


def test_the_table_has_a_row_for_each_arm_and_way():
    rows = table_rows([UNTOUCHED, TRAP, CURED])
    assert [(row["arm"], row["way"]) for row in rows] == [
        (arm, way) for arm in ("untouched", "sft", "sft_mixed") for way in ("closed-book", "with retrieval")
    ]
    closed, retrieved = rows[2]["cells"], rows[3]["cells"]
    assert closed["distractors"] == closed["untrained"] == "–"
    assert closed["kept"] == "0.90"
    assert (closed["tokens"], retrieved["tokens"]) == ("50", "300")
    assert retrieved["changed"].split(" / ")[1].isdigit()
    low, high = closed["stable"].split("[")[1].rstrip("]").split("–")
    assert 80 <= float(low) <= float(high) <= 100
    lines = retrieval_table([UNTOUCHED, TRAP, CURED]).splitlines()
    assert len(lines) == 2 + 6
    assert len({line.count("|") for line in lines}) == 1 == len({len(TITLES) + 3} & {lines[0].count("|")})


def test_the_words_name_the_trap_its_cure_and_that_both_paid():
    said = " ".join(verdict([UNTOUCHED, TRAP, CURED]))
    assert "The trap: SFT, closed-book, shown the fresh passage, answered" in said
    assert "SFT, mixed) 0%" in said
    assert "On these figures: both. SFT, mixed and retrieval on top is better than retrieval alone" in said
    assert "Control: held against other facts' values, at most 0.0%" in said


def test_the_words_can_say_that_tuning_did_not_pay():
    no_use = run("sft", {"stable": 0.3, "changed": 0, "reverse": 0}, 0.5, kl=0.4)
    said = " ".join(verdict([run("untouched", 0.0, 0.9), no_use]))
    assert "On these figures tuning did not pay" in said
    assert "SFT, closed-book worse. Retrieve, and leave the weights alone." in said
    assert "The trap was not clearly seen in SFT, closed-book" in said
    same = " ".join(verdict([UNTOUCHED, run("sft", 0.1, 0.85)]))
    assert "no tuned arm was better than the untouched model in any column. Retrieve" in same


def test_the_words_say_where_it_depends():
    said = " ".join(
        verdict(
            [run("untouched", 0, 0.7), run("sft", 0.9, dict.fromkeys(ALL, 0.7) | {"stable": 1.0, "changed": 0.2}, 0.7)]
        )
    )
    assert (
        "On these figures it depends: beside retrieval, SFT, closed-book gained in stable and lost in changed" in said
    )


def test_chance_that_is_loud_is_said():
    babbling = run("untouched", 0.0, 0.0)
    for one in babbling["closed"]:
        one["text"] = " ".join(str(2000 + i) for i in range(FACTS))
    said = verdict([babbling])[-1]
    assert "at most 100.0% of answers count as right (Untouched, closed-book); that is much" in said


def test_several_trainings_are_one_row_with_a_wider_interval():
    seeds = [run("sft", 0.9 - 0.3 * seed, 0.9 - 0.3 * seed, seed=seed) for seed in range(3)]
    several = examinations([UNTOUCHED, *seeds])["sft", "retrieved"].share("stable")
    alone = examinations([UNTOUCHED, seeds[1]])["sft", "retrieved"].share("stable")
    assert several.high - several.low > alone.high - alone.low
    assert len(table_rows([UNTOUCHED, *seeds])) == 4


def test_the_page_stands_alone_and_escapes_what_models_say(tmp_path):
    odd = json.loads(json.dumps(CURED))
    for one in odd["retrieved"]:
        one["text"] = "<script>alert(1)</script>"
    path = tmp_path / "retrieval.html"
    write_retrieval_page(results(UNTOUCHED, TRAP, odd), path)
    page = path.read_text()
    assert page.count("<svg") == 2
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "tiny &lt;b&gt;model" in page
    outside = page
    for name in ("http://www.w3.org", "http://purl.org", "http://creativecommons.org", "https://matplotlib.org"):
        outside = outside.replace(name, "")
    assert "://" not in outside
    assert {file.name for file in tmp_path.iterdir()} == {
        "retrieval.html", "retrieval_facts.svg", "retrieval_trap.svg",
    }  # fmt: skip


@pytest.mark.parametrize("arms", [1, 3])
def test_an_unfinished_set_of_arms_is_drawn(tmp_path, arms):
    write_retrieval_page(results(*[UNTOUCHED, TRAP, CURED][:arms]), tmp_path / "retrieval.html")
    assert (tmp_path / "retrieval.html").stat().st_size > 5000
