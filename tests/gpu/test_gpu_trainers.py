"""What the trainers promise, on a GPU: same bits, same gradient for any split, nothing at equality."""

import copy
import gc

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from gpu_runs import GPU, cuda_arguments, deterministic, relative  # noqa: F401  (fixtures)
from host_waits import waits_of_a_step
from resume_runs import assert_same_end, black, white
from transformers import Trainer
from white_box_runs import black_box_trainer, fill, gradient_of_one_step, trainer

from distill import AttentionMaps, BlackBoxTrainer, HiddenStates, Logits, WhiteBoxTrainer, generate
from distill.models.adapters import lora_config
from distill.objectives import Schedule
from distill.pairs.collate import PairCollator
from distill.teachers import LocalTeacher
from distill.teachers.base import Sampling

pytestmark = GPU


def three():
    return [Logits(), HiddenStates(weight=0.3), AttentionMaps(weight=0.2)]


@pytest.fixture
def arguments(cuda_arguments):  # noqa: F811
    return cuda_arguments


def test_black_box_is_plain_trainer_bit_for_bit(arguments, deterministic):  # noqa: F811
    """Unequal lengths, accumulation, AdamW, clipping, two epochs."""
    pairs, start, tokenizer = build_pairs(16), build_model(), build_tokenizer()
    settings = {"max_steps": 5, "gradient_accumulation_steps": 2}
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
    assert next(ours.model.parameters()).is_cuda
    for (name, a), b in zip(ours.model.named_parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(ours.model.lm_head.weight.cpu(), start.lm_head.weight)


def assert_near(one, other, bound):
    assert one.keys() == other.keys()
    scale = max(float(g.norm()) for g in other.values())
    for name, gradient in other.items():
        assert float((one[name] - gradient).norm()) < bound * scale, name


def test_any_split_gives_the_same_gradient(arguments):
    whole = gradient_of_one_step(arguments, three(), per_device_train_batch_size=8)
    assert max(g.abs().max() for g in whole.values()) > 1e-3
    left = PairCollator(build_tokenizer(), padding_side="left")
    for k in (2, 4, 8):
        split = {"per_device_train_batch_size": 8 // k, "gradient_accumulation_steps": k}
        assert_near(gradient_of_one_step(arguments, three(), **split), whole, 2e-5)
    assert_near(gradient_of_one_step(arguments, three(), collator=left, per_device_train_batch_size=8), whole, 2e-5)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_step_on_a_gpu_is_the_step_on_a_cpu(arguments, bf16):
    """Float32 to rounding; autocast to what 8 bits of mantissa leave. Weights stay in float32."""
    found = gradient_of_one_step(arguments, three(), bf16=bf16, per_device_train_batch_size=8)
    expected = gradient_of_one_step(arguments, three(), use_cpu=True, per_device_train_batch_size=8)
    assert {g.dtype for g in found.values()} == {torch.float32}
    assert_near({name: g.cpu() for name, g in found.items()}, expected, 5e-2 if bf16 else 2e-5)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_loss_and_gradient_are_exactly_zero_at_equality(arguments, weights):
    model = build_model(seed=1).to(weights)
    run = trainer(arguments, three(), student=copy.deepcopy(model), teacher=model)
    run.model.train()
    batch = {name: value.cuda() if torch.is_tensor(value) else value for name, value in
             run.data_collator(list(build_pairs(8))).items()}  # fmt: skip
    loss = run.compute_loss(run.model, batch)
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or not p.grad.any() for p in run.model.parameters())


def test_gradient_checkpointing_gives_the_same_gradient(arguments):
    plain = gradient_of_one_step(arguments, three(), per_device_train_batch_size=8)
    again = gradient_of_one_step(arguments, three(), per_device_train_batch_size=8, gradient_checkpointing=True)
    assert_near(again, plain, 1e-5)


def test_packed_rows_give_the_gradients_of_unpacked_ones(arguments):
    found = []
    for packing in (False, True):
        run = WhiteBoxTrainer(
            model=build_model(seed=7), teacher=build_model(seed=1), objectives=three(), args=arguments(),
            train_dataset=build_pairs(14), processing_class=build_tokenizer(), max_length=48, packing=packing,
        )  # fmt: skip
        run.model.train()
        data = run.train_dataset
        batch = run.data_collator([data[i] for i in range(len(data))])
        batch = {name: value.cuda() if torch.is_tensor(value) else value for name, value in batch.items()}
        run.compute_loss(run.model, batch, num_items_in_batch=torch.tensor(90, device="cuda")).backward()
        found.append({n: p.grad for n, p in run.model.named_parameters() if p.grad is not None})
    assert_near(found[1], found[0], 2e-5)


def both(weight=0.5):
    return [Logits(weight=Schedule(1.0, 0.2)), HiddenStates(weight=weight), AttentionMaps("last", relations=("key",))]


@pytest.mark.parametrize("build", [black, lambda arguments, **more: white(arguments, both(), **more)])
def test_a_resumed_run_equals_the_unbroken_one(arguments, tmp_path, deterministic, build):  # noqa: F811
    """With dropout, a schedule and a learned projection: the same bits in weights, optimiser and log."""
    settings = {"gradient_accumulation_steps": 2, "logging_steps": 3, "max_steps": 9}
    unbroken = build(arguments, output_dir=str(tmp_path / "whole"), **settings)
    unbroken.train()
    build(arguments, halt=4, **settings).train()
    second = build(arguments, **settings)
    second.train(resume_from_checkpoint=True)
    assert_same_end(unbroken, second)


def test_a_teacher_on_a_gpu_writes(tokenizer):
    teacher = LocalTeacher(build_model(layers=3).cuda(), tokenizer)
    prompts = ["the cat", "a dog", "why so", "what is a mat"]
    greedy = generate(teacher, prompts, max_new_tokens=8, temperature=0.0)
    assert len(greedy) == 4
    drawn = [teacher.complete([[5, 6, 7], [9]], Sampling(temperature=1.0, max_new_tokens=8), seed=s) for s in (3, 3, 4)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    state = torch.cuda.get_rng_state()
    teacher.complete([[5]], Sampling(temperature=1.0, max_new_tokens=4), seed=1)
    assert torch.equal(state, torch.cuda.get_rng_state())


def test_a_student_that_teaches_itself(arguments):
    """A fresh adapter is at exactly 0 from its teacher; a filled one has the gradient it has with a copy of the base."""
    peft = pytest.importorskip("peft", reason="the extra peft is not installed")

    def build(teacher, filled):
        student = peft.get_peft_model(build_model(seed=7), lora_config(4))
        run = WhiteBoxTrainer(
            model=fill(student) if filled else student, teacher=teacher, objectives=three(), args=arguments(),
            train_dataset=build_pairs(8), processing_class=build_tokenizer(),
        )  # fmt: skip
        run.model.train()
        batch = {n: v.cuda() if torch.is_tensor(v) else v for n, v in run.data_collator(list(build_pairs(5))).items()}
        loss = run.compute_loss(run.model, batch)
        loss.backward()
        return loss, torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None])

    loss, gradient = build("self", filled=False)
    assert loss == 0
    assert not gradient.any()
    (one, gradient), (other, expected) = build("self", filled=True), build(build_model(seed=7), filled=True)
    assert one > 1e-4
    assert relative(one.detach(), other.detach()) < 1e-5
    assert relative(gradient, expected) < 1e-5


