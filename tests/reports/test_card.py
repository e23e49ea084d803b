"""The model card: true facts, a valid front matter, nothing private in it, and nobody's own README lost."""

import json
import socket
from functools import partial

import pytest
from conftest import build_model, build_pairs, build_tokenizer
from huggingface_hub import ModelCard
from transformers import TrainingArguments

from distill import Logits, make_student
from distill.basics.curation_step import Step
from distill.models.embedded import EMBEDDED, cache_folder
from distill.pairs import load_pairs, save_pairs
from distill.pairs.schema import pairs_from_rows
from distill.reports.card import CARD, NOTICE, PROVENANCE, is_edited, write_card
from distill.reports.provenance import describe_pairs, describe_training, drawn_as, pairs_sha256, write_steps
from distill.running.folder import save_student
from distill.teachers import LocalTeacher, Sampling

STEP = Step(
    "near duplicates", 20, 12, "Rare prompts weigh more.", {"similarity": 0.8}, examples=("a question of the test set",)
)


def rows_of(pairs, **changes):
    return pairs_from_rows([{**row, **changes} for row in pairs], "test")


def both_texts(folder):
    return (folder / CARD).read_text(encoding="utf-8") + (folder / PROVENANCE).read_text(encoding="utf-8")


def teacher_in(folder, front_matter="license: mit"):
    build_model(layers=3).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text(f"---\n{front_matter}\n---\n# A model\n")
    return LocalTeacher(folder)


def test_the_hash_is_of_the_pairs_and_not_of_their_file_or_order(tmp_path):
    rows = [{**row, "loss_mask": [1] * len(row["completion_ids"])} for row in build_pairs(12)]
    pairs = pairs_from_rows(rows, "test")
    save_pairs(pairs, tmp_path / "a.jsonl")
    save_pairs(pairs, tmp_path / "arrow")
    wanted = pairs_sha256(pairs)
    others = [load_pairs(tmp_path / "a.jsonl"), load_pairs(tmp_path / "arrow"), pairs.shuffle(seed=1), build_pairs(12)]
    assert [pairs_sha256(other) for other in others] == [wanted] * 4  # a mask of ones says what no mask says
    assert pairs_sha256(rows_of(pairs, completion="text is for people", score=1.0)) == wanted
    assert pairs_sha256(pairs.select([3, 1, 2])) == pairs_sha256(pairs.select([1, 2, 3]))


def test_what_the_teacher_was_shown_is_on_the_card(tmp_path):
    """The hash, a line and a limit; nothing of it where no pair has one, and the hash of before."""
    rows = build_pairs(6).to_list()
    shown = [[5, 6, 7], None, [5], None, None, [9, 9]]
    words = [{"teacher_prompt": ids and "more", "teacher_prompt_ids": ids} for ids in shown]
    both = [
        pairs_from_rows([{**r, **w} for r, w in zip(rows, more, strict=True)], "test") for more in (words, words[::-1])
    ]
    hashes = {pairs_sha256(pairs) for pairs in (build_pairs(6), *both, both[0].shuffle(seed=1))}
    assert len(hashes) == 3
    assert pairs_sha256(build_pairs(12)) == "01f746e9e6f7584149a1629abec407fe6f164e193d69546bf5d2a1ba7db59499"
    facts = write_card(tmp_path, student=build_model(), pairs=both[0], how="black box")
    assert facts["pairs"]["teacher_prompts"] == {"pairs": 3, "longest": 3}
    card = (tmp_path / CARD).read_text()
    assert "| shown to the teacher alone | another prompt in 3 pairs, of 3 tokens at most |" in card
    assert "In 3 of 6 pairs the teacher was shown another prompt" in card
    write_card(tmp_path, student=build_model(), pairs=build_pairs(6), how="black box")
    assert "shown" not in both_texts(tmp_path)


