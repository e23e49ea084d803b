"""Facts written out of documents: what is asked, what is turned down and counted, and what each check lets through."""

import re
from collections import Counter

import pytest
from test_rows_of_facts import Reader

from distill.retrieval import verifying as v
from distill.retrieval.documents import Document
from distill.retrieval.row_modes import Setting, rows_of_facts
from distill.retrieval.rows import answered
from distill.retrieval.writing import facts_of_documents, sentences_of

TEXT = "# Oden\n\nOden is a village in the hills. Its mayor is Pia Holm. It has 412 inhabitants. A bell rings there at noon.\n"
DOCUMENT = Document("oden.md", TEXT, "oden.md", "Oden")
ABOUT = {
    "Oden is a village in the hills.": "Question: Where is Oden?\nAnswer: in the hills.",
    "Its mayor is Pia Holm.": "Question: Who is the mayor of Oden?\nAnswer: Pia Holm",
    "It has 412 inhabitants.": "Question: How many inhabitants does Oden have?\nAnswer: 412",
    "A bell rings there at noon.": "Question: When does it ring?\nAnswer: at noon",
}
REVERSE = {"Who is the mayor of Oden?": "Question: Which village has Pia Holm as its mayor?\nAnswer: Oden"}
ANSWERS = {"Who": "Pia Holm", "What is the name": "Pia Holm", "How many": "There are 412.", "Which village": "Oden", "Where": "I do not know."}  # fmt: skip


def say(text):
    """A teacher that writes one usable question about most sentences, and answers most of them."""
    turn = text.rsplit("user", 1)[1].split("<|im_end|>")[0]
    if "Write a question about this sentence" in turn:
        return ABOUT[turn.rsplit("in its words: ", 1)[1].strip()]
    if "Ask the same in other words: " in turn:
        return "What is the name of the mayor of Oden?" if "mayor" in turn else "I cannot."
    if "Turn this round" in turn:
        question = turn.rsplit("Question: ", 1)[1].split("\n")[0]
        return REVERSE.get(question, "Question: How so?\nAnswer: Oden")
    question = turn.rsplit("Question: ", 1)[1].strip()
    return next(said for start, said in ANSWERS.items() if question.startswith(start))


def written(**settings):
    return facts_of_documents(Reader(say), [DOCUMENT], **{"samples": 1, "progress": False, **settings})


def test_facts_are_written_verified_and_counted():
    facts, coverage = written()
    assert [(f.kind, f.answer, f.questions) for f in facts] == [
        ("who", "Pia Holm", ("Who is the mayor of Oden?", "What is the name of the mayor of Oden?")),
        ("how many", "412", ("How many inhabitants does Oden have?",)),
    ]
    assert facts[0].reverse == (("Which village has Pia Holm as its mayor?", "Oden"),)
    assert facts[1].altered
    assert facts[1].altered[0][0] in facts[1].altered[0][1].text
    told = Counter[tuple[str, str]]()
    for (check, fault, _), number in coverage.faults.items():
        told[check, fault] += number
    assert told[("questions", v.NAMES_NOTHING)] == 1
    assert told[("asked back", v.WRONG)] == 1
    assert told[("turned round", v.NOT_TURNED)] == 2
    assert told[("wordings", v.NO_QUESTION)] > 8
    coverage.count(rows_of_facts(facts, Setting()))
    assert coverage.lost_kinds == ["when", "where"], "what a check removed whole has a name"
    assert "No row is left of 2 kinds of facts: when, where." in coverage.table()


def test_the_same_teacher_answers_the_rows(tmp_path):
    facts, coverage = written(ask_back=False, output=tmp_path / "pairs.jsonl")
    assert {f.name for f in tmp_path.iterdir() if f.name.endswith("ed.jsonl") or f.name.endswith("s.jsonl")} == {
        "pairs.jsonl.questions.jsonl", "pairs.jsonl.wordings.jsonl", "pairs.jsonl.reversed.jsonl",
    }  # fmt: skip
    rows = answered(Reader(say), rows_of_facts(facts, Setting()), coverage, progress=False)
    assert {row["answer"] for row in rows.rows} == {"Pia Holm", "412", "Oden"}
    assert coverage.lost_kinds == ["when", "where"]


