"""Generation: deterministic, resumable, nothing lost, nothing drawn from another distribution than asked for."""

import errno
import json

import datasets
import pytest
import torch
from conftest import build_model, build_tokenizer
from transformers import GenerationConfig

import distill.generation.prompts
import distill.teachers
from distill import generate
from distill.generation.journal import Journal
from distill.generation.prompts import write_prompts
from distill.pairs.prompts import read_prompts
from distill.teachers import LocalTeacher, Sampling

PROMPTS = ["the cat", "a dog ran on the mat", "why", "what is a colour", "so", "the mat and the dog", "user"]


@pytest.fixture
def teacher():
    model = build_model()
    model.lm_head.weight.data[2] *= 3  # so that some completions end by themselves
    return LocalTeacher(model, build_tokenizer(), name="tiny")


def run(teacher, prompts=PROMPTS, **changes):
    settings = {"max_new_tokens": 12, "batch_size": 3, "samples": 2, "seed": 5, "progress": False}
    return generate(teacher, prompts, **{**settings, **changes})


def test_a_rerun_is_identical_and_leaves_the_random_state_alone(teacher):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = run(teacher)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.to_list() == run(teacher).to_list()
    assert first["completion_ids"] != run(teacher, seed=6)["completion_ids"]


def test_rows_are_what_the_schema_says(teacher):
    pairs = run(teacher)
    assert [(row["prompt"][0]["content"], row["sample"]) for row in pairs] == [(p, s) for p in PROMPTS for s in (0, 1)]
    assert len(set(pairs["id"])) == len(pairs)
    eos = teacher.tokenizer.eos_token_id
    for row in pairs:
        stopped = row["finish_reason"] == "stop"
        assert (row["completion_ids"][-1] == eos) == stopped
        assert row["completion_ids"].count(eos) == stopped
        assert stopped or len(row["completion_ids"]) == 12
    assert {"stop", "length"} == set(pairs["finish_reason"]), "the test model should do both"


class StopAfter:
    """A teacher that is interrupted after some batches."""

    def __init__(self, teacher, batches):
        self.teacher, self.left, self.asked = teacher, batches, 0
        self.name, self.identity, self.resolve_prompt = teacher.name, teacher.identity, teacher.resolve_prompt

    def complete(self, *args):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += 1
        return self.teacher.complete(*args)


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_an_interrupted_run_continues_to_the_same_pairs(teacher, tmp_path, batches):
    path = tmp_path / "deep" / "pairs.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(StopAfter(teacher, batches), output=path)
    assert len(path.read_text().splitlines()) == 3 * batches
    rest = StopAfter(teacher, 99)
    assert run(rest, output=path).to_list() == run(teacher).to_list()
    assert rest.asked == 5 - batches
    again = StopAfter(teacher, 0)
    assert run(again, output=path).to_list() == run(teacher).to_list()


def test_a_torn_last_line_is_noticed_and_redone(teacher, tmp_path, capsys):
    path = tmp_path / "pairs.jsonl"
    whole = run(teacher, output=path).to_list()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][:-40])
    assert run(teacher, output=path).to_list() == whole
    torn = f"ended in a torn line of {len(lines[-2]) - 40} bytes; its pair is asked for again"
    assert torn in capsys.readouterr().err
    run(teacher, output=path)
    assert "torn" not in capsys.readouterr().err
    assert sorted(json.loads(line)["id"] for line in path.read_text().splitlines()) == sorted(r["id"] for r in whole)


@pytest.mark.parametrize("change", [{"temperature": 0.5}, {"seed": 6}, {"max_new_tokens": 11}, {"top_p": 0.9}])
def test_changed_settings_never_reuse_old_answers(teacher, tmp_path, change):
    path = tmp_path / "pairs.jsonl"
    run(teacher, output=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="holds pairs of another run") as error:
        run(teacher, output=path, **change)
    assert next(iter(change)) in str(error.value)
    assert path.read_bytes() == before


def test_another_teacher_of_the_same_name_never_reuses_old_answers(teacher, tmp_path):
    run(teacher, output=tmp_path / "pairs.jsonl")
    other = LocalTeacher(build_model(seed=1), build_tokenizer(), name="tiny")
    with pytest.raises(ValueError, match="teacher_weights"):
        run(other, output=tmp_path / "pairs.jsonl")


