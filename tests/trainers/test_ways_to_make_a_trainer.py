"""What users of Trainer bring beside a loaded model: `model_init`, a name, other precisions, devices without float64, several GPUs a row."""

from types import SimpleNamespace

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from process_runs import in_folder
from processes import run_processes
from test_router_loss import moe
from test_supervised_only import Short, tiny
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MambaConfig,
    MambaForCausalLM,
    TrainerCallback,
)
from white_box_runs import black_box_trainer, trainer, weights_of

from distill import AttentionMaps, BlackBoxTrainer, HiddenStates, Logits, WhiteBoxTrainer
from distill.models.adapters import lora_config
from distill.models.precision import exact, exact_on, where_float64_is


def mamba():
    return MambaForCausalLM(MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4))


NARROW = {"hidden_size": 16, "num_attention_heads": 2}  # so that HiddenStates learns projections


def common(arguments, **changes):
    own = {
        name: changes.pop(name)
        for name in ("train_dataset", "peft_config", "processing_class", "eval_dataset")
        if name in changes
    }
    return {"args": arguments(**changes), "train_dataset": build_pairs(8), "processing_class": build_tokenizer(), **own}  # fmt: skip


WAYS = {
    "black box": (BlackBoxTrainer, {}),
    "white box": (WhiteBoxTrainer, {"objectives": [Logits(), HiddenStates(weight=0.5)]}),
    "self": (
        WhiteBoxTrainer,
        {"objectives": [Logits(cross_entropy=1.0)], "teacher": "self", "peft_config": lora_config(4)},
    ),
}


# model_init


@pytest.mark.parametrize("way", WAYS)
def test_every_train_begins_with_a_new_student(arguments, way):
    """As a search over settings does it: the terms, their projections and the optimiser are the new student's."""
    kind, own = WAYS[way]
    made = []

    def model_init():
        made.append(build_model(seed=7, **NARROW))
        return made[-1]

    if kind is WhiteBoxTrainer:
        own = {"teacher": build_model(seed=1), **own}
    settings = {**common(arguments, train_sampling_strategy="sequential"), **own}
    run = kind(model_init=model_init, **settings)
    run.train()
    first = weights_of(run)
    run.train()
    assert len(made) == 3
    second = weights_of(run)
    plain = kind(model=build_model(seed=7, **NARROW), **settings)
    plain.train()
    if way != "white box":  # whose projections are drawn with another state of the generator
        for name, tensor in weights_of(plain).items():
            assert torch.equal(first[name], tensor), name
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    if kind is WhiteBoxTrainer:
        assert run.student is not made[0]
        groups = [p for group in run.optimizer.param_groups for p in group["params"]]
        assert all(any(p is q for q in groups) for p in run.terms.parameters())
        assert sum(callback is run.projections for callback in run.callback_handler.callbacks) == 1
        assert sum(type(callback).__name__ == "Projections" for callback in run.callback_handler.callbacks) == 1


def test_a_student_of_another_shape_is_bound_anew(arguments):
    """`model_init` may take the trial of a search."""
    sizes = iter([{}, NARROW])
    run = WhiteBoxTrainer(
        model_init=lambda trial: build_model(seed=7, **next(sizes)), teacher=build_model(seed=1), objectives=[HiddenStates()],
        **common(arguments),
    )  # fmt: skip
    assert not list(run.terms.parameters())
    run.train()
    assert run.student.config.hidden_size == 16
    assert [tuple(p.shape) for p in run.terms.parameters()] == [(32, 16)] * 2


def test_each_new_student_is_looked_at(arguments):
    from transformers import BertConfig, BertLMHeadModel

    models = iter([build_model(seed=7), BertLMHeadModel(BertConfig(vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))])  # fmt: skip
    run = BlackBoxTrainer(model_init=lambda: next(models), **common(arguments))
    with pytest.raises(ValueError, match="BertLMHeadModel sees the tokens it is to predict"):
        run.train()


def strange(**changes):
    """A student whose loss knows nothing of `num_items_in_batch`."""
    model = build_model(seed=7, **changes)
    model.accepts_loss_kwargs = False
    return model


