"""What leaves a training of an adapter: a plain student that loads anywhere, its adapter beside it; and the recipe's flags."""

import json

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from distill.recipes import black_box, white_box
from transformers import AutoModelForCausalLM
from white_box_runs import OBJECTIVES, fill, trainer

from distill import BlackBoxTrainer
from distill.models.adapters import lora_config, save_model
from distill.models.load import load_model
from distill.models.quantising import is_bitsandbytes_available
from distill.pairs import save_pairs
from distill.teachers import LocalTeacher

peft = pytest.importorskip("peft", reason="the extra peft is not installed")
SAVED = {
    "all": lambda: lora_config(4),
    "head": lambda: lora_config(4, targets="lm_head"),
    "embeddings": lambda: lora_config(4, targets="embed_tokens"),
    "both": lambda: lora_config(4, targets="embed_tokens,lm_head,q_proj"),
    "copy of the head": lambda: peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "copy of the embeddings": lambda: peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
}
IDS = torch.arange(3, 40)[None]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", SAVED)
def test_merging_changes_logits_by_rounding_only(tmp_path, kind, tied):
    """Also where the head is the embeddings' matrix, to which peft would add the update of the other."""
    start = build_model(seed=7, tie_word_embeddings=tied)
    with torch.no_grad():
        before = start(IDS).logits
        adapted = fill(peft.get_peft_model(start, SAVED[kind]())).eval()
        for name, p in adapted.named_parameters():
            if "lora_embedding_A" in name:  # there it is A that begins as 0
                p.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
        expected = adapted(IDS).logits
        assert (expected - before).abs().max() > 0.1
        save_model(adapted, tmp_path / "student")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()
        torch.testing.assert_close(plain(IDS).logits, expected, rtol=1e-5, atol=2e-5)
        again = build_model(seed=7, tie_word_embeddings=tied)
        again = peft.PeftModel.from_pretrained(again, tmp_path / "student" / "adapter").eval()
        assert torch.equal(again(IDS).logits, expected)
    assert type(plain) is type(build_model())


@pytest.mark.parametrize("way", ["black box", "white box"])
def test_a_trained_student_leaves_its_trainer_as_a_plain_model(arguments, tmp_path, way):
    base = build_model(seed=7)
    if way == "white box":
        run = trainer(arguments, OBJECTIVES["all"](), student=base, peft_config=lora_config(4))
    else:
        run = BlackBoxTrainer(
            model=base, args=arguments(), train_dataset=build_pairs(8), processing_class=build_tokenizer(),
            peft_config=lora_config(4),
        )  # fmt: skip
    run.train()
    with torch.no_grad():
        expected = run.model.eval()(IDS).logits
        save_model(run.model, tmp_path / "student")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()
        torch.testing.assert_close(plain(IDS).logits, expected, rtol=1e-5, atol=2e-5)
        assert (expected - build_model(seed=7)(IDS).logits).abs().max() > 0.1
    assert (tmp_path / "student" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.fixture
def flags(tmp_path):
    """A base with room for blocks of 4 bits, and pairs in its tokens."""
    build_model(seed=7, hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "base")
    build_tokenizer().save_pretrained(tmp_path / "base")
    save_pairs(build_pairs(12), tmp_path / "pairs.jsonl")
    return [
        *f"--pairs {tmp_path}/pairs.jsonl --student {tmp_path}/base --held_out 3 --max_steps 4 --logging_steps 1".split(),
        *[
            "--per_device_train_batch_size",
            "4",
            "--learning_rate",
            "1e-2",
            "--bf16",
            "False",
            "--use_cpu",
            "True",
            "--disable_tqdm",
            "True",
        ],
    ]


def test_the_recipe_of_self_distillation(flags, tmp_path, capsys):
    """0 from its teacher at first; the card knows the teacher as it was before the training; a rerun changes nothing."""
    command = [
        *[*flags, "--teacher", "self", "--lora_r", "4", "--cross_entropy", "1", "--output_dir", f"{tmp_path}/run"]
    ]
    white_box.main(command)
    state = json.loads((tmp_path / "run" / "checkpoint-4" / "trainer_state.json").read_text())
    divergences = [entry["divergence"] for entry in state["log_history"] if "divergence" in entry]
    assert divergences[0] == 0
    assert divergences[-1] > 0
    kept = {p.name: p.read_bytes() for p in (tmp_path / "run" / "student").glob("**/*.safetensors")}
    assert kept.keys() == {"model.safetensors", "adapter_model.safetensors"}
    with torch.no_grad():
        plain = load_model(tmp_path / "run" / "student")(IDS).logits
        base = load_model(tmp_path / "base")
        assert (plain - base(IDS).logits).abs().max() > 1e-2
        adapted = peft.PeftModel.from_pretrained(base, tmp_path / "run" / "student" / "adapter").eval()
        torch.testing.assert_close(adapted(IDS).logits, plain, rtol=1e-5, atol=2e-5)
    facts = json.loads((tmp_path / "run" / "student" / "provenance.json").read_text())
    before = LocalTeacher(tmp_path / "base", dtype=torch.float32).identity()
    (teacher,) = [teacher for teacher in facts["teachers"] if teacher["identity"]]
    assert teacher["identity"]["teacher_weights"] == before["teacher_weights"]
    assert facts["inside_of"] == teacher["name"] == "base"
    capsys.readouterr()
    white_box.main(command)
    assert "'loss'" not in capsys.readouterr().out
    assert kept == {p.name: p.read_bytes() for p in (tmp_path / "run" / "student").glob("**/*.safetensors")}


@pytest.mark.skipif(not is_bitsandbytes_available(), reason="the extra quantised is not installed")
def test_the_recipe_with_a_quantised_teacher(flags, tmp_path, capsys):
    white_box.main(
        [*flags, "--teacher", f"{tmp_path}/base", "--teacher_bits", "4", "--objectives", "logits,hidden=0.1,attention=0.1",
         "--output_dir", f"{tmp_path}/run"]
    )  # fmt: skip
    assert "step 4: held-out KL" in capsys.readouterr().out
    facts = json.loads((tmp_path / "run" / "student" / "provenance.json").read_text())
    (teacher,) = [teacher for teacher in facts["teachers"] if teacher["identity"]]
    assert teacher["identity"]["teacher_quantisation"]["load_in_4bit"] is True
    load_model(tmp_path / "run" / "student")


@pytest.mark.parametrize(
    ("recipe", "more", "words"),
    [
        (white_box, ["--teacher", "self"], "train an adapter on it with --lora_r"),
        (white_box, ["--teacher", "self", "--lora_r", "2", "--teacher_bits", "8"], "--teacher_bits is left out"),
        (white_box, ["--teacher_bits", "3"], "in 4 or 8 bits, not in 3"),
        (black_box, ["--teacher", "http://localhost:1/v1", "--teacher_bits", "8"], "runs behind a server"),
    ],
)
def test_flags_that_do_not_go_together(flags, tmp_path, capsys, recipe, more, words):
    if recipe is black_box:
        flags = [*flags[2:], "--prompts", "none"]
    with pytest.raises(SystemExit):
        recipe.main([*flags, *more, "--output_dir", f"{tmp_path}/run"])
    assert words in capsys.readouterr().err


def test_no_student_is_cut_from_a_quantised_teacher(tmp_path, capsys):
    with pytest.raises(SystemExit):
        white_box.main(["--teacher_bits", "4", "--output_dir", f"{tmp_path}/run"])
    assert "without --student the student would be cut" in capsys.readouterr().err