def test_more_prompts_ask_only_for_what_is_missing(teacher, tmp_path):
    path = tmp_path / "pairs.jsonl"
    few = run(teacher, PROMPTS[:4], output=path)
    many = run(teacher, PROMPTS, output=path)
    assert many.to_list()[: len(few)] == few.to_list()


def test_one_journal_one_process(teacher, tmp_path):
    path = tmp_path / "pairs.jsonl"
    with Journal(path, {}), pytest.raises(ValueError, match="being written by another process"):
        run(teacher, output=path)


def test_a_full_disk_keeps_what_was_written(teacher, tmp_path, monkeypatch):
    """The third write fails in its middle; the file holds whole lines only, and the run goes on later."""
    path, real, writes = tmp_path / "pairs.jsonl", Journal.append, []

    class Full:
        def __init__(self, file):
            self.file, self.fileno, self.close = file, file.fileno, file.close

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    def append(journal, rows):
        writes.append(1)
        if len(writes) == 3:
            journal._file = Full(journal._file)
        return real(journal, rows)

    monkeypatch.setattr(Journal, "append", append)
    with pytest.raises(OSError, match="the 6 pairs written before are safe"):
        run(teacher, output=path)
    monkeypatch.undo()
    assert len(path.read_bytes().splitlines()) == 6
    assert run(teacher, output=path).to_list() == run(teacher).to_list()


def test_defaults_of_the_models_generation_config_do_not_leak(teacher):
    """Many models ship top-p or a repetition penalty; they would silently make another teacher."""
    plain = run(teacher)["completion_ids"]
    teacher.model.generation_config = GenerationConfig(
        do_sample=True, top_p=0.1, repetition_penalty=5.0, temperature=0.1, eos_token_id=2, pad_token_id=2
    )
    own = teacher.model.generation_config
    assert run(teacher)["completion_ids"] == plain
    assert teacher.model.generation_config is own


def test_samples_follow_the_teachers_own_distribution(teacher):
    """First tokens of 4,000 samples against the model's probabilities: total variation as expected of chance alone."""
    _, ids = teacher.resolve_prompt("the cat")
    drawn = teacher.complete([ids] * 4000, Sampling(max_new_tokens=1), seed=0)
    counts = torch.bincount(torch.tensor([c.ids[0] for c in drawn]), minlength=320) / 4000
    with torch.no_grad():
        expected = teacher.model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    chance = (2 * expected * (1 - expected) / (torch.pi * 4000)).sqrt().sum() / 2
    assert (counts - expected).abs().sum() / 2 < 1.3 * chance


def test_padding_does_not_change_what_is_drawn_greedily(teacher):
    prompts = [teacher.resolve_prompt(p)[1] for p in PROMPTS]
    together = teacher.complete(prompts, Sampling(12, temperature=0), seed=0)
    alone = [teacher.complete([ids], Sampling(12, temperature=0), seed=0)[0] for ids in prompts]
    assert [c.ids for c in together] == [c.ids for c in alone]


def test_every_eos_of_the_model_ends_a_completion(teacher):
    teacher.model.generation_config.eos_token_id = [2, 7]
    assert teacher.eos_ids() == {2, 7}
    for row in run(teacher):
        assert (row["completion_ids"][-1] in (2, 7)) == (row["finish_reason"] == "stop")
        assert not {2, 7} & set(row["completion_ids"][:-1])


def test_prompts_from_a_dataset(teacher):
    from_list = run(teacher).to_list()
    assert run(teacher, datasets.Dataset.from_dict({"prompt": PROMPTS})).to_list() == from_list
    with pytest.raises(ValueError, match="no column 'prompt'"):
        run(teacher, datasets.Dataset.from_dict({"text": PROMPTS}))


def test_a_repeated_prompt_counts_once_and_that_is_said(teacher, capsys):
    assert run(teacher, [*PROMPTS, *PROMPTS]).to_list() == run(teacher).to_list()
    assert capsys.readouterr().err.count("repeat others and are asked once") == 1


