"""The seven findings: verdicts from made-up figures, and every arm once on a tiny model."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import findings
import findings_arms
import findings_bed
import findings_verdicts
from conftest import build_model, build_tokenizer

from distill.signals import StoredSignals
from distill.teachers import LocalTeacher


@pytest.mark.parametrize(
    ("values", "expected", "bound", "verdict"),
    [
        ([1.0, 1.1, 0.9], "above", 0.0, findings_verdicts.CAME),
        ([-1.0, -1.1, -0.9], "above", 0.0, findings_verdicts.NOT),
        ([1.0, -1.1, 0.9], "above", 0.0, findings_verdicts.UNKNOWN),
        ([0.01, 0.02, 0.015], "below", 0.05, findings_verdicts.CAME),
        ([0.2, 0.21, 0.19], "below", 0.05, findings_verdicts.NOT),
        ([0.2, 0.21, 0.19], "apart", 0.05, findings_verdicts.CAME),
        ([-0.2, -0.21, -0.19], "apart", 0.05, findings_verdicts.CAME),
        ([0.01, -0.01, 0.0], "apart", 0.05, findings_verdicts.NOT),
        ([0.04, 0.06, 0.05], "apart", 0.05, findings_verdicts.UNKNOWN),
        ([1.0], "above", 0.0, findings_verdicts.UNKNOWN),
    ],
)
def test_a_verdict_is_of_the_whole_interval(values, expected, bound, verdict):
    assert findings_verdicts.Test("", values, expected, bound).verdict == verdict


def test_a_finding_comes_out_where_all_of_its_comparisons_do():
    yes, no, open_ = (
        findings_verdicts.Test("", values) for values in ([1.0, 1.1, 0.9], [-1.0, -1.1, -0.9], [1.0, -1.0, 0.0])
    )
    assert findings_verdicts.overall([yes, yes]) == findings_verdicts.CAME
    assert findings_verdicts.overall([yes, open_]) == findings_verdicts.overall([yes, no]) == findings_verdicts.PART
    assert findings_verdicts.overall([no, open_]) == findings_verdicts.NOT
    assert findings_verdicts.overall([open_, open_]) == findings_verdicts.UNKNOWN


def test_curves_are_compared_where_both_have_had_the_same_tokens():
    def points(*some):
        return [[{"tokens": tokens, "own_reverse": kl} for tokens, kl in some]]

    found = {"the start": points((0, 1.0)), "long": points((100, 0.8), (200, 0.6)), "short": points((50, 0.7))}
    figures = findings_verdicts.Figures(found)
    assert figures.at_equal_tokens("short", "long", "own_reverse") == pytest.approx([0.7 - 0.9])
    assert figures.at_equal_tokens("long", "short", "own_reverse") == pytest.approx([0.9 - 0.7])


def test_every_arm_trains_and_the_tables_are_written(tmp_path, monkeypatch):
    torch.manual_seed(0)
    flags = Namespace(
        output=tmp_path,
        steps=2,
        batch=2,
        seeds=2,
        start_steps=1,
        held_out=4,
        new_tokens=6,
        layers=3,
        learning_rate=1e-2,
        trained="down_proj",
    )
    teacher = LocalTeacher(build_model(layers=4), build_tokenizer(), chat=False, name="tiny")
    bed = findings_bed.Bed(flags, teacher)
    table = findings_arms.arms(4)
    found = {name: [bed.run(name, arm, seed)["points"] for seed in range(2)] for name, arm in table.items()}
    ends = {name: points[0][-1] for name, points in found.items()}
    start = ends.pop("the start")
    assert all(end["teachers_forward"] != start["teachers_forward"] and end["tokens"] > 0 for end in ends.values())
    different = {round(end["teachers_forward"], 9) for end in ends.values()}
    assert len(different) == len(ends), "two arms have done the same"
    assert ends["own text, first third"]["tokens"] < ends["own text, reverse KL"]["tokens"]
    monkeypatch.setattr(findings_bed.Bed, "_trainer", None)  # all of it is on disk: nothing is trained again
    assert bed.run("fine-tuning", table["fine-tuning"], 1)["points"] == found["fine-tuning"][1]
    figures = findings_verdicts.Figures(found)
    text = findings.written(figures)
    assert all(finding.title in text for finding in findings_verdicts.FINDINGS)
    assert findings.picture(figures).startswith("<svg")


def test_changed_signals_are_renormalised_or_those_of_other_positions(tmp_path):
    from distill import generate
    from distill.pairs.collate import PairCollator, supervised_rows
    from distill.signals import SignalRequest, capture
    from distill.signals.rows import SupervisedRows

    teacher = LocalTeacher(build_model(), build_tokenizer(), chat=False, name="tiny")
    pairs = generate(teacher, findings_arms.beginnings(3), max_new_tokens=6, progress=False)
    capture(teacher, pairs, output=tmp_path / "signals", encoding="top:4", progress=False)
    batch = PairCollator(teacher.tokenizer, documents=True)([pairs[i] for i in range(len(pairs))])
    rows = SupervisedRows.of(supervised_rows(batch["labels"]))

    def top(source, how=""):
        source.how = how
        source.prepare(None, torch.device("cpu"))
        return source.signals(batch, rows, SignalRequest()).sparse

    plain = top(StoredSignals(tmp_path / "signals"))
    renormalised = top(findings_arms.ChangedTop(tmp_path / "signals"), "renormalised")
    assert plain.log_probs.exp().sum(1).max() < 0.9
    torch.testing.assert_close(renormalised.log_probs.exp().sum(1), torch.ones(len(plain.ids)))
    assert renormalised.tail.max() < -1e29
    shuffled = top(findings_arms.ChangedTop(tmp_path / "signals"), "shuffled")
    assert not torch.equal(shuffled.tail, plain.tail)
    torch.testing.assert_close(shuffled.tail.sort().values, plain.tail.sort().values)


def test_the_last_third_has_as_many_tokens_as_the_first():
    for tokens in (1, 2, 3, 7, 32):
        first, last = (
            findings_arms.Rollouts(first=1 / 3).has_loss(tokens) or [1] * tokens,
            findings_arms.LastThird().has_loss(tokens),
        )
        assert sum(first) == sum(last)
        assert last == first[::-1]


def test_beginnings_are_all_different_and_their_end_is_said():
    assert len(set(findings_arms.beginnings(480))) == 480
    with pytest.raises(ValueError, match="481 beginnings are needed, and there are 480"):
        findings_arms.beginnings(481)