def test_every_change_that_can_be_learned_changes_the_hash():
    rows = build_pairs(6).to_list()
    ids, prompt = rows[0]["completion_ids"], rows[0]["prompt_ids"]
    changes = [
        {"completion_ids": [*ids[:-1], ids[-1] + 1]},
        {"prompt_ids": prompt[:-1], "completion_ids": [prompt[-1], *ids]},  # the same row, divided elsewhere
        {"prompt_ids": [*prompt, ids[0]], "completion_ids": [*ids[1:], 7]},
        {"id": "another"},
        {"loss_mask": [0] + [1] * (len(ids) - 1)} if len(ids) > 1 else {"completion_ids": [*ids, 5]},
    ]
    found = {pairs_sha256(pairs_from_rows([{**rows[0], **change}, *rows[1:]], "test")) for change in changes}
    found |= {pairs_sha256(pairs_from_rows(listed, "test")) for listed in (rows, rows[1:], [*rows, rows[0]])}
    assert len(found) == len(changes) + 3


def test_counts_of_the_pairs():
    rows = build_pairs(9).to_list()
    for i, row in enumerate(rows):
        row.update(score=float(i % 2) if i < 8 else None, score_error=None if i < 8 else "raised", token_source="text")
    rows[1]["loss_mask"] = [0] * (len(rows[1]["completion_ids"]) - 1) + [1]
    rows[2] = {**rows[2], "prompt_ids": rows[3]["prompt_ids"]}
    facts = describe_pairs(pairs_from_rows(rows, "test"))
    tokens = sum(len(row["completion_ids"]) for i, row in enumerate(rows) if i != 1) + 1
    assert facts["supervised_tokens"] == tokens
    assert (facts["count"], facts["prompts"]) == (9, 8)
    assert facts["finish_reasons"] == {"stop": 6, "length": 3}
    assert facts["token_source"] == {"text": 9}
    assert (facts["mean_score"], facts["without_score"]) == (0.5, 1)
    assert describe_pairs(build_pairs(3))["token_source"] == {"unknown": 3}


def test_own_columns_with_few_values_are_counted():
    """Source, licence, difficulty: what a reader of the card asks for; a column of names is not published."""
    rows = [
        {**row, "source": "web" if i else None, "level": i % 2, "name": f"n{i}", "tags": ["a"]}
        for i, row in enumerate(build_pairs(30).to_list())
    ]
    own = describe_pairs(pairs_from_rows(rows, "test"))["own_columns"]
    assert own == {"source": {"web": 29, "None": 1}, "level": {"0": 15, "1": 15}}
    assert "own_columns" not in describe_pairs(build_pairs(3))


def test_what_documents_say_is_not_counted_on_a_card():
    """Rows of a few facts have few facts: their answers stood on the card by name."""
    rows = [
        {**row, "fact": "staff.md#pia holm", "answer": "Pia Holm", "mode": "closed"} for row in build_pairs(3).to_list()
    ]
    described = describe_pairs(pairs_from_rows(rows, "test"))
    assert described["own_columns"] == {"mode": {"closed": 3}}
    assert "olm" not in json.dumps(described)


@pytest.mark.parametrize("max_length", [None, 8, 12])
@pytest.mark.parametrize("masked", [False, True])
def test_supervised_tokens_are_those_the_collator_supervises(max_length, masked):
    from distill.pairs.collate import PairCollator, supervised_rows

    rows = build_pairs(30).to_list()
    rows[0]["prompt_ids"] = []
    if masked:
        for row in rows[::2]:
            row["loss_mask"] = [1] + [i % 2 for i in range(1, len(row["completion_ids"]))]
    rows = [row for row in rows if max_length is None or len(row["prompt_ids"]) < max_length]
    rows = [row for row in rows if row["prompt_ids"] or len(row["completion_ids"]) > 1]
    collator = PairCollator(build_tokenizer(), max_length=max_length)
    pairs = pairs_from_rows(rows, "test")
    labels = collator(list(pairs))["labels"]
    facts = describe_pairs(pairs, max_length)
    assert facts["supervised_tokens"] == int(supervised_rows(labels).sum())
    longest = max_length or 10**6
    assert facts["rows_cut_at_max_length"] == sum(
        len(row["prompt_ids"]) + len(row["completion_ids"]) > longest for row in rows
    )


