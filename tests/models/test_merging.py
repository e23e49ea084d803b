"""An adapter and its base in one plain model: the same logits, and everything a reader needs beside it."""

import json

import pytest
import torch
from conftest import build_model, build_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig
from white_box_runs import fill

from distill.models.adapters import load_adapted, lora_config
from distill.models.merging import export_merged
from distill.models.quantising import is_bitsandbytes_available

peft = pytest.importorskip("peft", reason="the extra peft is not installed")
IDS = torch.arange(3, 40)[None]


@pytest.fixture
def places(tmp_path):
    """A base with a tokenizer, and an adapter on it in a folder that names it."""
    base = build_model(seed=7, tie_word_embeddings=True)
    base.generation_config = GenerationConfig(eos_token_id=[2, 5], temperature=0.3, do_sample=True)
    base.save_pretrained(tmp_path / "base")
    build_tokenizer().save_pretrained(tmp_path / "base")
    adapted = fill(peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), lora_config(4)))
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_those_of_the_unmerged_model(places, dtype):
    check = export_merged(places / "adapter", places / "merged", dtype=dtype)
    plain = AutoModelForCausalLM.from_pretrained(places / "merged").eval()
    assert plain.dtype == dtype
    with torch.no_grad():
        wanted = load_adapted(places / "adapter", dtype=dtype)(IDS).logits
        base = AutoModelForCausalLM.from_pretrained(places / "base", dtype=dtype).eval()(IDS).logits
        found = plain(IDS).logits
    off, moved = (wanted - found).abs().max(), (wanted - base).abs().max()
    assert moved > 0.1, "the adapter does something"
    assert off < (2e-5 if dtype == torch.float32 else 0.3 * moved)
    assert check.places == 128
    assert check.same_top == 128 if dtype == torch.float32 else check.same_top > 100
    assert check.largest < (2e-5 if dtype == torch.float32 else 0.3 * moved)


def test_tokenizer_template_and_generation_config_go_along(places):
    export_merged(places / "adapter", places / "merged")
    ours, theirs = AutoTokenizer.from_pretrained(places / "merged"), AutoTokenizer.from_pretrained(places / "base")
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert ours.chat_template == theirs.chat_template is not None
    settings = json.loads((places / "merged" / "generation_config.json").read_text())
    assert (settings["eos_token_id"], settings["temperature"]) == ([2, 5], 0.3)
    assert not (places / "merged" / "adapter_config.json").exists()


def test_what_cannot_be_merged_is_refused(places):
    with pytest.raises(ValueError, match="holds no adapter alone"):
        export_merged(places / "base", places / "merged")
    (places / "there").mkdir()
    with pytest.raises(ValueError, match="exists already; give a new folder"):
        export_merged(places / "adapter", places / "there")
    config = places / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace(str(places / "base"), "gone"))
    with pytest.raises(ValueError, match=r"on 'gone', which cannot be loaded .*give the model with base \(--base\)"):
        export_merged(places / "adapter", places / "merged")
    build_model(hidden_size=64).save_pretrained(places / "other")
    with pytest.raises(ValueError, match="cannot be put on .*other.*size mismatch"):
        export_merged(places / "adapter", places / "merged", base=places / "other")
    assert not list(places.glob("merged*"))
    assert export_merged(places / "adapter", places / "merged", base=places / "base").same_top == 128


def test_an_adapter_of_virtual_tokens_is_refused(places):
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(places / "base"), config).save_pretrained(places / "soft")
    with pytest.raises(ValueError, match="is no change of weights"):
        export_merged(places / "soft", places / "merged")


@pytest.mark.skipif(not is_bitsandbytes_available(), reason="the extra quantised is not installed")
def test_a_quantised_base_is_refused(places):
    build_model(seed=7, hidden_size=64, intermediate_size=128).save_pretrained(places / "wide")
    build_tokenizer().save_pretrained(places / "wide")
    setting = BitsAndBytesConfig(load_in_8bit=True)
    rounded = AutoModelForCausalLM.from_pretrained(places / "wide", quantization_config=setting)
    rounded.save_pretrained(places / "rounded")
    fill(peft.get_peft_model(rounded, lora_config(4))).save_pretrained(places / "on_rounded")
    with pytest.raises(ValueError, match="weights of few bits.*--base"):
        export_merged(places / "on_rounded", places / "merged", base=places / "rounded")
    assert export_merged(places / "on_rounded", places / "merged", base=places / "wide").places == 128
