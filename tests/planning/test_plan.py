"""`distill plan`: what is counted without values is what lives in a real step, and it follows the laws of its parts."""

import json
import sys

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from conftest import build_model, build_pairs, build_tokenizer, family

from distill import AttentionMaps, HiddenStates, Logits, WhiteBoxTrainer
from distill.cli import main as cli
from distill.pairs.collate import PairCollator
from distill.planning import Setting, advice, changed, cut, plan, read_config, shape_of, traffic
from distill.planning.dry_run import BACKWARD, FORWARD, dry_run
from distill.planning.live_tensors import LiveBytes
from distill.running.flags import build_objectives
from distill.signals.head_logits import cpu_multiplies

SIZES = {"hidden_size": 64, "intermediate_size": 160, "vocab_size": 1000}
SHORT = {"batch": 4, "length": 24}


def config(layers=4, **changes):
    return build_model(layers, **{**SIZES, **changes}).config


@pytest.fixture(scope="module")
def shapes():
    teacher = shape_of(config(), torch.bfloat16)
    return cut(teacher, 2, torch.float32), teacher


def folder(tmp_path, **changes):
    """A config.json and nothing else: no weights, no tokenizer."""
    config().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    return str(tmp_path)


@pytest.mark.parametrize("bf16", [True, False])
def test_a_black_box_step_holds_what_was_counted_without_values(shapes, bf16):
    foreseen = dry_run(Setting(**SHORT, bf16=bf16), shapes[0])
    model = build_model(2, **SIZES).float().train()
    if bf16:
        model.forward = convert_outputs_to_fp32(torch.autocast("cpu", dtype=torch.bfloat16)(model.forward))
    with LiveBytes(model, 0) as live:
        ids = torch.zeros((4, 24), dtype=torch.long)
        mask = torch.ones((4, 1, 24, 24), dtype=torch.bool)
        with live.moment(FORWARD, "activations"):
            loss = model(input_ids=ids, attention_mask=mask, labels=torch.zeros_like(ids), use_cache=False).loss
        with live.moment(BACKWARD, "gradients"):
            loss.backward()
    for moment in (FORWARD, BACKWARD):
        assert foreseen.moments[moment] == pytest.approx(dict(live.highest[moment]), rel=0.01)
    assert foreseen.gradients == sum(p.numel() * 4 for p in model.parameters())


@pytest.mark.parametrize("names", ["logits", "logits,hidden=0.1", "logits,attention=0.1"])
def test_a_white_box_step_holds_what_its_stand_ins_say(arguments, names):
    """The real trainer's loss, with the real maps, counted by the same rule."""
    sizes = {**SIZES, "vocab_size": 5000}
    teacher = build_model(4, **sizes).to(torch.bfloat16)
    student = build_model(2, **sizes, seed=1)
    collator = PairCollator(build_tokenizer(), with_ids=True)
    rows = [{**row, "prompt_ids": [5] * 40, "completion_ids": [6] * 40} for row in build_pairs(4)]
    trainer = WhiteBoxTrainer(
        model=student, teacher=teacher, objectives=build_objectives(names), args=arguments(bf16=True),
        train_dataset=build_pairs(4), processing_class=build_tokenizer(),
    )  # fmt: skip
    model = trainer.accelerator.prepare(student).train()
    live = LiveBytes(torch.nn.ModuleList([student, teacher]), rows=160)
    with live, live.moment("step", "all"):
        trainer.compute_loss(model, collator(rows), num_items_in_batch=torch.tensor(160)).backward()
    seen = live.highest["step"].total()

    setting = Setting(4, 80, 0.5, objectives=build_objectives(names))
    shapes = shape_of(student.config, torch.float32), shape_of(teacher.config, torch.bfloat16)
    moments = dry_run(setting, *shapes).moments
    # known and not mended: where a CPU multiplies bfloat16 by itself, a step of these sizes holds 19% more than is planned
    near = 0.2 if cpu_multiplies(torch.bfloat16) else 0.1
    assert max(sum(found.values()) for found in moments.values()) == pytest.approx(seen, rel=near)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mamba"])
def test_parameters_are_exact_and_a_step_is_counted_in_other_families(name):
    model = family(name)
    shape = shape_of(model.config, torch.float32)
    assert shape.parameters == model.num_parameters()
    assert shape.weight_bytes() == 4 * model.num_parameters()
    planned = plan(Setting(**SHORT), shape)
    assert planned.parts["gradients"] > 0
    assert planned.peak == sum(planned.parts.values())