def test_the_front_matter_is_valid_and_the_facts_stand_in_both_files(tmp_path, arguments):
    teacher = teacher_in(tmp_path)
    pairs = rows_of(build_pairs(12), teacher=teacher.name)
    objective = Logits("reverse_kl", temperature=2.0)
    out = tmp_path / "student"
    out.mkdir()
    facts = write_card(
        out, student=make_student(teacher.model, 2), pairs=pairs, teacher=teacher, how="white box",
        sampling=Sampling(temperature=0.6, top_p=0.95, seed=5), objectives=[objective], steps=[STEP],
        training=arguments(gradient_accumulation_steps=4), max_length=99,
        metrics={"eval_loss": 2.5, "eval_runtime": 1.0, "epoch": 3.0, "note": "no number", "kl": 0.25},
        hub_datasets=["open-r1/Mixture-of-Thoughts"],
    )  # fmt: skip
    card = ModelCard.load(out / CARD)
    assert card.data.license == "mit"
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert {"distillation", "white-box"} <= set(card.data.tags)
    assert card.data.datasets == ["open-r1/Mixture-of-Thoughts"]
    assert card.data.base_model is None, "a folder of this machine is no model of the Hub"
    assert json.loads((out / PROVENANCE).read_text()) == json.loads(json.dumps(facts))
    assert facts["teachers"][0]["identity"]["teacher_weights"] == teacher.identity()["teacher_weights"]
    assert facts["student"]["kept_layers"] == make_student(teacher.model, 2).config.distill_kept_layers
    assert facts["sampling"]["top_p"] == 0.95
    assert (
        facts["objectives"][0] | {"name": "logits", "divergence": "reverse_kl", "temperature": 2.0}
        == (facts["objectives"][0])
    )
    assert facts["training"]["rows_in_a_step"] == 8
    assert (facts["training"]["learning_rate"], facts["training"]["seed"]) == (1e-2, 3)
    assert facts["held_out"] == {"eval_loss": 2.5, "kl": 0.25}
    assert facts["steps"][0]["rows_out"] == 12
    for words in (
        "near duplicates",
        "Rare prompts weigh more.",
        facts["pairs"]["sha256"],
        "4 of 12 completions were cut",
    ):
        assert words in card.text
    assert "a question of the test set" not in both_texts(out)


def test_whatever_a_trainer_takes_as_its_teacher_is_on_the_card(tmp_path):
    """Stored signals, a loaded model, several by their routing values."""
    from distill.signals import LiveTeacher, capture

    model, pairs = build_model(seed=1), rows_of(build_pairs(4), teacher="maths")
    mine = LocalTeacher(model, build_tokenizer(), name="maths")
    stored = capture(mine, build_pairs(4), output=tmp_path / "signals", progress=False)
    given = {"student": build_model(), "pairs": pairs, "how": "white box"}
    for name in "ab":
        (tmp_path / name).mkdir()
    facts = write_card(tmp_path / "a", **given, teacher=stored)
    (one,) = facts["teachers"]
    assert (one["name"], one["pairs"]) == ("maths", 4)
    assert one["identity"]["teacher_weights"] == mine.identity()["teacher_weights"]
    assert one["identity"]["stored"].startswith("stored hidden of LlamaForCausalLM")
    for several in ({"m": stored, "c": build_model(seed=2)}, [stored, LiveTeacher(build_model(seed=2))]):
        facts = write_card(tmp_path / "b", **given, teacher=several)
        assert [(one["name"], one["pairs"]) for one in facts["teachers"]] == [("maths", 4), ("LlamaForCausalLM", 0)]
        assert facts["inside_of"] == "maths, LlamaForCausalLM"
    twice = {"m": stored, "again": stored, "c": "my/chat", "teacher": "self"}
    facts = write_card(tmp_path / "b", **given, teacher=twice)
    assert [one["name"] for one in facts["teachers"]] == ["maths", "my/chat", "self"]
    two = [build_model(seed=2), build_model(seed=3)]
    facts = write_card(tmp_path / "b", **given, teacher=two)
    assert [one["name"] for one in facts["teachers"]] == ["maths", "LlamaForCausalLM", "LlamaForCausalLM (2)"]
    facts = write_card(tmp_path / "b", **given, teacher={"a": stored, "b": "maths"})
    assert [one["name"] for one in facts["teachers"]] == ["maths"]


