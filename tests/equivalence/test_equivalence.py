"""Black-box distillation is SFT: the statements of `distill equivalence`, in small."""

import json
import math
from dataclasses import replace

import pytest
import torch
from conftest import all_hold, build_model, build_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from distill import generate, make_student
from distill.equivalence import (
    Section,
    breaks,
    controls,
    ladder,
    obstacles,
    provenance,
    real,
    same_program,
    sources,
    write_page,
)  # fmt: skip
from distill.equivalence.programs import black_box, by_hand, parameters_hash
from distill.equivalence.real_model import paired_tost
from distill.pairs.schema import pairs_from_rows
from distill.teachers import LocalTeacher


@pytest.fixture(scope="module")
def ladder_section(job):
    return ladder(job)


def test_every_program_has_the_same_bits_after_every_step(ladder_section):
    """Accumulation 1 and 3, bfloat16 weights, gradient checkpointing; two shuffled epochs, decay, warm-up, clipping."""
    claims = all_hold(ladder_section)
    same = [rung for rung in ladder_section.data["rungs"] if rung["kind"] == "same" and not rung["skipped"]]
    assert len(same) >= 8
    assert all(rung["is_equal"] and rung["distance"] == 0 and rung["steps"] >= 10 for rung in same)
    assert sum(claim.holds is True for claim in claims.values()) >= len(same) + 1


def test_rounding_and_conventions_are_seen_and_far_apart(ladder_section):
    """The picture: 0, then rounding, then another loss; so a real difference would have been seen."""
    by_kind = {
        kind: {rung["name"]: rung["distance"] for rung in ladder_section.data["rungs"] if rung["kind"] == kind}
        for kind in ("rounding", "convention")
    }
    assert 0 < by_kind["rounding"]["a window as one batch"] < 1e-5
    assert 0 < by_kind["rounding"]["AdamW without fusion"] < 1e-5
    assert min(by_kind["convention"].values()) > 1e-4


@pytest.fixture
def few_rungs(monkeypatch):
    """A ladder of one rung of each kind and those of peers, where the others would say the same again."""
    kept = {"transformers.Trainer", "distill.BlackBoxTrainer", "a window as one batch", "no clipping"}
    found = set()
    for kind in ("SAME", "ROUNDING", "CONVENTIONS"):
        rungs = [rung for rung in getattr(same_program, kind) if rung.needs_trl or rung.name in kept]
        found |= {rung.name for rung in rungs}
        monkeypatch.setattr(same_program, kind, rungs)
    assert kept <= found, f"no rung is called {', '.join(sorted(kept - found))}"


@pytest.mark.usefixtures("few_rungs")
def test_peers_that_are_not_installed_are_skipped_in_words(job, monkeypatch):
    monkeypatch.setattr("distill.equivalence.same_program.has_trl", lambda: False)
    section = ladder(job, quick=True)
    skipped = [claim for claim in section.claims if "TRL" in claim.text]
    assert [claim.holds for claim in skipped] == [None, None]
    assert all("distill[peers]" in claim.measured for claim in skipped)


def test_small_errors_break_the_equality(job):
    """One completion spells a text letter by letter, as a teacher may: the text reads as fewer tokens."""
    tokenizer, rows = job.tokenizer, job.pairs.to_list()
    words = ["the cat sat", "a dog ran", "why is it so", "the mat"]
    for i, row in enumerate(rows):
        ids = tokenizer(words[i % 4])["input_ids"]
        row.update(completion=words[i % 4], completion_ids=[*ids, 2], finish_reason="stop")
    spelled = [tokenizer(letter)["input_ids"][0] for letter in "thecatsat"]
    rows[4].update(completion="thecatsat", completion_ids=[*spelled, 2])
    section = controls(replace(job, pairs=pairs_from_rows(rows, where="spelled")))
    assert [claim.holds for claim in all_hold(section).values()] == [True] * 6
    again = section.data["tokenised_again"]
    assert again["differing"] == 1
    assert "".join(again["again"]).startswith("".join(again["emitted"])[:3])


def test_controls_say_nothing_where_nothing_is_equal(job):
    """With dropout, unchanged pairs give other weights, too: then a control that breaks shows nothing."""
    section = controls(replace(job, start=build_model(attention_dropout=0.5)))
    assert not section.failed
    assert {claim.holds for claim in section.claims} == {None}
    assert all("dropout" in claim.measured for claim in section.claims)


def test_a_row_cut_by_max_length_is_a_row_cut_before(job):
    """In the loss and in the number it is divided by: the tokens that were cut are not counted."""
    limit = 16
    rows = [
        {**row, "completion_ids": row["completion_ids"][: limit - len(row["prompt_ids"])]} for row in job.pairs.to_list()
    ]  # fmt: skip
    cut = replace(job, pairs=pairs_from_rows(rows, where="cut"))
    assert sum(map(len, cut.pairs["completion_ids"])) < sum(map(len, job.pairs["completion_ids"]))
    assert black_box(job, max_length=limit).is_equal(by_hand(cut))


def test_the_black_box_is_blind_for_the_author_and_the_white_box_is_not(job):
    teacher = LocalTeacher(build_model(seed=1), job.tokenizer, name="tiny")
    claims = all_hold(provenance(job, teacher, ["the cat", "a dog", "why so", "what is a mat"], max_new_tokens=8))
    assert all(claim.holds is True for claim in claims.values())


