"""Whose signals: no shard, config or head of another teacher stands beside a manifest unseen."""

import copy
import json
import shutil

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from signal_runs import captured, contents, small_shards, teacher

from distill.basics.jsonl import CHECKSUM, seal
from distill.models.load import config_of_logits
from distill.reports.provenance import known_teachers
from distill.signals import StoredSignals, capture, shard_writer
from distill.signals.shards import DAMAGED, next_number, read_shard, shard_name, shards_in, write_shard
from distill.signals.signal_folder import HEAD
from distill.signals.sources import RunningTeacher
from distill.teachers import LocalTeacher


@pytest.fixture
def two(tmp_path):
    """Folders of two teachers, of several shards each."""
    before = shard_writer.SHARD_BYTES
    small_shards()
    found = [
        captured(tmp_path / name, asked=teacher(seed=seed), batch_tokens=200).folder
        for seed, name in ((1, "mine"), (2, "other"))
    ]
    shard_writer.SHARD_BYTES = before
    return found


def test_a_shard_that_was_copied_from_another_folder_is_refused(two):
    """Its keys are those of the same pairs, its checksums hold, and it would be taken for this teacher's."""
    mine, other = two
    copied = mine / shard_name(0, next_number(mine, 0))
    shutil.copy(shards_in(other)[1], copied)
    for opened in (lambda: StoredSignals(mine), lambda: captured(mine, asked=teacher(seed=1))):
        with pytest.raises(ValueError, match=f"{copied.name} is of another capture than the manifest.json beside it"):
            opened()
    assert copied.is_file(), "not set aside: it is whole, and somebody's"
    assert not list(mine.glob(f"*{DAMAGED}"))
    copied.unlink()
    captured(mine, asked=teacher(seed=1)).check(build_pairs(30))


def test_shards_of_an_earlier_version_say_nothing_and_are_read(two, tmp_path):
    from distill.signals.shard_index import ShardIndex
    from distill.signals.shards import Row

    mine, _ = two
    wanted = contents(mine)
    for path in shards_in(mine):
        shard, index = read_shard(path), ShardIndex(mine)
        assert shard.whose
        numbers = index.find(shard.keys)
        blobs = index.blobs(numbers.tolist(), [""] * len(numbers))
        rows = [Row(k.tobytes(), int(n), b) for k, n, b in zip(shard.keys, shard.positions, blobs, strict=True)]
        index.close()
        write_shard(path, rows)
        assert read_shard(path).whose == ""
    with pytest.raises(ValueError, match="is of another capture"):  # this version began the folder
        StoredSignals(mine)
    manifest = json.loads((mine / "manifest.json").read_text())
    manifest.pop(CHECKSUM)
    del manifest["teacher"]["config"]
    (mine / "manifest.json").write_text(json.dumps({**manifest, CHECKSUM: seal(manifest)}))
    StoredSignals(mine).check(build_pairs(30))
    assert contents(mine) == wanted


def test_a_teacher_of_equal_weights_and_another_config_is_another(two):
    """A base of the rotary angles, a cap: the weights are bit for bit the same, and what it says is not."""
    mine, _ = two
    changed = copy.deepcopy(teacher(seed=1).model)
    changed.config.rms_norm_eps *= 10
    with pytest.raises(ValueError, match=r"holds other signals \(config.rms_norm_eps: '1e-06' there, '9.99"):
        captured(mine, asked=LocalTeacher(changed, build_tokenizer(), name="tiny"))
    same = copy.deepcopy(teacher(seed=1).model)
    same.config.use_cache, same.config._name_or_path = not same.config.use_cache, "elsewhere"
    captured(mine, asked=LocalTeacher(same, build_tokenizer(), name="elsewhere"))


def test_another_class_of_model_is_told_by_its_name_and_not_by_its_config(two):
    """The stored config is never read as that of another class, which would end in whatever that class makes of it."""
    from conftest import family

    mine, _ = two
    for name in ("gemma2", "gpt2"):
        with pytest.raises(ValueError, match=r"holds other signals \(teacher.class: 'LlamaForCausalLM' there, "):
            captured(mine, asked=LocalTeacher(family(name), build_tokenizer(), name="tiny"))