def test_ones_own_folder_called_as_the_embedded_model_is_not_it(tmp_path):
    pairs = rows_of(build_pairs(4), teacher="/data/me/smollm2-135m")
    (one,) = write_card(tmp_path, student=build_model(), pairs=pairs, how="black box")["teachers"]
    assert (one["name"], one["hub_id"], one["license"]) == ("smollm2-135m", None, None)


def test_all_of_several_teachers_are_on_the_card(tmp_path):
    """By name: one wrote pairs, the other's inside was matched and it wrote none."""
    teachers = [
        LocalTeacher(build_model(seed=seed), build_tokenizer(), name=name) for seed, name in ((1, "maths"), (2, "chat"))
    ]
    pairs = rows_of(build_pairs(4), teacher="maths")
    facts = write_card(tmp_path, student=build_model(), pairs=pairs, how="white box", teacher=teachers)
    assert [(one["name"], one["pairs"]) for one in facts["teachers"]] == [("maths", 4), ("chat", 0)]
    weights = [one["identity"]["teacher_weights"] for one in facts["teachers"]]
    assert weights[0] != weights[1]
    assert facts["inside_of"] == "maths, chat"
    assert "`maths, chat`" in both_texts(tmp_path)
    other = LocalTeacher(build_model(seed=5), build_tokenizer(), name="maths")
    given = {"student": build_model(), "pairs": pairs, "how": "white box"}
    facts = write_card(tmp_path, **given, teacher=[teachers[0], other, teachers[0]])
    assert [one["name"] for one in facts["teachers"]] == ["maths", "maths (2)"], "given twice it is one"


def test_an_unknown_teacher_is_said_to_be_unknown(tmp_path):
    facts = write_card(
        tmp_path, student=build_model(), pairs=rows_of(build_pairs(4), teacher="unknown"), how="black box"
    )
    text = (tmp_path / CARD).read_text()
    assert "their teacher is unknown" in text
    assert "Many hosted APIs forbid training" in text
    assert (facts["license"], facts["sampling"]) == (None, None)
    assert ModelCard.load(tmp_path / CARD).data.license is None
    assert "Sampling: not on record" in text


@pytest.mark.parametrize(("own", "expected"), [(None, None), ("apache-2.0", None), ("mit", "mit")])
def test_a_licence_is_named_only_where_start_and_teacher_agree(tmp_path, own, expected):
    (tmp_path / "base").mkdir()
    start = teacher_in(tmp_path / "base", "license: mit")
    pairs = rows_of(build_pairs(4), teacher="hosted/model")
    facts = write_card(tmp_path, student=start.model, pairs=pairs, how="black box", teacher_license=own)
    assert facts["license"] == expected
    assert facts["student"]["license"] == "mit"