def test_settings_under_which_bits_cannot_be_equal_are_named(monkeypatch):
    assert obstacles(build_model()) == []
    eager = build_model()
    eager.set_attn_implementation("eager")
    (found,) = obstacles(build_model(), eager)
    assert "attention kernels (eager, sdpa)" in found
    (found,) = obstacles(build_model(), build_model().bfloat16())
    assert "bfloat16, float32" in found
    (found,) = obstacles(build_model(attention_dropout=0.1))
    assert "dropout is on (config.attention_dropout=0.1)" in found
    monkeypatch.setenv("WORLD_SIZE", "2")
    (found,) = obstacles(build_model())
    assert "2 processes" in found


@pytest.mark.usefixtures("few_rungs")
def test_dropout_is_not_reported_as_a_failure_of_the_theorem(job):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=320, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    section = ladder(replace(job, start=GPT2LMHeadModel(config)), quick=True)
    assert not section.failed
    assert {claim.holds for claim in section.claims} == {None}
    assert sum("not claimed: dropout is on" in claim.measured for claim in section.claims) >= 3


def test_the_hash_sees_one_bit():
    model = build_model()
    before = parameters_hash(model)
    weight = model.model.layers[1].mlp.up_proj.weight
    with torch.no_grad():
        weight[3, 4] = torch.nextafter(weight[3, 4], torch.tensor(math.inf))
    assert parameters_hash(model) != before


def test_a_student_cut_from_a_teacher_in_both_precisions(job):
    teacher = LocalTeacher(build_model(layers=3, seed=1), job.tokenizer, name="tiny")
    student = make_student(teacher.model, 2)
    section = real(replace(job, start=student, pairs=job.pairs.select(range(10))))
    claims = all_hold(section)
    assert {rung["setting"] for rung in section.data["rungs"]} == {"float32", "bfloat16"}
    assert all(claim.holds is True or "distill[peers]" in claim.measured for claim in claims.values())


def test_sources_of_one_text():
    """The machinery, on tiny models: three sources, paired seeds; no verdict is expected of so few."""
    teacher = LocalTeacher(build_model(layers=3, seed=1), build_tokenizer(), name="tiny")
    prompts = [f"{a} {b}" for a in ("the", "what", "why") for b in ("cat", "dog", "mat", "colour")]
    pairs = generate(teacher, prompts, max_new_tokens=6, progress=False)
    start = make_student(teacher.model, 2)
    section = sources(start, teacher, pairs.select(range(8)), pairs.select(range(8, 12)), seeds=2)
    assert [len(losses) for losses in section.data["losses"].values()] == [2, 2, 2]
    assert section.data["tokenised_otherwise"] > 0  # random models emit bytes that are no text
    assert section.data["margin"] == pytest.approx(0.5 * section.data["spread"])
    assert len(section.claims) == 2


def test_equivalence_of_means():
    from scipy.stats import ttest_1samp

    one = [1.00, 1.10, 0.95, 1.05, 1.02]
    near, far = (
        [value + d for value, d in zip(one, (0.01, -0.01, 0.0, 0.005, -0.002), strict=True)],
        [v + 1 for v in one],
    )
    found = paired_tost(one, near, 0.05)
    differences = [b - a for a, b in zip(one, near, strict=True)]
    by_scipy = max(
        ttest_1samp(differences, -0.05, alternative="greater").pvalue, ttest_1samp(differences, 0.05, alternative="less").pvalue
    )  # fmt: skip
    assert found["p"] == pytest.approx(by_scipy)
    assert found["p"] < 0.01
    assert found["p_differs"] > 0.99
    assert paired_tost(one, [v + d for v, d in zip(far, (0.01, 0, 0, 0, 0), strict=True)], 0.05)["p_differs"] < 0.01
    assert paired_tost(one, [v + d for v, d in zip(far, (0.01, 0, 0, 0, 0), strict=True)], 0.05)["p"] > 0.99
    assert paired_tost(one, one, 0.05)["p"] == 0
    with pytest.raises(ValueError, match="at least 2"):
        paired_tost([1.0], [1.0], 0.1)


def test_the_page_stands_alone(bed, tmp_path):
    pytest.importorskip("matplotlib")
    failing = Section("provenance")
    failing.claim("two <b>equal</b> things", "they differ", False)
    facts = {"command": "x", "seconds": 1.0, "teacher": "tiny", "environment": {"torch": "2"}}
    write_page([breaks(bed), failing], facts, tmp_path / "equivalence.html")
    page = (tmp_path / "equivalence.html").read_text()
    assert page.count("<svg") == 1
    assert (tmp_path / "breaks.svg").is_file()
    assert "<b>1 did not</b>" in page
    assert "two &lt;b&gt;equal" in page
    assert "What is not claimed" in page
    for tag in ("<script", "<link", 'src="http'):
        assert tag not in page


def test_the_recipe_runs_one_section_by_itself(tmp_path, told):
    told("equivalence", "--output_dir", tmp_path / "out", "--sections", "breaks", "--quick")
    found = json.loads((tmp_path / "out" / "equivalence.json").read_text())
    assert [section["name"] for section in found["sections"]] == ["breaks"]
    assert all(claim["holds"] for claim in found["sections"][0]["claims"])
    assert (tmp_path / "out" / "equivalence.html").is_file()


@pytest.mark.parametrize(
    ("flags", "environment", "sentence"),
    [
        (["--sections", "ladder,proof"], {}, "sections names proof; it must list some of ladder,"),
        (["--quick", "--sections", "sources"], {}, "no quick form of sources"),
        (["--seeds", "1"], {}, "seeds is 1; a paired test needs at least 2"),
        ([], {"WORLD_SIZE": "2"}, "There are 2 processes"),
    ],
)
def test_bad_flags(flags, environment, sentence, tmp_path, monkeypatch, capsys):
    from distill.recipes.equivalence import main

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        main(["--output_dir", str(tmp_path / "out"), *flags])
    assert stop.value.code == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
