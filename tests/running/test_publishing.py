"""Publishing: only the finished student and its card, private unless said otherwise; and a card never costs the student."""

from pathlib import Path

import datasets
import pytest
from conftest import build_model, build_pairs, build_tokenizer, save_teacher
from distill.recipes import black_box, compare, white_box
from transformers import AutoModelForCausalLM, TrainingArguments

from distill.pairs.schema import pairs_from_rows
from distill.reports.card import write_card
from distill.running.folder import save_student
from distill.running.publishing import Publication


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teacher"))


def training(teacher, folder, *more):
    flags = f"--teacher {teacher} --prompts {teacher}/prompts.txt --layers 2 --strategy even --max_new_tokens 8 --held_out 3"
    return [*flags.split(), *["--max_steps", "1", "--bf16", "False", "--disable_tqdm", "True", "--save_strategy", "no"],
            "--output_dir", str(folder), "--push_to_hub", "True", *more]  # fmt: skip


@pytest.mark.parametrize("pairs", [False, True])
def test_only_the_student_goes_to_the_hub(hub, teacher, tmp_path, pairs):
    black_box.main(training(teacher, tmp_path / "run", "--hub_model_id", "me/it", *["--push_pairs"] * pairs))
    assert hub.made == [("me/it", True), ("me/it-pairs", True)][: 1 + pairs], "private, and made before the training"
    assert {"README.md", "provenance.json", "model.safetensors", "config.json", "tokenizer.json"} <= set(hub.files)
    assert not [
        n for n in hub.files if "pairs" in n or "run.json" in n or n.endswith((".lock", ".bin", ".pt", ".jsonl"))
    ]
    assert set(hub.files) == {p.name for p in (tmp_path / "run" / "student").iterdir()}
    assert [(name, private) for name, private, _ in hub.pairs] == [("me/it-pairs", True)] * pairs


@pytest.mark.parametrize("asked", [False, True])
def test_what_only_the_teacher_was_shown_is_published_where_that_is_said(hub, tmp_path, monkeypatch, asked, capsys):
    """The card hides a system text, and the pairs beside it do, too."""
    sent = []
    monkeypatch.setattr(datasets.Dataset, "push_to_hub", lambda self, *_, **__: sent.append(self.to_list()))
    rows = [{**row, "teacher_prompt": "be short", "teacher_prompt_ids": [5]} for row in build_pairs(3).to_list()]
    args = TrainingArguments(str(tmp_path), push_to_hub=True, hub_model_id="me/it", use_cpu=True)
    publication = Publication(args, True, asked)
    publication.prepare()
    publication.publish(tmp_path, pairs_from_rows(rows, where="test"))
    assert sent == [rows if asked else build_pairs(3).to_list()]
    assert ("without what only the teacher was shown" in capsys.readouterr().out) is not asked
    with pytest.raises(ValueError, match="give --push_pairs True with it"):
        Publication(TrainingArguments(str(tmp_path), push_to_hub=True, use_cpu=True), push_teacher_prompts=True)


def test_a_public_repository_is_used_only_where_that_is_said(hub, tmp_path):
    def args(**changes):
        return TrainingArguments(str(tmp_path / "mine"), push_to_hub=True, use_cpu=True, **changes)

    hub.there["model", "me/mine"] = False
    with pytest.raises(ValueError, match="model me/mine on the Hub is public.*--hub_private_repo False"):
        Publication(args()).prepare()
    said = args(hub_private_repo=False)
    Publication(said).prepare()
    assert said.push_to_hub is False, "Trainer uploads nothing"
    hub.there["model", "me/mine"] = True
    with pytest.raises(ValueError, match="is private, and this would be published as public"):
        Publication(args(hub_private_repo=False)).prepare()
    hub.there["dataset", "me/mine-pairs"] = False
    with pytest.raises(ValueError, match="dataset me/mine-pairs on the Hub is public"):
        Publication(args(), push_pairs=True).prepare()
    assert not hub.made
    hub.wrong = OSError("no token")
    with pytest.raises(ValueError, match="no repository mine could be made .*no token.*hf auth"):
        Publication(args(hub_private_repo=False)).prepare()
    with pytest.raises(ValueError, match="give --push_to_hub True with it"):
        Publication(TrainingArguments(str(tmp_path), use_cpu=True), push_pairs=True)


def test_a_failed_upload_leaves_the_student_and_says_how_to_go_on(hub, tmp_path):
    publication = Publication(TrainingArguments(str(tmp_path), push_to_hub=True, hub_model_id="me/it", use_cpu=True))
    publication.prepare()
    hub.there["model", "me/it"] = False
    with pytest.raises(ValueError, match=r"is saved in .*student.*model me/it on the Hub is public"):
        publication.publish(tmp_path / "student", build_pairs(3))
    assert not hub.files, "it was made public during the training"
    hub.there["model", "me/it"] = True
    hub.wrong = OSError("gone")
    with pytest.raises(ValueError, match=r"is saved in .*student.*\(OSError: gone\).*hf upload me/it"):
        publication.publish(tmp_path / "student", build_pairs(3))


def test_a_recipe_of_several_students_publishes_none(hub, capsys):
    with pytest.raises(SystemExit):
        compare.main(["--push_to_hub", "True"])
    assert "this recipe makes several students" in capsys.readouterr().err
    assert not hub.made


def test_a_wrong_flag_leaves_no_repository_behind(hub, teacher, tmp_path, capsys):
    for wrong in (["--teacher", "nowhere"], ["--teacher_bits", "4"]):
        with pytest.raises(SystemExit):
            black_box.main(training(teacher, tmp_path / "run", *wrong))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("not a run")
    for recipe in (black_box, white_box):
        with pytest.raises(SystemExit):
            recipe.main(training(teacher, tmp_path / "other"))
    with pytest.raises(SystemExit):
        white_box.main(training(teacher, tmp_path / "white", "--objectives", "logits=x"))
    assert not hub.made


# ------------------------------------------------------------------------------------------------ save order
def test_a_card_that_fails_never_costs_the_student(tmp_path, capsys):
    def card(folder):
        assert (folder / "model.safetensors").is_file(), "the student is there before its card"
        raise RuntimeError("no words")

    save_student(build_model(), build_tokenizer(), tmp_path / "student", card)
    AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert "is saved in" in (said := capsys.readouterr().out)
    assert "its card could not be written: RuntimeError: no words" in said


def test_without_a_home_there_is_a_card(tmp_path, monkeypatch):
    def nobody(self=None):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setattr(Path, "expanduser", nobody)
    pairs = build_pairs(4)
    save_student(
        build_model(), build_tokenizer(), tmp_path / "student",
        lambda folder: write_card(folder, student=build_model(), pairs=pairs, how="black box"),
    )  # fmt: skip
    assert (tmp_path / "student" / "README.md").is_file()