def test_the_embedded_model_is_known_by_its_folder_too(tmp_path):
    student = build_model()
    student.config._name_or_path = str(cache_folder() / "smollm2-135m")
    facts = write_card(
        tmp_path, student=student, pairs=rows_of(build_pairs(4), teacher="smollm2-135m"), how="black box"
    )
    data = ModelCard.load(tmp_path / CARD).data
    assert data.base_model == EMBEDDED["smollm2-135m"].hub_id
    assert data.license == facts["teachers"][0]["license"] == "apache-2.0"


def test_nothing_private_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "correct-horse-battery")
    monkeypatch.setenv("HOME", "/home/jo doe")
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    teacher = teacher_in(folder)
    name = teacher.name
    monkeypatch.setattr(
        LocalTeacher,
        "identity",
        lambda self: {
            "teacher": name,
            "url": "https://jo:pw12345@api.example.com/v1?key=correct-horse-battery",
            "inside": "http://gpu-17.corp:8000/v1",
            "note": f"Authorization: Bearer correct-horse-battery, from {socket.gethostname()}, see /home/jo doe/x/notes.txt",
            "api_key": "sk-abcdefghijklmnop",
            "hf_token": "hf_abcdefghijklmnopqrst",
        },
    )
    step = Step(
        "verified", 5, 4, "Read from /srv/jo/answers.jsonl by jo@example.com.", {"file": str(tmp_path / "a b.txt")}
    )
    out = tmp_path / "out"
    out.mkdir()
    write_card(
        out, student=teacher.model, pairs=rows_of(build_pairs(4), teacher=name), how="black box", teacher=teacher,
        steps=[step], training={"token": "correct-horse-battery", "output_dir": "/srv/jo/runs/one", "learning_rate": 1},
        metrics={"/srv/jo/loss": 1.0},
    )  # fmt: skip
    text = both_texts(out)
    private = [
        "correct-horse-battery", "pw12345", "sk-abc", "hf_abc", "jo doe", "/srv", "jo@", "gpu-17", str(tmp_path), "/home",
        tmp_path.parts[1] + "/",
    ]  # fmt: skip
    if len(socket.gethostname()) > 3:
        private.append(socket.gethostname())
    assert [secret for secret in private if secret in text] == []
    assert "https://api.example.com/v1" in text
    assert "answers.jsonl" in text
    assert "mine" in text


def test_text_of_others_cannot_forge_markup(tmp_path):
    name = "evil` | x |\n---\nlicense: mit\n---\n<script>alert(1)</script> [a](http://b)"
    step = Step("a | b\n## c", 2, 1, "<b>bold</b>\n| - |")
    write_card(
        tmp_path, student=build_model(), pairs=rows_of(build_pairs(4), teacher=name), how="black box", steps=[step]
    )
    card = ModelCard.load(tmp_path / CARD)
    assert card.data.license is None
    assert "\n## c" not in card.text
    assert "<b>" not in card.text
    outside_code = "".join(card.text.split("`")[::2])
    assert "<script>" not in outside_code


def test_a_rerun_writes_the_same_and_an_edited_readme_stays(tmp_path, capsys):
    model, tokenizer, folder = build_model(), build_tokenizer(), tmp_path / "student"
    card = partial(write_card, student=model, pairs=build_pairs(4), how="black box")
    save_student(model, tokenizer, folder, card)
    first = both_texts(folder)
    assert not is_edited(folder)
    save_student(model, tokenizer, folder, card)
    assert both_texts(folder) == first
    save_student(model, tokenizer, folder, partial(card, pairs=build_pairs(5)))
    assert "5 pairs of 5 prompts" in (folder / CARD).read_text()
    (folder / CARD).write_text((folder / CARD).read_text().replace("# Student of", "# My student of"))
    own = (folder / CARD).read_bytes()
    save_student(model, tokenizer, folder, card)
    assert (folder / CARD).read_bytes() == own
    assert "left as it is" in capsys.readouterr().out
    assert json.loads((folder / PROVENANCE).read_text())["pairs"]["count"] == 4
    save_student(model, tokenizer, folder)
    assert (folder / CARD).read_bytes() == own
    assert not (folder / PROVENANCE).exists(), "facts of another training must not stay beside these weights"


