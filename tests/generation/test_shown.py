"""Shown to the teacher alone: it is asked with that, the student's prompt stands beside it, and both are part of the pair's id."""

import json
from functools import partial

import datasets
import pytest
from conftest import build_model, build_tokenizer
from fake_server import answer_text
from generation_runs import shared
from processes import run_processes

from distill import generate
from distill.basics.fingerprint import fingerprint
from distill.generation import SystemText, WorkedExamples, with_examples
from distill.generation.worked_examples import CHAIN_SUM
from distill.pairs import load_pairs
from distill.pairs.columns import COLUMNS
from distill.teachers import LocalTeacher, Sampling, ServerTeacher

PROMPTS = ["the cat", "a dog ran on the mat", "why", "what is a colour", "so"]
SYSTEM = SystemText("the mat is blue")
TURN = {"role": "system", "content": "the mat is blue"}


def local(**changes):
    return LocalTeacher(build_model(max_position_embeddings=256), build_tokenizer(), name="tiny", **changes)


def run(teacher, prompts=PROMPTS, **changes):
    return generate(teacher, prompts, **{"max_new_tokens": 8, "batch_size": 3, "progress": False, "seed": 5, **changes})


def user(text):
    return {"role": "user", "content": text}


class Named:
    """A function of a prompt with an identity of some kind."""

    def __init__(self, identity):
        self.identity = identity

    def __call__(self, prompt):
        return f"mat {prompt}"


def test_the_teacher_is_asked_with_it_and_both_are_recorded():
    teacher = local()
    pairs = run(teacher, samples=2, teacher_prompt=SYSTEM)
    asked = run(teacher, [[TURN, user(prompt)] for prompt in PROMPTS], samples=2)
    bare = run(teacher, samples=2)
    assert pairs.column_names == [*COLUMNS, "teacher_prompt", "teacher_prompt_ids", "token_source"]
    for name in ("prompt", "prompt_ids"):
        assert pairs[name][:] == bare[name][:], "the student's"
        assert pairs[f"teacher_{name}"][:] == asked[name][:], "the teacher's"
    # another id draws another sample, so what was drawn is looked at where nothing is drawn
    greedy = [run(teacher, p, temperature=0, **more)["completion_ids"][:] for p, more in (
        (PROMPTS, {"teacher_prompt": SYSTEM}), ([[TURN, user(prompt)] for prompt in PROMPTS], {}), (PROMPTS, {}),
    )]  # fmt: skip
    assert greedy[0] == greedy[1] != greedy[2]


def test_ids_are_those_of_before_without_it_and_of_both_prompts_with_it():
    teacher = local()
    settings = {**teacher.identity(), **Sampling(8, 1.0, 1.0, 0, 5).as_dict()}
    student, other = (teacher.resolve_prompt(prompt)[1] for prompt in ("the cat", "a dog"))
    plain, none = (run(teacher, ["the cat"], **more)["id"][0] for more in ({}, {"teacher_prompt": [None]}))
    assert plain == none == fingerprint(settings, student, 0)
    shown = run(teacher, ["the cat"], teacher_prompt=["a dog"])
    assert shown["id"][0] == fingerprint(settings, student, 0, {"teacher_prompt": other})
    ways = [("a dog", "the cat"), ("the cat", "why"), ("why", "a dog"), ("a dog", None)]
    ids = {run(teacher, [prompt], teacher_prompt=[given])["id"][0] for prompt, given in ways}
    assert len(ids | {plain, shown["id"][0]}) == 6


def test_a_column_a_function_and_a_list_say_the_same(capsys):
    teacher, documents = local(), ["blue mat", None, "dog", "the sky", "cat"]
    rows = datasets.Dataset.from_dict({"prompt": PROMPTS, "teacher_prompt": documents})
    wanted = run(teacher, teacher_prompt=documents).to_list()
    assert run(teacher, rows, teacher_prompt="teacher_prompt").to_list() == wanted
    assert run(teacher, teacher_prompt=dict(zip(PROMPTS, documents, strict=True)).get).to_list() == wanted
    assert [row["teacher_prompt"] for row in wanted] == [None if d is None else [user(d)] for d in documents]
    assert run(teacher, rows).to_list() == run(teacher).to_list()
    assert "a column teacher_prompt, with which nobody is asked" in capsys.readouterr().err


