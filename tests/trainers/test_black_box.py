"""Black-box distillation is SFT: BlackBoxTrainer, transformers.Trainer and a hand loop give the same bits."""

import copy

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from transformers import Trainer

from distill import BlackBoxTrainer
from distill.pairs.collate import PairCollator
from distill.teachers import LocalTeacher

STEPS, BATCH, ACCUMULATION, RATE = 5, 2, 2, 1e-2  # 16 rows: the fifth step is in the second epoch


def hand_loop(model, pairs):
    """Plain PyTorch, no trainer: what everybody would write."""

    def collate(rows):
        """Padding and mask written anew, so that an error in PairCollator would show."""
        whole = [torch.tensor(row["prompt_ids"] + row["completion_ids"]) for row in rows]
        labels = [torch.tensor([-100] * len(row["prompt_ids"]) + row["completion_ids"]) for row in rows]
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "input_ids": pad(whole, batch_first=True, padding_value=2),
            "attention_mask": pad([torch.ones_like(ids) for ids in whole], batch_first=True),
            "labels": pad(labels, batch_first=True, padding_value=-100),
        }

    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    batches = []
    for epoch in range(2):  # every epoch is shuffled with seed + epoch
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(3 + epoch)).tolist()
        batches += [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    model.train()
    for step in range(STEPS):
        window = [
            collate([pairs[i] for i in rows]) for rows in batches[step * ACCUMULATION : (step + 1) * ACCUMULATION]
        ]
        items = sum((batch["labels"][:, 1:] != -100).sum() for batch in window)
        for batch in window:
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            labels = torch.nn.functional.pad(batch["labels"], (0, 1), value=-100)[:, 1:]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / items
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * (STEPS - step) / STEPS  # Trainer's default: linear decay to 0
        optimizer.step()
        optimizer.zero_grad()
    return model


def same_bits(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def trained(arguments):
    """Parameters after training the same start three ways."""
    tokenizer, pairs, start = build_tokenizer(), build_pairs(16), build_model()
    settings = {"max_steps": STEPS, "per_device_train_batch_size": BATCH, "gradient_accumulation_steps": ACCUMULATION}
    ours = BlackBoxTrainer(
        model=copy.deepcopy(start), args=arguments(**settings), train_dataset=pairs, processing_class=tokenizer
    )
    plain = Trainer(
        model=copy.deepcopy(start),
        args=arguments(**settings, remove_unused_columns=False),
        train_dataset=pairs,
        data_collator=PairCollator(tokenizer),
    )
    ours.train()
    plain.train()
    assert not same_bits(ours.model, start)
    return ours.model, plain.model, lambda pairs=pairs: hand_loop(copy.deepcopy(start), pairs)


def test_three_programs_one_result(trained):
    """At accumulation 2, with unequal lengths: every parameter, bit for bit."""
    ours, plain, by_hand = trained
    assert same_bits(ours, plain)
    assert same_bits(ours, by_hand())


def test_one_flipped_mask_bit_breaks_the_equality(trained):
    """The negative control: one token of one row moves from the completion to the prompt."""
    ours, _, by_hand = trained
    rows = build_pairs(16).to_list()
    row = next(row for row in rows if len(row["completion_ids"]) > 2)
    row["prompt_ids"].append(row["completion_ids"].pop(0))
    assert not same_bits(ours, by_hand(rows))


def test_it_overrides_no_loss():
    assert BlackBoxTrainer.compute_loss is Trainer.compute_loss
    assert BlackBoxTrainer.training_step is Trainer.training_step


def test_teacher_and_prompts_in_place_of_pairs(arguments, tmp_path):
    tokenizer = build_tokenizer()
    trainer = BlackBoxTrainer(
        model=build_model(),
        args=arguments(max_steps=1),
        teacher=LocalTeacher(build_model(seed=1), tokenizer, name="tiny"),
        prompts=["the cat", "a dog"],
        generation={"max_new_tokens": 5, "output": tmp_path / "pairs.jsonl", "progress": False},
        processing_class=tokenizer,
    )
    assert len(trainer.train_dataset) == 2
    assert (tmp_path / "pairs.jsonl").is_file()
    trainer.train()


def test_bad_calls(arguments):
    tokenizer, pairs, model = build_tokenizer(), build_pairs(), build_model()
    common = {"model": model, "args": arguments()}
    with pytest.raises(ValueError, match="Give either train_dataset"):
        BlackBoxTrainer(**common, train_dataset=pairs, prompts=["a"], processing_class=tokenizer)
    with pytest.raises(ValueError, match="needs processing_class"):
        BlackBoxTrainer(**common, train_dataset=pairs)
    with pytest.raises(ValueError, match="both of prompt_ids and completion_ids"):
        BlackBoxTrainer(**common, train_dataset=pairs.remove_columns("prompt_ids"), processing_class=tokenizer)
    with pytest.raises(ValueError, match=r"token id 29\d"):
        BlackBoxTrainer(
            model=build_model(vocab_size=200), args=arguments(), train_dataset=pairs, processing_class=tokenizer
        )
    with pytest.raises(ValueError, match=r"of 12 pairs have no token to learn from.*max_length 5"):
        BlackBoxTrainer(**common, train_dataset=pairs, processing_class=tokenizer, max_length=5)
    empty = pairs.map(lambda row, i: {"completion_ids": [] if i == 4 else row["completion_ids"]}, with_indices=True)
    with pytest.raises(ValueError, match="1 of 12 pairs have no token to learn from, the first is row 4"):
        BlackBoxTrainer(**common, train_dataset=empty, processing_class=tokenizer)


def test_a_row_beyond_the_models_positions_is_refused(arguments):
    with pytest.raises(ValueError, match="the model has 16 positions; give max_length=16"):
        BlackBoxTrainer(
            model=build_model(max_position_embeddings=16), args=arguments(), train_dataset=build_pairs(),
            processing_class=build_tokenizer(),
        )  # fmt: skip


def test_what_is_cut_is_reported(arguments, caplog):
    pairs = build_pairs()
    lengths = [len(row["prompt_ids"]) + len(row["completion_ids"]) for row in pairs]
    BlackBoxTrainer(
        model=build_model(), args=arguments(), train_dataset=pairs, processing_class=build_tokenizer(), max_length=20
    )
    over = [length - 20 for length in lengths if length > 20]
    assert f"{len(over)} of 12 pairs are longer than max_length=20" in caplog.text
    assert f"{sum(over)} of " in caplog.text


def test_a_model_that_cannot_count_the_window_is_refused(arguments):
    """Else the loss is a mean of means, the most common silent bug of the field."""
    tokenizer, pairs, model = build_tokenizer(), build_pairs(), build_model()
    model.accepts_loss_kwargs = False
    with pytest.raises(ValueError, match="average the means of micro-batches"):
        BlackBoxTrainer(
            model=model, args=arguments(gradient_accumulation_steps=2), train_dataset=pairs, processing_class=tokenizer
        )


def test_a_routers_loss_that_depends_on_the_split_is_refused(arguments):
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    student = MixtralForCausalLM(MixtralConfig(vocab_size=320, num_local_experts=2, output_router_logits=True, **sizes))
    common = {"model": student, "train_dataset": build_pairs(), "processing_class": build_tokenizer()}
    with pytest.raises(ValueError, match="output_router_logits = False"):
        BlackBoxTrainer(args=arguments(gradient_accumulation_steps=2), **common)
    BlackBoxTrainer(args=arguments(), **common)