def test_a_teacher_behind_a_server_is_named_by_its_address(tmp_path):
    identity = {
        "teacher": "org/big",
        "teacher_url": "https://me:pw@api.example.com/v1?k=1",
        "teacher_says": {"root": "/srv/x/big"},
    }
    pairs = rows_of(build_pairs(4), teacher="org/big")
    facts = write_card(tmp_path, student=build_model(), pairs=pairs, how="black box", teacher=identity)
    assert facts["teachers"][0]["identity"] == {
        "teacher_url": "https://api.example.com/v1",
        "teacher_says": {"root": "big"},
    }
    assert "| `org/big` | 4 | `https://api.example.com/v1` | unknown |" in (tmp_path / CARD).read_text()


def test_an_adapter_is_called_one(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    write_card(tmp_path, student=build_model(), pairs=build_pairs(4), how="black box")
    assert ModelCard.load(tmp_path / CARD).data.library_name == "peft"


def test_settings_beside_the_pairs(tmp_path):
    beside = tmp_path / "pairs.jsonl.settings.json"
    assert drawn_as(tmp_path / "pairs.jsonl") == (None, None, ())
    for bad in (b"{", b"\xff\xfe", b"[1]", b"{}"):
        beside.write_bytes(bad)
        assert drawn_as(tmp_path / "pairs.jsonl") == (None, None, ())
    beside.write_text(json.dumps({"teacher": "t", "stop_ids": [2], "journal_format": 2, **Sampling(seed=4).as_dict()}))
    identity, sampling, steps = drawn_as(tmp_path / "pairs.jsonl")
    assert steps == ()
    assert sampling == Sampling(seed=4).as_dict()
    facts = write_card(
        tmp_path, student=build_model(), pairs=rows_of(build_pairs(4), teacher="t"), how="black box", teacher=identity
    )
    (found,) = facts["teachers"]
    assert (found["name"], found["pairs"], found["identity"]) == ("t", 4, {"stop_ids": [2]})


def test_what_is_known_of_pairs_survives_cleaning_them_again_and_again(tmp_path):
    """Teacher, sampling and every filter with its counts reach the card, through any number of files."""
    settings = {"teacher": "t", "journal_format": 2, **Sampling(seed=4, temperature=0.6).as_dict()}
    (tmp_path / "pairs.jsonl.settings.json").write_text(json.dumps(settings))
    first, second = (Step(name, n, n - 2, "so", {"n": 8}, ("a question",)) for name, n in (("one", 9), ("two", 7)))
    write_steps(tmp_path / "clean.jsonl", [first], source=tmp_path / "pairs.jsonl")
    write_steps(tmp_path / "cleaner.jsonl", [second], source=tmp_path / "clean.jsonl")
    found = drawn_as(tmp_path / "cleaner.jsonl")
    assert found.steps == (first, second)
    assert found[:2] == drawn_as(tmp_path / "pairs.jsonl")[:2]
    assert found.sampling["temperature"] == 0.6
    write_steps(tmp_path / "own.jsonl", [first], source=tmp_path / "nobody.jsonl")
    assert drawn_as(tmp_path / "own.jsonl") == (None, None, (first,))
    for bad in ("{", "[]", '{"steps": [{"name": 1}]}', '{"steps": [1]}', '{"drawn": []}'):
        (tmp_path / "own.jsonl.steps.json").write_text(bad)
        assert drawn_as(tmp_path / "own.jsonl") == (None, None, ()), bad


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="how is 'grey box'; it must be one of 'black box', 'white box'"):
        write_card(tmp_path, student=build_model(), pairs=build_pairs(4), how="grey box")


