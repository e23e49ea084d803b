"""A conversation: what is remembered, what is told while it comes, what an interruption and an error leave."""

import pytest
import torch
from conftest import build_model, build_tokenizer

from distill.teachers import LocalTeacher
from distill.teachers.base import Sampling
from distill.teachers.talk import Talk
from distill.text.encode import encode_prompt

SAMPLING = Sampling(max_new_tokens=12, temperature=1.0, seed=4)


@pytest.fixture(scope="module")
def speaker():
    return LocalTeacher(build_model(), build_tokenizer())


def test_each_answer_is_the_models_own_to_all_that_was_said(speaker):
    talk = Talk(speaker, SAMPLING, system="the mat")
    said, history = ["the cat", "a dog ran", "why so"], [{"role": "system", "content": "the mat"}]
    for turn, words in enumerate(said):
        answer = talk.answer(words)
        history.append({"role": "user", "content": words})
        ids = encode_prompt(history, speaker.tokenizer)
        (alone,) = speaker.complete([ids], SAMPLING, SAMPLING.seed + turn)
        assert (answer.text, answer.end) == (alone.text, alone.finish_reason)
        history.append({"role": "assistant", "content": alone.text})
        assert talk.history == history
    talk.reset()
    first = talk.answer(said[0]).text
    assert first == history[2]["content"]
    assert len(talk.history) == 3


def test_pieces_come_while_it_speaks_and_are_the_answer(speaker):
    pieces = []
    talk = Talk(speaker, Sampling(max_new_tokens=40, seed=1))
    answer = talk.answer("the cat", pieces.append)
    assert "".join(pieces) == answer.text
    assert len([piece for piece in pieces if piece]) > 5
    assert "\ufffd" in answer.text, (
        "random bytes: some are no characters, and these are told, too, once nothing can complete them"
    )


def test_what_is_interrupted_stays_as_far_as_it_came(speaker):
    def stop(piece):
        heard.append(piece)
        if len([one for one in heard if one]) == 3:
            raise KeyboardInterrupt

    heard, talk = [], Talk(speaker, Sampling(max_new_tokens=60, seed=1))
    before = torch.get_rng_state()
    answer = talk.answer("the cat", stop)
    assert answer.end == "interrupted"
    assert talk.history[1:] == [{"role": "assistant", "content": answer.text}]
    assert 0 < len(answer.text) < len(Talk(speaker, Sampling(max_new_tokens=60, seed=1)).answer("the cat").text)
    assert torch.equal(torch.get_rng_state(), before)
    assert talk.answer("a dog").end in ("stop", "length"), "the conversation goes on"


def test_what_does_not_fit_is_refused_and_forgotten(speaker):
    talk = Talk(speaker, SAMPLING)
    talk.answer("the cat")
    kept = list(talk.history)
    with pytest.raises(ValueError, match="exceed the model's context"):
        talk.answer("the mat " * 80)
    assert talk.history == kept


def test_without_a_template_text_is_continued_by_itself():
    plain = build_tokenizer()
    plain.chat_template = None
    speaker = LocalTeacher(build_model(), plain)
    talk = Talk(speaker, SAMPLING)
    (alone,) = speaker.complete([plain("the cat")["input_ids"]], SAMPLING, SAMPLING.seed)
    assert talk.answer("the cat").text == alone.text
    assert talk.history == []
    with pytest.raises(ValueError, match="no chat template in which it could stand"):
        Talk(speaker, SAMPLING, system="be short")


def test_a_template_without_a_system_message_refuses_one_at_once():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + tokenizer.chat_template
    )
    with pytest.raises(ValueError, match="no system"):
        Talk(LocalTeacher(build_model(), tokenizer), SAMPLING, system="be short")