SECOND = {
    "rows it cannot take": ({}, lambda: build_model(max_position_embeddings=8), "the model has 8 positions"),
    "a loss of means": ({"gradient_accumulation_steps": 2}, strange, "does not take num_items_in_batch"),
    "a router's loss": ({"gradient_accumulation_steps": 2}, lambda: moe(0.1), "has output_router_logits=True"),
    "no supervised_only": ({"supervised_only": True}, lambda: tiny(Short), "Short does not take logits_to_keep"),
}


@pytest.mark.parametrize("name", SECOND)
def test_a_second_student_is_asked_all_that_the_first_one_was(arguments, name):
    settings, make, words = SECOND[name]
    own = {"supervised_only": True} if settings.pop("supervised_only", False) else {}
    models = iter([build_model(seed=7), make()])
    run = BlackBoxTrainer(model_init=lambda: next(models), **common(arguments, **settings), **own)
    with pytest.raises(ValueError, match=words):
        run.train()
    if name in ("rows it cannot take", "a router's loss"):
        models = iter([build_model(seed=7), make()])
        run = WhiteBoxTrainer(
            model_init=lambda: next(models), teacher=build_model(seed=1), objectives=[Logits()], **common(arguments, **settings)
        )  # fmt: skip
        with pytest.raises(ValueError, match=words):
            run.train()


@pytest.mark.parametrize("way", ["black box", "white box"])
def test_the_limits_of_a_student_that_is_gone_hold_no_longer(arguments, way):
    """A vocabulary of 320 and then of 384: its rows are refused no more; the teacher's limits stay."""
    kind, own = WAYS[way]
    own = own if kind is BlackBoxTrainer else {"teacher": build_model(seed=1), **own, "objectives": [HiddenStates()]}
    models = iter([build_model(seed=7, max_position_embeddings=64), build_model(seed=7, max_position_embeddings=256)])
    run = kind(model_init=lambda: next(models), **{**common(arguments), **own})
    assert run.row_limits.positions == run.data_collator.limits.positions == 64
    run.train()
    assert run.row_limits.positions == run.data_collator.limits.positions == 256
    of_teacher = run.data_collator.teacher_limits.positions
    assert of_teacher == (None if kind is BlackBoxTrainer else 128), "asked of the row that the teacher is shown"


def test_a_second_student_is_asked_whether_it_keeps_packed_pairs_apart(arguments):
    models = iter([build_model(seed=7), mamba()])
    run = BlackBoxTrainer(
        model_init=lambda: next(models), packing=True, max_length=64, supervised_only=True, **common(arguments)
    )
    with pytest.raises(ValueError, match="MambaForCausalLM .*packed pairs apart"):
        run.train()


@pytest.mark.parametrize("way", WAYS)
def test_packed_pairs_of_a_new_student_do_not_see_each_other(arguments, way):
    """Trainer turns the cache off for its first student alone; with one, transformers keeps no packed pairs apart."""
    kind, own = WAYS[way]
    if way == "white box":
        own = {"teacher": build_model(seed=1), "objectives": [Logits()]}
    gradients = []
    for packing, made in ((False, "model"), (True, "model"), (True, "model_init")):
        student = build_model(seed=7) if made == "model" else lambda: build_model(seed=7)
        step = {"max_steps": 1, "learning_rate": 1.0, "optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
                "per_device_train_batch_size": 8}  # fmt: skip
        run = kind(**{made: student}, packing=packing, max_length=64, **{**common(arguments, **step), **own})
        assert len(run.train_dataset) == (3 if packing else 8)
        before = weights_of(run)
        run.train()
        assert not run.model.config.use_cache
        gradients.append({name: before[name] - tensor for name, tensor in weights_of(run).items()})
    alone, *both = gradients
    scale = max(gradient.norm() for gradient in alone.values())
    assert scale > 1e-2
    for packed in both:
        for name, gradient in alone.items():
            assert (packed[name] - gradient).norm() <= 1e-5 * scale, name