def test_what_decides_no_logits_makes_no_other_teacher(two):
    """How it was loaded, what only a training reads, where an author's code lies."""
    mine, _ = two
    same = copy.deepcopy(teacher(seed=1).model)
    config = same.config
    config.output_hidden_states = not config.output_hidden_states
    config.attention_dropout, config.initializer_range = 0.3, 0.5
    config.auto_map, config.transformers_weights = {"AutoConfig": "a/b--configuration_zz.ZZ"}, "m.safetensors"
    captured(mine, asked=LocalTeacher(same, build_tokenizer(), name="tiny"))
    assert config_of_logits({"output_logit_soft_cap": 1.0}) == {"output_logit_soft_cap": "1.0"}
    composite = {
        "text_config": {"use_cache": True, "dtype": "float32", "_name_or_path": "x", "rope_theta": 1.0},
        "a": float("nan"),
    }
    assert config_of_logits(composite) == {"text_config.rope_theta": "1.0", "a": "NaN"}


def test_a_folder_of_an_earlier_version_without_a_word_of_the_config_is_continued(two):
    mine, _ = two
    manifest = json.loads((mine / "manifest.json").read_text())
    manifest.pop(CHECKSUM)
    del manifest["teacher"]["config"]
    (mine / "manifest.json").write_text(json.dumps({**manifest, CHECKSUM: seal(manifest)}))
    for path in shards_in(mine):
        path.unlink()  # each says whose it is, in the words of this version
    captured(mine, asked=teacher(seed=1)).check(build_pairs(30))
    changed = copy.deepcopy(teacher(seed=1).model)
    changed.config.rms_norm_eps *= 10
    with pytest.raises(ValueError, match=r"config.rms_norm_eps: '1e-06' there"):
        captured(mine, asked=LocalTeacher(changed, build_tokenizer(), name="tiny"))


def test_a_config_that_was_changed_in_the_folder_is_called_so(two):
    mine, _ = two
    for text in ((mine / "config.json").read_text().replace("1e-06", "1e-05"), "{"):
        (mine / "config.json").write_text(text)
        with pytest.raises(ValueError, match="config.json was changed after it was written"):
            captured(mine, asked=teacher(seed=1))


def test_a_run_knows_its_teacher_by_the_config_too():
    from distill.signals.facts import describe_model

    model = build_model(seed=3)
    before = describe_model(model)
    model.config.rms_norm_eps *= 10
    assert describe_model(model) != before


def test_verify_reads_the_head_too(two):
    mine, _ = two
    data = bytearray((mine / HEAD).read_bytes())
    data[-5] ^= 1
    (mine / HEAD).write_bytes(data)
    with pytest.raises(ValueError, match=r"head.safetensors was changed after it was written"):
        captured(mine, asked=teacher(seed=1), verify=True)


def test_a_teacher_that_brings_its_tokenizer_takes_no_other(tmp_path):
    with pytest.raises(ValueError, match="beside the LocalTeacher tiny, which has one already"):
        capture(teacher(), build_pairs(4), output=tmp_path / "signals", tokenizer=build_tokenizer(), progress=False)
    capture(build_model(), build_pairs(4), output=tmp_path / "signals", tokenizer=build_tokenizer(), progress=False)


class Mine(RunningTeacher):
    """A source of a user's own, which says no more than it must."""

    def __init__(self, model):
        self.model = model


def test_a_run_knows_how_its_teachers_adapters_compute(tmp_path):
    """Which of two adapters is on, their scales, and whether they are on, at equal weights."""
    from distill.signals import LiveTeacher, SelfTeacher
    from distill.signals.base import named_teachers

    def build(alpha=8):
        torch.manual_seed(0)
        config = LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj"], init_lora_weights=False)
        model = get_peft_model(build_model(seed=3), config)
        torch.manual_seed(1)
        model.add_adapter("other", config)
        return model

    def told(model):
        live = LiveTeacher(model).identity(None)
        assert "adapters " in live
        assert "adapters " in named_teachers(model)[0].identity()["teacher_weights"]
        return live

    first = build()
    assert told(first) == told(build())
    assert told(first) != told(build(alpha=16)), "lora_alpha"
    other = build()
    other.set_adapter("other")
    assert told(first) != told(other), "the other one is active"
    off = build()
    off.base_model.disable_adapter_layers()
    assert told(first) != told(off), "none is on"
    first.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**saved, "peft_version": "0.1", "lora_dropout": 0.5}))
    again = PeftModel.from_pretrained(build_model(seed=3), tmp_path)
    again.load_adapter(tmp_path / "other", "other")
    assert told(first).partition("config ")[2] == told(again).partition("config ")[2], (
        "who saved it, and how it was trained, tells nothing"
    )
    own = SelfTeacher()
    own.prepare(first, torch.device("cpu"))
    assert "adapters" not in own.identity(first), "a student's own adapter is no part of the teacher"
    assert "adapters" not in LiveTeacher(build_model(seed=3)).identity(None)


