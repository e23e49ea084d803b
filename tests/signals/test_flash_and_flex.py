"""Taps of flash and flex attention equal those of sdpa: masks are rules made of what a kernel is given.

No kernel of the flash family runs here. `transformers`' own code around it does: it unpads, finds documents and hands windows, caps and sinks to
a kernel, in whose place stands plain attention (`scripts/plain_kernels.py`).
"""

import copy
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)
from transformers import modeling_flash_attention_utils as flash_utils

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from plain_kernels import FLASH, FLEX, plain_flash, plain_flex

from distill import AttentionMaps
from distill.objectives.attention_tiles import Blocks
from distill.pairs.collate import PairCollator, supervised_rows
from distill.signals import SupervisedRows, record_attention, run_with_taps
from distill.signals.attention_masks import MaskRule, mask_of_flash, mask_of_flex

SMALL = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 2, "initializer_range": 0.2,
}  # fmt: skip


@pytest.fixture
def flash():
    with plain_flash() as name:
        yield name


@pytest.fixture
def flex():
    with plain_flex() as name:
        yield name


@pytest.fixture(params=[FLASH, FLEX])
def kind(request):
    return request.getfixturevalue("flash" if request.param == FLASH else "flex")


def build(family, seed=0):
    torch.manual_seed(seed)
    if family == "full":
        return build_model(seed=seed).double()
    if family == "sliding":
        return MistralForCausalLM(MistralConfig(sliding_window=4, **SMALL)).double().eval()
    if family == "capped":  # and every other layer sliding
        settings = {"sliding_window": 4, "attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 5, **SMALL}
        return using(Gemma2ForCausalLM(Gemma2Config(**settings)).eval(), "eager")  # sdpa has no caps
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    model = GptOssForCausalLM(GptOssConfig(sliding_window=4, **experts, **SMALL)).eval()
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks)
    return model


def using(model, implementation):
    """A copy with another kernel; set where `from_pretrained` would, which looks whether it is installed."""
    twin = copy.deepcopy(model)
    twin.config._attn_implementation = implementation
    return twin


def inputs_of(layout):
    """Inputs and supervised rows of a few pairs, all in float64 models' reach."""
    pairs, tokenizer = list(build_pairs(4, seed=3)), build_tokenizer()
    if layout in ("packed", "lengths"):
        batch = PairCollator(tokenizer, flatten_bins=True)([pairs])
    else:
        batch = PairCollator(tokenizer, padding_side=layout if layout == "left" else "right")(pairs)
    rows = supervised_rows(batch.pop("labels"))
    if layout == "none":  # rows of one length
        batch = {"input_ids": batch["input_ids"][:, :9], "attention_mask": torch.ones(4, 9, dtype=torch.long)}
        rows = torch.ones(4, 9, dtype=torch.bool)
    if layout == "lengths":
        begins = (batch["position_ids"][0] == 0).nonzero().flatten()
        cuts = torch.cat([begins, torch.tensor([batch["input_ids"].shape[1]])]).int()
        longest = int(cuts.diff().max())
        batch |= {"cu_seq_lens_q": cuts, "cu_seq_lens_k": cuts, "max_length_q": longest, "max_length_k": longest}
    return batch, rows


