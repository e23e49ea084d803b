"""The page of tuning and retrieval from made-up answers: the table, and what its words say of it."""

import json
import random

import pytest

from distill.basics.intervals import wilson
from distill.reports.retrieval_page import TITLES, retrieval_table, table_rows, write_retrieval_page
from distill.reports.retrieval_update import answered_anew, update_told
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
        "update": {"documents": 20, "seconds": 0.1},
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


def unasked(made, column, count):
    """The same run, in which the first questions of a column were not asked."""
    changed = json.loads(json.dumps(made))
    mine = [one for one in changed["retrieved"] if one["question"]["column"] == column][:count]
    for one in mine:
        one["question"]["only_distractors"] = column == "distractors"
        one.update(text="", right=False, took_old=False, tokens_read=0, seconds=0.0)
    return changed


def test_questions_that_were_not_asked_are_in_no_share_and_no_mean():
    full = run("untouched", 0.0, 1.0)
    some = unasked(full, "distractors", 10)
    (_, row), (_, before) = table_rows([some]), table_rows([full])
    assert row["cells"]["distractors"] == examined_cell(30)
    assert row["cells"]["tokens"] == before["cells"]["tokens"] == "300"
    assert row["cells"]["seconds"] == before["cells"]["seconds"]
    said = " ".join(verdict([some]))
    assert (
        "Left out: 10 of 40 questions with distractors only, since every passage that was found says the answer."
        in said
    )
    assert table_rows([unasked(full, "distractors", FACTS)])[1]["cells"]["distractors"] == "none asked"
    lost = unasked(full, "stable", 10)
    assert examinations([lost])["untouched", "retrieved"].share("stable").mean == 0.75
    assert "Not answered: 10 of 40 questions (stable), since no passage was found." in " ".join(verdict([lost]))


def examined_cell(facts):
    low, high = wilson(1.0, facts)
    return f"100 [{100 * low:.0f}–{100 * high:.0f}] / 0"


def few(made, facts):
    """The same run with so many facts."""
    names = {f"f{i}" for i in range(facts)}
    return {
        **made, **{way: [one for one in made[way] if one["question"]["fact"] in names] for way in ("closed", "retrieved")}
    }  # fmt: skip


def test_three_facts_that_moved_are_no_clear_difference():
    """Published once as "worse than retrieval alone": three of seven facts, p 0.25."""
    base, tuned = few(run("untouched", 0.0, 0.0), 7), few(run("sft", 0.0, 0.0), 7)
    for one in base["retrieved"]:
        if one["question"]["column"] == "changed" and one["question"]["fact"] in ("f0", "f1", "f2"):
            one.update(text=f"It is {one['question']['expected']}.", right=True)
    said = " ".join(verdict([base, tuned]))
    assert "(no clear difference to retrieval alone: -43 points [-86 to -14], p 0.25)" in said
    assert "worse" not in said.replace("no clear", "")
    for one in tuned["retrieved"]:
        if one["question"]["column"] == "stable":
            one.update(text=f"It is {one['question']['expected']}.", right=True)
    said = " ".join(verdict([base, tuned]))
    assert (
        "(stable) and in no column clearly worse (lower, not clearly: changed -43 points [-86 to -14], p 0.25)" in said
    )
    five = " ".join(verdict([few(base, 5), few(tuned, 5)]))
    assert "These are too few facts to tell anything: fewer than 6 in each column." in five


def test_every_arm_is_said_to_have_answered_anew(tmp_path):
    runs = [UNTOUCHED, TRAP, {**TRAP, "seed": 1}, CURED]
    anew = answered_anew(runs)
    assert [(one["arm"], one["seed"]) for one in anew] == [
        ("untouched", None), ("sft", 0), ("sft", 1), ("sft_mixed", 0),
    ]  # fmt: skip
    first = next(one for one in UNTOUCHED["retrieved"] if one["question"]["column"] == "changed")
    assert {one["question"] for one in anew} == {first["question"]["text"]}
    assert anew[0]["text"] == first["text"]
    assert anew[0]["new"] is first["right"]
    assert anew[3]["right"] == anew[3]["count"] == FACTS
    told = update_told({"documents": 20, "seconds": 0.1, "arms": anew})
    assert (
        "The index had 20 changed documents after 0.10 s, without a training. Then 'What is 0?' (new: 2000, old: 1000):"
        in told
    )
    assert (
        f"  SFT, mixed (seed 0): answered in 0.50 s, new value: yes; in all {FACTS} of {FACTS} such questions" in told
    )
    old = {**TRAP, "retrieved": [{**one, "right": False, "took_old": True} for one in TRAP["retrieved"]]}
    assert "new value: no, the old one; in all 0 of 40" in update_told(
        {"documents": 1, "seconds": 0, "arms": answered_anew([old])}
    )
    write_retrieval_page(results(*runs), tmp_path / "retrieval.html")
    page = (tmp_path / "retrieval.html").read_text()
    assert "<h2>After the change</h2>" in page
    for one in anew:
        assert f"<td>{one['right']} of {one['count']}</td>" in page
