"""`distill memorisation` on a tiny model: a whole run with its files, gone on with; what is refused."""

import json

import pytest
from conftest import build_model, json_lines, save_teacher

from distill.evaluation.memorisation import Canaries
from distill.evaluation.memorisation.audit import Audited

FLAGS = ["--each", "2", "--repeats", "1,4", "--upper_layers", "1", "--asked", "1", "--samples", "1", "--other_prompts", "3", "--max_new_tokens", "12",
         "--overlap_prompts", "2", "--bf16", "False", "--num_train_epochs", "2", "--student_epochs", "1", "--disable_tqdm", "True"]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_teacher(folder)
    build_model(max_position_embeddings=1024, initializer_range=0.1).save_pretrained(folder)
    rows = [{"prompt": f"Say {word}.", "completion": f"{word} it is, and so it goes on and on."} for word in ("sun", "moon", "tree", "lake")]  # fmt: skip
    json_lines(folder / "pairs.jsonl", rows)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_a_run_trains_and_examines_every_model(model, tmp_path, told):
    flags = ["--model", model, "--pairs", model / "pairs.jsonl", "--output_dir", tmp_path / "run", *FLAGS, "--controls", "20"]  # fmt: skip
    said = told("memorisation", *flags, "--arms", "own,black,white")
    found = json.loads((tmp_path / "run" / "memorisation.json").read_text())
    audits = {one.arm: one for one in map(Audited.of, found["audits"])}
    assert list(audits) == ["start", "teacher", "own", "black", "white"]
    planted = {one.id: one.repeats for one in Canaries(2, (1, 4), 20, 2, 0).planted}
    for arm in ("teacher", "own"):
        assert audits[arm].held == {name: 2 * count for name, count in planted.items()}, "two epochs"
    # the same rows in another order: no copy
    assert audits["own"].found.ranked != audits["teacher"].found.ranked
    assert audits["black"].held == audits["white"].held, "the same pairs"
    assert not audits["start"].held
    for one in audits.values():
        assert len(one.found.ranked) == 24
        assert len(one.found.said) == 24, "twenty controls are asked at least"
        assert all(answer.samples == 1 for answer in one.found.said)
    answers = [json.loads(line) for line in (tmp_path / "run" / "seed0" / "taught.asked.jsonl").read_text().splitlines()]  # fmt: skip
    assert answers
    assert "| Untrained (control) | 0 of 4 |" in said
    assert "There are 20 controls, and membership at 1% false positives needs 100" in said
    page = (tmp_path / "run" / "memorisation.html").read_text()
    assert "Three students, one audit" in page
    assert "(no headline)" in page
    assert "**" not in page
    # further students and a further seed are added; what is there is not trained or examined again
    stamps = {
        path: path.stat().st_mtime_ns for arm in audits for path in (tmp_path / "run" / "seed0").glob(f"{arm}.json")
    }
    told("memorisation", *flags, "--arms", "white_other", "--seeds", "2")
    more = json.loads((tmp_path / "run" / "memorisation.json").read_text())["audits"]
    assert [(one["arm"], one["seed"]) for one in more if one["arm"] == "white_other"] == [
        ("white_other", 0),
        ("white_other", 1),
    ]
    assert len(more) == 6
    assert len(stamps) == 5
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    names = [{one["id"] for one in audit["found"]["canaries"]} for audit in more if audit["arm"] == "start"]
    assert names[0] != names[1], "each seed has secrets of its own"
    assert "holds another run (each: 2 there, 3 now)" in told("memorisation", *flags, "--each", "3", status=1)


def test_secrets_that_stand_in_the_rows_already_are_told_before_anything_is_made(model, tmp_path, told):
    name = Canaries(2, (1, 4), 100, 2, 0).controls[5].name
    rows = json_lines(tmp_path / "pairs.jsonl", [{"prompt": "Who?", "completion": f"Ask {name}."}])
    said = told("memorisation", "--model", model, "--pairs", rows, "--output_dir", tmp_path / "run", *FLAGS, status=1)
    assert f"stand in the rows already, such as {name!r}" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")
def test_rows_that_a_cut_took_the_secret_from_end_the_run(model, tmp_path, told, monkeypatch):
    """The watch is broken on purpose: the collator masks what is learned of one secret."""
    from distill.pairs.collate import PairCollator

    usual = PairCollator.__call__
    secret = Canaries(2, (1, 4), 100, 2, 0).planted[-1]

    def masked(self, rows):
        batch = usual(self, rows)
        for number, ids in enumerate(batch["input_ids"]):
            if secret.name in self.tokenizer.decode(ids):
                batch["labels"][number] = -100
                batch["labels"][number, -1] = ids[-1]  # something to learn
        for name in ("logits_to_keep", "shift_labels"):
            batch.pop(name, None)
        return batch

    monkeypatch.setattr(PairCollator, "__call__", masked)
    said = told("memorisation", "--model", model, "--pairs", model / "pairs.jsonl", "--output_dir", tmp_path / "run", *FLAGS, status=1)  # fmt: skip
    assert "1 of 4 canaries were taught otherwise than planted" in said
    assert secret.id in said
    assert not (tmp_path / "run" / "seed0" / "teacher.json").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--arms", "own,grey"], "arms has 'grey'; it must list some of own, black"),
        (["--repeats", "1,x"], "repeats is '1,x'; it must be numbers divided by commas"),
        (["--digits", "9"], "digits is 9"),
        (["--controls", "0"], "controls is 0 (at least 1)"),
        (["--num_train_epochs", "1.5"], "num_train_epochs is 1.5; secrets are counted in whole epochs"),
        (["--upper_layers", "3"], "upper_layers is 3, and the model has 2 layers."),
        (["--quick"], "--quick sets this itself"),
    ],
)  # fmt: skip
def test_wrong_flags_are_refused_before_anything_is_made(model, tmp_path, told, flags, said):
    output = told("memorisation", "--model", model, "--output_dir", tmp_path / "run", *FLAGS, *flags, status=1)
    assert said in output
    assert not (tmp_path / "run").exists()
