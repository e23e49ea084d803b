"""`distill evaluate` on tiny models: a whole run with its files, gone on with and judged by other limits; what is refused."""

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import build_model, build_tokenizer, json_lines

from distill.evaluation.risk import controls
from distill.models.students import make_student

WORDS = ["the", "cat", "sat", "on", "mat", "and", "dog", "ran", "what", "is", "a", "colour", "why", "so"]
FLAGS = ["--abilities", "instructions", "--n", "2", "--old_prompts", "4", "--answers", "3", "--max_new_tokens", "12"]


LAX = "kl_old_max: 50\nloss_old.rise_max: 50\noverlap_share.rise_max:\n"  # answers of random models have no eight words


def text_rows(count, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: " ".join(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=generator))  # noqa: E731
    return [{"id": f"{seed}/{i}", "prompt": f"{draw(3)} {seed} {i}", "completion": draw(10)} for i in range(count)]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A teacher, a student that was cut from it and moved, another base, pairs, held-out pairs, old ones."""
    folder = tmp_path_factory.mktemp("models")
    teacher = build_model(layers=4, max_position_embeddings=4096)
    student = make_student(teacher, [0, 3])
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    models = {"teacher": teacher, "student": student, "base": build_model(seed=5, max_position_embeddings=4096)}
    for name, model in models.items():
        model.save_pretrained(folder / name)
        build_tokenizer().save_pretrained(folder / name)
    for name, count, seed in (("pairs", 16, 0), ("held_out", 99, 1), ("old", 4, 2)):
        json_lines(folder / f"{name}.jsonl", text_rows(count, seed))
    return SimpleNamespace(
        folder=folder, teacher=folder / "teacher", student=folder / "student", base=folder / "base",
        data=["--pairs", folder / "pairs.jsonl", "--held_out", "2", folder / "held_out.jsonl", "--old", folder / "old.jsonl"],
    )  # fmt: skip


@pytest.fixture
def learns(monkeypatch):
    """A leak that a tiny model learns, too."""
    monkeypatch.setattr(controls, "WAYS", ({"steps": 80, "learning_rate": 8e-3, "upper_layers": None, "each": 10},))


def figures(run):
    return {one["name"]: one for one in json.loads((run / "risk.json").read_text())["figures"]}


@pytest.mark.filterwarnings("ignore")
def test_a_run_measures_judges_and_writes_a_page(there, tmp_path, told, learns):
    run = tmp_path / "run"
    flags = [there.student, "--against", "cut", "--teacher", there.teacher, *there.data, *FLAGS, "--output_dir", run]
    lax = tmp_path / "lax.yaml"
    lax.write_text(LAX)
    said = told("evaluate", *flags, "--thresholds", lax, status=0)
    assert "thresholds hold" in said
    assert "proves nothing" not in said
    found = json.loads((run / "risk.json").read_text())
    assert set(found["models"]) == {"student", "base", "teacher"}
    assert "of its layers, untrained" in found["models"]["base"]["name"]
    measured = figures(run)
    assert measured["agreement_kl"]["of"]["base"]["value"] != measured["agreement_kl"]["of"]["student"]["value"]
    assert measured["kl_old"]["of"]["base"]["value"] == 0
    assert measured["kl_old"]["of"]["student"]["value"] > 0
    assert measured["membership_tpr"]["of"]["student"]["n"] == 14
    assert not measured["membership_tpr"]["doubted"]
    assert len(found["scores"]["student"]["controls"]) == 101  # two that were kept aside, and those of the file
    assert measured["ability.instructions"]["of"]["teacher"]["n"] == 2
    assert measured["canaries_said"]["given"] is False
    page = (run / "risk.html").read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace("http://creativecommons.org", "").replace("https://matplotlib.org", "")  # fmt: skip
    assert page.count("<svg") == 4
    assert "risk.md" in {path.name for path in run.iterdir()}

    # other limits are held against what was measured; nothing is measured again
    stamps = {
        path: path.stat().st_mtime_ns for path in run.glob("*.json*") if path.name not in ("risk.json", "run.json")
    }
    strict = tmp_path / "strict.yaml"
    strict.write_text(LAX.replace("kl_old_max: 50", "kl_old_max: 0.0000001"))
    said = told("evaluate", *flags, "--thresholds", strict, status=1)
    assert "1 of" in said
    assert "kl_old_max" in said
    assert 'class="panel broken"' in (run / "risk.html").read_text()
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert "holds another run (seed: 0 there, 3 now)" in told("evaluate", *flags, "--seed", "3", status=1)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_without_teacher_and_pairs_their_figures_are_named_and_a_card_gets_its_block(
    there, tmp_path, told, monkeypatch
):
    run, card = tmp_path / "run", there.student / "README.md"
    lax = tmp_path / "lax.yaml"
    lax.write_text(LAX)
    flags = [
        there.student,
        "--against",
        there.base,
        "--old",
        there.folder / "old.jsonl",
        *FLAGS[:6],
        "--thresholds",
        lax,
    ]
    card.write_text("# Mine\n\nMy own words.\n")
    # a leak that was planted too lightly is not found, so the page proves nothing, in its first line; there is nothing that it doubts
    monkeypatch.setattr(controls, "WAYS", ({"steps": 1},))
    said = told("evaluate", *flags, "--card", "--output_dir", run)
    assert "This page proves nothing about what is at risk: “A leak planted on purpose" in said
    assert '<body>\n<p class="nothing">This page proves nothing' in (run / "risk.html").read_text()
    assert "Not measured, since no training pairs were named (--pairs)" in said
    page = (run / "risk.html").read_text()
    assert "no teacher was named" in page
    assert "Teacher</th>" not in page
    assert card.read_text().startswith("# Mine\n\nMy own words.\n\n<!-- distill risk -->\n## What tuning changed")
    once = card.read_text()
    told("evaluate", *flags, "--card", "--output_dir", run)
    assert card.read_text() == once  # in its own place, not once more
    card.unlink()


@pytest.mark.filterwarnings("ignore")
def test_what_another_tokenizer_leaves_is_compared_and_the_rest_named(there, tmp_path, told):
    other = tmp_path / "other"
    build_model(seed=6, vocab_size=400, max_position_embeddings=4096).save_pretrained(other)
    build_tokenizer(special=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|more|>"]).save_pretrained(other)
    run = tmp_path / "run"
    told("evaluate", there.student, "--against", other, *there.data, *FLAGS, "--output_dir", run, status=1)
    found = figures(run)
    assert found["kl_old"]["missing"] == "student and base have other tokens"
    assert found["bytes_old"]["of"]["student"]["value"] > 0
    assert found["membership_tpr"]["of"]["student"]["n"] == 14
    limits = {one["name"]: one["state"] for one in json.loads((run / "risk.json").read_text())["thresholds"]}
    assert limits["kl_old_max"] == "not shown"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--against is missing"),
        (["--against", "BASE", "--held_out", "24"], "--held_out 24 is a number of prompts of --pairs, and there are none"),
        (["--against", "BASE", "--pairs", "x", "--held_out", "2", "3"], "--held_out has the numbers 2, 3; one says"),
        (["--against", "BASE", "--most_pairs", "9"], "--most_pairs: this is of the training pairs"),
        (["--against", "BASE", "--quick", "--n", "3"], "--n: --quick sets this itself"),
        (["--against", "BASE", "--abilities", "tone"], "--abilities has tone, and --style does not say what was taught"),
        (["--against", "BASE", "--style", "pirate"], "--style: this is of the ability tone"),
        (["--against", "BASE", "--abilities", "tome"], "abilities has 'tome'; it must list some of instructions"),
        (["--against", "BASE", "--samples", "3"], "--samples: this is of canaries"),
        (["--against", "cut"], "no --teacher is named"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(there, tmp_path, told, flags, said):
    flags = [there.base if flag == "BASE" else flag for flag in flags]
    output = told("evaluate", there.student, *flags, "--output_dir", tmp_path / "run", status=1)
    assert said in output
    assert not (tmp_path / "run").exists()


def test_a_threshold_of_no_figure_is_refused_before_anything_is_loaded(there, tmp_path, told):
    (tmp_path / "limits.yaml").write_text("kl_odl_max: 1\n")
    output = told(
        "evaluate", "no/such/model", "--against", there.base, "--thresholds", tmp_path / "limits.yaml", status=1
    )
    assert "Nearest: kl_old_max" in output
