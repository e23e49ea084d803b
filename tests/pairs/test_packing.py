"""Packed rows: where pairs are put, that they do not see each other, and that nothing but padding changes."""

import copy

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer, family
from hypothesis import given, settings
from hypothesis import strategies as st

from distill import AttentionMaps, BlackBoxTrainer, HiddenStates, Logits, WhiteBoxTrainer
from distill.pairs.collate import IGNORE, PairCollator, document_tokens
from distill.pairs.packing import PackedPairs, best_fit, pack_pairs
from distill.trainers.packing_check import check_keeps_documents_apart

CAPACITY = 48
APART = ["llama", "mistral", "gemma2", "gpt2", "cohere", "granite", "phi"]


def gradients(model, batches, items):
    model.zero_grad()
    for batch in batches:
        model(**batch, num_items_in_batch=items, use_cache=False).loss.backward()
    return [p.grad.clone() for p in model.parameters()]


def relative(one, other):
    return max(float((a - b).norm() / b.norm().clamp(min=1e-30)) for a, b in zip(one, other, strict=True) if b.any())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=60), st.integers(8, 32), st.integers(0, 3))
def test_best_fit_is_best_fit(lengths, capacity, seed):
    """Every row once; no bin overflows; and the fill of the bins is that of the naive search over all bins."""
    bins = best_fit(lengths, capacity, seed)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    rooms: list[int] = []
    for size in sorted((min(length, capacity) for length in lengths), reverse=True):
        fitting = [i for i, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting, key=lambda i: rooms[i])] -= size
        else:
            rooms.append(capacity - size)
    found = [capacity - sum(min(lengths[row], capacity) for row in rows) for rows in bins]
    assert sorted(found) == sorted(rooms)
    assert min(found) >= 0
    assert best_fit(lengths, capacity, seed) == bins


def test_equally_long_neighbours_do_not_share_a_bin():
    """Samples of one prompt stand together in a file; another seed puts other rows together."""
    bins = best_fit([8] * 400, 16)
    assert sum(abs(a - b) == 1 for a, b in bins) < 10
    assert best_fit([8] * 400, 16, seed=1) != bins


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_packed_gradients_are_the_unpacked_ones(name, dtype):
    """For full attention, sliding windows, softcaps and learned positions; for any split, several bins, and one flat row."""
    model, tokenizer, pairs = family(name).to(dtype), build_tokenizer(), build_pairs(14)
    packed = pack_pairs(pairs, CAPACITY)
    assert len({sum(len(p["prompt_ids"] + p["completion_ids"]) for p in packed[i]) for i in range(len(packed))}) > 1
    collate, flat = PairCollator(tokenizer, CAPACITY), PairCollator(tokenizer, CAPACITY, flatten_bins=True)
    bins = [packed[i] for i in range(len(packed))]
    items = sum((row != IGNORE).sum() for row in collate(list(pairs))["labels"])
    expected = gradients(model, [collate([pair]) for pair in pairs], items)
    ways = [[collate(bins)], [collate([b]) for b in bins], [collate(bins[:2]), collate(bins[2:])], [flat(bins)]]
    bound = 2e-4 if dtype == torch.float32 else 1e-6  # norms and softmax stay in float32
    for batches in ways:
        assert relative(gradients(model, batches, items), expected) < bound


def test_the_test_would_see_a_leak():
    """The negative control: the same bins with a mask of ones in place of positions that begin anew."""
    model, pairs = build_model(), build_pairs(14)
    collate = PairCollator(build_tokenizer(), CAPACITY)
    packed = pack_pairs(pairs, CAPACITY)
    batch = collate([packed[i] for i in range(len(packed))])
    leaking = {**batch, "attention_mask": document_tokens(batch).long()}
    assert relative(gradients(model, [leaking], 100), gradients(model, [batch], 100)) > 1e-2


def test_a_packed_row(tokenizer):
    """Documents one behind the other, positions anew, no label across a border, pads each at position 0."""
    one, two = {"prompt_ids": [5, 6], "completion_ids": [7, 2]}, {"prompt_ids": [], "completion_ids": [8, 9]}
    masked = {"prompt_ids": [5], "completion_ids": [7, 8, 2], "loss_mask": [0, 1, 1]}
    batch = PairCollator(tokenizer, 12)([[one, two], [masked], [two]])
    assert "attention_mask" not in batch
    assert batch["input_ids"][0].tolist() == [5, 6, 7, 2, 8, 9]
    assert batch["labels"][0].tolist() == [IGNORE, IGNORE, 7, 2, IGNORE, 9]
    assert batch["labels"][1].tolist() == [IGNORE, IGNORE, 8, 2, IGNORE, IGNORE]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 0, 0], [0, 1, 0, 0, 0, 0]]
    assert document_tokens(batch).sum(1).tolist() == [6, 4, 2]
    with pytest.raises(ValueError, match="both pairs and bins"):
        PairCollator(tokenizer)([one, [two]])
    with pytest.raises(ValueError, match="padded at the right"):
        PairCollator(tokenizer, padding_side="left")([[one]])


