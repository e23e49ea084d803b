"""A local teacher is what people have (with an adapter, compiled, in an adapter's folder), and answers within its positions."""

import pytest
import torch
from conftest import build_model, build_tokenizer
from distill.recipes import black_box as black_box_recipe
from distill.recipes import generate as generate_recipe
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BloomConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig

from distill import generate
from distill.models.positions import positions_of
from distill.teachers import LocalTeacher, Sampling

TOKENIZER = build_tokenizer()
LONG = "the cat sat on the mat " * 60


def gpt2(positions=32):
    torch.manual_seed(0)
    settings = {"vocab_size": 320, "n_positions": positions, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return GPT2LMHeadModel(GPT2Config(**settings, bos_token_id=1, eos_token_id=2)).eval()


def adapted(seed=0):
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = build_model()
    torch.manual_seed(seed)
    return get_peft_model(model, config)


def run(asked, prompts, **changes):
    return generate(asked, prompts, **{"max_new_tokens": 4, "progress": False, **changes})


# -------------------------------------------------------------------------------------------------- positions
@pytest.mark.parametrize("model", [gpt2, build_model], ids=["GPT-2", "Llama"])
def test_a_prompt_beyond_the_positions_is_a_refusal_of_that_prompt(model, tmp_path, capsys):
    asked, path = LocalTeacher(model(), TOKENIZER, name="tiny"), tmp_path / "pairs.jsonl"
    positions = positions_of(asked.model)
    with pytest.raises(ValueError, match=rf"1 of 3 .*and 4 tokens, and it has {positions} positions; the prompt alone"):
        run(asked, ["the cat", LONG, "a dog"], output=path)
    assert len(path.read_text().splitlines()) == 2
    pairs = run(asked, ["the cat", LONG, "a dog"], output=path, allow_refusals=True)
    assert pairs.to_list() == run(asked, ["the cat", "a dog"]).to_list(), "the others are drawn as if it were not there"
    assert "1 of 3 completions could not be had" in capsys.readouterr().err
    assert len((tmp_path / "pairs.jsonl.refused.jsonl").read_text().splitlines()) == 1, "recorded once"


def test_the_last_position_is_used_and_the_next_is_not():
    asked = LocalTeacher(gpt2(), TOKENIZER, name="tiny")
    ids = list(range(3, 23))
    assert asked.refusal_of(ids, Sampling(12)) is None
    assert len(asked.complete([ids], Sampling(12, temperature=0), seed=0, stop_ids=set())[0].ids) == 12
    assert "at most 12 new tokens fit" in asked.refusal_of(ids, Sampling(13)).reason
    with pytest.raises(ValueError, match="20 and 13 tokens, and it has 32 positions"):
        asked.complete([ids], Sampling(13), seed=0)


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (LlamaConfig(max_position_embeddings=128), 128),
        (GPT2Config(n_positions=64), 64),
        (BloomConfig(), None),
        (LlamaConfig(max_position_embeddings=64, rope_scaling=(yarn := {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4})), 256),
        (LlamaConfig(max_position_embeddings=256, rope_scaling=yarn), 256),
    ],
)  # fmt: skip
def test_positions_are_those_of_the_config_as_it_is_scaled(config, positions):
    class Model:
        pass

    model = Model()
    model.config = config
    assert positions_of(model) == positions
    assert positions_of(object()) is None


# --------------------------------------------------------------------------------------------- kinds of model
def test_a_model_with_an_adapter_is_a_teacher():
    """What it draws is its own, and neither its config nor that of its base is another one afterwards."""
    model = adapted()
    before = model.generation_config, model.get_base_model().generation_config
    asked = LocalTeacher(model, TOKENIZER)
    found = run(asked, ["the cat"], temperature=0, max_new_tokens=12)
    merged = LocalTeacher(adapted().merge_and_unload(), TOKENIZER)
    assert found["completion_ids"] == run(merged, ["the cat"], temperature=0, max_new_tokens=12)["completion_ids"]
    assert (model.generation_config, model.get_base_model().generation_config) == before
    others = [LocalTeacher(build_model(), TOKENIZER), LocalTeacher(adapted(1), TOKENIZER)]
    assert len({str(t.identity()["teacher_weights"]) for t in (asked, *others)}) == 3
    assert asked.name.endswith("with an adapter")


