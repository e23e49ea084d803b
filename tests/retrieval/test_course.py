"""Courses of documents: where a fact stands, what changes and what stays, what a file of facts may look like."""

import json
import random
from dataclasses import replace

import pytest

from distill.retrieval.altering import altered
from distill.retrieval.asked_facts import AskedFact, _check, read_asked_facts
from distill.retrieval.course import course_of_documents, course_of_world
from distill.retrieval.documents import Document
from distill.retrieval.passages import Passage
from distill.retrieval.rows import rows_of_world
from distill.retrieval.world import World
from distill.text.saying import says

TOWNS = {
    "Oden": ("Pia Holm", "412"),
    "Ruska": ("Jon Vale", "87"),
    "Temm": ("Ada Brewer", "1,950"),
    "Hask": ("Tove Lind", "3,016"),
}
DOCUMENTS = [
    Document(f"{town}.md", f"# {town}\n\nThe mayor of {town} is {mayor}.\n\n{town} has {people} inhabitants.\n", f"{town}.md", town)
    for town, (mayor, people) in TOWNS.items()
]  # fmt: skip


def facts():
    found = []
    for town, (mayor, people) in TOWNS.items():
        asked = (f"Who is the mayor of {town}?", f"Name the mayor of {town}.", f"Which person leads {town}?")
        found.append(
            AskedFact(
                f"{town} mayor",
                mayor,
                asked,
                (f"Of which town is {mayor} the mayor?", town),
                kind="who",
                changed=f"Bo {town}sen",
            )
        )
        asked = (
            f"How many people live in {town}?",
            f"What is the population of {town}?",
            f"{town} has how many inhabitants?",
        )
        found.append(AskedFact(f"{town} people", people, asked, document=f"{town}.md", kind="how many"))
    return found


def made(asked=None, **given):
    return course_of_documents(
        DOCUMENTS, facts() if asked is None else asked, **{"facts": 6, "untrained": 2, "wordings": 2, **given}
    )


def text(documents, fact):
    return next(one.text for one in documents if one.id == fact.document)


def test_half_of_the_taught_facts_change_and_nothing_else_does():
    for seed in range(8):
        course = made(seed=seed)
        assert (len(course.taught), len(course.changed), len(course.untrained)) == (6, 3, 2)
        assert len({fact.id for fact in (*course.taught, *course.untrained)}) == 8
        for fact in (*course.taught, *course.untrained):
            assert says(text(course.before, fact), fact.value)
            assert says(text(course.after, fact), fact.at(1))
            assert says(text(course.after, fact), fact.value) == (fact.changed is None)
        assert [one.id for one in course.before] == [one.id for one in course.after]
        told = {fact.document for fact in course.changed}
        assert {b.id for b, a in zip(course.before, course.after, strict=True) if b != a} == told
    assert {fact.id for fact in made(seed=0).taught} != {fact.id for fact in made(seed=1).taught}


def test_no_row_has_what_is_asked_nor_the_value_that_comes():
    course = made()
    rows = course.rows("mixed", altered=6, k=2, share=0.5).rows
    shown = [" ".join(turn["content"] for turn in row["prompt"]) for row in rows]
    asked = course.examination(searched=True)
    assert {one.column for one in asked} == {"stable", "changed", "reverse", "distractors", "untrained"}
    assert not any(one.text in words for one in asked for words in shown)
    assert {row["mode"] for row in rows} == {"closed", "counterfactual", "distractors"}
    for fact in course.changed:
        mine = [row for row in rows if row["fact"] == fact.id]
        assert mine
        assert not any(says(row["completion"], fact.changed) for row in mine)
    assert {row["fact"] for row in rows} == {fact.id for fact in course.taught}
    assert all(one.old != one.expected for one in asked)