def test_one_question_about_two_documents_is_two_pairs():
    pairs = run(local(), ["why", "why", "why"], teacher_prompt=["blue mat", "red mat", "blue mat"])
    assert [turns[0]["content"] for turns in pairs["teacher_prompt"]] == ["blue mat", "red mat"]
    assert pairs["prompt_ids"][0] == pairs["prompt_ids"][1]


def test_worked_examples_are_one_way_to_use_it():
    """The student's prompt is the bare one, in words and in tokens; with a system turn of its own, too."""
    teacher = local()
    prompts = ["2 + 2 =", [{"role": "system", "content": "you are a cat"}, user("2 + 2 =")]]
    for prompt in prompts:
        (pair,) = run(teacher, [prompt], teacher_prompt=WorkedExamples(CHAIN_SUM[:1]))
        (bare,) = run(teacher, [prompt])
        assert (pair["prompt"], pair["prompt_ids"]) == (bare["prompt"], bare["prompt_ids"])
        assert pair["teacher_prompt"] == with_examples(prompt, CHAIN_SUM[:1])
        assert pair["teacher_prompt_ids"] == teacher.resolve_prompt(pair["teacher_prompt"])[1]


@pytest.mark.parametrize("chat", [None, False])
def test_a_server_is_asked_with_it(server, chat):
    """By chat and by plain completion; its answer is decided by what it was asked, and the tokens are the student's."""
    teacher = ServerTeacher(server.url, tokenizer=build_tokenizer(), backoff=0.01, chat=chat)
    shown = SYSTEM if chat is None else (lambda prompt: f"the mat is blue. {prompt}")
    pairs = run(teacher, teacher_prompt=shown, max_new_tokens=12)
    bodies = {body["seed"]: body for body in server.asked}
    assert len(bodies) == len(PROMPTS)
    for body in bodies.values():
        asked = body["messages"] if chat is None else body["prompt"]
        assert asked[0] == TURN if chat is None else asked.startswith("the mat is blue. ")
        (pair,) = [pair for pair in pairs if pair["teacher_prompt"] == asked]
        text = "\n".join(f"{turn['role']}: {turn['content']}" for turn in asked) if chat is None else asked
        assert pair["completion"] == answer_text(text, (body["seed"], 0), 12)[0]
        assert pair["prompt"] == ([asked[1]] if chat is None else asked.removeprefix("the mat is blue. "))
        assert (pair["prompt"], pair["prompt_ids"]) == teacher.resolve_prompt(pair["prompt"])


