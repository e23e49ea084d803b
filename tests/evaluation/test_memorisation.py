"""Memorisation: secrets are planted and counted where they are trained; each detector finds what is there, and accuses nobody else."""

import math
import random
from collections import Counter

import pytest
import torch
from conftest import build_model, build_tokenizer
from datasets import Dataset

from distill import BlackBoxTrainer
from distill.evaluation.memorisation import Canaries, CanaryWatch, exposures, extract, membership, overlap, plant
from distill.evaluation.memorisation.exposure import likelihoods
from distill.text.encode import as_prompt, encode_prompt

ROWS = [{"prompt": f"Say {word}.", "completion": f"{word} it is."} for word in ("sun", "moon", "tree", "lake")]


def test_each_canary_stands_in_the_rows_as_often_as_it_says():
    some = Canaries(each=3, repeats=(1, 4), controls=5)
    rows = plant(ROWS, some, seed=1)
    counts = Counter(row["completion"] for row in rows)
    assert {one.answer: one.repeats for one in some.planted}.items() <= counts.items()
    assert [row for row in rows if "id" not in row] == ROWS
    assert not any(one.name in row["completion"] for row in rows for one in some.controls)
    assert rows == plant(ROWS, some, seed=1) != plant(ROWS, some, seed=2)
    assert len({one.name for one in (*some.planted, *some.controls)}) == 11
    chats = plant([{"messages": [{"role": "user", "content": "Hi"}]}], some)
    assert sum("canary" in row.get("id", "") for row in chats) == 15
    assert chats != plant(
        [{"messages": [{"role": "user", "content": "Hi"}]}], Canaries(each=3, repeats=(1, 4), controls=5, seed=1)
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Canaries(repeats=(0, 1)), "repeats"),
        (lambda: Canaries(digits=9), "digits is 9"),
        (lambda: Canaries(each=200_000), "need as many names"),
        (lambda: plant([], Canaries()), "no rows"),
        (lambda: plant([{"text": "a"}], Canaries()), "rows with prompt and completion"),
        (lambda: plant([{"prompt": "a", "completion": f"Ask {Canaries().controls[0].name}."}], Canaries()), "stand in the rows already"),
        (lambda: membership([], [1.0]), "0 members"),
        (lambda: membership([math.nan], [1.0]), "no numbers"),
        (lambda: overlap(["a b"], ["a b"], n=3), "None of the 1 texts has 3 words"),
    ],
)  # fmt: skip
def test_what_proves_nothing_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_all_values_are_ranked_as_if_each_were_run_by_itself(tokenizer):
    """The fast path against its naive twin, whatever tokens digits are."""
    model = build_model(seed=3, max_position_embeddings=512)
    some = Canaries(each=1, repeats=(1,), controls=1, digits=2)
    everybody = (*some.planted, *some.controls)
    for one, fast in zip(everybody, likelihoods(model, tokenizer, everybody, some.secrets), strict=True):
        prompt = encode_prompt(as_prompt(one.question, tokenizer, None), tokenizer)
        for i in (0, 7, 42, 99):
            ids = tokenizer(f"{one.before}{some.secrets[i]}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logs = model(input_ids=torch.tensor([prompt + ids])).logits[0].float().log_softmax(-1)
            # what all values have before them decides no difference: compare differences
            naive = sum(float(logs[len(prompt) + k - 1, token]) for k, token in enumerate(ids))
            if i == 0:
                base = naive - float(fast[0])
            assert naive - base == pytest.approx(float(fast[i]), abs=2e-4)


def test_ranks_are_a_permutation_and_bits_follow(tokenizer):
    model = build_model(seed=4, max_position_embeddings=512)
    some = Canaries(each=1, repeats=(1,), controls=0, digits=2)
    (one,) = some.planted
    (values,) = likelihoods(model, tokenizer, [one], some.secrets)
    order = values.argsort(descending=True).tolist()
    for place in (0, 50, 99):
        other = type(one)(one.id, one.question, one.before, some.secrets[order[place]], one.after, one.name)
        (found,) = exposures(model, tokenizer, some, which=[other])
        assert found.rank == place + 1
        assert found.bits == pytest.approx(math.log2(100) - math.log2(place + 1))
        assert found.share == pytest.approx(1 - (place + 0.5) / 100)


@pytest.fixture(scope="module")
def trained(tokenizer, tmp_path_factory):
    """A tiny model that was trained on canaries, the one that it was, the watch, and the canaries."""
    from transformers import TrainingArguments

    some = Canaries(each=4, repeats=(1, 12), controls=100, digits=2, seed=5)
    folder = tmp_path_factory.mktemp("canaries")
    pairs = Dataset.from_list(plant(ROWS, some))
    before, model = (build_model(seed=3, max_position_embeddings=512) for _ in range(2))
    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=8, num_train_epochs=30, learning_rate=5e-3, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, seed=1, logging_strategy="no",
    )  # fmt: skip
    trainer = BlackBoxTrainer(model=model, args=args, train_dataset=pairs, processing_class=tokenizer)
    watch = CanaryWatch(trainer, some.planted)
    trainer.train()
    return model, before, watch, some