def test_a_change_of_which_another_fact_speaks_is_not_made():
    """The town of a question, or the answer inside another's, stays."""
    documents = [
        Document("a.md", "The mill of 1904 has 12 wheels. The barn is of 1904. The bell weighs 310 kg.", "a.md"),
        Document("b.md", "The inn has 77 beds. The well is 12 m deep.", "b.md"),
    ]
    asked = [
        AskedFact("wheels", "12 wheels", ("What has the mill of 1904?", "The mill of 1904 has what?"), document="a.md"),
        AskedFact("year", "1904", ("When was the barn built?", "Of what year is the barn?"), document="a.md"),
        AskedFact("bell", "310", ("How heavy is the bell, in kg?", "What weighs the bell, in kg?"), document="a.md"),
        AskedFact("beds", "77", ("How many beds has the inn?", "The inn has how many beds?"), document="b.md"),
    ]
    for seed in range(6):
        course = course_of_documents(documents, asked, facts=3, untrained=1, wordings=1, seed=seed)
        assert course.changed
        assert "year" not in {fact.id for fact in course.changed}
        assert all("1904" in one.text for one in course.after if one.id == "a.md")


def test_a_passage_is_that_which_speaks_of_the_question():
    course = made([AskedFact("n", "87", ("What is the population of Ruska?", "How many live in Ruska?")), *facts()[:4]])
    fact = next(fact for fact in (*course.taught, *course.untrained) if fact.id == "n")
    assert fact.document == "Ruska.md"


def test_wordings_are_held_out_and_one_at_least_is_trained():
    five = AskedFact("x", "Pia Holm", tuple(f"Who is mayor {i} of Oden?" for i in range(5)))
    two = AskedFact("y", "87", ("How many live in Ruska?", "What is Ruska's population?"))
    course = made([five, two, *facts()[4:]], facts=6)
    by_id = {fact.id: fact for fact in (*course.taught, *course.untrained)}
    assert (len(by_id["x"].questions), len(by_id["x"].held_out)) == (2, 2)
    assert (len(by_id["y"].questions), len(by_id["y"].held_out)) == (1, 1)


def test_fewer_facts_are_taken_and_told(capsys):
    course = made(facts()[:4], facts=16, untrained=8)
    assert (len(course.taught), len(course.untrained)) == (3, 1)
    assert "4 facts in all: 3 are taught (of 16 asked for), 1 are not (of 8)." in capsys.readouterr().err
    made([*facts(), AskedFact("again", "412", ("How many are in Oden?", "Oden's people are how many?"))])
    assert "again is left out: its answer, '412', is that of Oden people, too." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (facts()[:2], "There are 2 facts with an answer of their own"),
        ([*facts(), AskedFact("no", "4711", ("What?", "Which?"))], "no: No document says the answer '4711'"),
        ([*facts(), AskedFact("no", "87", ("What?", "Which?"), document="Oden.md")], "no: The document Oden.md says"),
        ([*facts(), AskedFact("no", "87", ("What?", "Which?"), document="Odin.md")], "there is no document 'Odin.md'; there are 4, such as Oden.md"),
        ([replace(fact, changed=None) for fact in facts() if fact.kind == "who"], "No document can be changed"),
        ([*facts(), AskedFact("no", "inhabitants", ("What has it?", "It has what?"))], "no: Oden.md and Ruska.md both say 'inhabitants'"),
    ],
)  # fmt: skip
def test_what_is_no_course_is_refused(asked, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        made(asked)


def test_a_world_is_a_course_as_any_other():
    world, course = World(3, facts=12), course_of_world(3, 8, 4, wordings=2)
    assert course.taught == world.facts[:8]
    assert course.after == tuple(world.documents(1))
    rows = rows_of_world(world, "mixed", facts=world.facts[:8], wordings=2, reverse=0, alterations=3, k=2)
    assert course.rows("mixed", altered=3, k=2).rows == rows.rows


def test_a_file_of_facts_is_read_in_its_forms(tmp_path):
    own = [
        {"questions": ["How many?", "What number?"], "answer": 412, "document": "Oden.md"},
        {
            "questions": ["Who?", "Which person?", "Who?"],
            "answer": " Pia Holm ",
            "reverse_question": "Where?",
            "reverse_answer": "Oden",
        },
    ]
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in own))
    first, second = read_asked_facts(path)
    assert (first.answer, first.document, first.kind, first.reverse) == ("412", "Oden.md", "how many", None)
    assert (second.answer, second.questions, second.reverse) == (
        "Pia Holm",
        ("Who?", "Which person?"),
        ("Where?", "Oden"),
    )
    # the rows that generate writes of documents: their closed ones, a fact together
    course = made()
    rows = course.rows("mixed", altered=2, k=2, share=0.4).rows
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = {fact.answer: fact for fact in read_asked_facts(path)}
    assert {fact.value: fact.questions for fact in course.taught} == {
        answer: one.questions for answer, one in read.items()
    }
    assert all(one.kind in ("who", "how many") for one in read.values())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Who?", "completion": "Pia"}, "has the columns prompt, completion and is no fact .questions: 'None'.: a row has `questions`"),
        ({"questions": "Who leads Oden?", "answer": "Pia"}, "has one wording, 'Who leads Oden\\?'"),
        ({"questions": ["Who?", "Is it Pia Holm?"], "answer": "Pia Holm"}, "'Is it Pia Holm\\?' says its own answer"),
        ({"questions": ["Who?", "Which?"], "answer": "?!"}, "the answer is '\\?!', which has no word"),
        ({"questions": ["Who?", "Which?"], "answer": ["Pia", "Jon"]}, "is no fact .answer: "),
        ({"questions": ["Who?", "Which?"], "answer": "Pia", "reverse_question": "Where?"}, "give both as text, or neither"),
        ({"fact": "a#b", "wording": "forward-0", "mode": "raft", "prompt": "x", "answer": "b"}, "rows of mode raft alone"),
        ({"fact": "a#b", "wording": "reverse-0", "mode": "closed", "prompt": "x", "answer": "b"}, "only asked in reverse"),
        ({"fact": "a#b", "wording": "forward-0", "mode": "closed", "prompt": "", "answer": "b"}, "that of a closed row is a question"),
    ],
)  # fmt: skip
def test_what_is_no_fact_is_refused_by_its_row(tmp_path, row, said):
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=said) as refused:
        read_asked_facts(path)
    assert "facts.jsonl" in str(refused.value)