def test_some_passages_alone_are_asked_about():
    others = [Document(f"{i}.md", TEXT.replace("Oden", f"Oden{i}"), f"{i}.md", f"Oden{i}") for i in range(6)]

    def anything(text):
        turn = text.rsplit("user", 1)[1]
        name = re.findall(r"Oden\d", turn)[-1]
        return f"Question: Who is the mayor of {name}?\nAnswer: Pia Holm" if "Write a question" in turn else "Pia Holm"

    made = [facts_of_documents(Reader(anything), others, chunks=2, samples=1, progress=False)[0] for _ in range(2)]
    assert made[0] == made[1]
    assert len({fact.passage.document for fact in made[0]}) == 2


def test_nothing_that_can_be_used_is_refused_with_the_reasons():
    with pytest.raises(
        ValueError, match=r"(?s)none can be used; a larger teacher is needed.*not of the form asked for"
    ):
        facts_of_documents(Reader(lambda _: "no"), [DOCUMENT], samples=1, progress=False)


def test_a_question_has_one_answer_whatever_document_it_is_of():
    """Bare, it would teach both; turned round, too. The first is kept, and the other counted."""
    text = "# {0}\n\nThe mayor of {0} is Pia Holm. The bell of {0} weighs {1} tons.\n"
    others = [
        Document(name, text.format(name, tons), name, name)
        for name, tons in (("Oden", "1,084"), ("Temm", "1084"), ("Ruska", "7"))
    ]

    def anything(text):
        turn = text.rsplit("user", 1)[1].split("<|im_end|>")[0]
        name = re.findall("Oden|Temm|Ruska", turn)[-1] if "Turn" not in turn else "Oden"
        if "Write a question" in turn:
            if "mayor" in turn.rsplit("words: ")[1]:
                return f"Question: Who is the mayor of {name}?\nAnswer: Pia Holm"
            return f"Question: How heavy is the bell of Oden, Temm and Ruska?\nAnswer: {re.findall('weighs ([0-9,]+)', turn)[-1]}"
        if "Ask the same" in turn:
            return "Who leads Oden, Temm and Ruska as their mayor?" if "mayor" in turn else "no"
        mayor = re.search(r"mayor of (\w+)", turn)
        return f"Question: Which village has Pia Holm?\nAnswer: {mayor[1]}" if mayor else "no"

    facts, coverage = facts_of_documents(Reader(anything), others, samples=1, ask_back=False, progress=False)
    faults = {(check, kind): number for (check, fault, kind), number in coverage.faults.items() if fault == v.ASKED}
    assert faults == {("questions", "how"): 1, ("turned round", "who"): 2}
    assert [fact.answer for fact in facts if "bell" in fact.questions[0]] == ["1,084", "1084"]
    assert [fact.reverse for fact in facts if "mayor" in fact.questions[0]] == [
        (("Which village has Pia Holm?", "Oden"),),
        (),
        (),
    ]


def test_documents_without_a_sentence_are_refused():
    table = Document("t.md", "# Heading of a page\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", "t.md")
    with pytest.raises(ValueError, match="no sentence of 4 words or more to ask about"):
        facts_of_documents(Reader(say), [table], progress=False)


