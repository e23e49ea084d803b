"""What `HeldOut` keeps of a teacher: figures are those of whole logits, memory is that of hidden states, the teacher stays what it was."""

import copy
import gc

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from peft import LoraConfig, get_peft_model
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from distill.evaluation import HeldOut, agreement
from distill.planning.live_tensors import LiveBytes
from distill.signals.head import HeadTap

FP32 = torch.float32
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}


def family(name, seed):
    """Logits as they come from the head, capped, divided; and a head with an adapter on it, which cannot be read."""
    torch.manual_seed(seed)
    vocabulary = len(build_tokenizer())
    if name == "capped":
        return Gemma2ForCausalLM(Gemma2Config(vocab_size=vocabulary, head_dim=8, final_logit_softcapping=2.0, **SMALL))
    if name == "divided":
        return GraniteForCausalLM(GraniteConfig(vocab_size=vocabulary, logits_scaling=4.0, **SMALL))
    model = build_model(seed=seed)
    if name == "adapter on the head":
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
    return model


def figures(teacher, student, pairs):
    return HeldOut(teacher, pairs, build_tokenizer(), batch_size=3).measure(student, FP32)


@pytest.mark.parametrize("name", ["plain", "capped", "divided", "adapter on the head"])
def test_figures_are_those_of_whole_logits(name, monkeypatch):
    """Teacher and student of one kind, and each beside a plain model; the twin is what `HeldOut` did before."""
    pairs = build_pairs(9)
    for teacher, student in ((family(name, 0), family(name, 1)), (family("plain", 0), family(name, 1))):
        streamed = figures(teacher, student, pairs)
        with monkeypatch.context() as patch:
            patch.setattr(agreement, "_readable_head", lambda model: None)
            whole = figures(teacher, student, pairs)
        assert streamed.as_dict() == pytest.approx(whole.as_dict(), rel=2e-5, abs=1e-7)
        assert streamed.kl > 1e-3


def wide_model(seed, frozen=False):
    model = build_model(seed=seed, vocab_size=20_000)
    return model.requires_grad_(not frozen)


def held(held_out):
    """Bytes of the tensors that a `HeldOut` holds beside its batches; the teacher's own are not among them."""
    own = {tensor.untyped_storage()._cdata for tensor in held_out._teacher.parameters()}
    kept = [*held_out._theirs, *([] if held_out._head is None else [held_out._head.weight])]
    return sum(tensor.nbytes for tensor in kept if tensor.untyped_storage()._cdata not in own)


@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_kept_is_as_wide_as_the_model_and_not_as_its_vocabulary(frozen):
    pairs, teacher = build_pairs(40), wide_model(0, frozen)
    held_out = HeldOut(teacher, pairs, build_tokenizer())
    states = held_out.tokens * teacher.config.hidden_size * 4
    copied = 0 if frozen else teacher.lm_head.weight.nbytes
    assert held(held_out) == held_out.kept_bytes == states + copied
    assert held_out.kept_bytes < held_out.tokens * 20_000 * 4 / 3


def test_few_tokens_keep_their_logits_where_a_copy_of_the_head_would_be_larger():
    pairs = build_pairs(1)
    held_out = HeldOut(wide_model(0), pairs, build_tokenizer())
    assert held_out._head is None
    assert held(held_out) == held_out.kept_bytes == held_out.tokens * 20_000 * 4


class OfRealTensors(LiveBytes):
    """Boolean indices are what they are."""

    def _as_numbers(self, indices):
        return list(indices)


def test_a_measurement_holds_no_more_than_a_chunk_of_logits():
    """Of two models: not the logits of a batch, which are several chunks here."""
    from distill.objectives import streamed_next_token

    held_out, student = HeldOut(wide_model(0, True), build_pairs(40), build_tokenizer(), batch_size=40), wide_model(1)
    batch = held_out.tokens * 20_000 * 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed_next_token, "CHUNK", 8)
        gc.collect()
        live = OfRealTensors(student, held_out.tokens)
        with live, live.moment("measuring", "figures"):
            held_out.measure(student, FP32)
    chunk, tile = 8 * 20_000 * 4, streamed_next_token.TILE * 4
    assert sum(live.highest["measuring"].values()) < 2 * chunk + 8 * tile + batch / 20
    assert batch > 10 * chunk


def test_a_teacher_that_is_trained_afterwards_stays_what_it_was():
    """Head and body; the student may be the teacher itself."""
    pairs, teacher = build_pairs(40), build_model()
    held_out = HeldOut(teacher, pairs, build_tokenizer())
    assert isinstance(held_out._head, HeadTap)
    student = build_model(seed=1)
    before = held_out.measure(student, FP32), held_out.measure(copy.deepcopy(teacher), FP32)
    optimizer = torch.optim.SGD(teacher.parameters(), lr=1.0)
    teacher(input_ids=torch.arange(5)[None], labels=torch.arange(5)[None]).loss.backward()
    optimizer.step()
    assert held_out.measure(student, FP32) == before[0]
    assert held_out.measure(teacher, FP32).kl > before[1].kl + 1e-3


def test_low_precision_has_the_figures_of_exact_products():
    """A teacher in bfloat16: what its head is given is rounded, what the head gives is not."""
    pairs, teacher, student = build_pairs(20), build_model(dtype=torch.bfloat16), build_model(seed=1)
    found = HeldOut(teacher, pairs, build_tokenizer()).measure(student, FP32)
    near = HeldOut(copy.deepcopy(teacher).float(), pairs, build_tokenizer()).measure(student, FP32)
    assert found.as_dict() == pytest.approx(near.as_dict(), rel=0.02)
