"""Teachers that are not plain models in memory: quantised, offloaded by device_map, of another dtype, without weights."""

import copy
import logging

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from white_box_runs import OBJECTIVES, fill, trainer

from distill import BlackBoxTrainer, Logits, generate, make_student
from distill.models import quantising
from distill.models.adapters import lora_config, merged
from distill.models.quantising import in_bits, is_quantised
from distill.objectives.divergences import forward_kl
from distill.pairs.collate import supervised_rows
from distill.signals.sources import LiveTeacher
from distill.teachers import LocalTeacher

needs_bitsandbytes = pytest.mark.skipif(
    not quantising.is_bitsandbytes_available(), reason="the extra quantised is not installed"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose layers have room for the blocks of 4-bit weights."""
    path = tmp_path_factory.mktemp("teacher")
    build_model(seed=1, hidden_size=64, intermediate_size=128).save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path


def student():
    return build_model(seed=7, hidden_size=64, intermediate_size=128)


@needs_bitsandbytes
@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_teacher_is_streamed_as_any_other(arguments, folder, bits):
    """Loss and gradients are those of its full logits, hidden states and attention, in 8 and 4 bits."""
    teacher = LocalTeacher(folder, quantization_config=in_bits(bits), dtype=torch.float32)
    assert is_quantised(teacher.model)
    linear = teacher.model.model.layers[0].mlp.up_proj.weight
    assert linear.dtype == (torch.int8 if bits == 8 else torch.uint8)
    assert linear.numel() * 8 == bits * 64 * 128
    run = trainer(arguments, [Logits()], student=student(), teacher=teacher)
    assert run.terms[0].transforms is not None
    batch = run.data_collator(list(build_pairs(5)))
    loss = run.compute_loss(run.model, batch)
    loss.backward()
    rows = supervised_rows(batch["labels"])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    naive = student()
    with torch.no_grad():
        target = teacher.model(**inputs).logits
    expected = forward_kl(naive(**inputs).logits[rows], target[rows]).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    for (name, p), q in zip(run.model.named_parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5, msg=name)
    whole = build_model(seed=1, hidden_size=64, intermediate_size=128)
    with torch.no_grad():
        rounding = forward_kl(target[rows], whole(**inputs).logits[rows]).mean()
    assert 1e-4 < rounding < 0.5 * expected, "quantising changes the teacher, but it is still the teacher"


@needs_bitsandbytes
@pytest.mark.parametrize("bits", [8, 4])
def test_the_whole_white_box_learns_from_it(arguments, folder, bits, monkeypatch):
    teacher = LocalTeacher(folder, quantization_config=in_bits(bits))
    monkeypatch.setattr(teacher.model, "to", lambda *_: pytest.fail("a quantised model was moved"), raising=False)
    run = trainer(arguments, OBJECTIVES["all"](), student=student(), teacher=teacher, max_steps=20, learning_rate=5e-3)
    before = run.evaluate(build_pairs(8))
    run.train()
    after = run.evaluate(build_pairs(8))
    for name in ("eval_logits", "eval_hidden", "eval_attention"):
        assert after[name] < before[name], name
    assert not any(p.requires_grad and p.grad is not None for p in teacher.model.parameters())


@needs_bitsandbytes
def test_its_identity_is_the_same_on_every_rerun(folder, tmp_path):
    """bitsandbytes lays 4-bit weights out anew when they are first used on a CPU."""
    teachers = [LocalTeacher(folder, quantization_config=in_bits(bits)) for bits in (4, 4, 8)]
    identities = [teacher.identity() for teacher in teachers]
    assert identities[0] == identities[1]
    assert identities[0] != identities[2]
    assert "teacher_quantisation" not in LocalTeacher(folder).identity()
    made = generate(teachers[0], ["the cat"], max_new_tokens=4, output=tmp_path / "pairs.jsonl")
    assert teachers[0].identity() == identities[0]
    again = generate(teachers[1], ["the cat"], max_new_tokens=4, output=tmp_path / "pairs.jsonl")
    assert again["completion_ids"] == made["completion_ids"]


@needs_bitsandbytes
def test_what_a_quantised_model_cannot_be(arguments, folder):
    teacher = LocalTeacher(folder, quantization_config=in_bits(8))
    with pytest.raises(ValueError, match="quantised and on cpu, but training runs on cuda:1; load it there"):
        LiveTeacher(teacher).prepare(None, torch.device("cuda", 1))
    with pytest.raises(ValueError, match="cut it from the teacher loaded whole"):
        make_student(teacher.model, 1)


@needs_bitsandbytes
def test_an_adapter_on_8_bits_and_its_own_teacher(arguments, folder):
    """The base does not move by a bit, and it teaches itself as a second one of the same bits would."""
    pytest.importorskip("peft")
    found = []
    for teacher in ("self", LocalTeacher(folder, quantization_config=in_bits(8), dtype=torch.float32)):
        base = LocalTeacher(folder, quantization_config=in_bits(8), dtype=torch.float32).model
        before = {name: p.clone() for name, p in base.named_parameters()}
        run = trainer(
            arguments,
            [Logits(cross_entropy=1.0)],
            student=base,
            teacher=teacher,
            peft_config=lora_config(4),
            max_steps=3,
        )
        run.train()
        after = {name.replace(".base_layer", ""): p for name, p in base.named_parameters() if "lora" not in name}
        assert all(torch.equal(after[name], p) for name, p in before.items())
        found.append({name: p for name, p in run.model.named_parameters() if p.requires_grad})
    assert any(p.abs().max() > 1e-3 for name, p in found[0].items() if "lora_B" in name)
    assert all(torch.equal(p, found[1][name]) for name, p in found[0].items())


@needs_bitsandbytes
def test_4_bits_that_would_lose_their_gradients_are_refused(arguments, folder):
    base = LocalTeacher(folder, quantization_config=in_bits(4)).model
    layers = [module for module in base.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert len(layers) == 14
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True  # as on a CPU that has it

    def build():
        return BlackBoxTrainer(
            model=base, args=arguments(), train_dataset=build_pairs(8), processing_class=build_tokenizer(),
            peft_config=lora_config(4),
        )  # fmt: skip

    with pytest.raises(ValueError, match="4 bits, and on this CPU bitsandbytes loses the gradient"):
        build()


def test_quantising_says_what_is_missing(folder, monkeypatch):
    with pytest.raises(ValueError, match="in 4 or 8 bits, not in 2"):
        in_bits(2)
    with pytest.raises(ValueError, match="say how a model is loaded"):
        LocalTeacher(build_model(), build_tokenizer(), device_map="auto")
    monkeypatch.setattr(quantising, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'distill\[quantised\]'"):
        in_bits(4)


@needs_bitsandbytes
def test_bitsandbytes_says_once_what_it_says_in_every_layer(caplog):
    in_bits(8)
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    logger.filters[0].said = False
    logger.propagate = True
    with caplog.at_level(logging.WARNING, logger=logger.name):
        for _ in range(3):
            logger.warning("MatMul8bitLt: inputs will be cast from %s to float16 during quantization", torch.float32)
            logger.warning("something else")
    assert [r.message.split(":")[0] for r in caplog.records] == ["MatMul8bitLt", *["something else"] * 3]


def test_a_teacher_that_device_map_has_offloaded_stays_where_it_is(arguments, folder, tmp_path):
    """accelerate's hooks fetch its last layer from the disk in every pass; moving it would fail."""
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
              "model.norm": "cpu", "lm_head": "cpu"}  # fmt: skip
    offloaded = AutoModelForCausalLM.from_pretrained(folder, device_map=places, offload_folder=tmp_path / "offload")
    assert offloaded.model.layers[1].mlp.up_proj.weight.is_meta
    with pytest.raises(RuntimeError):
        offloaded.to("cpu")
    losses = []
    for model in (offloaded, build_model(seed=1, hidden_size=64, intermediate_size=128)):
        run = trainer(arguments, OBJECTIVES["all"](), student=student(), teacher=model)
        losses.append(run.compute_loss(run.model, run.data_collator(list(build_pairs(5)))))
    assert torch.equal(losses[0], losses[1])
    one, other = (LocalTeacher(model, build_tokenizer()).identity() for model in (offloaded, student()))
    assert one == LocalTeacher(offloaded, build_tokenizer()).identity()
    assert one["teacher_weights"] != other["teacher_weights"]
    with pytest.raises(ValueError, match="cut it from the teacher loaded whole"):
        make_student(offloaded, 1)


