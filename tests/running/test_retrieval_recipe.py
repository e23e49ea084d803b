"""`distill retrieval` on a tiny model: a whole run with its files, gone on with; what is refused."""

import json

import pytest
from conftest import build_model, save_teacher

from distill.retrieval.examining import Examined
from distill.teachers import LocalTeacher

FLAGS = ["--facts", "4", "--untrained", "2", "--wordings", "2", "--k", "3", "--upper_layers", "1", "--kept_prompts", "2",
         "--bf16", "False", "--max_steps", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_teacher(folder)  # its tokenizer and prompts
    build_model(max_position_embeddings=8192, initializer_range=0.02).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_a_run_trains_changes_documents_and_asks_every_arm(model, tmp_path, told):
    flags = ["--model", model, "--prompts", model / "prompts.txt", "--output_dir", tmp_path / "run", *FLAGS]
    said = told("retrieval", *flags, "--arms", "sft_mixed,context,shuffled")
    found = json.loads((tmp_path / "run" / "retrieval.json").read_text())
    assert [run["arm"] for run in found["runs"]] == ["untouched", "context", "sft_mixed", "shuffled"]
    changed = found["facts"]["changed"]
    assert 0 < changed < 4
    for run in found["runs"]:
        closed, retrieved = ([Examined.of(one) for one in run[way]] for way in ("closed", "retrieved"))
        columns = [one.question.column for one in retrieved]
        assert columns.count("changed") == 2 * changed
        assert columns.count("stable") == 2 * (4 - changed)
        assert columns.count("untrained") == 2
        assert {one.question.column for one in closed} == {"stable", "changed", "reverse"}
        # the index holds the documents as they are after the change
        assert any(one.found for one in retrieved if one.question.column == "changed")
        assert all(one.question.expected != one.question.old for one in retrieved)
        assert (run["kept"]["kl"] > 0) is (run["arm"] != "untouched")
    assert found["update"]["documents"] > 0
    # every arm was asked about a changed document after the change
    anew = found["update"]["arms"]
    assert [one["arm"] for one in anew] == [run["arm"] for run in found["runs"]]
    for one, run in zip(anew, found["runs"], strict=True):
        mine = [answer for answer in run["retrieved"] if answer["question"]["column"] == "changed"]
        assert (one["text"], one["seconds"]) == (mine[0]["text"], mine[0]["seconds"])
        assert one["count"] == 2 * changed
    assert f"The index had {found['update']['documents']} changed documents after" in said
    page = (tmp_path / "run" / "retrieval.html").read_text()
    assert "Context distillation" in page
    assert "| Untouched | closed-book |" in said
    # only the upper layer was trained
    from transformers import AutoModelForCausalLM

    # a student starts from the model as it is loaded, in bfloat16 where the machine is fast at it
    before = LocalTeacher(str(model)).model.float().state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "sft_mixed-seed0" / "student").state_dict()
    moved = {name.split(".")[2] for name in before if not before[name].equal(after[name])}
    assert moved == {"1"}

    # another arm is added; what is there is not asked and not trained again
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*seed0/*.json")}
    told("retrieval", *flags, "--arms", "sft_mixed,context,shuffled,sft")
    more = json.loads((tmp_path / "run" / "retrieval.json").read_text())
    assert [run["arm"] for run in more["runs"]] == ["untouched", "sft", "context", "sft_mixed", "shuffled"]
    assert more["runs"][0] == found["runs"][0]
    assert stamps
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert "holds another run (facts: 4 there, 5 now)" in told("retrieval", *flags, "--facts", "5", status=1)


def town(name, mayor, people):
    asked = [f"Who is the mayor of {name}?", f"Name the mayor of {name}.", f"Which person leads {name}?"]
    counted = [
        f"How many people live in {name}?",
        f"What is the population of {name}?",
        f"{name} has how many inhabitants?",
    ]
    more = {"reverse_question": f"Of which town is {mayor} the mayor?", "reverse_answer": name}
    return [
        {"questions": asked, "answer": mayor, "changed": f"Bo {name}sen", **more},
        {"questions": counted, "answer": people, "document": f"{name}.md"},
    ]


@pytest.fixture
def documents(tmp_path):
    """A folder of documents with a file that is none, and facts of them."""
    (tmp_path / "towns").mkdir()
    rows = []
    for name, mayor, people in (
        ("Oden", "Pia Holm", "412"),
        ("Ruska", "Jon Vale", "87"),
        ("Temm", "Ada Brewer", "1,950"),
    ):
        text = f"# {name}\n\nThe mayor of {name} is {mayor}.\n\n{name} has {people} inhabitants.\n"
        (tmp_path / "towns" / f"{name}.md").write_text(text)
        rows += town(name, mayor, people)
    (tmp_path / "towns" / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "towns"


@pytest.mark.filterwarnings("ignore")
def test_documents_of_ones_own_are_a_run_as_any_other(model, documents, tmp_path, told):
    flags = [
        "--model",
        model,
        "--prompts",
        model / "prompts.txt",
        "--output_dir",
        tmp_path / "run",
        *FLAGS,
        "--arms",
        "sft_mixed,shuffled",
    ]
    mine = ["--documents", documents, "--questions", tmp_path / "facts.jsonl"]
    # what is wrong with questions is told before the folder is a run's
    right = (tmp_path / "facts.jsonl").read_text()
    (tmp_path / "facts.jsonl").write_text(right.replace("412", "413"))
    assert "Oden.md says the answer '413' in these words" in told("retrieval", *flags, *mine, status=1)
    assert not (tmp_path / "run").exists()
    (tmp_path / "facts.jsonl").write_text(right)
    said = told("retrieval", *flags, *mine)
    assert "picture.png (binary)" in said
    assert "rows with another value in the passage" in (tmp_path / "run" / "retrieval.html").read_text()
    found = json.loads((tmp_path / "run" / "retrieval.json").read_text())
    assert found["facts"] == {"taught": 4, "changed": 2, "untrained": 2}
    assert found["documents"] == {"before": 3, "of": str(documents)}
    for run in found["runs"]:
        answers = [Examined.of(one) for one in run["retrieved"]]
        assert {"stable", "changed", "untrained", "distractors"} <= {one.question.column for one in answers}
        assert all(one.found for one in answers if one.question.column in ("changed", "stable"))
    assert f"3 documents of {documents}" in (tmp_path / "run" / "retrieval.html").read_text()
    # questions that lie somewhere else are the same
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*seed0/*.json")}
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "facts.jsonl").rename(tmp_path / "elsewhere" / "others.jsonl")
    mine[3] = tmp_path / "elsewhere" / "others.jsonl"
    told("retrieval", *flags, *mine)
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    # another text in a document is another run, and so is another file of questions
    (documents / "Oden.md").write_text((documents / "Oden.md").read_text() + "It is old.\n")
    assert "holds another run (documents_are" in told("retrieval", *flags, *mine, status=1)
    (tmp_path / "more.jsonl").write_text(right.replace("Name the mayor", "Say the mayor"))
    assert "questions_are" in told(
        "retrieval", *flags, "--documents", documents, "--questions", tmp_path / "more.jsonl", status=1
    )


def test_a_model_that_can_write_no_questions_says_so(model, documents, tmp_path, told):
    flags = ["--model", model, "--output_dir", tmp_path / "run", *FLAGS, "--documents", documents, "--passages", "2"]
    said = told("retrieval", *flags, status=1)
    assert "the model writes them" in said
    assert "a larger teacher is needed" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--questions", "facts.jsonl"], "--questions: this is of documents of your own; name them with --documents"),
        (["--passages", "3", "--suffixes", ".html"], "--passages, --suffixes: this is of documents of your own"),
        (["--documents", "x", "--questions", "y", "--passages", "3"], "--passages: with --questions nobody writes any"),
        (["--documents", "nowhere"], "nowhere"),
        (["--arms", "sft,rag"], "arms has 'rag'; it must list some of sft, context"),
        (["--k", "0"], "k is 0; it must be at least 1."),
        (["--facts", "1"], "facts is 1; of two or more, half change"),
        (["--num_train_epochs", "2.5"], "num_train_epochs is 2.5; arms are compared at whole epochs"),
        (["--upper_layers", "3"], "upper_layers is 3, and the model has 2 layers."),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_made(model, tmp_path, told, flags, said):
    output = told("retrieval", "--model", model, "--output_dir", tmp_path / "run", *FLAGS, *flags, status=1)
    assert said in output
    assert not (tmp_path / "run").exists()