def test_a_value_is_replaced_by_one_of_its_form():
    """A path by a path, a word by a word without digits."""
    passage = Passage("The logs are in /usr/adm, and xconsole reads them.", "a.md")
    others = ["41", "uucico", "dbus-daemon-1", "/var/mail", "BSD", "log files"]
    assert {altered(passage, "/usr/adm", others, seed)[0] for seed in range(9)} == {"/var/mail"}
    assert {altered(passage, "xconsole", others, seed)[0] for seed in range(9)} == {"uucico"}


def test_a_new_value_is_nobodys_and_is_not_in_the_question():
    """Nor is a value of a training row one that will come, or that of an untrained fact."""
    for seed in range(12):
        course = made(
            [replace(fact, changed=None) if fact.kind == "how many" else fact for fact in facts()],
            seed=seed,
            facts=5,
            untrained=3,
        )
        known = [fact.value for fact in (*course.taught, *course.untrained)]
        new = [fact.changed for fact in course.changed]
        assert len({*known, *new}) == len(known) + len(new)
        assert not any(says(one.text, value) for one in course.before for value in new)
        said = " ".join(row["completion"] for row in course.rows("mixed", altered=9, k=2, share=0.6).rows)
        assert not any(says(said, value) for value in new)
        assert not any(says(said, fact.value) for fact in course.untrained)
    fact = AskedFact(
        "deputy",
        "Pia Holm",
        ("Who is the deputy of Jon Vale in Oden?", "Who stands in for Jon Vale?"),
        changed="Jon Vale",
    )
    with pytest.raises(ValueError, match="says its own answer, 'Jon Vale'"):
        _check(fact)


def test_what_several_documents_say_stays(capsys):
    """A fact that another document goes on saying as it was has not changed."""
    port = Document("b.md", "The port of the gate is 8080 by day.", "b.md")
    documents = [*DOCUMENTS, Document("a.md", "The port of the server is 8080.", "a.md"), port]
    asked = [
        AskedFact("port", "8080", ("What is the port of the server?", "At which port is the server?"), document="a.md", changed="9705"), *facts()
    ]  # fmt: skip
    for seed in range(6):
        course = course_of_documents(documents, asked, facts=6, untrained=1, wordings=1, seed=seed)
        assert "port" not in {fact.id for fact in course.changed}
    assert "port cannot change to '9705': b.md says its answer, too." in capsys.readouterr().err


