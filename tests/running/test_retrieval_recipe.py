"""`distill retrieval` on a tiny model: a whole run with its files, gone on with; what is refused."""

import json

import pytest
from conftest import build_model, save_teacher

from distill.retrieval.examining import Examined

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
    page = (tmp_path / "run" / "retrieval.html").read_text()
    assert "Context distillation" in page
    assert "| Untouched | closed-book |" in said
    # only the upper layer was trained
    from transformers import AutoModelForCausalLM

    before = AutoModelForCausalLM.from_pretrained(model).state_dict()
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


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--arms", "sft,rag"], "arms has 'rag'; it must list some of sft, context"),
        (["--k", "0"], "k is 0; it must be at least 1."),
        (["--upper_layers", "3"], "upper_layers is 3, and the model has 2 layers."),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_made(model, tmp_path, told, flags, said):
    output = told("retrieval", "--model", model, "--output_dir", tmp_path / "run", *FLAGS, *flags, status=1)
    assert said in output
    assert not (tmp_path / "run").exists()