def llava():
    """Its layers read the config of its text, which Trainer leaves as it is."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = LlamaConfig(vocab_size=320, max_position_embeddings=128, **sizes)
    vision = CLIPVisionConfig(image_size=28, patch_size=14, **sizes)
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision, image_token_index=319))


@pytest.mark.parametrize("way", ["black box", "white box"])
@pytest.mark.parametrize("made", ["model", "model_init"])
def test_a_student_with_a_config_of_its_text_is_packed(arguments, way, made):
    """It was refused: its text kept a cache, and transformers made no mask."""
    kind, own = (BlackBoxTrainer, {}) if way == "black box" else (WhiteBoxTrainer, {"teacher": build_model(seed=1), "objectives": [Logits()]})  # fmt: skip
    for adapter in ({}, {"peft_config": lora_config(4)}):
        run = kind(
            **{made: llava() if made == "model" else llava}, packing=True, max_length=64, **common(arguments), **own, **adapter
        )  # fmt: skip
        run.train()
        assert not run.model.config.get_text_config().use_cache
    settings = {**common(arguments, use_cache=True), **own}
    if way == "white box":  # which calls its student without one
        kind(**{made: llava() if made == "model" else llava}, packing=True, max_length=64, **settings)
        return
    with pytest.raises(ValueError, match="With use_cache=True transformers keeps no packed pairs apart"):
        run = kind(**{made: llava() if made == "model" else llava}, packing=True, max_length=64, **settings)


def test_a_new_student_that_has_a_cache_is_asked_with_it(arguments):
    """The check took the setting's word for what the model would do."""
    models = iter([build_model(seed=7) for _ in range(2)])
    run = BlackBoxTrainer(model_init=lambda: next(models), packing=True, max_length=64, **common(arguments))
    run.args.use_cache = True
    with pytest.raises(ValueError, match="With use_cache=True transformers keeps no packed pairs apart"):
        run.train()


def test_model_init_may_give_a_name(arguments, tmp_path):
    """As `model=` may be one."""
    build_model(seed=7).to(torch.bfloat16).save_pretrained(tmp_path / "student")
    run = BlackBoxTrainer(model_init=lambda: str(tmp_path / "student"), **common(arguments))
    run.train()
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


def test_a_model_init_that_needs_a_trial_is_told_that_there_may_be_none(arguments):
    with pytest.raises(AttributeError) as caught:
        BlackBoxTrainer(model_init=lambda trial: build_model(layers=trial.params["layers"]), **common(arguments))
    assert "model_init(trial) gets None when the trainer is made" in caught.value.__notes__[0]


# a name


@pytest.mark.parametrize("way", ["black box", "white box"])
def test_a_student_may_be_a_name(arguments, tmp_path, way):
    kind, own = WAYS[way]
    own = own if kind is BlackBoxTrainer else {"teacher": build_model(seed=1), **own}
    build_model(seed=7).to(torch.bfloat16).save_pretrained(tmp_path / "student")
    build_tokenizer().save_pretrained(tmp_path / "student")
    run = kind(model=str(tmp_path / "student"), **{**common(arguments), **own, "processing_class": None})
    assert run.model.dtype == torch.float32
    assert run.processing_class.get_vocab() == build_tokenizer().get_vocab()
    run.train()
    with pytest.raises(ValueError, match="No folder .*no/such/model"):
        kind(model=str(tmp_path / "no/such/model"), **{**common(arguments), **own})


# labels


def test_labels_beyond_what_the_heads_share_are_refused_where_cross_entropy_needs_them(arguments):
    """It was an index out of bounds in the first step."""
    from distill.teachers import LocalTeacher

    tokenizer = build_tokenizer()
    teacher, shared = LocalTeacher(build_model(seed=1, vocab_size=384), tokenizer), len(tokenizer)
    rows = [{"id": "padded", "prompt_ids": [5, 6], "completion_ids": [7, shared + 2, 2]}]
    for pairs in (rows, rows * 3):
        with pytest.raises(
            ValueError, match=f"Pair padded has token id {shared + 2} in its completion, but student and teacher share"
        ):
            trainer(arguments, [Logits(cross_entropy=0.5)], teacher=teacher, pairs=pairs)
    trainer(arguments, [Logits()], teacher=teacher, pairs=rows).train()


# precisions


def test_a_student_in_float64_learns_its_projections(arguments):
    run = trainer(
        arguments,
        [Logits(), HiddenStates(), AttentionMaps(relations=("query",))],
        student=build_model(seed=7, **NARROW).double(),
    )
    before = weights_of(run)
    assert {p.dtype for p in run.terms.parameters()} == {torch.float64}
    run.train()
    assert all(
        not torch.equal(tensor, weights_of(run)[name]) for name, tensor in before.items() if "objectives" in name
    )