def test_nothing_is_held_between_steps(arguments):
    """The memory after a step is that of weights, gradients and optimiser, however many steps there were."""
    run = trainer(arguments, three(), max_steps=6, logging_steps=100)
    seen, original = [], run.training_step

    def step(*args, **kwargs):
        result = original(*args, **kwargs)
        gc.collect()
        seen.append(torch.cuda.memory_allocated())
        return result

    run.training_step = step
    run.train()
    assert max(seen[2:]) - min(seen[2:]) < 2**16


@pytest.mark.parametrize("layers", [1, 8, 16])
@pytest.mark.parametrize("kind", ["logits", "hidden", "attention", "three"])
def test_a_step_waits_no_oftener_with_many_layers(arguments, layers, kind, capsys):
    """16 rows. At most four waits are ours; a forward pass of transformers waits by itself, and there are two of them.

    Seen on an H100: 6 operators, 7 with attention, at any number of layers; 4 are transformers'. Also printed: how often CUDA says
    that it waited.
    """
    lists = {"logits": [Logits()], "hidden": [HiddenStates()], "attention": [AttentionMaps()], "three": three()}
    settings = {"max_steps": 2, "per_device_train_batch_size": 16, "max_grad_norm": 0.0, "logging_strategy": "no"}
    students, pairs = [build_model(layers=layers, seed=7) for _ in range(2)], build_pairs(32)
    plain, _ = waits_of_a_step(black_box_trainer(arguments, student=students[0], pairs=pairs, **settings))
    teacher = build_model(layers=layers, seed=1)
    run = trainer(arguments, lists[kind], student=students[1], teacher=teacher, pairs=pairs, **settings)
    found, reported = waits_of_a_step(run)
    with capsys.disabled():
        print(
            f"\n  {kind}, {layers} layers: {found.total()} operators that wait {dict(found)}, {reported} reported by CUDA"
        )
    assert found.total() <= 4 + 2 * plain.total(), found  # a step of the black box waits only inside its forward pass