def test_models_that_mix_documents_are_refused(arguments):
    settings = {"train_dataset": build_pairs(), "processing_class": build_tokenizer(), "packing": True}
    with pytest.raises(ValueError, match="MambaForCausalLM does not keep packed pairs apart.*Leave packing out"):
        BlackBoxTrainer(model=family("mamba"), args=arguments(), max_length=CAPACITY, **settings)
    with pytest.raises(ValueError, match="needs max_length="):
        BlackBoxTrainer(model=build_model(), args=arguments(), **settings)
    with pytest.raises(ValueError, match="With use_cache=True"):
        BlackBoxTrainer(model=build_model(), args=arguments(use_cache=True), max_length=CAPACITY, **settings)
    grouped = arguments(train_sampling_strategy="group_by_length")
    with pytest.raises(ValueError, match="group_by_length"):
        BlackBoxTrainer(model=build_model(), args=grouped, max_length=CAPACITY, **settings)
    with pytest.raises(ValueError, match="of a whole row"):
        WhiteBoxTrainer(
            model=build_model(), teacher=build_model(seed=1), objectives=[HiddenStates(distance="cka")], args=arguments(),
            max_length=CAPACITY, **settings,
        )  # fmt: skip


def test_the_probe_leaves_no_trace():
    model = build_model().train()
    before = torch.random.get_rng_state()
    check_keeps_documents_apart(model, PairCollator(build_tokenizer(), CAPACITY))
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), before)


def train(arguments, packing, model=None, pairs=None, resume=None, **changes):
    trainer = BlackBoxTrainer(
        model=model or build_model().double(), args=arguments(optim="sgd", **changes), packing=packing, max_length=CAPACITY,
        train_dataset=pairs or build_pairs(24), eval_dataset=build_pairs(7, seed=5), processing_class=build_tokenizer(),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_whole_epochs_are_the_same_training(arguments):
    """With all pairs in one optimiser step, packed or not, accumulated or not, the parameters agree to rounding."""
    plain = train(arguments, False, per_device_train_batch_size=24, include_num_input_tokens_seen="non_padding")
    bins = len(pack_pairs(build_pairs(24), CAPACITY))
    for size in (bins, 1):
        packed = train(
            arguments, True, per_device_train_batch_size=size, gradient_accumulation_steps=bins // size,
            include_num_input_tokens_seen="non_padding",
        )  # fmt: skip
        for one, other in zip(packed.model.parameters(), plain.model.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
        assert packed.state.num_input_tokens_seen == plain.state.num_input_tokens_seen
        assert packed.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-7)


def test_what_is_saved_is_said(arguments, caplog):
    trainer = train(arguments, True, max_steps=1)
    assert isinstance(trainer.train_dataset, PackedPairs)
    assert "24 pairs are packed into" in caplog.text
    assert "of the room is filled, against" in caplog.text


def test_a_resumed_run_equals_the_unbroken_one(arguments, tmp_path):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 2}
    whole = train(arguments, True, **settings)
    again = train(arguments, True, **settings, resume=str(tmp_path / "out" / "checkpoint-3"))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))


@pytest.mark.parametrize("objective", ["logits", "hidden", "attention"])
@pytest.mark.parametrize(
    ("name", "dtype", "bound"),
    # Gemma 2 in float64 gives NaN at pad tokens: its eager softmax casts the mask to float32
    [("llama", torch.float64, 1e-9), ("mistral", torch.float64, 1e-6), ("gemma2", torch.float32, 1e-3)],
)
def test_white_box_gradients_do_not_change(arguments, objective, name, dtype, bound):
    """Next-token distributions, hidden states and attention maps of packed pairs are those of the pairs alone."""
    start, found = family(name).to(dtype), []
    teacher = copy.deepcopy(start)
    with torch.no_grad():
        for p in teacher.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())).to(p) * 0.05)
    pairs = build_pairs(14)
    for packing in (False, True):
        objectives = {"logits": Logits("forward_kl"), "hidden": HiddenStates(), "attention": AttentionMaps()}
        trainer = WhiteBoxTrainer(
            model=copy.deepcopy(start), teacher=teacher, objectives=[objectives[objective]], args=arguments(),
            train_dataset=pairs, processing_class=build_tokenizer(), max_length=CAPACITY, packing=packing,
        )  # fmt: skip
        data = trainer.train_dataset
        trainer.model.train()
        batch = trainer.data_collator([data[i] for i in range(len(data))])
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(90)).backward()
        found.append([p.grad for p in trainer.model.parameters() if p.grad is not None])
    assert relative(found[1], found[0]) < bound