def test_operations_are_six_a_weight_and_token(shapes):
    """Short rows: attention itself adds little. The embedding table is read, not multiplied."""
    student, table = shapes[0], 1000 * 64
    setting = Setting(batch=2, length=8, bf16=False)
    assert plan(setting, student).student_flops == pytest.approx(6 * (student.parameters - table) * 16, rel=0.05)
    white = Setting(batch=2, length=8, share=0.5, objectives=[Logits()])
    teacher = plan(white, *shapes).teacher_flops
    inside = shapes[1].parameters - 2 * table  # the teacher's logits are made in chunks, with the objective
    assert teacher == pytest.approx(2 * inside * 16, rel=0.05)


def test_states_follow_the_optimiser_and_an_adapter_trains_little(shapes):
    student, _ = shapes
    states = {
        name: plan(Setting(**SHORT, optimiser=name), student).always["optimiser states"]
        for name in ("adamw", "adamw_8bit", "sgd_momentum", "sgd", "adafactor")
    }
    assert states["adamw"] == 8 * student.parameters
    assert states["sgd_momentum"] == states["adamw"] / 2
    assert states["sgd"] == 0
    assert states["adamw_8bit"] == pytest.approx(states["adamw"] / 4, rel=0.02)
    assert 0 < states["adafactor"] < states["adamw"] / 10
    adapted = plan(Setting(**SHORT, lora_r=2), student)
    assert adapted.always["optimiser states"] < states["adamw"] / 5
    assert adapted.peak < plan(Setting(**SHORT), student).peak


def test_what_saves_memory_does(shapes):
    student, _ = shapes
    base = plan(Setting(8, 64), student)

    def total(**changes):
        return plan(Setting(**{"batch": 8, "length": 64, **changes}), student).peak

    assert total(checkpointing=True) < base.peak
    assert total(batch=4) < base.peak < total(batch=16)
    assert total(accumulation=2) > base.peak
    assert total(processes=2) - base.parts["gradients"] < base.peak  # half the rows, and DDP's copy of the gradients
    assert total(processes=4, sharding="fsdp") < total(processes=4)


def test_what_is_sent_follows_from_rings(shapes):
    student, teacher = shapes
    black = plan(Setting(8, 16), student)
    assert traffic(black) == {}
    ddp = traffic(changed(black, processes=4))
    assert ddp == {"gradients, all-reduce": 2 * 3 / 4 * 4 * student.parameters}
    white = plan(Setting(8, 16, processes=4, sharding="fsdp", objectives=[Logits()]), student, teacher)
    head, table = 1000 * 64 + 64, 1000 * 64  # untied: the table is gathered twice as the layers are
    inside = student.parameters - head - table
    assert traffic(white) == {
        "student's weights, gathered": 3 / 4 * 2 * (2 * (inside + table) + head),
        "gradients, scattered": 3 / 4 * 2 * student.parameters,
        "teacher's weights, gathered": 3 / 4 * teacher.weight_bytes(),
    }
    twice = traffic(changed(white, accumulation=2))
    assert twice["gradients, scattered"] == traffic(white)["gradients, scattered"]
    assert twice["teacher's weights, gathered"] == 2 * traffic(white)["teacher's weights, gathered"]
    more = plan(Setting(8, 16, processes=4, sharding="fsdp", accumulation=2), student)
    one = plan(Setting(8, 16, processes=4, sharding="fsdp"), student)
    # whole in bfloat16, in place of a quarter in float32
    assert more.totals[BACKWARD] - one.totals[BACKWARD] == student.parameters


def test_a_quantised_teacher_keeps_embeddings_and_head(shapes):
    teacher = shapes[1]
    whole, eight, four = (teacher.weight_bytes(bits) for bits in (None, 8, 4))
    kept = 2 * 2 * 1000 * 64
    assert whole == 2 * teacher.parameters
    assert (whole - kept) / 2 + kept == pytest.approx(eight, rel=0.05)
    assert (whole - kept) / 4 + kept == pytest.approx(four, rel=0.05)


