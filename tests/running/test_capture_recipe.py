"""`distill capture`: a file of pairs in, a folder of signals out; what a user did wrong is one sentence."""

import json

import pytest
from conftest import build_model, build_tokenizer, save_teacher

from distill.pairs import load_pairs, save_pairs
from distill.signals import StoredSignals


@pytest.fixture
def place(tmp_path):
    """A teacher as a folder, and pairs as text, which the command tokenises."""
    save_teacher(tmp_path / "model")
    rows = [{"id": f"row{i}", "prompt": f"the cat {i}", "completion": "sat on a mat " * (i + 1)} for i in range(8)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_pairs(load_pairs(tmp_path / "text.jsonl", build_tokenizer()), tmp_path / "pairs.jsonl")
    return tmp_path


def test_the_command_captures_and_goes_on(place, told):
    flags = [
        "--teacher",
        place / "model",
        "--teacher_dtype",
        "float32",
        "--output",
        place / "signals",
        "--encoding",
        "threshold:8",
    ]
    said = told("capture", place / "text.jsonl", *flags, "--limit", 5)
    assert "5 pairs with " in said
    assert (
        "bytes a position; stored threshold n=8 seed=0 temperature=1.0 of LlamaForCausalLM of 4 layers in float32"
        in said
    )
    assert "8 pairs with " in told("capture", "--pairs", place / "pairs.jsonl", *flags)
    found = StoredSignals(place / "signals")
    found.check(load_pairs(place / "text.jsonl", build_tokenizer()))
    assert found.manifest["record"]["name"]
    assert str(place) not in (place / "signals" / "config.json").read_text()


def test_what_is_wrong_is_told_in_a_sentence(place, told):
    flags = ["--teacher", place / "model", "--output", place / "signals"]
    said = told("capture", place / "pairs.jsonl", *flags, "--encoding", "hiden", status=1)
    assert "The encoding is 'hiden'; it must be one of hidden, threshold, draws, top." in said
    assert "hidden" in told("capture", place / "pairs.jsonl", *flags, "--temperature", "2", status=1)
    assert "teacher_dtype is 'f4'" in told("capture", place / "pairs.jsonl", *flags, "--teacher_dtype", "f4", status=1)
    assert "No file" in told("capture", place / "nothing.jsonl", *flags, status=1)
    told("capture", place / "pairs.jsonl", *flags)
    said = told("capture", place / "pairs.jsonl", *flags, "--encoding", "top:4", status=1)
    assert "holds other signals (encoding.name: 'hidden' there, 'top' now" in said
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    for row in rows:
        row["completion_ids"] = [token + 1 for token in row["completion_ids"]]
        row.pop("row_crc32", None)
    (place / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = told("capture", place / "other.jsonl", *flags, status=1)
    assert "are not those of" in said


def test_max_length_is_that_of_the_training(place, told):
    flags = ["--teacher", place / "model", "--output", place / "signals"]
    pairs = load_pairs(place / "pairs.jsonl")
    short = min(len(pair["prompt_ids"]) + len(pair["completion_ids"]) for pair in pairs)
    told("capture", place / "pairs.jsonl", *flags, "--max_length", short)
    with pytest.raises(ValueError, match="in part only"):
        StoredSignals(place / "signals").check(pairs)
    told("capture", place / "pairs.jsonl", *flags)
    StoredSignals(place / "signals").check(pairs)


def test_a_white_box_trains_from_the_folder_alone(place, told):
    """The teacher's folder is gone by then."""
    signals, model = place / "signals", place / "student"
    told(
        "capture",
        place / "pairs.jsonl",
        "--teacher",
        place / "model",
        "--teacher_dtype",
        "float32",
        "--output",
        signals,
    )
    (place / "model").rename(model)
    flags = [
        "--teacher",
        signals,
        "--pairs",
        place / "pairs.jsonl",
        "--output_dir",
        place / "run",
        "--max_steps",
        2,
        "--held_out",
        2,
    ]
    assert "name the model to train with --student" in told("white_box", *flags, status=1)
    said = told("white_box", *flags, "--student", model, "--bf16", "false")
    assert "eval_logits" in said
    assert "no hidden states" in told(
        "white_box", *flags, "--student", model, "--objectives", "hidden", "--output_dir", place / "other", status=1
    )
    card = json.loads((place / "run" / "student" / "provenance.json").read_text())
    (identity,) = [teacher["identity"] for teacher in card["teachers"] if teacher["identity"]]
    assert identity["stored"].startswith("stored hidden of LlamaForCausalLM of 4 layers in float32, weights ")


def test_fidelity_measures_and_captures_nothing(place, told):
    flags = ["--teacher", place / "model", "--teacher_dtype", "float32", "--fidelity"]
    assert "name it with --student" in told("capture", place / "pairs.jsonl", *flags, status=1)
    build_model(layers=2, seed=5).save_pretrained(place / "student")
    build_tokenizer().save_pretrained(place / "student")
    more = ["--student", place / "student", "--sample", 3, "--picture", place / "fidelity.svg"]
    said = told("capture", place / "pairs.jsonl", *flags, *more)
    assert "| threshold:32 |" in said
    assert "| hidden |" in said
    assert (place / "fidelity.svg").read_text().lstrip().startswith("<")
    assert not (place / "signals").exists()
    mine = ["--student", place / "student", "--sample", 2, "--encoding", "draws:3"]
    assert "| draws:3 |" in told("capture", place / "pairs.jsonl", *flags, *mine)
    assert told("capture", place / "pairs.jsonl", *flags, *mine, "--sets", 4).count("| draws:3, 4 sets |") == 1
    assert "--encoding threshold:32" in told("capture", place / "pairs.jsonl", *flags, *more, "--sets", 4, status=1)
    same = ["--student", place / "model", "--sample", 2, "--picture", place / "none.svg"]
    refused = told("capture", place / "pairs.jsonl", *flags, *same, status=1)
    assert "The student says what the teacher says" in refused
    assert "Measure at the student that is to be trained." in refused
    assert not (place / "none.svg").exists()
    assert "--student, --picture, --sample: this is of --fidelity" in told(
        "capture", place / "pairs.jsonl", "--teacher", place / "model", *more, status=1
    )
    for unread in (["--verify"], ["--batch_tokens", 9], ["--output", "x"]):
        refused = told("capture", place / "pairs.jsonl", *flags, *more, *unread, status=1)
        assert f"{unread[0]}: --fidelity measures and captures nothing" in refused


def test_what_is_measured_anyway_is_measured_once():
    """However it is asked for; more sets, and other draws, are measured beside the usual ones."""
    from recipes.capture import FIDELITY, CaptureArguments, measured_of

    def measured(**given):
        return measured_of(CaptureArguments(pairs="pairs.jsonl", teacher="some", fidelity=True, **given))

    once = ({}, {"encoding": "threshold:32"}, {"encoding": "threshold:32", "sets": 1}, {"encoding": "hidden"})
    for given in (*once, {"encoding": "threshold:32", "sets": 1, "temperature": 2.0}):
        assert measured(**given) == FIDELITY
    for given in (
        {"encoding": "threshold:32", "sets": 2},
        {"encoding": "threshold:7"},
        {"encoding": "threshold:7", "sets": 1},
    ):
        assert len(measured(**given)) == len(FIDELITY) + 1
    with pytest.raises(ValueError, match="sets"):
        measured(encoding="hidden", sets=1)
