"""Training rows of facts: what each mode shows, that every fact counts as often as another, and what a teacher answers wrong."""

import re
from collections import Counter
from dataclasses import replace

import pytest
from conftest import build_model, build_tokenizer

from distill.pairs import load_pairs
from distill.retrieval.altering import altered
from distill.retrieval.coverage import Coverage
from distill.retrieval.passages import Passage
from distill.retrieval.row_modes import KnownFact, Setting, rows_of_facts
from distill.retrieval.rows import Rows, answered, known_facts, rows_of_world, with_replay
from distill.retrieval.world import World
from distill.teachers import LocalTeacher
from distill.teachers.base import Completion
from distill.text.saying import says


class Reader:
    """A teacher of which it is known what it says: a function of the last turn, and a tokenizer."""

    name = "reader"

    def __init__(self, say):
        self.say, self.tokenizer = say, build_tokenizer()
        self.own = LocalTeacher(build_model(), self.tokenizer)

    def resolve_prompt(self, prompt):
        return self.own.resolve_prompt(prompt)

    def identity(self):
        return {"teacher": self.name}

    def complete(self, prompts, sampling, seed):
        texts = [self.say(self.tokenizer.decode(ids)) for ids in prompts]
        return [Completion([*self.tokenizer(text)["input_ids"], 2], text, "stop") for text in texts]


@pytest.fixture(scope="module")
def world():
    return World(seed=0, facts=32)


def shown(row):
    """The student's last turn."""
    return row["prompt"][-1]["content"]


def by_mode(rows):
    return Counter(row["mode"] for row in rows)


def test_closed_rows_show_the_question_alone_and_the_teacher_the_passage(world):
    rows = rows_of_world(world, "closed").rows
    assert by_mode(rows) == {"closed": 32 * 5}
    known = {fact.id: fact for fact in world.facts}
    for row in rows:
        fact = known[row["fact"]]
        forward = row["wording"].startswith("forward")
        assert shown(row) in (fact.questions if forward else fact.reverse_questions)
        assert row["completion"] == row["answer"] == (fact.value if forward else fact.subject)
        assert says(row["teacher_prompt"][-1]["content"], fact.value)
        assert shown(row) in row["teacher_prompt"][-1]["content"]
    assert len({row["id"] for row in rows}) == len(rows)


def test_nothing_held_out_is_in_a_row(world):
    """Neither a held-out wording nor a new value, in any mode, on either side."""
    for mode in ("closed", "raft", "mixed"):
        for row in rows_of_world(world, mode, wordings=6, reverse=2).rows:
            for fact in world.facts:
                everything = " ".join([shown(row), row["teacher_prompt"][-1]["content"]])
                assert not any(one in everything for one in (*fact.held_out, fact.reverse))
                assert fact.changed is None or not says(f"{everything} {row['completion']}", fact.changed)


def test_every_fact_has_as_many_rows_as_another(world):
    for mode, spread in (("closed", 0), ("raft", 0), ("mixed", 1)):
        found = rows_of_world(world, mode)
        counts = found.coverage.rows
        assert set(counts) == {fact.id for fact in world.facts}
        assert max(counts.values()) - min(counts.values()) <= spread + (mode == "mixed")
        assert found.coverage.lost_kinds == []
        assert sum(counts.values()) == len(found.rows)


def test_mixed_rows_follow_what_is_read_and_answer_from_memory_where_nothing_is(world):
    rows = rows_of_world(world, "mixed").rows
    counts = by_mode(rows)
    assert counts["closed"] == 160
    beside = counts["counterfactual"] + counts["distractors"]
    assert abs(beside / len(rows) - 0.25) < 0.02
    assert abs(counts["counterfactual"] - counts["distractors"]) <= beside // 8
    known = {fact.id: fact for fact in world.facts}
    lengths = Counter()
    for row in rows:
        fact = known[row["fact"]]
        if row["mode"] == "counterfactual":
            assert says(shown(row), row["completion"])
            assert not says(shown(row), fact.value)
            assert says(row["teacher_prompt"][-1]["content"], row["completion"]), "and so does the teacher"
        elif row["mode"] == "distractors":
            assert row["completion"] == fact.value
            assert not says(shown(row), fact.value)
            assert says(row["teacher_prompt"][-1]["content"], fact.value), (
                "the teacher reads what the student has to remember"
            )
        if row["mode"] != "closed":
            lengths[len(re.findall(r"^\[\d+\] ", shown(row), re.MULTILINE))] += 1
    assert set(lengths) == {1, 2, 3}