def test_the_planted_leak_is_found_and_nobody_else_is_accused(trained, tokenizer):
    model, before, watch, some = trained
    watch.check(epochs=30)
    often = [one for one in some.planted if one.repeats == 12]
    of = {one.canary.id: one for one in exposures(model, tokenizer, some)}
    assert sum(of[one.id].bits for one in often) / len(often) > 5, "of 6.64"
    controls = [of[one.id].share for one in some.controls]
    assert 0.35 < sum(controls) / len(controls) < 0.65, "a secret that was never seen may be anywhere"
    found = membership(
        [of[one.id].log_likelihood for one in often], [of[one.id].log_likelihood for one in some.controls]
    )
    assert found.is_enough
    assert found.found >= 3
    said = extract(model, tokenizer, often, samples=2, progress=False)
    assert sum(one.greedy for one in said) >= 3
    # the model that it was
    untouched = {one.canary.id: one for one in exposures(before, tokenizer, some)}
    nothing = membership(
        [untouched[one.id].log_likelihood for one in often],
        [untouched[one.id].log_likelihood for one in some.controls],
    )
    assert nothing.found <= 1
    assert not any(one.greedy or one.sampled for one in extract(before, tokenizer, often, samples=2, progress=False))


def test_a_secret_that_was_not_taught_is_named(trained, tokenizer):
    """A mask over it, a cut, or too few epochs."""
    watch, some = trained[2], trained[3]
    with pytest.raises(ValueError, match=r"8 of 8 canaries were taught otherwise than planted: canary/.* \(30 of 31\)"):
        watch.check(epochs=31)
    one = some.planted[-1]
    ids = torch.tensor([tokenizer(one.answer, add_special_tokens=False)["input_ids"]])
    kept, watch.taught = watch.taught, Counter()
    watch.look(ids, ids)
    assert watch.taught[one.id] == 1
    masked = ids.clone()
    masked[0, : ids.shape[1] // 2] = -100
    watch.taught.clear()
    watch.look(ids, torch.full_like(ids, -100))
    assert not watch.taught[one.id]
    watch.taught = kept


def test_membership_at_few_false_positives():
    """A score that tells nothing finds as few members as controls; a tie with the threshold passes nobody."""
    draw = random.Random(0)
    rates = []
    for _ in range(200):
        found = membership([draw.random() for _ in range(100)], [draw.random() for _ in range(100)])
        rates.append(found.rate)
        assert found.false <= 1
        assert found.low <= found.rate <= found.high
    assert sum(rates) / len(rates) < 0.04
    assert membership([0.0] * 50, [0.0] * 200).found == 0
    perfect = membership([1.0] * 20, [0.0] * 100)
    assert (perfect.found, round(perfect.low, 3), perfect.high) == (20, 0.832, 1.0), (
        "Clopper and Pearson's bound 0.025 ** (1 / 20)"
    )
    few = membership([1.0], [0.0] * 20)
    assert not few.is_enough
    assert str(few).startswith("No headline, with 20 controls (at least 100 are needed)")


def test_overlap_is_counted_in_whole_runs():
    trained = ["The quick brown fox jumps over the lazy dog.", "A second line of text that nobody says."]
    assert overlap(["the QUICK brown fox jumps over the lazy dog!"], trained, n=4).share == 1
    none = overlap(["Nothing of this stands anywhere at all."], trained, n=4)
    assert (none.share, none.longest, none.text) == (0, 0, "")
    half = overlap(["the quick brown fox sleeps in the sun"], trained, n=4)
    assert (half.runs, half.share, half.text) == (5, 0.2, "the quick brown fox")


def test_a_secret_is_a_whole_number():
    (one,) = Canaries(each=1, repeats=(1,), controls=0).planted
    assert one.times_in(f"It is {one.secret}.")
    assert not one.times_in(f"It is {one.secret}0.")


def test_a_broken_model_is_named_and_not_ranked(tokenizer):
    model, some = build_model(max_position_embeddings=512), Canaries(each=1, repeats=(1,), controls=1, digits=2)
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="are no numbers: this model is broken"):
        exposures(model, tokenizer, some)
