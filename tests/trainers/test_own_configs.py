"""Students of a class of one's own: without a config, or with one that is none of transformers'."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from white_box_runs import weights_of

from distill import BlackBoxTrainer, Logits, WhiteBoxTrainer
from distill.models.configs import text_config_of, values_of_config
from distill.models.positions import positions_of
from distill.models.probing import place_of
from distill.pairs.collate import PairCollator
from distill.trainers.router_loss import router_coefficient


@dataclass
class Config:
    """As hand-written models have it."""

    vocab_size: int = 320
    max_position_embeddings: int = 64


class Own(torch.nn.Module):
    """Causal, and its loss is Trainer's."""

    def __init__(self, config=None):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = torch.nn.Embedding(320, 16), torch.nn.Linear(16, 320)
        if config is not None:
            self.config = config

    def forward(
        self, input_ids, attention_mask=None, labels=None, position_ids=None, num_items_in_batch=None, **kwargs
    ):
        found = {"logits": self.head(self.embed(input_ids).cumsum(1) / 10)}
        if labels is not None:
            items = (labels[:, 1:] != -100).sum() if num_items_in_batch is None else num_items_in_batch
            loss = torch.nn.functional.cross_entropy(
                found["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
            )
            found = {"loss": loss / items, **found}
        return found


CONFIGS = {"dataclass": Config, "namespace": lambda: SimpleNamespace(vocab_size=320, max_position_embeddings=64), "none": lambda: None}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_student_of_ones_own_class_is_trained_and_taken_up(arguments, name):
    """It was an AttributeError: 'get_text_config'."""
    config = CONFIGS[name]

    def make():
        return BlackBoxTrainer(
            model=Own(config()), args=arguments(save_strategy="steps", save_steps=2), train_dataset=build_pairs(8),
            data_collator=PairCollator(build_tokenizer()),
        )  # fmt: skip

    whole = make()
    whole.train()
    again = make()
    again.train(resume_from_checkpoint=whole.args.output_dir + "/checkpoint-2")
    for part, tensor in weights_of(whole).items():
        assert tensor.equal(weights_of(again)[part]), part
    assert whole.row_limits.positions == (None if name == "none" else 64)
    if name != "none":
        other = make()
        other.model.config.vocab_size = 384
        with pytest.raises(ValueError, match=r"student.config.vocab_size: 320 there, 384 now"):
            other.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("way", ["black box", "white box"])
def test_a_config_that_trainer_cannot_write_into_is_refused_before_the_first_step(arguments, way):
    """Trainer itself would end in an AttributeError when training begins."""
    kind, own = (BlackBoxTrainer, {}) if way == "black box" else (WhiteBoxTrainer, {"teacher": build_model(), "objectives": [Logits()]})  # fmt: skip
    settings = {"args": arguments(), "train_dataset": build_pairs(8), "processing_class": build_tokenizer(), **own}
    with pytest.raises(
        ValueError, match="Own has a config of class Config, into which transformers.Trainer cannot put"
    ):
        kind(model=Own(Config()), **settings)
    models = iter([build_model(), Own(Config())])
    run = kind(model_init=lambda: next(models), **settings)
    with pytest.raises(ValueError, match="Own has a config of class Config"):
        run.train()


class Rope:
    """Its text is where it lies."""


@dataclass(slots=True)
class Cached:
    vocab_size: int = 320
    use_cache: bool = False
    rope: object = None


class OfItsClass:
    vocab_size = 320

    def method(self):
        """No value."""


def with_an_object():
    return SimpleNamespace(vocab_size=320, rope=Rope(), within=SimpleNamespace(rope=Rope()), several=[Rope()])


SAYS = {
    "an object": with_an_object, "slots": lambda: Cached(rope=Rope()), "of its class": OfItsClass,
    "a class": lambda: type("Mine", (OfItsClass,), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SAYS)
def test_whatever_a_config_says_is_held_against_a_checkpoint(arguments, name):
    """An object's text is its address, so that no run could go on; of slots, and of values of a class, nothing was held."""

    def make():
        return BlackBoxTrainer(
            model=Own(SAYS[name]()), args=arguments(save_strategy="steps", save_steps=2), train_dataset=build_pairs(8),
            data_collator=PairCollator(build_tokenizer()),
        )  # fmt: skip

    whole = make()
    whole.train()
    make().train(resume_from_checkpoint=True)
    other = make()
    other.model.config.vocab_size = 384
    with pytest.raises(ValueError, match=r"student.config.vocab_size: 320 there, 384 now"):
        other.train(resume_from_checkpoint=True)
    if name in ("an object", "slots"):
        other = make()
        other.model.config.rope = OfItsClass()
        with pytest.raises(ValueError, match=r"student.config.rope: 'Rope' there, 'OfItsClass' now"):
            other.train(resume_from_checkpoint=True)


@dataclass(frozen=True)
class Frozen:
    vocab_size: int = 320


@dataclass(slots=True)
class Slots:
    """Without one for use_cache."""

    vocab_size: int = 320
    max_position_embeddings: int = 64


def in_turn(*students):
    left = list(students)
    return lambda: left.pop(0)


UNSET = {"a mapping": lambda: {"vocab_size": 320}, "frozen": Frozen, "slots": Slots}


@pytest.mark.parametrize("made", ["model", "model_init", "the second of model_init"])
@pytest.mark.parametrize("way", ["black box", "white box"])
def test_a_config_in_which_nothing_can_be_set_is_refused_by_its_class(arguments, way, made):
    """It was a bare error of Trainer's."""
    kind, own = (BlackBoxTrainer, {}) if way == "black box" else (WhiteBoxTrainer, {"teacher": build_model(), "objectives": [Logits()]})  # fmt: skip
    for make in UNSET.values():
        settings = {"args": arguments(), "train_dataset": build_pairs(8), "data_collator": PairCollator(build_tokenizer()), **own}  # fmt: skip
        words = f"Own has a config of class {type(make()).__name__}, in which use_cache cannot be set"
        if made == "the second of model_init":
            run = kind(model_init=in_turn(build_model(), Own(make())), **settings)
            with pytest.raises(ValueError, match=words):
                run.train()
            continue
        student = Own(make())
        with pytest.raises(ValueError, match=words):
            kind(**{made: student if made == "model" else in_turn(student)}, **settings)


def test_no_config_is_refused_where_trainer_asks_for_one(arguments):
    """Beside a tokenizer where the attribute is there and empty; for smoothed labels where it is not there."""
    settings = {"train_dataset": build_pairs(8), "processing_class": build_tokenizer()}
    empty = Own()
    empty.config = None
    with pytest.raises(ValueError, match="Own has a config of class NoneType, into which"):
        BlackBoxTrainer(model=empty, args=arguments(), **settings)
    smoothed = {**settings, "args": arguments(label_smoothing_factor=0.1)}
    with pytest.raises(ValueError, match="Own has no config, which transformers.Trainer asks whether its labels"):
        BlackBoxTrainer(model=Own(), **smoothed)
    BlackBoxTrainer(model=Own(), args=arguments(), **settings).train()
    without = {**smoothed, "processing_class": None, "data_collator": PairCollator(build_tokenizer())}
    BlackBoxTrainer(model=empty, **without).train()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_white_box_needs_a_config_of_transformers(arguments, name):
    settings = {"args": arguments(), "train_dataset": build_pairs(8), "data_collator": PairCollator(build_tokenizer())}
    words = "Own has (no config|a config of class Config|a config of class SimpleNamespace), and what is inside a model"
    for models in ({"model": build_model(), "teacher": Own(CONFIGS[name]())}, {"model": Own(CONFIGS[name]()), "teacher": build_model()}):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            WhiteBoxTrainer(**models, objectives=[Logits()], **settings)


def test_a_mapping_of_logits_is_asked_whether_it_keeps_packed_pairs_apart(arguments):
    """It was an AttributeError: 'logits'."""
    collator = PairCollator(build_tokenizer(), max_length=64)
    settings = {"args": arguments(), "train_dataset": build_pairs(8), "data_collator": collator, "packing": True}
    with pytest.raises(ValueError, match="Own does not keep packed pairs apart"):
        BlackBoxTrainer(model=Own(Config()), **settings)
    silent = Own(Config())
    silent.forward = lambda input_ids, position_ids=None, **kwargs: {"loss": silent.head.weight.sum()}
    with pytest.raises(ValueError, match="Own gives no logits by that name, so it cannot be asked"):
        BlackBoxTrainer(model=silent, **settings)


def test_what_is_asked_of_a_config_is_asked_of_any():
    """Each place that asked it for its text's part."""
    model = Own(Config())
    del model.embed  # so that its config is asked how many tokens it knows
    assert text_config_of(model) is model.config
    assert place_of(model) == (320, torch.device("cpu"))
    assert positions_of(model) == 64
    assert router_coefficient(model) == 0
    assert values_of_config(model.config) == {"vocab_size": 320, "max_position_embeddings": 64}
    assert text_config_of(Own()) is None
    assert values_of_config(None) == {}
    llama = build_model()
    assert text_config_of(llama) is llama.config
    assert values_of_config(llama.config) == llama.config.to_dict()