def test_raft_rows_name_the_source_of_what_was_read(world):
    rows = rows_of_world(world, "raft", golden=0.5).rows
    counts = by_mode(rows)
    assert 0.35 < counts["golden"] / len(rows) < 0.65
    places = Counter()
    for row in rows:
        passages = re.split(r"^\[\d+\] ", shown(row), flags=re.MULTILINE)[1:]
        assert len(passages) == 3
        there = [row["source"] in passage.splitlines()[0] for passage in passages]
        if row["mode"] == "golden":
            assert row["completion"] == f"{row['answer']} ({row['source']})"
            assert sum(there) == 1
            places[there.index(True)] += 1
        else:
            assert row["completion"] == row["answer"]
            assert not any(says(passage.split("Question:")[0], row["answer"]) for passage in passages)
    assert min(places.values()) > 10, "in any order"


def test_the_same_seed_makes_the_same_rows(world):
    one, again, other = (rows_of_world(world, "mixed", seed).rows for seed in (0, 0, 1))
    assert one == again
    assert [row["id"] for row in one] != [row["id"] for row in other]


def test_facts_that_are_left_out_are_in_no_answer(world):
    rows = rows_of_world(world, "mixed", facts=world.facts[:16]).rows
    assert {row["fact"] for row in rows} == {fact.id for fact in world.facts[:16]}


def test_both_boxes_read_one_file(world, tmp_path):
    """Rows in words become pairs whose teacher prompt has tokens of its own, before the same completion."""
    tokenizer = build_tokenizer()
    pairs = rows_of_world(world, "mixed", facts=world.facts[:4]).pairs(tokenizer)
    assert {"fact", "kind", "wording", "mode", "teacher_prompt_ids"} <= set(pairs.column_names)
    for pair in pairs:
        assert len(pair["teacher_prompt_ids"]) > len(pair["prompt_ids"])
        assert tokenizer.decode(pair["completion_ids"], skip_special_tokens=True).strip() == pair["completion"]
    pairs.to_json(tmp_path / "pairs.jsonl")
    assert load_pairs(tmp_path / "pairs.jsonl")["completion_ids"] == pairs["completion_ids"]


def value_in(text):
    """What a careful reader answers: the one value of the passage that was asked for in the last question."""
    return text.rsplit("Question: ", 1)[1].split("<|im_end|>")[0].strip()


def test_a_teacher_answers_and_what_is_wrong_is_left_out_and_counted(world):
    """Wrong are all facts of one kind: the kind is named, though many rows are left."""
    facts = {question: fact for fact in world.facts for question in fact.questions}

    def say(text):
        fact = facts.get(value_in(text))
        return "I do not know." if fact is None or fact.kind == "ship.crew" else f"It is {fact.value}."

    found = rows_of_world(world, "closed", reverse=0, wordings=2, teacher=Reader(say), progress=False)
    assert found.coverage.lost_kinds == ["ship.crew"]
    assert len(found.rows) == 2 * 30
    assert all(says(row["completion"], row["answer"]) for row in found.rows)
    assert all(row["completion"].startswith("It is ") and row["teacher"] == "reader" for row in found.rows)
    table = found.coverage.table()
    assert "answers of the teacher: 60 of 64 kept" in table
    assert "4 the teacher, reading the passage, answers otherwise" in table
    assert "No row is left of 1 kinds of facts: ship.crew." in table
    (step,) = found.coverage.steps()
    assert (step.rows_in, step.rows_out) == (64, 60)
    pairs = found.pairs()
    assert all(pair["completion_ids"][-1] == 2 for pair in pairs), "the teacher's own tokens, with its end"


def test_raft_answers_of_a_teacher_name_their_source_too(world):
    facts = {question: fact for fact in world.facts for question in fact.questions}
    teacher = Reader(lambda text: facts[value_in(text)].value)
    found = rows_of_world(world, "raft", reverse=0, facts=world.facts[:8], teacher=teacher, progress=False)
    assert len(found.rows) == 32
    for row in found.rows:
        said = teacher.tokenizer.decode(row["completion_ids"], skip_special_tokens=True).strip()
        assert said == row["completion"] == row["answer"] + (f" ({row['source']})" if row["mode"] == "golden" else "")


def test_what_a_server_said_of_other_tokens_goes_when_the_source_is_written_behind(world):
    """Their log-probabilities stood beside an answer of more tokens, which were said to be the teacher's own."""

    class Server(Reader):
        def complete(self, prompts, sampling, seed):
            made = super().complete(prompts, sampling, seed)
            return [replace(c, top_logprobs=[{"tokens": ["a"], "logprobs": [-0.5]}] * len(c.ids)) for c in made]

    facts = {question: fact for fact in world.facts for question in fact.questions}
    teacher = Server(lambda text: facts[value_in(text)].value)
    found = rows_of_world(world, "raft", reverse=0, facts=world.facts[:8], teacher=teacher, progress=False)
    for row in found.rows:
        with_source = row["mode"] == "golden"
        assert (row.get("top_logprobs") is None) == with_source
        assert row["token_source"] == ("text" if with_source else "teacher")
    assert {row["mode"] for row in found.rows} == {"golden", "no golden"}
    assert len(found.pairs()) == 32