def test_a_teacher_too_large_is_told_what_would_fit():
    teacher = shape_of(config(4, hidden_size=128, intermediate_size=512), torch.bfloat16)
    student = shape_of(config(1), torch.float32)
    white = plan(Setting(8, 16, objectives=[Logits()]), student, teacher)
    black = plan(Setting(8, 16), student)
    (said,) = advice(white, black, 2 * white.peak)
    assert said == f"The white box fits: {white.peak / 2**20:,.1f} MiB of {white.peak / 2**19:,.1f} MiB."
    (said,) = advice(white, black, white.peak)
    assert "That is close" in said
    said = advice(white, black, white.peak - 1)
    for word in ("quantising", "sharding", "serving", "caching"):
        assert any(f": {word}" in line and "too much" not in line for line in said), said
    nothing = advice(white, black, 1)
    assert not any(", fits" in line for line in nothing)
    assert any("--checkpointing" in line for line in nothing)


def test_sharding_is_advised_over_the_processes_there_are_and_counts_no_step_twice(shapes, monkeypatch):
    student, teacher = shapes
    white = plan(Setting(8, 16, processes=8, objectives=[Logits()]), student, teacher)
    sharded = plan(Setting(8, 16, processes=8, objectives=[Logits()], sharding="fsdp"), student, teacher)
    black = plan(Setting(8, 16, processes=8), student)
    counted = []
    module = sys.modules["distill.planning.plan"]  # the package has a function of that name
    monkeypatch.setattr(module, "dry_run", lambda *args: counted.append(args) or dry_run(*args))
    said = advice(white, black, white.peak - 1)
    assert any(f"{sharded.peak / 2**20:,.1f} MiB" in line and "over 8 processes" in line for line in said), said
    assert not counted  # bits, processes of as many rows: arithmetic
    said = advice(white, black, 1)
    assert any("--lora_r" in line for line in said)
    assert len(counted) == 2  # checkpointing, an adapter
    said = advice(black, black, black.peak - 1)
    assert any("over 8 processes" in line for line in said), said


def test_the_command_needs_a_config_and_nothing_else(tmp_path, capsys, monkeypatch):
    name = folder(tmp_path)
    flags = ["--layers", "2", "--batch", "4", "--length", "24", "--objectives", "logits,attention", "--rate", "1"]
    monkeypatch.setattr("sys.argv", ["distill", "plan", "--teacher", name, *flags, "--memory", "0.001"])
    cli()
    said = capsys.readouterr().out
    for word in ("map chunks", "optimiser states", "activations", "floor over the SFT step", "does not fit"):
        assert word in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 0}, "batch is 0; it must be 1 or more"),
        ({"length": -3}, "length is -3"),
        ({"length": 1}, "2 or more"),
        ({"processes": 9}, "processes is 9 but batch is 4 rows"),
        ({"share": 0.0}, "above 0 and at most 1"),
        ({"lora_r": 0}, "lora_r is 0"),
        ({"teacher_bits": 5}, "teacher_bits is 5; it must be one of 4, 8"),
        ({"optimiser": "lion"}, "one of adamw"),
        ({"sharding": "fsdp"}, "--processes 2 or more"),
    ],
)
def test_settings_out_of_range_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Setting(**{**SHORT, **changes})


def test_models_that_cannot_be_planned_are_refused(tmp_path, shapes):
    with pytest.raises(ValueError, match="No folder"):
        shape_of(str(tmp_path / "nothing"), torch.float32)
    with pytest.raises(ValueError, match=r"has no config\.json"):
        shape_of(str(tmp_path), torch.float32)
    with pytest.raises(ValueError, match="No config of 'nobody/nothing' can be had"):
        shape_of("nobody/nothing", torch.float32)
    with pytest.raises(ValueError, match="does not say hidden_size, vocab_size"):
        read_config(folder(tmp_path, hidden_size=None, vocab_size=None))
    with pytest.raises(ValueError, match="cannot be read"):
        read_config(folder(tmp_path, model_type="no_such_type"))
    with pytest.raises(ValueError, match="num_hidden_layers 0"):
        read_config(folder(tmp_path, num_hidden_layers=0))
    with pytest.raises(ValueError, match="length is 200, but .* has 128 positions"):
        plan(Setting(2, 200), shapes[0])
    with pytest.raises(ValueError, match="keep between 1 and 4"):
        cut(shapes[1], 5, torch.float32)
    other = shape_of(config(2, num_attention_heads=8, num_key_value_heads=4), torch.float32)
    with pytest.raises(ValueError, match="8 attention heads and the teacher 4"):
        plan(Setting(**SHORT, objectives=[AttentionMaps()]), other, shapes[1])
    with pytest.raises(ValueError, match="go together"):
        plan(Setting(**SHORT, objectives=[HiddenStates()]), shapes[0])