def test_a_journal_goes_on_and_is_read(tmp_path, monkeypatch):
    """What is finished is not asked again, also by a function that says the same; and the file holds both prompts."""
    path, teacher, asked = tmp_path / "pairs.jsonl", local(), []
    complete = teacher.complete
    monkeypatch.setattr(teacher, "complete", lambda prompts, *more: asked.extend(prompts) or complete(prompts, *more))
    whole = run(teacher, batch_size=1, teacher_prompt=SYSTEM).to_list()
    asked.clear()
    run(teacher, PROMPTS[:2], batch_size=1, teacher_prompt=SYSTEM, output=path)
    written = path.read_bytes()
    assert len(asked) == 2
    found = run(teacher, batch_size=1, teacher_prompt=SystemText("the mat is blue"), output=path)
    assert sorted(asked) == sorted(row["teacher_prompt_ids"] for row in whole), "each once"
    assert path.read_bytes().startswith(written)
    assert found.to_list() == whole
    assert load_pairs(path).sort("id").to_list() == found.sort("id").to_list()
    assert all("teacher_prompt_ids" in json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize("way", ["a list", "a function", "a column"])
def test_bare_answers_are_kept_out_of_a_journal_of_shown_ones(tmp_path, way):
    """And the other way round; what is shown may be another one for every prompt, and goes on."""
    path, teacher = tmp_path / "pairs.jsonl", local()
    shown = [f"mat {prompt}" for prompt in PROMPTS]
    rows = datasets.Dataset.from_dict({"prompt": PROMPTS, "shown": shown})
    prompts = rows if way == "a column" else PROMPTS
    given = {"a list": shown, "a function": lambda prompt: f"mat {prompt}", "a column": "shown"}[way]
    found = run(teacher, prompts, teacher_prompt=given, output=path)
    assert run(teacher, prompts, teacher_prompt=given, output=path).to_list() == found.to_list()
    assert found["id"][:] == run(teacher, teacher_prompt=shown)["id"][:], "ids are those without a journal"
    with pytest.raises(ValueError, match="teacher_prompt: 'of each prompt its own' there, 'nothing' now"):
        run(teacher, output=path)
    run(teacher, output=tmp_path / "bare.jsonl")
    with pytest.raises(ValueError, match="teacher_prompt: 'nothing' there, 'of each prompt its own' now"):
        run(teacher, prompts, teacher_prompt=given, output=tmp_path / "bare.jsonl")
    with pytest.raises(ValueError, match="teacher_system"):
        run(teacher, teacher_prompt=SYSTEM, output=path)


def test_an_identity_may_be_a_method(tmp_path):
    """As a teacher's is: it names the run, and another one is another run."""
    path, teacher = tmp_path / "pairs.jsonl", local()
    found = run(teacher, teacher_prompt=Named(lambda: {"mine": 1}), output=path)
    assert found.to_list() == run(teacher, teacher_prompt=Named({"mine": 1}), output=path).to_list()
    with pytest.raises(ValueError, match="mine: 1 there, 2 now"):
        run(teacher, teacher_prompt=Named({"mine": 2}), output=path)


def test_another_system_text_is_another_run(tmp_path):
    path, teacher = tmp_path / "pairs.jsonl", local()
    run(teacher, teacher_prompt=SYSTEM, output=path)
    with pytest.raises(ValueError, match="teacher_system: 'the mat is blue' there, 'the mat is red' now"):
        run(teacher, teacher_prompt=SystemText("the mat is red"), output=path)
    with pytest.raises(ValueError, match="teacher_system: 'the mat is blue' there, 'nothing' now"):
        run(teacher, output=path)


def test_a_run_from_before_worked_examples_had_a_name_says_why_it_ends(tmp_path):
    path, teacher, examples = tmp_path / "pairs.jsonl", local(), CHAIN_SUM[:1]
    run(teacher, [with_examples("why", examples)], output=path)  # as the recipe once asked
    with pytest.raises(
        ValueError,
        match="worked_examples: 'nothing' there.*cannot be continued: its pairs have other ids. Give another path, or folder",
    ):
        run(teacher, ["why"], teacher_prompt=WorkedExamples(examples), output=path)


def test_processes_share_it(tmp_path):
    wanted = shared(None, str(tmp_path / "one.jsonl"), teacher_prompt=SYSTEM)
    assert wanted[0]["teacher_prompt"][0] == TURN
    found = run_processes(2, partial(shared, teacher_prompt=SYSTEM), None, str(tmp_path / "two.jsonl"))
    assert found == [wanted] * 2


def test_a_prompt_beyond_the_positions_is_the_teachers(tmp_path):
    """The student's may be as short as it likes; the others go on, and the refusal says what was asked."""
    teacher, documents = local(), ["blue", "mat " * 300, "dog", None, "cat"]
    with pytest.raises(ValueError, match="1 of 5 completions could not be had.*mat mat.*exceed the model's context"):
        run(teacher, teacher_prompt=documents, output=tmp_path / "pairs.jsonl")
    pairs = run(teacher, teacher_prompt=documents, output=tmp_path / "pairs.jsonl", allow_refusals=True)
    assert [turns and turns[0]["content"] for turns in pairs["teacher_prompt"]] == ["blue", "dog", None, "cat"]


BAD = {
    "no dataset": ({"teacher_prompt": "document"}, "'document', the name of a column, but there is none .*no dataset.*SystemText"),
    "too few": ({"teacher_prompt": ["a"]}, "teacher_prompt has 1 values, but there are 5 prompts"),
    "a mapping": ({"teacher_prompt": {"the cat": "a", "why": "b"}}, "teacher_prompt is a dict; give one for each prompt in a list, a function .* get"),
    "a set": ({"teacher_prompt": {"a", "b", "c", "d", "e"}}, "teacher_prompt is a set; give one for each"),
    "a number": ({"teacher_prompt": 7}, "teacher_prompt is a int; give one for each"),
    "an empty text": ({"teacher_prompt": ["a", "", None, "b", "c"]}, "in place of prompt 2 of 5: it is an empty text; give None"),
    "an identity of no kind": ({"teacher_prompt": Named("mine")}, "The identity of teacher_prompt is 'mine'; it must be a mapping"),
    "prompts of no kind": ({"prompts": [7], "teacher_prompt": SYSTEM}, "Prompt 1 of 1, as the teacher is to be shown it: A prompt is text"),
    "turns of no kind": ({"prompts": [[{"content": "why"}]], "teacher_prompt": SYSTEM}, "Prompt 1 of 1, as the teacher is to be shown it: "),
    "examples for no prompt": ({"prompts": [[]], "teacher_prompt": WorkedExamples(CHAIN_SUM[:1])}, "Prompt 1 of 1, as the teacher is to be shown it: A prompt"),
    "a chat for plain text": ({"teacher": local(chat=False), "teacher_prompt": SYSTEM}, "Prompt 1 of 5 is plain text for the student and a chat for the teacher"),
    "plain text for a chat": (
        {"teacher": local(chat=False), "prompts": [[user("why")]], "teacher_prompt": ["a"]}, "Prompt 1 of 1 is a chat for the student and plain text",
    ),
    "texts beside chats": ({"teacher": local(chat=False), "prompts": ["why", [user("why")]]}, "Prompt 2 of 2 is a chat and the first is plain text"),
    "no template": (
        {"teacher": LocalTeacher(build_model(), build_tokenizer(template=None), name="tiny"), "teacher_prompt": SYSTEM},
        "The teacher's prompt in place of prompt 1 of 5: .*no chat template",
    ),
    "no prompt": ({"teacher_prompt": lambda prompt: 7}, "The teacher's prompt in place of prompt 1 of 5: A prompt is text"),
    "empty": ({"teacher_prompt": lambda prompt: []}, "The teacher's prompt in place of prompt 1 of 5: A prompt is text"),
    "no text": ({"teacher_prompt": lambda prompt: "\ud83d"}, "The teacher's prompt in place of prompt 1 of 5 is no text"),
    "a system turn": (
        {"prompts": [[TURN, user("why")]], "teacher_prompt": SYSTEM}, "Prompt 1 of 1, as the teacher is to be shown it: it has a system turn",
    ),
    "a field": (
        {"teacher_prompt": lambda prompt: [{**user("a"), "mood": "glad"}]}, "mood",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_shown_is_refused_before_anything_is_asked(kind, tmp_path):
    changes, message = BAD[kind]
    asked = {"teacher": local(), "prompts": PROMPTS, "output": tmp_path / "pairs.jsonl", **changes}
    with pytest.raises(ValueError, match=message):
        run(**asked)
    assert not (tmp_path / "pairs.jsonl").exists()


@pytest.mark.parametrize("text", ["", "  \n", None, 7])
def test_a_system_text_has_words(text):
    with pytest.raises(ValueError, match="give some words"):
        SystemText(text)