@pytest.mark.parametrize("way", ["black box", "white box"])
def test_nothing_is_summed_in_float64_where_the_device_has_none(arguments, monkeypatch, without_float64, way):
    """Lists of numbers on the host (of dimension 1) stay there."""
    objectives = [Logits(cross_entropy=0.3), HiddenStates(weight=0.5), AttentionMaps(relations=("key",))]
    student = build_model(seed=7, **NARROW)
    build = black_box_trainer if way == "black box" else lambda *args, **kwargs: trainer(args[0], objectives, **kwargs)
    run = build(arguments, student=student, gradient_accumulation_steps=2, max_steps=3, logging_steps=2)
    with monkeypatch.context() as patch, without_float64():
        patch.setattr(torch.Tensor, "double", lambda self: pytest.fail("Tensor.double, which MPS has not"))
        run.train()
        run.evaluate(build_pairs(5, seed=4))
    logged = [entry for entry in run.state.log_history if "loss" in entry]
    assert logged


def test_the_sums_are_float64_elsewhere():
    assert exact_on(torch.device("cpu")) == exact_on(torch.device("cuda", 1)) == torch.float64
    assert exact_on(torch.device("mps")) == torch.float32
    assert exact(torch.ones(2)).dtype == torch.float64
    here = torch.ones(2)
    assert where_float64_is(here) is here
    on_apple = SimpleNamespace(device=torch.device("mps"), cpu=lambda: "on the host")
    assert where_float64_is(on_apple) == "on the host"


# several processes


PARALLEL = {"tp_size": "Tensor", "cp_size": "Context", "sp_size": "Sequence"}


@pytest.mark.parametrize("name", PARALLEL)
def test_parallelism_within_a_row_or_a_layer_is_refused_by_name(arguments, monkeypatch, name):
    """By accelerate's configuration, by what `accelerate launch` puts into the environment, and by a model that was loaded divided."""
    said = rf"{PARALLEL[name]} parallelism \({name}\) is 2, which is not supported"
    config = arguments()
    config.parallelism_config = SimpleNamespace(**{name: 2})
    with pytest.raises(ValueError, match=said):
        BlackBoxTrainer(model=build_model(), **{**common(arguments), "args": config})
    monkeypatch.setenv(f"PARALLELISM_CONFIG_{name.upper()}", "2")
    with pytest.raises(ValueError, match=said):
        black_box_trainer(arguments)
    monkeypatch.setenv(f"PARALLELISM_CONFIG_{name.upper()}", "1")
    assert black_box_trainer(arguments)


def test_a_model_that_was_loaded_divided_is_refused(arguments, monkeypatch):
    student = build_model()
    with monkeypatch.context() as patch:
        patch.setattr(type(student), "tp_size", 2)
        with pytest.raises(ValueError, match="Tensor parallelism"):
            black_box_trainer(arguments, student=student)
    # by any other way
    monkeypatch.setattr(type(student), "is_distributed_loading_by_transformers", True)
    with pytest.raises(
        ValueError, match=r"LlamaForCausalLM was divided when it was loaded \(from_pretrained\(distributed_config="
    ):
        black_box_trainer(arguments, student=student)


@pytest.mark.parametrize("way", ["black box", "white box"])
def test_a_divided_model_of_model_init_is_refused_too(arguments, monkeypatch, way):
    """The first one and every later one."""
    kind, own = WAYS[way]
    own = own if kind is BlackBoxTrainer else {"teacher": build_model(seed=1), **own}
    divided = build_model(seed=7)
    divided._tp_size = 2
    with pytest.raises(ValueError, match=r"Tensor parallelism \(tp_size\) is 2"):
        kind(model_init=lambda: divided, **{**common(arguments), **own})
    models = iter([build_model(seed=7), divided])
    run = kind(model_init=lambda: next(models), **{**common(arguments), **own})
    with pytest.raises(ValueError, match=r"Tensor parallelism \(tp_size\) is 2"):
        run.train()


