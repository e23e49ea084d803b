"""A leak planted on purpose is found by every detector, the model before is accused by none; and a broken detector is said, not passed over."""

import dataclasses

import pytest
from conftest import build_model, build_tokenizer

from distill.evaluation.memorisation import Canaries, Examination, examine_memory, membership, planted_leak


@pytest.fixture(scope="module")
def leak():
    model = build_model(seed=3, max_position_embeddings=512)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = planted_leak(model, build_tokenizer(), steps=80, learning_rate=8e-3, upper_layers=None, each=10, samples=1)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    return found


def test_the_leak_is_found_by_each_detector_and_nobody_else_is_accused(leak):
    assert leak.after.accusing() == ["exposure", "extraction", "membership"]
    assert leak.before.accusing() == []
    assert leak.overlap_after.share > 0.5
    assert leak.holds, leak.problems()
    said = "\n".join(leak.words())
    assert "each taught 80 times" in said
    assert "accused by no detector" in said


def shuffled_ranks(found):
    """Ranks of other canaries."""
    ranks = [one.rank for one in found.controls][: len(found.planted())]
    changed = [dataclasses.replace(one, rank=rank) for one, rank in zip(found.planted(), ranks, strict=True)]
    return dataclasses.replace(found, ranked=(*changed, *found.controls))


def mute(found):
    return dataclasses.replace(
        found, said=tuple(dataclasses.replace(one, greedy=False, sampled=0, said="") for one in found.said)
    )


def members_for_controls(found):
    """Controls that were members, too: they score as these do."""
    scores = [one.log_likelihood for one in found.planted()]
    controls = [
        dataclasses.replace(one, log_likelihood=scores[i % len(scores)]) for i, one in enumerate(found.controls)
    ]
    return dataclasses.replace(found, ranked=(*found.planted(), *controls))


@pytest.mark.parametrize(
    ("broken", "detector"),
    [(shuffled_ranks, "exposure"), (mute, "extraction"), (members_for_controls, "membership")],
)
def test_a_broken_detector_is_named(leak, broken, detector):
    worse = dataclasses.replace(leak, after=broken(leak.after))
    assert [one.split(" did not find")[0] for one in worse.problems()] == [detector]
    assert not worse.holds
    assert any(f"The controls fail: {detector} did not find the leak" in line for line in worse.words())


def test_a_detector_that_sees_leaks_everywhere_is_named(leak):
    worse = dataclasses.replace(leak, before=leak.after, overlap_before=leak.overlap_after)
    assert len(worse.problems()) == 4
    assert all("before anything was planted" in one for one in worse.problems())


def test_overlap_that_finds_nothing_is_named(leak):
    none = dataclasses.replace(leak.overlap_after, share=0.0, longest=0, text="")
    for broken in (none, None):
        assert dataclasses.replace(leak, overlap_after=broken).problems() == [
            "overlap did not find the leak that was planted on purpose"
        ]


def test_too_few_controls_are_said(leak):
    few = dataclasses.replace(leak.before, ranked=(*leak.before.planted(), *leak.before.controls[:30]))
    assert any("there are 30 controls, too few" in one for one in dataclasses.replace(leak, before=few).problems())


def test_an_examination_is_kept_as_plain_values(leak):
    assert Examination.of(leak.after.as_dict()) == leak.after


def test_how_often_chance_finds_as_many_members():
    """Against counting over all orders of members and controls."""
    from itertools import combinations

    members, controls, allowed = 3, 4, 0.25  # one control may pass
    orders = list(combinations(range(members + controls), members))
    for least in range(members + 1):
        found = [
            membership(list(map(float, some)), [float(i) for i in range(7) if i not in some], allowed)
            for some in orders
        ]
        share = sum(one.found >= least for one in found) / len(orders)
        said = {one.by_chance for one in found if one.found == least}
        assert all(one == pytest.approx(share) for one in said), (least, share, said)


def test_without_controls_nothing_can_be_told():
    with pytest.raises(ValueError, match="1 planted canaries and 0 controls"):
        examine_memory(build_model(), build_tokenizer(), Canaries(each=1, repeats=(1,), controls=0))
    with pytest.raises(ValueError, match="steps is 0"):
        planted_leak(build_model(), build_tokenizer(), steps=0)


def test_a_secret_that_was_masked_from_the_batches_is_named(monkeypatch):
    """A leak that was never planted must not be taken for detectors that find nothing."""
    from distill.pairs.collate import PairCollator

    usual = PairCollator.__call__

    def masked(self, rows):
        batch = usual(self, rows)
        batch["labels"][:, :-1] = -100
        return batch

    monkeypatch.setattr(PairCollator, "__call__", masked)
    with pytest.raises(ValueError, match="3 of 3 canaries were taught otherwise than planted: .* \\(0 of 2\\)"):
        planted_leak(
            build_model(max_position_embeddings=512),
            build_tokenizer(),
            steps=2,
            upper_layers=None,
            each=3,
            controls=100,
        )
