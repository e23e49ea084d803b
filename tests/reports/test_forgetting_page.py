"""What is said of a run of `distill forgetting`: results made up so that each sentence has a known right answer."""

import json

import pytest

from distill.basics.intervals import over_trainings
from distill.reports.forgetting_page import forgetting_table, table_rows, write_forgetting_page
from distill.reports.forgetting_words import arms_of, rank_correlation, verdict

NAMES = ("kl_old", "kl_new", "loss_old", "ece_old", "characters", "ended")


def run(arm, kind, value=0.0, skill=0, old=8, kl=0.0, new=0.0, seed=0, **moved):
    """Of ten probes of the skill and ten old ones so many are right, and each pair has this KL."""
    answers = {
        what: [{"ability": what, "id": f"{n}", "prompt": f"{what} {n}", "text": f"said <b>{n}</b>", "right": n < count} for n in range(10)]
        for what, count in (("skill", skill), ("old", old))
    }  # fmt: skip
    values = {"kl_old": kl, "kl_new": new, **moved}
    measures = {n: {"before": 0, "after": 0, "difference": values.get(n, 0), "low": 0, "high": 0} for n in NAMES}
    by_pair = {of: {"kl": [4 * each] * 6, "tokens": [4.0] * 6} for of, each in (("old", kl), ("new", new))}
    found = {"arm": arm, "kind": kind, "value": value, "seed": seed, "train_seconds": 3.0, **answers}
    return found if kind == "start" else {**found, "forgetting": {"measures": measures, "by_pair": by_pair}}


def results(control_kl=0.0, learned=9, lora_kl=0.1):
    return [
        one
        for seed in (0, 1, 2)
        for one in (
            run("start", "start", seed=seed),
            run("taught", "taught", skill=learned, old=3, kl=0.4, new=0.5, seed=seed),
            run("replay-0.25", "replay", 0.25, skill=9, old=7, kl=0.1, new=0.6, seed=seed),
            run("lora-8", "lora", 8, skill=9, old=6, kl=lora_kl, new=0.2, seed=seed),
            run("average-0.5", "average", 0.5, skill=8, old=5, kl=0.2, new=0.1, seed=seed),
            run("control", "control", kl=control_kl, seed=seed),
        )
    ]


def test_each_sentence_says_what_the_figures_say():
    said = "\n".join(verdict(results()))
    assert "The control holds" in said
    assert "from 0% [0 to 0] to 90% [" in said
    assert "Replay 0.25, against plain: KL on old prompts -0.300 [-0.300 to -0.300] nats, skill +0 points" in said
    assert "learned not clearly more or less and moved less on old prompts" in said
    assert "so it is here at alpha 0.5" in said
    # losses of old abilities 5, 1, 2, 3 of ten; KLs on old prompts .4, .1, .1, .2: in one order but for a tie; on new ones .5, .6, .2, .1: 1 - 6 * 14 / 60
    assert "is -0.40, that of KL on old prompts +0.95; here it is not the better predictor" in said


def test_a_control_that_changed_something_is_told_first():
    assert verdict(results(control_kl=1e-9))[0].startswith(
        "THE CONTROL FAILED: a training with learning rate 0 changed kl_old"
    )
    several = results()
    several[-1]["old"][0]["right"] = False
    assert verdict(several)[0].startswith("THE CONTROL FAILED: a training with learning rate 0 changed answers")


def test_of_a_skill_that_was_not_learned_nothing_is_concluded():
    said = verdict(results(learned=0))
    assert "nothing can be said of what it cost" in said[1]
    assert "Of what was published nothing is said" in said[-1]


def test_a_finding_that_did_not_come_out_is_said():
    said = "\n".join(verdict(results(lora_kl=0.9)))
    assert "moved more on old prompts than plain training" in said


def test_the_table_and_the_page(tmp_path):
    runs = results()
    lines = forgetting_table(runs).splitlines()
    assert len(lines) == 2 + 6
    assert lines[3].startswith("| taught plainly | 90 [")
    assert [row["title"] for row in table_rows(runs)][4] == "average, alpha 0.5"
    environment = {"distill": "0", "on": "a test"}
    whole = {"runs": runs, "model": "<script>", "skill": "knowledge", "told": "so.", "stages": [], "total_seconds": 1.0, "command": "distill forgetting", "environment": environment}  # fmt: skip
    write_forgetting_page(json.loads(json.dumps(whole)), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script>" not in page
    assert "<b>0</b>" not in page
    assert "3 trainings of each way" in page
    assert (tmp_path / "page_frontier.svg").read_text().startswith("<svg")


def test_differences_are_paired_probe_by_probe():
    arms = arms_of(results())
    assert arms["taught"].minus(arms["taught"], "old") == (0, 0, 0)
    # of ten old probes five are lost in each training: the interval is that of a share of a half of ten
    lost = arms["taught"].minus(arms["start"], "old")
    assert lost.mean == pytest.approx(-0.5)
    assert -0.85 < lost.low < -0.7


def test_an_interval_over_trainings_is_wider_where_trainings_differ():
    same = over_trainings([[0.0, 1.0] * 10] * 3, same_units=False)
    differ = over_trainings([[0.0] * 20, [0.5] * 20, [1.0] * 20], same_units=False)
    assert same.mean == differ.mean == 0.5
    assert differ.high - differ.low > 2 * (same.high - same.low)
    # the same questions in each training do not average out
    shared = over_trainings([[0.0, 1.0] * 10] * 3, same_units=True)
    assert shared.high - shared.low > 1.2 * (same.high - same.low)
    with pytest.raises(ValueError, match="as many"):
        over_trainings([[1.0], []], same_units=True)


def test_rank_correlation_with_ties_and_without_spread():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == 1
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == -1
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
