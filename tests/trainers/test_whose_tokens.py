"""A teacher that was given as a loaded model is asked for the tokenizer that lies where it came from."""

import builtins
import json

import pytest
from conftest import SPECIAL, build_model, build_pairs, build_tokenizer
from white_box_runs import trainer

from distill import Logits, WhiteBoxTrainer
from distill.models import tokenizer as tokenizers
from distill.models.embedded import EMBEDDED
from distill.models.load import load_model, tokenizer_of
from distill.teachers import LocalTeacher
from distill.trainers import checks

OTHER = ["<|im_end|>", "<|im_start|>", "<|endoftext|>"]  # the same tokens under other ids


def saved(folder, tokenizer=None, **changes):
    """A model that was loaded from a folder, and its tokenizer beside it."""
    build_model(**{"seed": 1, **changes}).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return load_model(folder)


def test_equal_sizes_of_unequal_tokens_are_refused(arguments, tmp_path):
    teacher = saved(tmp_path / "teacher", build_tokenizer(special=OTHER))
    with pytest.raises(ValueError, match="Student and teacher have different vocabularies: 2 tokens differ"):
        trainer(arguments, [Logits()], teacher=teacher)
    with pytest.raises(ValueError, match="different vocabularies"):
        trainer(arguments, [Logits()], teacher=LocalTeacher(teacher, build_tokenizer(special=OTHER)))


def test_the_students_own_is_looked_for_where_none_is_given(arguments, tmp_path):
    from distill.pairs.collate import PairCollator

    student = saved(tmp_path / "student", build_tokenizer(special=OTHER))
    with pytest.raises(ValueError, match="different vocabularies"):
        WhiteBoxTrainer(
            model=student, teacher=LocalTeacher(build_model(seed=1), build_tokenizer()), objectives=[Logits()], args=arguments(),
            train_dataset=build_pairs(4), data_collator=PairCollator(build_tokenizer()),
        )  # fmt: skip


def test_equal_tokens_train_and_heads_of_two_sizes_are_compared_over_them(arguments, tmp_path):
    """Before, two sizes needed a LocalTeacher."""
    run = trainer(arguments, [Logits()], teacher=saved(tmp_path / "a", build_tokenizer()))
    assert run.terms[0].vocabulary is None
    run = trainer(arguments, [Logits()], teacher=saved(tmp_path / "b", build_tokenizer(), vocab_size=384))
    assert run.terms[0].vocabulary == len(build_tokenizer())
    run.train()


def test_tokens_that_were_added_since_are_no_contradiction(arguments, tmp_path):
    """Both models were resized for a new token; the folder that the teacher came from does not know it."""
    tokenizer = build_tokenizer()
    teacher = saved(tmp_path / "teacher", tokenizer)
    tokenizer.add_tokens(["<new>"])
    student = build_model(seed=7)
    for model in (student, teacher):
        model.resize_token_embeddings(320 + 8)
    run = WhiteBoxTrainer(
        model=student, teacher=teacher, objectives=[Logits()], args=arguments(), train_dataset=build_pairs(4), processing_class=tokenizer
    )  # fmt: skip
    assert run.terms[0].vocabulary is None


@pytest.mark.parametrize("name", ["", "weights alone", "no/such"])
def test_where_it_cannot_be_told_a_warning_says_so(arguments, tmp_path, monkeypatch, name):
    said = []
    monkeypatch.setattr(checks, "warn_once", said.append)
    teacher = saved(tmp_path / "teacher") if name == "weights alone" else build_model(seed=1)
    if name == "no/such":
        teacher.config._name_or_path = name
    assert trainer(arguments, [Logits()], teacher=teacher)
    assert said
    assert "the tokenizer of the teacher is not known" in said[0]
    said.clear()
    assert trainer(arguments, [Logits()], teacher=LocalTeacher(teacher, build_tokenizer()))
    assert not said


def test_a_student_that_teaches_itself_is_not_asked(arguments, monkeypatch):
    from distill.models.adapters import lora_config

    said = []
    monkeypatch.setattr(checks, "warn_once", said.append)
    assert trainer(arguments, [Logits()], teacher="self", peft_config=lora_config(4))
    assert not said


def test_nothing_is_fetched_and_nobody_is_asked_for_a_tokenizer_that_is_looked_up(tmp_path, monkeypatch):
    """Before, an embedded name was downloaded, a Hub id asked of the Hub, and code of a model's author asked for on the terminal."""
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    done = []
    monkeypatch.setattr(tokenizers, "fetch_embedded", lambda *_, **__: done.append("fetched"))
    monkeypatch.setattr(builtins, "input", lambda *_: done.append("asked") or "n")
    model = build_model()
    model.config._name_or_path = next(iter(EMBEDDED))
    assert tokenizer_of(model) is None
    own = tmp_path / "own"
    model.save_pretrained(own)
    (own / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}})
    )
    model.config._name_or_path = str(own)
    assert tokenizer_of(model) is None
    assert not done
    given = {}
    monkeypatch.setattr(tokenizers, "from_pretrained", lambda *_, **settings: given.update(settings))
    model.config._name_or_path = "somebody/model"
    tokenizer_of(model)
    assert given["local_files_only"] is True


def test_a_tokenizer_that_has_another_inside_is_itself(arguments):
    """As that of Mistral's own tokens, whose inner one has no get_vocab; of a processor the inner one is meant."""

    class Processor:
        tokenizer = build_tokenizer()

    outer = build_tokenizer()
    outer.tokenizer = object()
    model = build_model(seed=1)
    assert checks.compared_tokens(model, model, outer, Processor()) is None
    with pytest.raises(ValueError, match="different vocabularies"):
        checks.compared_tokens(model, model, outer, build_tokenizer(special=OTHER))


def test_a_reserved_slot_that_was_renamed_is_no_contradiction(tmp_path):
    """As of Llama 3, whose <|reserved_special_token_0|> people call <|pad|>; a slot with another token of both sides is one."""
    teacher = saved(tmp_path / "teacher", build_tokenizer(special=[*SPECIAL, "<|reserved_0|>"]))
    student = build_model(seed=7)
    renamed, another = build_tokenizer(special=[*SPECIAL, "<|pad|>"]), build_tokenizer(special=[*OTHER, "<|pad|>"])
    assert checks.compared_tokens(student, teacher, renamed, None) is None
    with pytest.raises(ValueError, match=r"different vocabularies.*given as teacher=LocalTeacher\("):
        checks.compared_tokens(student, teacher, another, None)
    with pytest.raises(ValueError, match="different vocabularies"):  # nobody looked it up
        checks.compared_tokens(student, teacher, renamed, build_tokenizer(special=[*SPECIAL, "<|reserved_0|>"]))