def test_no_right_answer_is_refused(world):
    rows = rows_of_world(world, facts=world.facts[:1], reverse=0).rows
    with pytest.raises(ValueError, match="None of the teacher's 4 answers is the one that the passage gives"):
        answered(Reader(lambda _: "no"), rows, Coverage(), progress=False)


def test_the_journal_of_answers_is_gone_on_from(world, tmp_path):
    """Asked again, nothing is asked: the same rows come out of the journal."""
    facts = {question: fact for fact in world.facts for question in fact.questions}
    asked = []

    def say(text):
        asked.append(text)
        return facts[value_in(text)].value

    def made():
        return rows_of_world(world, reverse=0, facts=world.facts[:2], teacher=Reader(say), output=tmp_path / "a.jsonl", progress=False).rows  # fmt: skip

    first = made()
    count = len(asked)
    assert made() == first
    assert len(asked) == count == 8


def test_replayed_rows_are_the_untouched_models_own(world):
    rows = rows_of_world(world, facts=world.facts[:4], reverse=0)
    teacher = LocalTeacher(build_model(), build_tokenizer())
    found = with_replay(
        rows, teacher, 0.2, prompts=["the cat", "a dog", "why so", "what is"], max_new_tokens=4, progress=False
    )
    replayed = found.rows[16:]
    assert len(replayed) == 4
    assert all(row["mode"] == "replay" and row["fact"] == "" and row["completion_ids"] for row in replayed)
    assert found.coverage.rows == rows.coverage.rows, "they count to no fact"
    assert len(found.pairs(build_tokenizer())) == 20
    assert with_replay(rows, teacher, 0) is rows


def test_replay_that_cannot_be_is_refused(world):
    rows = rows_of_world(world, facts=world.facts[:4])
    with pytest.raises(ValueError, match="replay is 1; it is a share"):
        with_replay(rows, Reader(str), 1)
    with pytest.raises(ValueError, match="a teacher behind a server writes none"):
        with_replay(rows, Reader(str), 0.5)
    with pytest.raises(ValueError, match=r"Replay of 0.5 needs 20 prompts beside 20 rows, and there are 1\."):
        with_replay(rows, Reader(str), 0.5, prompts=["so"])


def fact_of(number, text="The mill is old."):
    return KnownFact(str(number), "who", "old", (f"How is mill {number}?",), (), Passage(text, "a.txt"))


def test_a_fact_without_other_passages_has_no_row_with_distractors():
    """Every passage says the answer: nothing could be shown beside it, and no row is made up."""
    rows = rows_of_facts([fact_of(1), fact_of(2)], Setting("mixed", share=0.5))
    assert by_mode(rows) == {"closed": 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "open"}, "mode is 'open'; it must be one of closed, raft, mixed"),
        ({"k": 0}, "k is 0"),
        ({"share": 1}, "share is 1"),
        ({"golden": 1.5}, "golden is 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Setting(**settings)


def test_facts_that_make_no_rows_are_refused(world):
    with pytest.raises(ValueError, match="There are no facts"):
        rows_of_facts([], Setting())
    with pytest.raises(ValueError, match="Two facts have one id"):
        rows_of_facts([fact_of(1), fact_of(1)], Setting())
    for wrong in ({"wordings": 7}, {"wordings": 0}, {"reverse": 3}, {"alterations": -1}):
        with pytest.raises(ValueError, match=r"wordings is \d \(1 to 6\), reverse is \d \(0 to 2\)"):
            known_facts(world, **wrong)
    with pytest.raises(ValueError, match="has no pairs"):
        Rows([], Coverage()).pairs()


PASSAGE = Passage("The tower is 31 metres tall. Ada Brewer built it in 1874; 1874 was a dry year.", "t.txt")


def test_an_altered_passage_says_another_value_wherever_it_said_the_first():
    value, passage = altered(PASSAGE, "1874", [])
    assert re.fullmatch(r"[1-9]\d{3}", value)
    assert passage.text == PASSAGE.text.replace("1874", value)
    assert value != "1874"
    assert passage == replace(PASSAGE, text=passage.text)
    assert altered(PASSAGE, "1874", []) == (value, passage)
    assert altered(PASSAGE, "31 metres", [])[0].endswith(" metres")


def test_a_name_is_replaced_by_another_of_its_form():
    value, passage = altered(PASSAGE, "Ada Brewer", ["Simon Vale", "pickled plums", "Dunmere", "Ada Brewer"])
    assert value == "Simon Vale"
    assert "Simon Vale built it in 1874" in passage.text
    assert altered(PASSAGE, "Ada Brewer", ["Dunmere", "ADA BREWER"]) is None
    assert altered(PASSAGE, "Ada-Brewer", ["Simon Vale"]) is None, "not as it is written there"