def test_settings_of_the_training_are_names_that_exist(tmp_path):
    from distill.reports.provenance import TRAINING

    training = TrainingArguments(str(tmp_path), use_cpu=True)
    assert [name for name in TRAINING if not hasattr(training, name)] == []
    found = describe_training(training)
    assert "output_dir" not in found
    assert (found["lr_scheduler_type"], found["seed"]) == ("linear", 42)


def test_records_of_pairs_and_of_pairs_jsonl_are_not_taken_for_each_other(tmp_path, capsys):
    """Earlier versions wrote `pairs.steps.json` and `pairs.settings.json` for `pairs.jsonl`; an output may be called `pairs`."""
    file, folder, journal = tmp_path / "pairs.jsonl", tmp_path / "pairs", {"teacher": "old", "temperature": 0.5}
    beside, kept = tmp_path / "pairs.steps.json", tmp_path / "pairs.steps.json.earlier"
    earlier, later = Step("earlier", 3, 2, "", {}, ()), Step("later", 2, 1, "", {}, ())
    file.write_text("{}")
    (tmp_path / "pairs.settings.json").write_text(json.dumps(journal))
    beside.write_text(json.dumps({"drawn": None, "steps": [earlier.as_dict()]}))
    assert drawn_as(file).teacher == {"teacher": "old"}
    assert drawn_as(file).steps == (earlier,)
    assert capsys.readouterr().out == ""
    folder.mkdir()
    for path in (file, folder):
        assert drawn_as(path).steps == (), "it was the file's, or an earlier version's of the folder: nobody can tell"
        assert f'write "of": "{path.name}" into it' in capsys.readouterr().out
    write_steps(folder, [later], source=tmp_path / "other.jsonl")
    assert drawn_as(folder).steps == (later,)
    assert drawn_as(file).steps == ()
    assert f"it is {kept} now" in capsys.readouterr().out
    assert json.loads(kept.read_text())["steps"][0]["name"] == "earlier", "and it is not lost"
    assert drawn_as(file).teacher == {"teacher": "old"}
    assert drawn_as(folder).teacher is None


def test_a_record_that_was_given_to_pairs_jsonl_is_not_taken_by_pairs(tmp_path, capsys):
    """What the notice tells people to write into it was read by one of the two alone."""
    file, folder, beside = tmp_path / "pairs.jsonl", tmp_path / "pairs", tmp_path / "pairs.steps.json"
    old, new = Step("old", 3, 2, "", {}, ()), Step("new", 2, 1, "", {}, ())
    given = json.dumps({"of": "pairs.jsonl", "drawn": {"teacher": "t"}, "steps": [old.as_dict()]})
    file.write_text("{}")
    folder.mkdir()
    beside.write_text(given)
    assert drawn_as(file).steps == (old,)
    assert drawn_as(folder) == (None, None, ())
    write_steps(folder, [new], source=tmp_path / "other.jsonl")
    assert (drawn_as(folder).steps, drawn_as(file).steps) == ((new,), (old,)), "it lies where its owner finds it"
    assert (
        f"{beside} was the record of pairs.jsonl; it is {tmp_path / 'pairs.jsonl.steps.json'} now"
        in capsys.readouterr().out
    )
    (tmp_path / "pairs.jsonl.steps.json").rename(beside)
    write_steps(file, [new], source=tmp_path / "other.jsonl")
    assert drawn_as(file).steps == (new,)
    assert drawn_as(folder).steps == (), "nor does it when the owner writes anew"


def test_nameless_records_that_were_put_away_are_all_kept(tmp_path):
    """The second took the place of the first."""
    (tmp_path / "pairs.jsonl").write_text("{}")
    for number in range(3):
        (tmp_path / "pairs.steps.json").write_text(json.dumps({"steps": [], "number": number}))
        write_steps(tmp_path / "pairs", [], source=tmp_path / "other.jsonl")
    kept = [tmp_path / f"pairs.steps.json.earlier{end}" for end in ("", ".2", ".3")]
    assert [json.loads(path.read_text())["number"] for path in kept] == [0, 1, 2]