@pytest.mark.parametrize("wrong", [{"wordings": 0}, {"samples": 0}, {"alterations": -1}, {"chunks": 0}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="they are at least 1"):
        written(**wrong)


def test_headings_tables_and_code_are_no_sentences():
    text = "# A heading of five words\n\nThe mill is old. It turns at night!\nShort one.\n\n| a cell of a table |\n```\nx\n```\n"
    assert sentences_of(text) == ["The mill is old.", "It turns at night!"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The Package of All Mills\n------------------------\n\nThe mill is very old.", ["The mill is very old."]),
        ("It is old.\n\nWhat one has to know\n====================\nThe mill is very old.", ["The mill is very old."]),
        ("The mill is old and it\nturns.\n\n---\n\nIt has a bell, too.", ["The mill is old and it turns.", "It has a bell, too."]),
        ("```sh\nls of all the files\n```\nThe mill is very old.", ["The mill is very old."]),
        ("and the rest of a block\n```\nThe mill is very old.", ["and the rest of a block", "The mill is very old."]),
        ("- the first of all items\n- the second of all items,\n  in two lines", ["the first of all items", "the second of all items, in two lines"]),
        ("1. the first of all items\n2. a short one", ["the first of all items"]),
        ("It was begun by Andrew L. Moore. It is old, e.g. in its man page.", ["It was begun by Andrew L. Moore.", "It is old, e.g. in its man page."]),
        ("~~~\nls of all the files\n~~~\n\n~~~\nls of all the files\n~~~\n", []),
    ],
    ids=["heading", "second heading", "ruler", "code", "half a block", "list", "numbers", "initials", "two blocks"],
)  # fmt: skip
def test_underlined_headings_and_fenced_code_are_none_and_items_are_one_each(text, found):
    """The heading of a Debian manual was asked about, and a list of fonts was one sentence of 90 words."""
    assert sentences_of(text) == found


GOOD = ("Who is the mayor of Oden?", "Pia Holm")


@pytest.mark.parametrize(
    ("question", "answer", "fault"),
    [
        (*GOOD, None),
        ("How many people live there, in Oden?", "412", None),
        (GOOD[0], "Pia", None),
        (GOOD[0], "Pia Holmes", v.NOT_SAID),
        ("How many inhabitants does Oden have?", "41", v.NOT_SAID),
        (GOOD[0], "", v.NOT_SAID),
        ("What is Oden?", TEXT.split("\n\n")[1][:-1], v.LONG),
        ("Is Pia Holm the mayor of Oden?", "Pia Holm", v.GIVEN_AWAY),
        ("Who is the mayor of Oden", "Pia Holm", v.NO_QUESTION),
        ("Who in Oden?", "Pia Holm", None),
        ("Oden?", "Pia Holm", v.NO_QUESTION),
        ("Who is Oden's mayor in this passage?", "Pia Holm", v.OF_THE_PASSAGE),
        ("Who is the mayor?", "Pia Holm", v.NAMES_NOTHING),
        ("Who is the mayor of Berlin?", "Pia Holm", v.NAMES_NOTHING),
    ],
)
def test_a_question_is_used_only_if_it_can_be_learned(question, answer, fault):
    assert v.fault_of_question(question, answer, TEXT, "Oden") == fault


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("Its mayor is Pia Holm", v.WHOLE),
        ("Its mayor is Pia Holm. It has 412 inhabitants", v.WHOLE),
        ("Pia Holm", None),
        ("is Pia Holm. It has 412", None),
    ],
)
def test_a_whole_sentence_is_no_short_answer(answer, fault):
    """A small teacher gave one for an answer to whatever it had asked: it stands in the passage."""
    assert v.fault_of_question("Who made the bell of Oden?", answer, TEXT, "Oden", sentences_of(TEXT)) == fault


def test_another_wording_keeps_names_and_numbers():
    original = "Who was the mayor of Oden in 1874?"
    assert v.fault_of_wording("In 1874, who led Oden as mayor?", "Pia Holm", original) is None
    assert v.fault_of_wording("Who led the village in 1874?", "Pia Holm", original) == v.OTHER_NAMES
    assert v.fault_of_wording("Who led Oden?", "Pia Holm", original) == v.OTHER_NAMES


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Question: Who is it?\nAnswer: Pia Holm.\n\nQuestion: more", ("Who is it?", "Pia Holm")),
        ("Who is it?\nAnswer: Pia", ("Who is it?", "Pia")),
        ("Question: Who is it?", None),
        ("Question: Who is it?\nAnswer: ", None),
        ("Answer: Pia", None),
        ("", None),
    ],
)
def test_what_was_written_is_read_in_its_form_alone(text, found):
    assert v.question_and_answer(text) == found