def test_tensor_parallelism_of_deepspeed_is_refused(arguments):
    """By the arguments, by what Trainer makes of them, and by the file of `accelerate launch`."""
    config = {"tensor_parallel": {"autotp_size": 2}}
    for place in (
        {"deepspeed": config},
        {"hf_deepspeed_config": SimpleNamespace(config=config)},
        {"deepspeed_plugin": SimpleNamespace(hf_ds_config=SimpleNamespace(config=config))},
    ):
        args = arguments()
        vars(args).update(place)
        with pytest.raises(ValueError, match=r"Tensor parallelism \(tp_size\) is 2, which is not supported"):
            BlackBoxTrainer(model=build_model(), **{**common(arguments), "args": args})


@pytest.mark.parametrize("way", ["black box", "white box"])
def test_several_gpus_in_one_process_are_refused(arguments, way):
    """Trainer would copy the model to each of them. The recipes leave it at one (`distill.running.flags`)."""
    kind, own = WAYS[way]
    own = own if kind is BlackBoxTrainer else {"teacher": build_model(seed=1), **own}
    args = arguments()
    assert args.n_gpu <= 1
    args._n_gpu = 2
    with pytest.raises(
        ValueError, match=r"2 GPUs in one process \(nn.DataParallel\) are not supported.*CUDA_VISIBLE_DEVICES=0"
    ):
        kind(model=build_model(seed=7), **{**common(arguments), **own, "args": args})


def with_tensor_parallelism():
    from accelerate import ParallelismConfig

    in_folder(lambda arguments: black_box_trainer(arguments, parallelism_config=ParallelismConfig(tp_size=2)))


def test_it_is_refused_in_two_processes_too():
    with pytest.raises(AssertionError, match=r"Tensor parallelism \(tp_size\) is 2, which is not supported"):
        run_processes(2, with_tensor_parallelism)


# a smaller batch after a failure


class FullOnce(TrainerCallback):
    """The device has no room in the second micro-batch of a step, as long as batches are as large as at first."""

    def __init__(self, run, step):
        self.run, self.step, self.seen, self.sizes = run, step, 0, []

    def __call__(self, model, inputs, *args, **kwargs):
        self.sizes.append(len(inputs["input_ids"]))
        self.seen += 1
        loss = type(self.run).compute_loss(self.run, model, inputs, *args, **kwargs)
        if self.seen == self.step:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return loss


@pytest.mark.parametrize("fails_at", [2, 6])
def test_the_first_log_after_a_smaller_batch_is_of_that_try_alone(fails_at):
    """`auto_find_batch_size`: what the failed try had summed must not be in it."""

    def run(arguments):
        objectives = [Logits(weight=0.5), HiddenStates(weight=2.0)]
        it = trainer(
            arguments, objectives, student=build_model(seed=7, **NARROW), auto_find_batch_size=True, gradient_accumulation_steps=2,
            per_device_train_batch_size=4, logging_steps=3, max_steps=6, learning_rate=0.0, pairs=build_pairs(48),
        )  # fmt: skip
        fails = FullOnce(it, fails_at)
        it.compute_loss = fails
        it.train()
        return it, fails.sizes

    it, sizes = in_folder(run)
    assert sizes[0] == 4
    assert max(sizes[fails_at:]) < 4
    logged = [entry for entry in it.state.log_history if "loss" in entry]
    for (
        entry
    ) in logged:  # at rate 0 the mean of any step is near that of any other; sums of two tries would be twice as large
        assert entry["loss"] == pytest.approx(0.5 * entry["logits"] + 2 * entry["hidden"], rel=1e-5)
    assert logged[0]["logits"] == pytest.approx(logged[1]["logits"], rel=0.35)
    assert it._tr_loss == 0 or it.state.global_step == 6


# the evaluation of one process


def spoiled_evaluation():
    """Its second process meets a loss that is no number; what each of them says."""
    import os

    def run(arguments):
        it = trainer(arguments, [Logits()], per_device_eval_batch_size=2)
        plain = it.finite.check
        if os.environ["RANK"] == "1":
            it.finite.check = lambda loss: plain(loss * float("nan"))
        try:
            it.evaluate(build_pairs(9, seed=4))
        except FloatingPointError as error:
            return str(error)

    return in_folder(run)


def test_a_loss_of_one_process_that_is_no_number_ends_an_evaluation_in_all():
    first, second = run_processes(2, spoiled_evaluation)
    assert "not finite" in second
    assert "another process is not finite" in first