def test_pairs_that_were_renamed_keep_their_record_beside_new_ones_of_the_old_name(tmp_path):
    step = Step("near", 3, 2, "", {}, ())
    write_steps(tmp_path / "clean.jsonl", [step], source=tmp_path / "other.jsonl")
    (tmp_path / "clean.jsonl.steps.json").rename(tmp_path / "v1.jsonl.steps.json")
    for name in ("v1.jsonl", "clean.jsonl"):
        (tmp_path / name).write_text("{}")
    assert (drawn_as(tmp_path / "v1.jsonl").steps, drawn_as(tmp_path / "clean.jsonl").steps) == ((step,), ())


@pytest.mark.parametrize("made", [True, False])
def test_a_record_stays_its_owners(tmp_path, made):
    """The steps of an output `pairs` went to `pairs.jsonl` when that output was deleted, and those without a name when it was made."""
    file, folder, step = tmp_path / "pairs.jsonl", tmp_path / "pairs", Step("near", 3, 2, "", {}, ())
    folder.mkdir()
    write_steps(folder, [step], source=tmp_path / "other.jsonl")
    record = json.loads((tmp_path / "pairs.steps.json").read_text())
    file.write_text("{}")
    if not made:
        folder.rmdir()
        assert drawn_as(file).steps == ()
        (tmp_path / "pairs.steps.json").write_text(json.dumps(record | {"of": "pairs.jsonl"}))
        assert drawn_as(file).steps == (step,)
        return
    assert (drawn_as(folder).steps, drawn_as(file).steps) == ((step,), ())
    (tmp_path / "pairs.steps.json").write_text(json.dumps({n: v for n, v in record.items() if n != "of"}))
    assert (drawn_as(folder).steps, drawn_as(file).steps) == ((), ())
    (tmp_path / "pairs.steps.json").write_text(json.dumps(record))
    assert drawn_as(folder).steps == (step,)


def test_a_record_that_is_renamed_with_its_pairs_is_theirs(tmp_path):
    step = Step("near", 3, 2, "", {}, ())
    write_steps(tmp_path / "clean.jsonl", [step], source=tmp_path / "other.jsonl")
    (tmp_path / "clean.jsonl.steps.json").rename(tmp_path / "best.jsonl.steps.json")
    assert drawn_as(tmp_path / "best.jsonl").steps == (step,)


def test_terms_of_a_teacher_go_along_to_its_student_and_to_that_ones_students(tmp_path):
    pairs = rows_of(build_pairs(4), teacher="gemma3-270m")
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    for folder in (first, second, other):
        folder.mkdir()
    facts = write_card(first, student=build_model(), pairs=pairs, how="black box")
    terms = EMBEDDED["gemma3-270m"].terms
    assert facts["terms"] == [terms.as_dict()]
    assert facts["teachers"][0]["license"] == "gemma"
    text = (first / CARD).read_text()
    assert terms.address in text
    assert f"> {terms.notice}" in text
    assert (first / NOTICE).read_text() == terms.notice + "\n"
    heir = build_model()
    heir.config._name_or_path = str(first)
    (second / NOTICE).write_text("Of somebody else.\n")
    assert write_card(second, student=heir, pairs=rows_of(build_pairs(4), teacher="me"), how="black box")["terms"] == [
        terms.as_dict()
    ]
    assert (second / NOTICE).read_text() == f"Of somebody else.\n{terms.notice}\n"
    write_card(second, student=heir, pairs=pairs, how="black box")
    assert (second / NOTICE).read_text().count(terms.notice) == 1
    plain = write_card(
        other, student=build_model(), pairs=rows_of(build_pairs(4), teacher="smollm2-135m"), how="black box"
    )
    assert plain["terms"] == []
    assert "## Terms" not in (other / CARD).read_text()
    assert not (other / NOTICE).exists()