def test_words_of_an_earlier_version_are_compared_as_far_as_they_go():
    from distill.signals.facts import as_said_then

    now = "A of 2 layers, weights 1, config 2, adapters 3"
    for there in ("A of 2 layers, weights 1", "A of 2 layers, weights 1, config 2", now):
        assert as_said_then(there, now) == there
        routed = {"by": "subject", "teachers": {"a": there, "b": "x"}}
        assert as_said_then(routed, {"by": "subject", "teachers": {"a": now, "b": "x"}}) == routed
        assert as_said_then([there], [now]) == [there]
    says = "stored top of the model behind a server, some/model, which says 1, with fields 2"
    for there in (
        "stored top of the model behind a server, some/model",
        "stored top of the model behind a server, some/model, which says 1",
        says,
    ):
        assert as_said_then(there, says) == there
    for there in (
        "A of 2 layers, weights 9",
        "A of 2 layers, weights 1, config 9",
        "A of 2 layers, weights 1, config 2, adapters 9",
        "another, config",
        None,
    ):
        assert as_said_then(there, now) != there


def test_every_source_says_who_its_teachers_are(two):
    """For a card; a live one by its weights, a stored one as its manifest has it."""
    from distill.signals import LiveTeacher, SelfTeacher
    from distill.signals.mixture import Mixture
    from distill.signals.several import Routed

    stored, live = StoredSignals(two[0]), LiveTeacher(build_model(seed=3))
    routed = Routed({"a": stored, "b": live}, "subject")
    assert [one.name for one in stored.teachers()] == ["tiny"]
    assert stored.teachers()[0].identity()["teacher_weights"] == stored.manifest["teacher"]["weights"]
    assert [one.name for one in routed.teachers()] == ["tiny", "LlamaForCausalLM"]
    assert "weights " in live.teachers()[0].identity()["teacher_weights"]
    both = Mixture([build_model(seed=3), build_model(seed=4)])
    models = [one.identity()["teacher_weights"] for one in both.teachers()]
    assert models[0] == live.teachers()[0].identity()["teacher_weights"] != models[1]
    assert [one.name for one in LiveTeacher(teacher()).teachers()] == ["tiny"], "the name that it was given"
    assert [one.name for one in Mine(build_model(seed=3)).teachers()] == ["LlamaForCausalLM"], (
        "one of a user's own, by its model"
    )
    assert Mine(build_model(seed=3)).teachers()[0].identity() == live.teachers()[0].identity() | {
        "teacher_signals": "Mine"
    }
    one, other = Mine(build_model(seed=3)), Mine(build_model(seed=3))
    other.identity = lambda student: "says another thing"
    assert list(known_teachers(Routed({"a": one, "b": other}, "subject"))) == [
        "LlamaForCausalLM",
        "LlamaForCausalLM (2)",
    ]
    own = SelfTeacher()
    assert [one.name for one in Routed({"a": own, "b": "my/model"}, "subject").teachers()] == ["self", "my/model"]


def test_an_evaluation_of_several_sets_is_no_draw(arguments, tmp_path):
    from white_box_runs import trainer

    from distill import Logits

    pairs = build_pairs(8)
    stored = capture(teacher(), pairs, output=tmp_path / "signals", encoding="draws:2", sets=8, progress=False)
    run = trainer(arguments, [Logits()], student=build_model(seed=7), teacher=stored, pairs=pairs)
    first = [run.evaluate(pairs)["eval_logits"] for _ in range(2)]
    assert first[0] == first[1]
    batch = run.data_collator([run.train_dataset[i] for i in range(8)])
    assert len({run.compute_loss(run.model, dict(batch)).item() for _ in range(6)}) > 1