@pytest.mark.parametrize(
    ("prompts", "change", "words"),
    [
        ([], {}, "There are no prompts"),
        ("the cat", {}, "prompts is one string"),
        (PROMPTS, {"samples": 0}, "samples is 0"),
        (PROMPTS, {"temperature": -1}, "temperature is -1"),
        (PROMPTS, {"top_p": 0}, "top_p is 0"),
        (PROMPTS, {"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_bad_calls(teacher, prompts, change, words):
    with pytest.raises(ValueError, match=words):
        run(teacher, prompts, **change)


def test_prompt_files(tmp_path):
    (tmp_path / "p.txt").write_text("the cat\n\n a dog \n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "the cat"}\n{"prompt": [{"role": "user", "content": "x"}]}\n')
    assert read_prompts(tmp_path / "p.txt") == ["the cat", " a dog "]
    assert read_prompts(tmp_path / "p.jsonl")[1] == [{"role": "user", "content": "x"}]
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    (tmp_path / "shape.jsonl").write_text('{"prompt": "a"}\n{"prompt": [{"content": "x"}]}\n')
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for name, words in (
        ("empty.txt", "has no prompts"),
        ("bad.jsonl", r"bad.jsonl:2: no 'prompt'; the row has text"),
        ("latin.txt", "not text in UTF-8"),
        ("shape.jsonl", "shape.jsonl:2: A prompt is text or"),
        ("none.txt", "No file"),
    ):
        with pytest.raises(ValueError, match=words):
            read_prompts(tmp_path / name)


def test_a_teacher_that_repeats_itself_cannot_write_prompts(teacher, monkeypatch):
    monkeypatch.setattr(
        teacher,
        "complete",
        lambda prompts, *a, **k: [distill.teachers.Completion([5, 2], "one and the same", "stop")] * len(prompts),
    )
    with pytest.raises(ValueError, match="wrote only 1 distinct prompts of the 5"):
        write_prompts(teacher, 5, batch_size=4, progress=False)


def test_prompts_that_a_teacher_writes_lose_what_differs_in_a_number_never_and_near_ones_unless_asked(
    teacher, monkeypatch
):
    texts = [f"Please tell me a story of {i} brave knights who go out to find a dragon" for i in range(3)]
    texts += [texts[0] + " please", texts[0]]
    monkeypatch.setattr(
        teacher, "complete", lambda *a, **k: [distill.teachers.Completion([5, 2], text, "stop") for text in texts]
    )
    steps = []
    assert write_prompts(teacher, 3, batch_size=5, progress=False, steps=steps) == texts[:3]
    assert write_prompts(teacher, 4, batch_size=5, progress=False, steps=steps, near=False) == texts[:4]
    assert [(step.rows_in, step.rows_out, step.settings) for step in steps] == [
        (5, 3, {"near": True}), (5, 4, {"near": False}),
    ]  # fmt: skip


def test_written_prompts_go_on_after_an_interruption_and_are_guarded(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(distill.generation.prompts, "_reads_like_a_prompt", lambda text: bool(text))
    settings = {"max_new_tokens": 30, "batch_size": 3, "progress": False}
    path, real, calls = tmp_path / "prompts.jsonl", teacher.complete, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(teacher, "complete", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_prompts(teacher, 7, **settings, output=path)
    with path.open("a") as file:
        file.write('{"prompts": ["torn')
    resumed = write_prompts(teacher, 7, **settings, output=path)
    monkeypatch.setattr(teacher, "complete", real)
    steps = []
    assert resumed == write_prompts(teacher, 7, **settings, steps=steps)
    assert (len(steps), steps[0].rows_out, steps[0].settings) == (1, 7, {"near": True})
    assert steps[0].rows_in >= 7
    monkeypatch.setattr(teacher, "complete", None)  # all there: nothing is asked again, for fewer prompts neither
    assert write_prompts(teacher, 4, **settings, output=path) == resumed[:4]
    with pytest.raises(ValueError, match="prompts of another run"):
        write_prompts(teacher, 7, **{**settings, "max_new_tokens": 31}, output=path)


def test_a_dataset_of_splits_is_not_taken_for_prompts(teacher):
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"prompt": PROMPTS})})
    with pytest.raises(ValueError, match="has the splits train"):
        run(teacher, splits)
