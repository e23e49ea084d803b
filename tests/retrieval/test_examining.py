"""Examination of tiny models: what is asked, in which batches, and how answers are graded."""

import pytest
from conftest import build_model

from distill.retrieval.examining import Examined, Question, chance_of, examine, graded, shares
from distill.retrieval.passages import Passage, bare, with_passages
from distill.teachers import LocalTeacher
from distill.teachers.base import Sampling


class Found:
    """A retriever that finds what it was given, best first."""

    def __init__(self, *texts):
        self.passages, self.asked = [Passage(text, "notes.md") for text in texts], []

    def search(self, query, k):
        self.asked.append((query, k))
        return self.passages[:k]


def question(number=0, **changes):
    settings = {"fact": f"f{number}", "column": "stable", "text": "what is it " * (1 + number % 3), "expected": "90"}
    return Question(**{"id": f"q{number}", **settings, **changes})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It is 90 km long.", (True, False)),
        ("It was 84, now it is 90.", (False, True)),
        ("It is 90 and was 84.", (True, False)),
        ("About 84.", (False, True)),
        ("Sixty, they say at Pelm.", (False, True)),
        ("I do not know.", (False, False)),
    ],
)
def test_the_value_that_is_said_first_counts(text, found):
    assert graded(question(old="84", traps=("Pelm",)), text) == found


def test_a_wrong_value_that_has_the_right_one_in_it_is_no_trap():
    asked = question(expected="Osk", traps=("Lake Osk",))
    assert graded(asked, "At Lake Osk.") == (True, False)


def test_every_answer_is_the_one_its_prompt_alone_would_get(tokenizer):
    """Batches, padding and order change nothing, without and with passages."""
    model = build_model(max_position_embeddings=1024)
    questions = [question(i) for i in range(7)]
    speaker, sampling = LocalTeacher(model, tokenizer), Sampling(max_new_tokens=6, temperature=0)
    retriever = Found("the cat sat", "the dog ran")
    for given, prompts in (
        (None, [bare(one.text, system="sat") for one in questions]),
        (retriever, [with_passages(one.text, retriever.passages, system="sat") for one in questions]),
    ):
        found = examine(
            model,
            tokenizer,
            questions,
            retriever=given,
            k=2,
            system="sat",
            max_new_tokens=6,
            batch_size=3,
            progress=False,
        )
        ids = [speaker.resolve_prompt(prompt)[1] for prompt in prompts]
        alone = [speaker.complete([one], sampling, seed=0)[0].text.strip() for one in ids]
        assert [one.text for one in found] == alone
        assert [one.tokens_read for one in found] == [len(one) for one in ids]
        assert all(one.seconds > 0 for one in found)
        assert [one.question.id for one in found] == [f"q{i}" for i in range(7)]
    assert retriever.asked == [(one.text, 2) for one in questions]


def test_only_distractors_are_shown_where_that_is_asked(tokenizer):
    model = build_model(max_position_embeddings=1024)
    retriever = Found("it is 90", "it was 84", "a cat is 12", "a dog is 90 too", "a mat")
    asked = [question(0, only_distractors=True, old="84"), question(1, old="84")]
    hidden, shown = examine(model, tokenizer, asked, retriever=retriever, k=2, max_new_tokens=2, progress=False)
    assert (hidden.found, hidden.passages) == (False, 2)
    assert (shown.found, shown.passages) == (True, 2)


def test_nothing_found_is_no_answer_unless_the_bare_question_is_asked_for(tokenizer):
    model, asked = build_model(max_position_embeddings=1024), [question(0)]
    (none,) = examine(model, tokenizer, asked, retriever=Found(), max_new_tokens=2, progress=False)
    assert (none.text, none.right, none.tokens_read, none.found) == ("", False, 0, False)
    settings = {"max_new_tokens": 2, "progress": False}
    (asked_bare,) = examine(model, tokenizer, asked, retriever=Found(), bare_if_nothing=True, **settings)
    (closed,) = examine(model, tokenizer, asked, **settings)
    assert asked_bare.text == closed.text
    assert asked_bare.tokens_read == closed.tokens_read > 0


def test_what_cannot_be_asked_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="no questions"):
        examine(model, tokenizer, [])
    with pytest.raises(ValueError, match="Two questions have the id 'q0'"):
        examine(model, tokenizer, [question(0), question(0)])
    with pytest.raises(ValueError, match="k is 0"):
        examine(model, tokenizer, [question(0)], retriever=Found("x"), k=0)
    with pytest.raises(ValueError, match=r"'q0' cannot be asked: .*128 positions.*Show fewer passages \(k is 3\)"):
        examine(model, tokenizer, [question(0)], retriever=Found("the cat sat on the mat " * 40))
    with pytest.raises(ValueError, match="its old value"):
        question(0, old=" 90. ")
    with pytest.raises(ValueError, match="must have words"):
        question(0, expected=" ")


def test_an_examination_is_read_back_and_counted_per_fact():
    asked = [
        question(0, kind="n", traps=("7",)),
        question(1, fact="f0", kind="n"),
        question(2, kind="n", expected="12"),
    ]
    found = [
        Examined(one, text, *graded(one, text), 10, 0.1) for one, text in zip(asked, ("90", "no", "12"), strict=True)
    ]
    assert [Examined.of(one.as_dict()) for one in found] == found
    assert shares(found) == {"f0": 0.5, "f2": 1.0}
    assert shares(found, "took_old") == {"f0": 0.0, "f2": 0.0}
    assert chance_of(found) == 0


def test_a_question_without_distractors_was_not_put_to_anybody(tokenizer):
    model = build_model(max_position_embeddings=1024)
    asked = [question(0, only_distractors=True), question(1, text="what else is it")]
    hidden, shown = examine(model, tokenizer, asked, retriever=Found("it is 90"), k=2, max_new_tokens=2, progress=False)
    assert (hidden.asked, hidden.counts) == (False, False)
    assert (shown.asked, shown.counts) == (True, True)
    (nothing,) = examine(model, tokenizer, asked[1:], retriever=Found(), max_new_tokens=2, progress=False)
    assert (nothing.asked, nothing.counts) == (False, True), "what is not found is not answered"