def test_of_two_documents_that_may_be_meant_one_is_to_be_named():
    documents = [
        *DOCUMENTS,
        Document("x.md", "The library of Temm has 3,500 maps.", "x.md"),
        Document("y.md", "The archive of Temm has 3,500 maps of its own.", "y.md"),
        Document("z.md", "A list of prices: rope 3,500, wool 87, salt 412, what a thing is the cost of.", "z.md"),
    ]
    maps = AskedFact("maps", "3,500", ("How many maps are there in Temm?", "Temm has how many maps?"))
    with pytest.raises(
        ValueError, match=r"maps: [xy].md and [xy].md both say '3,500' and speak of the question; name the one"
    ):
        course_of_documents(documents, [*facts(), maps], facts=4, untrained=1, wordings=1)
    people = AskedFact(
        "people", "87", ("What is the population of the town of Ruska?", "How many inhabitants has Ruska?")
    )
    course = course_of_documents(documents, [people, *facts()[:3]], facts=3, untrained=1, wordings=1)
    assert next(f for f in (*course.taught, *course.untrained) if f.id == "people").document == "Ruska.md"


def test_tables_and_data_sets_of_questions_are_read(tmp_path):
    path = tmp_path / "facts.csv"
    path.write_text(
        "question,answer,document\nWho leads Oden?,Pia Holm,\nName Oden's mayor.,Pia Holm,\nwho leads oden,Pia Holm,\n"
        '"[""How many live in Oden?"", ""What is the population of Oden?""]",412,Oden.md\n'
    )
    first, second = read_asked_facts(path)
    assert (first.questions, first.document) == (("Who leads Oden?", "Name Oden's mayor."), None)
    assert (len(second.questions), second.answer, second.document) == (2, "412", "Oden.md")
    path = tmp_path / "squad.jsonl"
    rows = [
        {"question": q, "answers": {"text": ["Pia Holm", "Pia Holm"], "answer_start": [3, 3]}} for q in first.questions
    ]
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"questions": ["When?", "In which year?"], "answer": 1904.0}])
    )
    assert [fact.answer for fact in read_asked_facts(path)] == ["Pia Holm", "1904"]
    path.write_text(
        "".join(
            json.dumps({"questions": ["Who is the mayor?", name], "answer": name}) + "\n" for name in ("Pia", "Jon")
        )
    )
    with pytest.raises(ValueError, match="says its own answer"):
        read_asked_facts(path)
    path.write_text(
        "".join(
            json.dumps({"questions": ["Who is the mayor?", q], "answer": name}) + "\n"
            for q, name in (("a", "Pia"), ("b", "Jon"))
        )
    )
    with pytest.raises(ValueError, match=r"ask 'Who is the mayor\?' with two answers, 'Pia' and 'Jon'"):
        read_asked_facts(path)


@pytest.mark.parametrize(
    "answer", ["15 March 2024", "2024-01-15", "12:30", "40%", "127.0.0.1", "IPv4", "dbus-daemon-1"]
)
def test_what_other_digits_would_spoil_is_no_number(answer):
    assert altered(Passage(f"It is {answer} there.", "a.md"), answer, []) is None
    assert altered(Passage("It is 12 m.", "12.md"), "12", []) is None, "its source goes on saying it"


def test_a_year_stays_a_year_and_scripts_without_spaces_are_read():
    assert all(
        1900 < int(altered(Passage("Built in 2004.", "a.md"), "2004", [], seed)[0]) <= 2100 for seed in range(20)
    )
    assert altered(Passage("奥登有412名居民。", "a.md"), "412", [])[1].text.endswith("名居民。")
    assert altered(Passage("It is Pia\n  Holm.", "a.md"), "Pia Holm", ["Jon Vale"])[1].text == "It is Jon Vale."


