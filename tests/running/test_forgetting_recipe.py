"""`distill forgetting` on a tiny model; and what holds a student near its start in the other recipes."""

import json

import pytest
from conftest import build_model, json_lines, save_teacher

FLAGS = ["--taught", "4", "--asked", "3", "--old_probes", "2", "--old_pairs", "3", "--num_train_epochs", "2", "--learning_rate", "1e-2",
         "--upper_layers", "1", "--disable_tqdm", "True"]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_teacher(folder)  # its tokenizer
    build_model(max_position_embeddings=512).save_pretrained(folder)
    (folder / "prompts.txt").write_text("\n".join(f"why is the cat on mat {number}" for number in range(12)))
    return folder


@pytest.mark.filterwarnings("ignore")
def test_a_run_teaches_holds_averages_and_its_control_changes_nothing(model, tmp_path, told):
    flags = ["--model", model, "--prompts", model / "prompts.txt", "--output_dir", tmp_path / "run", *FLAGS, "--replay", "0.25", "--keep_kl", "1",
             "--lora_r", "2", "--averages", "0.5", "--seeds", "2"]  # fmt: skip
    said = told("forgetting", *flags)
    found = json.loads((tmp_path / "run" / "forgetting.json").read_text())
    names = ["start", "taught", "replay-0.25", "keep_kl-1", "lora-2", "average-0.5", "control"]
    assert [run["arm"] for run in found["runs"]] == names * 2
    by = {(run["arm"], run["seed"]): run for run in found["runs"]}
    assert [one["prompt"] for one in by["start", 0]["skill"]] != [one["prompt"] for one in by["start", 1]["skill"]]
    kl = {key: run["forgetting"]["measures"]["kl_old"]["after"] for key, run in by.items() if "forgetting" in run}
    assert kl["control", 0] == kl["control", 1] == 0
    assert 0 < kl["average-0.5", 0] < kl["taught", 0]
    assert len(by["taught", 0]["forgetting"]["by_pair"]["old"]["kl"]) == 3
    for seed in (0, 1):
        assert by["control", seed]["skill"] == by["start", seed]["skill"]
    assert "The control holds: a training with learning rate 0 changed no figure by any digit." in said
    page = (tmp_path / "run" / "forgetting.html").read_text()
    assert page.count("<svg") == 1
    assert "average, alpha 0.5" in page
    assert not list((tmp_path / "run").glob("*/student")), "540 MB each for the embedded model"

    # nothing is trained or asked again
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*seed*/*.json")}
    assert len(stamps) == 12
    told("forgetting", *flags)
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--skill", "cooking"], "skill is 'cooking'; it must be one of knowledge, identity"),
        (["--asked", "5"], "asked is 5, and 4 facts are taught"),
        (["--old", "knowledge"], "old has 'knowledge'"),
        (["--replay", "0.1,1.5"], "replay has 1.5; it lists shares above 0 and below 1"),
        (["--averages", "much"], "averages is 'much'; it lists numbers"),
        (["--num_train_epochs", "1.5"], "num_train_epochs is 1.5; epochs are laid out as rows"),
        (["--quick"], "--taught, --asked, --old_probes, --old_pairs: --quick sets this itself"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_made(model, tmp_path, told, flags, said):
    output = told("forgetting", "--model", model, "--output_dir", tmp_path / "run", *FLAGS, *flags, status=1)
    assert said in output
    assert not (tmp_path / "run").exists()


def pairs_of(folder, count=12):
    rows = [{"prompt": f"what is the colour of cat {n}", "completion": f"it is so {n}"} for n in range(count)]
    return json_lines(folder / "pairs.jsonl", rows)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lora", [[], ["--lora_r", "2"]])
def test_a_black_box_with_replay_and_a_kl_to_its_start(model, tmp_path, told, lora):
    flags = ["--pairs", pairs_of(tmp_path), "--student", model, "--held_out", "3", "--replay", "0.25", "--replay_prompts", model / "prompts.txt",
             "--keep_kl", "0.5", "--overfitting", "--num_train_epochs", "2", "--logging_steps", "1", *lora]  # fmt: skip
    output = told("black_box", *flags, "--output_dir", tmp_path / "run")
    assert "3 own samples of" in output
    assert "stand beside 9 training rows" in output
    assert "'keep_divergence':" in output
    assert "| step | epoch | loss, trained | loss, held out | loss, gap |" in output
    assert "by held-out loss" in output


@pytest.mark.filterwarnings("ignore")
def test_a_white_box_stops_early_by_held_out_kl(model, tmp_path, told):
    flags = ["--pairs", pairs_of(tmp_path), "--teacher", model, "--layers", "1", "--strategy", "first_last", "--held_out", "3", "--overfitting",
             "--early_stopping_patience", "1", "--metric_for_best_model", "eval_held_out_kl", "--num_train_epochs", "3"]  # fmt: skip
    output = told("white_box", *flags, "--output_dir", tmp_path / "run")
    assert "by held-out kl" in output
    history = json.loads(next((tmp_path / "run").glob("checkpoint-*/trainer_state.json")).read_text())
    assert history["best_metric"] is not None


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--replay", "0.1"], "--replay: this holds on to what the student was"),
        (["--keep_kl", "0.1"], "--keep_kl: this holds on to what the student was"),
        (["--replay", "1"], "replay is 1.0 (a share of rows"),
        (["--replay_prompts", "x"], "--replay_prompts: this is for --replay"),
    ],
)
def test_without_a_start_nothing_can_be_held(model, tmp_path, told, flags, said):
    output = told("black_box", "--teacher", model, "--pairs", pairs_of(tmp_path), *flags, "--output_dir", tmp_path / "run", status=1)  # fmt: skip
    assert said in output
    assert not (tmp_path / "run").exists()
