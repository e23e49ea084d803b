"""Which attention layers may be compared and are paired: windows, chunks, sinks on one side, layers without maps."""

import itertools
import sys
from pathlib import Path

import pytest
import torch
from conftest import batch, build_model, build_pairs, signals_of
from transformers import AutoConfig, AutoModelForCausalLM
from white_box_runs import trainer, weights_of

from distill import AttentionMaps, Logits
from distill.objectives import divergences
from distill.objectives.attention_layers import Window

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from architectures import mask_of
from families import FAMILIES, SIZES

FULL, SLIDES = "full_attention", "sliding_attention"
HYBRIDS = ("exaone4", "cohere2", "gemma3_text")


def family(name, seed=1, **changes):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(name, **{**SIZES, **FAMILIES[name], "max_position_embeddings": 128, **changes})
    return AutoModelForCausalLM.from_config(config).eval()


WINDOWS = [Window(), *(Window(size, chunked) for size in (2, 3, 4, 6) for chunked in (False, True))]


@pytest.mark.parametrize(("one", "other"), itertools.product(WINDOWS, WINDOWS), ids=str)
def test_what_sees_all_of_what_is_told_as_the_masks_say(one, other):
    masks = [mask_of(window, 24) for window in (one, other)]
    assert one.sees_all_of(other) == bool((masks[0] | ~masks[1]).all())


def test_a_window_as_wide_as_the_row_hides_nothing():
    for window in WINDOWS[1:]:
        assert window.within(window.size) == Window()
        assert window.within(window.size + 1) == window == window.within(None)
        assert torch.equal(mask_of(window, window.size), mask_of(Window(), window.size))


# sinks


def naive(student, teacher, inputs, rows, divergence, with_sinks):
    """`[N]`: the divergence of maps formed from queries and keys, over the tokens, or with the sinks as one more column."""
    from distill.signals import record_attention

    maps = []
    for model in (student, teacher):
        with record_attention(model, {0, 1}) as taps:
            model(**inputs, use_cache=False)
        sides = []
        for layer in (0, 1):
            tap = taps[layer]
            key = tap.key.repeat_interleave(tap.query.shape[1] // tap.key.shape[1], dim=1)
            scores = tap.scaling * tap.query @ key.transpose(-1, -2)
            time = scores.shape[-1]
            seen = torch.ones(time, time).tril().bool() & inputs["attention_mask"][:, None, None].bool()
            scores = scores.masked_fill(~seen, -1e30)
            if with_sinks:
                scores = torch.cat([scores, tap.sinks[None, :, None, None].expand(*scores.shape[:3], 1)], -1)
            sides.append(scores.transpose(1, 2)[rows])
        maps.append(torch.stack(sides, 1).flatten(1, 2))  # [N, layers * heads, T]
    values = [divergence(maps[0][:, head], maps[1][:, head].detach()) for head in range(maps[0].shape[1])]
    return torch.stack(values).mean(0)


def oss(seed):
    model = family("gpt_oss", seed, layer_types=[FULL] * 2, sliding_window=64)
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks, mean=1.0)
    return model


SIDES = {
    "teacher": (lambda: build_model(seed=7), lambda: oss(1), False),
    "student": (lambda: oss(7), lambda: build_model(seed=1), False),
    "both": (lambda: oss(7), lambda: oss(1), True),
}


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "generalized_jsd"])
@pytest.mark.parametrize("side", SIDES)
def test_a_sink_counts_where_both_sides_have_one_and_else_the_tokens_do(side, name):
    """With a sink on one side a KL is infinite: 4e28 was logged, or no weight moved at all."""
    build_student, build_teacher, with_sinks = SIDES[side]
    student, twin, teacher = build_student(), build_student(), build_teacher()
    term = AttentionMaps(divergence=name).bind(student, teacher)
    inputs, rows = batch()
    value = term(*signals_of(term, student, teacher, inputs, rows))
    expected = naive(twin, teacher, inputs, rows, divergences.by_name(name), with_sinks)
    assert 1e-3 < float(expected.detach().max()) < 100
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    value.sum().backward()
    expected.sum().backward()
    for (key, found), wanted in zip(student.named_parameters(), twin.parameters(), strict=True):
        if wanted.grad is not None and found.grad is not None:
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=1e-5, msg=key)
    if side == "student":
        assert student.model.layers[-1].self_attn.sinks.grad is None  # that of the first moves the second's queries


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_run_with_a_sink_on_one_side_learns(arguments, side):
    build_student, build_teacher, _ = SIDES[side]
    run = trainer(
        arguments, [AttentionMaps(divergence="reverse_kl", weight=0.1), Logits()], student=build_student(), teacher=build_teacher()
    )  # fmt: skip
    before = weights_of(run)
    run.train()
    logged = [entry for entry in run.state.log_history if "attention" in entry]
    assert all(0 < entry["attention"] < 100 and entry["grad_norm"] < 1e3 for entry in logged)
    moved = [name for name, tensor in weights_of(run).items() if not torch.equal(tensor, before[name])]
    assert any("q_proj" in name for name in moved)


# windows


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_student_is_taken_where_rows_are_shorter_than_its_window(arguments, name):
    """Then both sides see the same; it was refused whatever the rows were."""
    student = family(name, sliding_window=40)
    run = trainer(arguments, [AttentionMaps()], student=student, max_steps=2)
    assert run.terms[0].pairs == [(0, 0), (1, 1)]
    run.train()
    assert 0 < run.state.log_history[0]["attention"] < 10
    long = [{"id": "long", "prompt_ids": [5] * 20, "completion_ids": [7] * 30}]
    with pytest.raises(ValueError, match="in rows of more than 40 tokens student and teacher see different ones"):
        run.evaluate(long)