def rows_file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_two_questions_with_one_answer_are_two_facts(tmp_path, capsys):
    mill = {"questions": ["When was the mill built?", "Of what year is the mill?"], "answer": "1874"}
    bridge = {"questions": ["When did the bridge open?", "Of what year is the bridge?"], "answer": "1874"}
    found = read_asked_facts(rows_file(tmp_path / "a.jsonl", [mill, bridge]))
    assert [fact.questions for fact in found] == [tuple(mill["questions"]), tuple(bridge["questions"])]
    assert "one question each" not in capsys.readouterr().err
    # of a course one is left out, and that is told
    document = Document(
        "a.md", "The mill and the bridge are of 1874. The gate has 52 bars, the tower 31 steps.", "a.md"
    )
    more = [
        AskedFact(name, value, (f"How many {name} has it?", f"What number of {name}?"))
        for name, value in (("bars", "52"), ("steps", "31"))
    ]
    course_of_documents([document], [*found, *more], facts=2, untrained=1, wordings=1)
    assert "a.jsonl:2 is left out: its answer, '1874', is that of a.jsonl:1, too." in capsys.readouterr().err


def test_rows_of_one_question_that_are_taken_for_one_fact_are_told(tmp_path, capsys):
    asked = ["When was the mill built?", "When did the bridge open?"]
    rows = [{"question": question, "answer": "1874"} for question in asked]
    (fact,) = read_asked_facts(rows_file(tmp_path / "a.jsonl", rows))
    assert fact.questions == tuple(asked)
    said = capsys.readouterr().err
    assert (
        "2 rows of one question each are 1 facts, by their answers ('1874': When was the mill built? / When did" in said
    )
    for name, values in (("changed", ("1901", "1902")), ("reverse_question", ("Which?", "What?"))):
        beside = {"reverse_answer": "x"} if name == "reverse_question" else {}
        two = [{**row, **beside, name: value} for row, value in zip(rows, values, strict=True)]
        with pytest.raises(ValueError, match=r"a\.jsonl:1 and .*a\.jsonl:2 are one fact, by their answer '1874'"):
            read_asked_facts(rows_file(tmp_path / "a.jsonl", two))


def test_a_fact_is_named_by_its_file_wherever_that_lies(tmp_path):
    (tmp_path / "sub").mkdir()
    row = {"questions": ["When?", "In which year?"], "answer": "1874"}
    found = [read_asked_facts(rows_file(folder / "a.jsonl", [row])) for folder in (tmp_path, tmp_path / "sub")]
    assert found[0] == found[1]
    assert found[0][0].where == "a.jsonl:1"


def test_drawn_numbers_of_training_rows_are_nobodys_value():
    """Of twenty courses of two-digit numbers seven trained the answer of an untrained fact."""
    for seed in range(12):
        numbers = random.Random(seed).sample(range(10, 99), 12)
        documents = [Document(f"d{i}", f"The account no{i}x has uid {n}.", f"d{i}") for i, n in enumerate(numbers)]
        asked = [
            AskedFact(f"a{i}", str(n), (f"Which uid has no{i}x?", f"Uid of no{i}x?", f"What uid does no{i}x have?"))
            for i, n in enumerate(numbers)
        ]
        course = course_of_documents(documents, asked, facts=8, untrained=4, wordings=1, seed=seed)
        rows = course.rows("mixed", altered=6, k=2, share=0.6).rows
        assert not {row["completion"] for row in rows} & {fact.value for fact in course.untrained}
        drawn = {row["completion"] for row in rows if row["mode"] == "counterfactual"}
        assert drawn
        assert not drawn & {fact.value for fact in course.taught}


def test_a_given_value_is_new_and_leaves_nothing_of_the_old_one(capsys):
    text = "The chief tool is operator here. Operator was bought in 2001. The gate has 84 bars and the door has 37 nails. The keeper is Ada Brewer."
    asked = [
        AskedFact("tool", "operator", ("What is the chief tool?", "Name the chief tool."), changed="flush"),
        AskedFact("nails", "37", ("How many nails has the door?", "Count of nails?"), changed="84"),
        AskedFact("keeper", "Ada Brewer", ("Who is the keeper?", "Name the keeper."), changed="Jo"),
        AskedFact("year", "2001", ("When was it bought?", "In which year was it bought?")),
    ]
    for seed in range(6):
        course = course_of_documents([Document("a", text, "a")], asked, facts=3, untrained=1, wordings=1, seed=seed)
        assert {fact.id for fact in course.changed} <= {"keeper", "year"}
    said = capsys.readouterr().err
    assert "tool cannot change to 'flush': its document says its answer once more, in other letters." in said
    assert "nails cannot change to '84': a says that already." in said