def test_a_teacher_without_weights_is_refused(arguments):
    with torch.device("meta"):
        empty = LlamaForCausalLM(build_model().config)
    with pytest.raises(
        ValueError, match=r"no weights: 21 of its parameters are on the meta device, the first is model\."
    ):
        trainer(arguments, [Logits()], teacher=empty)


@pytest.mark.parametrize("name", ["logits", "all"])
def test_a_teacher_in_another_dtype(arguments, name):
    """bfloat16 weights teach a float32 student, and keep their dtype; what they teach is theirs up to their rounding."""
    values = []
    for dtype in (torch.float32, torch.bfloat16):
        teacher = build_model(seed=1).to(dtype)
        run = trainer(arguments, OBJECTIVES[name](), teacher=teacher, max_steps=1)
        loss = run.compute_loss(run.model, run.data_collator(list(build_pairs(5))))
        loss.backward()
        values.append((loss.detach(), run.model.lm_head.weight.grad))
        run.train()
        assert {p.dtype for p in teacher.parameters()} == {dtype}
    (loss, gradient), (rounded, other) = values
    torch.testing.assert_close(rounded, loss, rtol=3e-2, atol=0)
    assert not torch.equal(rounded, loss)
    assert (other - gradient).norm() < 5e-2 * gradient.norm()


def test_a_teacher_with_an_adapter_of_its_own(arguments):
    """It teaches with its adapter; one whose virtual tokens would move its positions is refused."""
    peft = pytest.importorskip("peft")
    adapted = fill(peft.get_peft_model(build_model(seed=1), lora_config(4))).double()
    plain = merged(copy.deepcopy(adapted))
    losses = []
    for teacher in (adapted, plain, build_model(seed=1).double()):
        run = trainer(arguments, OBJECTIVES["all"](), student=build_model(seed=7).double(), teacher=teacher)
        losses.append(float(run.compute_loss(run.model, run.data_collator(list(build_pairs(5)))).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)
    prompted = peft.get_peft_model(
        build_model(seed=1), peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    )
    with pytest.raises(ValueError, match="virtual tokens"):
        trainer(arguments, [Logits()], teacher=prompted)
