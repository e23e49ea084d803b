"""`distill abilities` on a tiny model: a whole run with its files, gone on with; what is refused; the verdict's words."""

import json
from functools import partial
from itertools import pairwise

import pytest
import torch
from conftest import build_model, save_teacher

from distill.evaluation.abilities import ABILITIES, Fact, examine, probes
from distill.evaluation.abilities.lessons import TAUGHT, student_prompt, teacher_prompt
from distill.reports.abilities_page import abilities_table, write_abilities_page
from distill.reports.abilities_words import table_rows, verdict
from distill.teachers import LocalTeacher

FLAGS = ["--probes", "4", "--lessons", "16", "--rows", "6", "--upper_layers", "1", "--kept_prompts", "2", "--bf16", "False",
         "--max_steps", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_teacher(folder)
    build_model(max_position_embeddings=8192, initializer_range=0.02).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_a_run_teaches_both_ways_examines_everybody_and_goes_on(model, tmp_path, told):
    # a random model avoids a word that it is told to avoid, and is right in this alone
    flags = [
        "--model",
        model,
        "--prompts",
        model / "prompts.txt",
        "--abilities",
        "instructions",
        "--output_dir",
        tmp_path / "run",
        *FLAGS,
    ]
    said = told("abilities", *flags)
    found = json.loads((tmp_path / "run" / "abilities.json").read_text())
    assert [(run["arm"], run["way"]) for run in found["runs"]] == [
        ("untouched", ""), ("instructions", "black"), ("instructions", "white"), ("own", "control"),
    ]  # fmt: skip
    for run in found["runs"]:
        assert [one["ability"] for one in run["answers"]] == [name for name in ABILITIES for _ in range(4)]
        assert (run["kl"] > 0) is (run["arm"] != "untouched")
    (taught,) = found["taught"]
    assert 0 < taught["right"] < taught["asked"] == 16
    assert taught["used"] == min(taught["right"], 6)
    assert f"{taught['right']} of 16 answers of the teacher are right" in said
    assert "| instructions, white box |" in said
    page = (tmp_path / "run" / "abilities.html").read_text()
    assert "its own answers, shown nothing" in page
    assert page.count("<svg") == 2
    # the teacher of the white box was shown more than the student
    pairs = [json.loads(line) for line in (tmp_path / "run" / "lessons-instructions-0.jsonl").read_text().splitlines()]
    shown = [pair for pair in pairs if "teacher_prompt_ids" in pair]
    assert shown
    assert all(len(pair["teacher_prompt_ids"]) > len(pair["prompt_ids"]) for pair in shown)

    # another seed is added; what is there is not made again
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*seed-0.json")}
    told("abilities", *flags, "--seeds", "2", "--keep_students", "True")
    more = json.loads((tmp_path / "run" / "abilities.json").read_text())
    assert more["runs"][:4] == found["runs"]
    assert [run["seed"] for run in more["runs"]] == [0] * 4 + [1] * 4
    assert len(stamps) == 4
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert {path.name for path in (tmp_path / "run").glob("student-*")} == {
        "student-instructions-black-1", "student-instructions-white-1", "student-own-control-1",
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_a_training_that_changes_nothing_changes_no_answer(model, tmp_path, told, monkeypatch):
    """The examination is of the same precision before and after, down to the frequencies of positions."""
    import distill.recipes.abilities as recipe

    examined = []

    def look(student, *args, **more):
        tensors = {**dict(student.named_parameters()), **dict(student.named_buffers())}
        examined.append({name: tensor.detach().clone() for name, tensor in tensors.items()})
        return examine(student, *args, **more)

    monkeypatch.setattr(recipe, "examine", look)
    # whatever this machine is fast at
    monkeypatch.setattr(recipe, "LocalTeacher", partial(LocalTeacher, dtype=torch.bfloat16))
    told("abilities", "--model", model, "--prompts", model / "prompts.txt", "--abilities", "instructions", "--output_dir", tmp_path / "run",
         *FLAGS, "--learning_rate", "0")  # fmt: skip
    start, *others = json.loads((tmp_path / "run" / "abilities.json").read_text())["runs"]
    assert len(others) == 3
    for run, tensors in zip(others, examined[1:], strict=True):
        assert run["answers"] == start["answers"]
        assert run["kl"] < 1e-6
        assert any("inv_freq" in name for name in tensors)
        for name, tensor in tensors.items():
            assert tensor.dtype == examined[0][name].dtype, name
            assert tensor.equal(examined[0][name]), name


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--abilities", "humour"], "abilities is 'humour'; it must list some of instructions"),
        (["--probes", "0"], "probes is 0"),
        (["--style", "rude"], "style is 'rude'"),
        (["--quick", "True", "--probes", "3"], "--probes: --quick sets this itself"),
        (["--upper_layers", "9"], "upper_layers is 9, and the model has 2 layers"),
        (["--abilities", "identity"], "None of the teacher's 16 answers about identity is right"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_run_is_refused(model, tmp_path, told, flags, said):
    given = [] if "--quick" in flags or "--probes" in flags else FLAGS
    given = [*given, "--prompts", model / "prompts.txt", *flags] if "--upper_layers" not in flags else flags
    assert said in told("abilities", "--model", model, "--output_dir", tmp_path / "run", *given, status=1)


def test_facts_of_a_file_are_asked_as_far_as_they_go(tmp_path):
    from distill.running.abilities_flags import read_facts

    rows = [
        {"questions": ["How deep is the lake?", "What is its depth?"], "answer": "9 metres", "passage": "It is 9 metres deep."},
        {"questions": ["Who owns it?", "Whose is it?"], "answer": "Ann", "passage": "It is Ann's."},
    ]  # fmt: skip
    file = tmp_path / "facts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = read_facts(str(file))
    assert facts[0].others == ("Ann",)
    lesson = probes("knowledge", 1, purpose="teach", facts=facts)[0]
    assert teacher_prompt(lesson, facts=facts).startswith("It is 9 metres deep.\n\nHow deep is the lake?")
    file.write_text("".join(json.dumps({**row, "passage": ""}) + "\n" for row in rows))
    with pytest.raises(ValueError, match="this one has no passage"):
        read_facts(str(file))
    with pytest.raises(ValueError, match="which no given fact does"):
        teacher_prompt(lesson, facts=[Fact("a", ("b?", "c?"), "d")])


@pytest.mark.parametrize("ability", TAUGHT)
def test_the_teacher_is_shown_what_the_student_is_not_and_no_probe_has_it(ability):
    for purpose in ("examine", "teach"):
        for probe in probes(ability, 16, 1, purpose=purpose):
            shown, bare = teacher_prompt(probe), student_prompt(probe)
            words = shown if isinstance(shown, str) else " ".join(turn["content"] for turn in shown)
            asked = bare if isinstance(bare, str) else bare[-1]["content"]
            assert asked in words
            if not isinstance(shown, str):
                assert shown[-1]["content"] == probe.prompt
                # the examples are about others, and right by the same checks
                for question, answer in pairwise(shown):
                    if question["role"] == "user":
                        assert answer["role"] == "assistant"
                        assert probe.prompt not in question["content"]
                if ability in ("tone", "identity"):
                    answers = [turn["content"] for turn in shown if turn["role"] == "assistant"]
                    assert not probe.check.wrong(answers[0]) or probe.kind == "maker"
    with pytest.raises(ValueError, match="No lesson is made of reasoning"):
        teacher_prompt(probes("reasoning", 1)[0])


def results(right):
    """As the recipe writes them: of each arm, what share of 20 probes of each ability is right."""
    runs = []
    for (arm, way), each in right.items():
        answers = [
            {"probe": f"{name}-{i:03}", "ability": name, "text": "a", "right": i < 20 * each.get(name, 0.5), "why": ""}
            for name in ABILITIES
            for i in range(20)
        ]
        runs.append({"arm": arm, "way": way, "seed": 0, "kl": 0.1, "answers": answers})
    asked = {f"{name}-{i:03}": {"prompt": "<b>", "kind": "a"} for name in ABILITIES for i in range(20)}
    more = dict.fromkeys(("model", "teacher", "told", "command"), "<script>")
    taught = [{"ability": "tone", "seed": 0, "asked": 20, "right": 10, "used": 10}]
    return {**more, "runs": runs, "probes": {"0": asked}, "taught": taught, "stages": [], "total_seconds": 1.0, "environment": {}}  # fmt: skip


def test_gains_losses_and_a_control_that_gains_are_said(tmp_path):
    made = results(
        {("untouched", ""): {"tone": 0.0}, ("tone", "black"): {"tone": 1.0, "reasoning": 0.0}, ("tone", "white"): {"tone": 0.05},
         ("own", "control"): {"tone": 0.0}}
    )  # fmt: skip
    said = verdict(made)
    assert said[0] == (
        "Tone: 0% before, 100% after the black box, 5% after the white box (its interval does not leave out no change)."
    )
    assert said[1] == "The control: its own answers, shown nothing gained nothing."
    assert said[2] == "Beside what was taught, lost: tone, black box: reasoning (-50 points)."
    rows = {(row.arm, row.way): row for row in table_rows(made)}
    assert rows["tone", "black"].changes["reasoning"].mean == -0.5
    assert rows["tone", "black"].n["tone"] == 20
    assert "| tone, black box | 50 [27–73] | 50 [27–73] | **100 [83–100] ▲** |" in abilities_table(made)
    # a task whose answers are more than right and wrong has a column, too, and a bootstrap
    for run in made["runs"]:
        run["answers"] += [{"probe": f"own-{i}", "ability": "own", "right": 0.25} for i in range(4)]
    assert "| 25 [25–25] | 0.10 |" in abilities_table(made)
    write_abilities_page(made, tmp_path / "abilities.html")
    page = (tmp_path / "abilities.html").read_text()
    assert "<script>" not in page
    assert "&lt;b&gt;" in page

    gaining = results({("untouched", ""): {}, ("tone", "black"): {}, ("own", "control"): {"identity": 1.0}})
    assert "gained in identity, so a gain there says little" in verdict(gaining)[1]
    assert verdict(gaining)[-1].startswith("No training lost an ability")


@pytest.mark.real
def test_the_embedded_model_is_right_when_it_is_shown_more(real_teacher):
    """What all lessons rest on; two abilities, so that it is quick."""
    for ability in ("identity", "instructions"):
        some = probes(ability, 8, purpose="teach")
        shown = {probe.id: teacher_prompt(probe) for probe in some}
        bare, more = (
            sum(
                one.right
                for one in examine(real_teacher.model, real_teacher.tokenizer, some, shown=each, progress=False)
            )
            for each in (None, shown)
        )
        assert more >= bare + 3