def test_which_adapter_computes_is_part_of_the_teacher():
    """All of them lie in the weights, whichever is active; scales and switches lie in the layers."""
    model = adapted()
    asked = LocalTeacher(model, TOKENIZER, name="x")
    first = asked.identity()
    model.add_adapter("b", LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False))
    both = asked.identity()
    model.set_adapter("b")
    other = asked.identity()
    with model.disable_adapter():
        off = asked.identity()
    assert asked.identity() == other
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    for module in layers:
        module.scaling = {name: 4 * value for name, value in module.scaling.items()}
    found = [first, both, other, off, asked.identity()]
    assert len({str(one) for one in found}) == 5
    assert "teacher_adapters" not in LocalTeacher(build_model(), TOKENIZER).identity()
    assert str(found).isascii()
    assert "/" not in str(first["teacher_adapters"])


def test_a_compiled_model_is_the_model():
    model = build_model()
    asked = LocalTeacher(torch.compile(model), TOKENIZER)
    assert asked.model is model


def test_a_folder_with_an_adapter_is_put_on_its_base(tmp_path):
    base, folder = tmp_path / "base", tmp_path / "adapter"
    build_model().save_pretrained(base)
    TOKENIZER.save_pretrained(base)
    model = get_peft_model(
        build_model().from_pretrained(base),
        LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False),
    )
    model.save_pretrained(folder)
    asked = LocalTeacher(folder, dtype=torch.float32)
    assert isinstance(asked.model, PeftModel)
    assert len(asked.tokenizer) == len(TOKENIZER), "that of the base, where the folder has none"
    wanted = run(LocalTeacher(model, TOKENIZER), ["the cat"], temperature=0)
    assert run(asked, ["the cat"], temperature=0)["completion_ids"] == wanted["completion_ids"]
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace(str(base), "/no/such/base"))
    with pytest.raises(
        ValueError, match=r"holds an adapter on '/no/such/base', which cannot be loaded .*PeftModel.from"
    ):
        LocalTeacher(folder)
    config.write_text(config.read_text().replace('"/no/such/base"', "null"))
    with pytest.raises(ValueError, match="does not say on which model it belongs"):
        LocalTeacher(folder)
    config.write_text("{}")
    with pytest.raises(ValueError, match="does not say on which model it belongs"):
        LocalTeacher(folder)


def test_what_is_no_model_is_said():
    with pytest.raises(ValueError, match="a PreTrainedModel or a PeftModel, not a Linear"):
        LocalTeacher(torch.nn.Linear(2, 2), TOKENIZER)


# ------------------------------------------------------------------------------------------------------ flags
@pytest.mark.parametrize(
    ("recipe", "flags", "words"),
    [
        ("generate", ["--top_logprobs", "2"], "--top_logprobs: only a teacher behind a server"),
        ("generate", ["--tokenizer", "x", "--concurrency", "4"], "--concurrency, --tokenizer: only a teacher behind"),
        ("generate", ["--finish_reasons", "a=stop"], "--finish_reasons: only"),
        ("black_box", ["--teacher_model", "x", "--timeout", "3"], "--teacher_model, --timeout: only"),
        ("generate", ["--teacher_dtype", "int3"], "teacher_dtype is 'int3'"),
        ("generate", ["--system", "Be brief.", "--plain"], "leave one of them out"),
        ("generate", ["--teacher", "http://x/v1", "--teacher_bits", "4"], "runs behind a server"),
    ],
)
def test_a_flag_that_would_change_nothing_is_refused(recipe, flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        {"generate": generate_recipe, "black_box": black_box_recipe}[recipe].main(["--teacher", "x", *flags])
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_system_text_and_a_dtype_reach_the_teacher(tmp_path, capsys):
    build_model().save_pretrained(tmp_path / "teacher")
    TOKENIZER.save_pretrained(tmp_path / "teacher")
    prompts, output = tmp_path / "prompts.txt", tmp_path / "pairs.jsonl"
    prompts.write_text("the cat\na dog\n")
    flags = ["--teacher", str(tmp_path / "teacher"), "--prompts", str(prompts), "--max_new_tokens", "4"]
    generate_recipe.main([*flags, "--output", str(output), "--system", "Be brief.", "--teacher_dtype", "float32"])
    from distill import load_pairs
    from distill.generation.journal_settings import settings_there

    assert [p[0]["content"] for p in load_pairs(output)["prompt"]] == ["Be brief."] * 2
    assert settings_there(output)["teacher_dtype"] == "torch.float32"
    own = tmp_path / "own.jsonl"
    own.write_text('{"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]}\n')
    with pytest.raises(SystemExit):
        generate_recipe.main([*flags[:2], "--prompts", str(own), "--system", "Be brief.", "--output", str(output)])
    assert "prompt 1 has a system turn of its own" in capsys.readouterr().err