def value_and_gradients(student, teacher, inputs, rows):
    term = AttentionMaps({0: 0, 1: 1}).bind(student, teacher)
    ours = run_with_taps(student, student, inputs, rows, term.student_request)
    with torch.no_grad():
        theirs = run_with_taps(teacher, teacher, inputs, rows, term.teacher_request)
    value = term(ours, theirs)
    student.zero_grad()
    (value.sum() / 7).backward()
    return value.detach(), {name: p.grad for name, p in student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", ["none", "right", "left", "packed", "lengths"])
@pytest.mark.parametrize("family", ["full", "sliding", "capped", "sinks"])
def test_taps_equal_those_of_sdpa_in_value_and_gradient(kind, family, layout):
    """Student, teacher, and both; padded on either side, without padding, several pairs in a row told by positions or by lengths."""
    if family == "sinks" and kind == FLEX:
        pytest.skip("transformers has sinks in flex attention on a GPU only")
    if layout == "lengths" and kind == FLEX:
        pytest.skip("only kernels of the flash family read them")
    student, teacher, (inputs, rows) = build(family), build(family, seed=1), inputs_of(layout)
    plain = {name: value for name, value in inputs.items() if not name.startswith(("cu_seq", "max_length"))}
    if family == "sinks" and layout in ("packed", "lengths"):
        # elsewhere transformers' gpt-oss does not keep the pairs of a row apart: its masks are made without positions
        expected, sides = value_and_gradients(student, teacher, *inputs_of("right")), [(True, True)]
    else:
        expected, sides = (
            value_and_gradients(student, teacher, plain, rows),
            [(True, True), (True, False), (False, True)],
        )
    assert expected[0].mean() > 1e-3
    for ours, theirs in sides:
        given = inputs if ours and theirs else plain
        found = value_and_gradients(
            using(student, kind) if ours else student, using(teacher, kind) if theirs else teacher, given, rows
        )
        exact = family in ("full", "sliding")  # in float64; eager attention of the others takes its softmax in float32
        torch.testing.assert_close(found, expected, rtol=1e-6 if exact else 1e-3, atol=1e-10 if exact else 1e-6)
        assert len(found[1]) > 4


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
@pytest.mark.parametrize("family", ["full", "sliding"])
def test_a_rule_is_the_mask_of_sdpa_wherever_a_token_stands(kind, family, layout):
    model, (inputs, _) = build(family), inputs_of(layout)
    taps = []
    for one in (model, using(model, kind)):
        with torch.no_grad(), record_attention(one, {0, 1}) as found:
            one(**inputs, use_cache=False)
        taps.append(found)
    batch, time = inputs["input_ids"].shape
    real = inputs.get("attention_mask", torch.ones(batch, time)).bool()
    rows, places = torch.arange(batch)[:, None], torch.arange(time)[None].expand(batch, -1)
    for layer in (0, 1):
        rule, mask = taps[1][layer].mask, taps[0][layer].mask
        assert isinstance(rule, MaskRule)
        mask = mask.expand(batch, -1, -1, -1)
        shown = rule.shown(rows, places, slice(0, time))
        assert torch.equal(shown[:, 0][real], mask[:, 0][real])
        cut = rule.shown(rows[1:] if batch > 1 else rows, places[-1:, 5:8].expand(max(batch - 1, 1), -1), slice(2, 7))
        assert torch.equal(cut, mask[1 if batch > 1 else 0 :, :, 5:8, 2:7] & cut | cut)
        if batch > 2:  # as a batch is divided among teachers
            some = rule.of_rows(torch.tensor([2, 0]))
            assert torch.equal(some.shown(rows[:2], places[:2], slice(0, time)), shown[[2, 0]])
            assert all(
                torch.equal(a, b[[2, 0]]) for a, b in zip(some.ranges(), rule.ranges(), strict=True) if len(a) > 1
            )
        first, last = (one.expand(batch, -1)[real] for one in rule.ranges())
        seen = mask[:, 0][real].byte()
        assert (first <= seen.argmax(-1)).all()
        assert (last >= time - 1 - seen.flip(-1).argmax(-1)).all()
    assert taps[1][0].mask is taps[1][1].mask  # so that they are computed side by side


def test_windows_of_a_row_with_holes_count_its_tokens():
    """Whoever's own collator leaves padding between tokens: a flash kernel squeezes it out."""
    mask = torch.tensor([[1, 1, 0, 0, 1, 1, 1]])
    rule = mask_of_flash((1, 7), mask.device, mask, {"sliding_window": 3}, True)
    seen = rule.shown(torch.zeros(1, 1, dtype=torch.long), torch.arange(7)[None], slice(0, 7))[0, 0]
    assert [seen[t].nonzero().flatten().tolist() for t in (0, 1, 4, 5, 6)] == [
        [0], [0, 1], [0, 1, 4], [1, 4, 5], [4, 5, 6],
    ]  # fmt: skip


def test_without_padding_window_and_documents_there_is_no_rule_at_all():
    """As with sdpa: whoever is given None is causal."""
    for given in ({}, {"sliding_window": None, "position_ids": torch.arange(7)[None].expand(2, -1)}):
        assert mask_of_flash((2, 7), torch.device("cpu"), None, given, True) is None


def test_a_rule_is_asked_a_few_positions_at_a_time(monkeypatch):
    """No [T, T] is made: of 4,096 positions the rule is never asked for more than a piece."""
    from distill.signals import attention_masks

    asked = []

    def rule(rows, positions, keys):
        asked.append(positions.numel() * keys.numel())
        return keys <= positions

    monkeypatch.setattr(attention_masks, "PIECE", 2**16)
    flex_rule = MaskRule(rule, (1, 4096), torch.device("cpu"))
    first, last = flex_rule.ranges()
    assert first.tolist() == [[0] * 4096]
    assert last.tolist() == [list(range(4096))]
    assert max(asked) <= 2**16
    tap = SimpleNamespace(mask=flex_rule)
    supervised = SupervisedRows.of(torch.ones(1, 4096, dtype=torch.bool))
    assert [block.keys.stop for block in Blocks(supervised, [tap]).cut((tap, tap), 1, 1024)] == [1024, 2048, 3072, 4096]


def test_what_cannot_be_had_is_refused_by_name(monkeypatch):
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match="not causal"):
        mask_of_flash((2, 7), cpu, None, {}, False)
    with pytest.raises(ValueError, match="cu_seq_lens_q with 2 rows"):
        mask_of_flash((2, 7), cpu, None, {"cu_seq_lens_q": torch.tensor([0, 9, 14])}, True)
    with pytest.raises(ValueError, match=r"mask of shape \[2, 9\] for 2 x 7 tokens"):
        mask_of_flash((2, 7), cpu, torch.ones(2, 9), {}, True)
    with pytest.raises(ValueError, match="given no mask"):
        mask_of_flex(None, cpu)
    with pytest.raises(ValueError, match="'paged|eager', which cannot be tapped"):
        AttentionMaps().bind(using(build_model(), "paged|eager"), build_model())


def test_sinks_that_a_kernel_leaves_out_are_noticed(flash, monkeypatch):
    """flash_attention_2 takes no sinks, and transformers says nothing: its maps are then not those that the tap stands for."""
    monkeypatch.setattr(
        flash_utils, "_lazy_define_process_function",
        lambda function: partial(flash_utils._process_flash_attention_kwargs, supports_mapping=WITHOUT_SINKS),
    )  # fmt: skip
    model = build("sinks")
    with pytest.raises(ValueError, match="is not softmax"):
        AttentionMaps().bind(using(model, flash), model)


WITHOUT_SINKS = {"dropout_p": True, "window_size": True, "deterministic": False, "softcap": True, "s_aux": False,
                 "learnable_sink": False, "block_table": False, "page_table": False, "cache_seqlens": False,
                 "max_seqlen_q": True, "max_seqlen_k": True}  # fmt: skip


def test_the_config_is_as_it_was(flash):
    """Within a call of attention it names the kernel (which the loader above asserts), and behind the tap what it named before."""
    model = using(build_model().double(), flash)
    with record_attention(model, {0}):
        inside = model.config._attn_implementation
        model(torch.arange(5)[None])
        assert model.config._attn_implementation == inside != flash
    assert model.config._attn_implementation == flash