@pytest.mark.parametrize("name", HYBRIDS)
def test_the_value_within_the_window_is_that_without_one(name):
    student, wide = family(name, sliding_window=40), family(name, sliding_window=4000)
    inputs, rows = batch()
    values = []
    for model in (student, wide):
        term = AttentionMaps().bind(model, build_model(seed=1), longest=40)
        values.append(term(*signals_of(term, model, build_model(seed=1), inputs, rows)))
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("how", ["rows", "max_length", "evaluation"])
def test_rows_that_may_be_longer_are_refused_with_the_way_out(arguments, how):
    from conftest import build_tokenizer

    from distill import WhiteBoxTrainer

    long = [{"id": "long", "prompt_ids": [5] * 20, "completion_ids": [7] * 30}]
    rows = {"rows": {"train_dataset": long}, "evaluation": {"eval_dataset": long}, "max_length": {"max_length": 60}}[
        how
    ]
    stream = build_pairs(8).to_iterable_dataset() if how == "max_length" else build_pairs(8)  # which says no lengths
    common = {
        "model": family("cohere2", sliding_window=40), "teacher": build_model(seed=1), "objectives": [AttentionMaps({0: 0})],
        "args": arguments(), "processing_class": build_tokenizer(),
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"rows have up to \d+ tokens.*max_length=40 or less"):
        WhiteBoxTrainer(**{**common, "train_dataset": stream, **rows})
    assert WhiteBoxTrainer(**{**common, "train_dataset": stream, **rows, "max_length": 40})


def test_padding_beyond_the_window_is_named(arguments):
    """Rows of 40 tokens that are padded to 64: max_length=40 alone would be refused by the same words again."""
    from conftest import build_tokenizer

    from distill.pairs.collate import PairCollator

    collator = PairCollator(build_tokenizer(), max_length=40, pad_to_multiple_of=64)
    with pytest.raises(ValueError, match=r"up to 64 tokens with their padding.*no larger pad_to_multiple_of"):
        trainer(arguments, [AttentionMaps({0: 0})], student=family("cohere2", sliding_window=40), collator=collator)


def test_the_mixed_divergences_take_any_windows():
    model = family("cohere2")
    assert AttentionMaps({0: 0}, divergence="generalized_jsd").bind(model, build_model(seed=1))
    with pytest.raises(
        ValueError, match="Student layer 0 sees the last 4 tokens and teacher layer 0 sees all tokens before it"
    ):
        AttentionMaps({0: 0}).bind(model, build_model(seed=1))
    with pytest.raises(ValueError, match="infinite where only one of them sees"):
        AttentionMaps({0: 0}, relations=("key",)).bind(model, build_model(seed=1))


# pairs


def kinds(*names):
    return {"layer_types": list(names), "num_hidden_layers": len(names)}


@pytest.mark.parametrize(
    ("student", "teacher", "longest", "pairs"),
    [
        # one kind: spread evenly, as before
        ([FULL] * 2, [FULL] * 6, None, [(0, 2), (1, 5)]),
        # the patterns do not fall on each other: layer 1 would have met a sliding one
        ([SLIDES, FULL], [SLIDES, SLIDES, FULL, SLIDES], None, [(0, 3), (1, 2)]),
        ([SLIDES, SLIDES, FULL], [SLIDES, FULL] * 3, None, [(0, 1 * 2), (1, 4), (2, 5)]),
        # a kind that one side has fewer of, or not at all
        ([FULL, FULL, FULL], [SLIDES, FULL, SLIDES, SLIDES, SLIDES, FULL], None, [(1, 1), (2, 5)]),
        ([SLIDES, FULL], [FULL, FULL, FULL], None, [(1, 2)]),
        # rows as short as the window: all are of one kind
        ([SLIDES, FULL], [FULL, FULL, FULL, FULL], 4, [(0, 1), (1, 3)]),
    ],
)  # fmt: skip
def test_auto_pairs_layers_of_one_kind(student, teacher, longest, pairs):
    models = [family("cohere2", **kinds(*names)) for names in (student, teacher)]
    term = AttentionMaps().bind(*models, longest=longest)
    assert term.pairs == pairs
    assert term.decided["pairs"] == pairs


def test_no_kind_in_common_is_spread_over_all():
    """A student that sees more than its teacher can learn from it."""
    term = AttentionMaps().bind(family("cohere2", **kinds(FULL, FULL)), family("cohere2", **kinds(*[SLIDES] * 4)))
    assert term.pairs == [(0, 1), (1, 3)]


@pytest.mark.parametrize("name", ["qwen3_next", "lfm2", "bamba"])
def test_layers_without_maps_stay_out(name):
    model = family(name)
    own = [layer for layer, kind in enumerate(model.config.layer_types) if kind == FULL or kind == "attention"]
    assert 0 < len(own) < model.config.num_hidden_layers
    assert AttentionMaps().bind(model, family(name, seed=2)).pairs == [(layer, layer) for layer in own]


def test_a_cut_student_goes_with_the_layers_it_came_from():
    from distill import make_student

    teacher = family("cohere2", **kinds(SLIDES, SLIDES, FULL, SLIDES, SLIDES, FULL))
    student = make_student(teacher, layers=[0, 2, 5])
    assert AttentionMaps().bind(student, teacher).pairs == [(0, 0), (1, 2), (2, 5)]


def test_a_deeper_student_of_one_kind_is_refused_as_before():
    with pytest.raises(ValueError, match="The student has 3 layers and the teacher 2"):
        AttentionMaps().bind(build_model(3), build_model(2))
