"""The script that shows two families in both directions, on tiny models: every way trains, the control stays, and the measure is the likelihoods' difference."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import two_families
from conftest import build_model
from two_tokenizers import WORDS, byte_level

from distill.evaluation.accuracy import over_seeds


@pytest.fixture(scope="module")
def direction(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("families")
    names = []
    for i, tokenizer in enumerate((byte_level(), byte_level([*WORDS, "zebra quilt rain"], 330))):
        name = str(folder / f"model{i}")
        build_model(vocab_size=len(tokenizer), seed=i).save_pretrained(name)
        tokenizer.save_pretrained(name)
        names.append(name)
    flags = Namespace(
        output=folder / "out",
        held_out=4,
        new_tokens=8,
        batch=2,
        steps=2,
        learning_rate=1e-2,
        seeds=2,
        trained="down_proj",
    )
    return two_families.Direction(*names, flags)


def test_every_way_trains_and_the_control_stays(direction):
    before = direction.before()
    found = {way: direction.run(way, 0)["kl"] for way in two_families.WAYS}
    assert found.pop(two_families.STILL) == before
    assert len({before, *found.values()}) == 4
    assert json.loads((direction.folder / "before.json").read_text()) == {"kl": before}


def test_what_was_measured_is_not_trained_again(direction, monkeypatch):
    once = direction.run(two_families.BOTH, 1)
    monkeypatch.setattr(direction, "_train", None)
    assert direction.run(two_families.BOTH, 1) == once


def test_the_measure_is_the_difference_of_log_likelihoods_by_bytes(direction):
    """By hand, row by row, from each side's own tokens."""
    student = two_families.rounded(direction.start)

    @torch.no_grad()
    def said(model, row):
        ids = torch.tensor([[*row["prompt_ids"], *row["completion_ids"]]])
        logs = model(ids).logits[0].float().log_softmax(-1)
        begin = len(row["prompt_ids"])
        return sum(float(logs[i - 1, ids[0, i]]) for i in range(begin, ids.shape[1]))

    theirs = sum(said(direction.teacher.model, row) for row in direction.texts)
    ours = sum(said(student, row) for row in direction.kept)
    size = sum(len(row["completion"].encode()) for row in direction.texts)
    assert direction.kl(direction.start) == pytest.approx((theirs - ours) / size, abs=2e-2)


def test_intervals_are_of_differences_at_one_seed():
    assert two_families.shown([0.1, 0.2, 0.3]) == f"+0.2000 ± {over_seeds([0.1, 0.2, 0.3]).half:.4f}"