def test_a_verifier_is_of_the_same_form_as_others():
    assert v.supported({"answer": "412"}, "It has 412 inhabitants.")
    assert not v.supported({"answer": "412"}, "It has 4120 inhabitants.")
    with pytest.raises(ValueError, match="the row's answer is None"):
        v.supported({}, "412")


@pytest.mark.parametrize(
    ("question", "answer", "passage"),
    [
        ("奥登的磨坊是哪一年建的？", "1874年", "奥登有一座磨坊。它建于1874年。"),
        ("متى بنيت المطحنة القديمة؟", "1874", "بنيت المطحنة القديمة في 1874."),
        ("Кто построил старую мельницу в Одене?", "Пётр", "В Одене мельницу построил Пётр."),
        ("Ποιος έχτισε τον μύλο στο Όντεν;", "Άρης", "Ο Άρης έχτισε τον μύλο στο Όντεν."),
        ("¿Quién construyó el molino de Oden?", "Juan", "Juan construyó el molino de Oden."),
    ],
    ids=["Chinese", "Arabic", "Russian", "Greek", "Spanish"],
)
def test_questions_of_other_scripts_are_used(question, answer, passage):
    assert v.question_and_answer(f"Question: {question}\nAnswer: {answer}") == (question, answer)
    assert v.fault_of_question(question, answer, passage) is None
    assert v.fault_of_wording(question[:-1], answer) == v.NO_QUESTION
    assert v.fault_of_question(question, "x", passage) == v.NOT_SAID


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Кто построил старую мельницу в Одене?", ["Одене"]),
        ("Wie groß ist die ältere Brücke über den Fluss?", ["Brücke", "Fluss"]),
        ("¿Quién construyó el molino de Oden en 1874?", ["Oden", "1874"]),
        ("奥登的磨坊在1874年由谁建？", ["1874"]),
        ("31.5 metres is the height of what at Oden?", ["31.5", "Oden"]),
        ("It was Ada. Who built it for L. Moore?", ["Ada", "L"]),
    ],
)
def test_names_are_words_with_a_capital_in_whatever_script(text, found):
    """Any letter beside a to z was one: each word that began with a Cyrillic letter or an umlaut."""
    assert v.names(text) == found


def test_a_semicolon_asks_in_greek_alone():
    assert v.question_and_answer("It is very old;\nAnswer: x") is None
    assert v.fault_of_question("它是谁的磨坊？", "Pia", "塔很高。Pia") == v.NAMES_NOTHING, (
        "nothing of the passage in it"
    )


def test_two_facts_of_a_document_with_one_answer_stay_two():
    text = "The mill of Oden has two sails. The bridge of Leck has two arches. Oden and Leck have two bells."
    document = Document("a.md", text, "a.md", "Towns")
    asked = {
        "sails": ["How many sails has the mill of Oden?", "What number of sails is at Oden?"],
        "arches": ["How many arches has the bridge of Leck?", "How many sails has the mill of Oden?"],
        "bells": ["How many bells has Oden?", "How many bells has Leck?"],
    }

    def writes(text):
        turn = text.rsplit("user", 1)[1]
        if "Write a question" not in turn:
            return "no"
        name = re.search("sails|arches|bells", turn.rsplit("words: ")[1])[0]
        turns[name] = turns.get(name, -1) + 1
        return f"Question: {asked[name][turns[name] % 2]}\nAnswer: two"

    turns = {}
    facts, coverage = facts_of_documents(Reader(writes), [document], samples=2, ask_back=False, progress=False)
    assert sorted(sorted(fact.questions) for fact in facts) == sorted(
        [sorted(asked["sails"]), [asked["arches"][0]], [asked["bells"][0]], [asked["bells"][1]]]
    )
    names = [f"a.md#two{number}" for number in ("", " (2)", " (3)", " (4)")]
    assert [fact.id for fact in facts] == [*coverage.kinds] == names
    rows = rows_of_facts(facts, Setting())
    assert {row["fact"].rpartition("#")[0] for row in rows} == {"a.md"}, "the document is told from it"
