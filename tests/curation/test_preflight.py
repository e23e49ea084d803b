"""The preflight: what it counts is what a training sees, and every fault it knows is found."""

import json

import pytest
from conftest import build_model, build_pairs, build_tokenizer
from tool_chats import ASK, CHATS, TALK, chat_tokenizer
from transformers import PreTrainedTokenizerFast

from distill import load_pairs
from distill.curation.preflight import check_before_training, preflight
from distill.pairs import are_tokens_of
from distill.pairs.collate import IGNORE, PairCollator
from distill.pairs.measures import PairArrays
from distill.pairs.schema import pairs_from_rows
from distill.text.encode import encode_prompt


@pytest.fixture
def tokenizer():
    return build_tokenizer()


def row(tokenizer: PreTrainedTokenizerFast, i=0, completion="the cat sat", prompt="what is a mat", **changes):
    """A pair whose ids are those of its text."""
    ids = tokenizer(completion, split_special_tokens=True)["input_ids"]
    reason = changes.get("finish_reason", "stop")
    made = {
        "id": f"row{i}",
        "prompt": [{"role": "user", "content": f"{prompt} {i}"}],
        "completion": completion,
        "prompt_ids": tokenizer(f"{prompt} {i}", split_special_tokens=True)["input_ids"],
        "completion_ids": ids + [tokenizer.eos_token_id] * (reason == "stop"),
        "finish_reason": reason,
        "sample": 0,
        "teacher": "t",
    }
    return {**made, **changes}


def looked_at(tokenizer, *rows, **settings):
    return preflight(pairs_from_rows(list(rows), where="test"), tokenizer, **settings)


def names(report, *levels):
    return [finding.name for finding in report.findings if finding.level in (levels or ("error", "warning"))]


def test_what_the_teacher_was_shown_is_said(tokenizer):
    shown = [{"teacher_prompt": "more", "teacher_prompt_ids": [5] * size} if size else {} for size in (0, 40, 2, 10)]
    report = looked_at(tokenizer, *(row(tokenizer, i, **more) for i, more in enumerate(shown)))
    assert report.figures["teacher_prompts"] == {"rows": 3, "median": 10, "most": 40}
    (said,) = [finding.text for finding in report.findings if finding.name == "teacher's prompts"]
    assert "In 3 of 4 rows (75.0%) the teacher was shown another prompt" in said
    bare = looked_at(tokenizer, row(tokenizer))
    assert "teacher_prompts" not in bare.figures
    assert bare.figures["tokens"] == looked_at(tokenizer, row(tokenizer, **shown[1])).figures["tokens"], "the student's"


def test_what_the_teacher_was_shown_is_one_thing_in_words_and_in_tokens(tokenizer):
    """A text, a chat, tokens alone; then tokens of other words, and of another tokenizer."""
    talk = [{"role": "user", "content": "\nthe cat sat  "}]
    chat = encode_prompt(talk, tokenizer)
    ids = tokenizer("the cat sat")["input_ids"]
    for words, shown in (("the cat sat", ids), (talk, chat), (None, ids), (None, None)):
        more = {"teacher_prompt": words, "teacher_prompt_ids": shown}
        assert names(looked_at(tokenizer, row(tokenizer, 0, **more))) == []
    for words in ("a dog", [{"role": "user", "content": "a dog"}]):
        report = looked_at(
            tokenizer, row(tokenizer, 0, teacher_prompt=words, teacher_prompt_ids=chat), row(tokenizer, 1)
        )
        assert names(report) == ["teacher's words"]
        assert "In 1 of 1 rows (100.0%) looked at, teacher_prompt_ids do not decode" in str(report)
        assert "'a dog' is not in" in str(report)
    beyond = {"teacher_prompt_ids": [*ids, len(tokenizer)]}
    assert names(looked_at(tokenizer, row(tokenizer, 0, **beyond))) == ["teacher's vocabulary"]


def test_good_pairs_give_no_warning(tokenizer):
    report = looked_at(tokenizer, *(row(tokenizer, i) for i in range(4)), max_length=64, model=build_model())
    assert names(report) == []
    assert report.figures["eos"] == {"ids": [2], "supervised": 4, "stopped_without": 0, "cut_with": 0}
    assert str(report).startswith("Preflight: 4 rows of 4 prompts, ")
    assert str(report).endswith("4 of 4 rows that ended carry loss on their EOS.")


@pytest.mark.parametrize("max_length", [None, 14, 9, 5, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_supervised_tokens_are_the_collators_labels(tokenizer, max_length, masked):
    rows = [dict(pair) for pair in build_pairs(30)]
    rows[4]["prompt_ids"] = []
    if masked:
        for i in range(0, 30, 2):  # a mask that begins with 0, one with 1
            rows[i]["loss_mask"] = [(i // 2 + j) % 2 for j in range(len(rows[i]["completion_ids"]))]
            rows[i]["loss_mask"][-1] = 1
    pairs = pairs_from_rows(rows, where="test")
    arrays, collate = PairArrays(pairs, max_length), PairCollator(tokenizer, max_length=max_length)
    counts, last = [], []
    for pair in pairs:
        try:
            batch = collate([pair])
        except ValueError:  # the collator refuses a row without labels
            counts.append(0)
            last.append(False)
            continue
        counts.append(int((batch["labels"] != IGNORE).sum()))
        whole = batch["input_ids"].shape[1] == len(pair["prompt_ids"]) + len(pair["completion_ids"])
        last.append(whole and batch["labels"][0, -1].item() != IGNORE)
    assert arrays.supervised().tolist() == counts
    assert arrays.last_carries_loss().tolist() == last
    assert 0 in counts or max_length is None or max_length > 9


def test_padding_is_that_of_the_batches(tokenizer):
    pairs = build_pairs(10)
    lengths = [len(pair["prompt_ids"]) + len(pair["completion_ids"]) for pair in pairs]
    arrays = PairArrays(pairs)
    assert arrays.padding(10) == pytest.approx(1 - sum(lengths) / (10 * max(lengths)))
    assert arrays.padding(1) == 0
    assert arrays.lengths()["row"] == {
        "least": min(lengths), "median": sorted(lengths)[4], "p90": sorted(lengths)[8],
        "p99": max(lengths), "most": max(lengths),
    }  # fmt: skip


FAULTS = {
    "no EOS": lambda t: [row(t, completion_ids=t("the cat sat")["input_ids"])],
    "invented EOS": lambda t: [
        row(t, finish_reason="length", completion_ids=[*t("the cat sat")["input_ids"], 2]),
        row(t, 1),
    ],
    "EOS without loss": lambda t: [row(t, loss_mask=[1, *[0] * (len(row(t)["completion_ids"]) - 1)])],
    "all cut": lambda t: [row(t, finish_reason="length")],
    "vocabulary": lambda t: [row(t, prompt_ids=[5, len(t) + 1])],
    "decoded text": lambda t: [row(t), row(t, 1), row(t, 2, completion_ids=[40, 41, 2])],
    "control tokens in the completion": lambda t: [row(t, completion="the cat <|im_start|> sat")],
    "control tokens inside": lambda t: [row(t, completion_ids=[*t("the cat sat")["input_ids"], 2, 1, 2])],
    "traces cut": lambda t: [row(t, completion="<think>\nthe cat", finish_reason="length"), row(t, 1)],
    "duplicates": lambda t: [row(t), row(t, id="other")],
    "equal samples": lambda t: [row(t), row(t, sample=1, id="other")],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_found_and_no_other(tokenizer, fault):
    report = looked_at(tokenizer, *FAULTS[fault](tokenizer))
    assert names(report) == [fault]
    (said,) = report.warnings
    assert "1 of " in said or fault in ("all cut", "vocabulary")
    assert f"  warning: {said}" in str(report)


ERRORS = {
    "nothing to learn": lambda t: (
        [row(t), row(t, 1, prompt_ids=[5] * 40)],
        {"max_length": 40},
        "1 of 2 rows .50.0%. have no",
    ),
    "positions": lambda t: (
        [row(t, completion_ids=row(t)["completion_ids"] * 60)],
        {},
        "the model has 128 positions; give max_length=128",
    ),
    "vocabulary": lambda t: ([row(t, prompt_ids=[5, 999])], {}, "token id 999, but the model has 320 tokens"),
    "decoded text": lambda t: (
        [row(t, completion_ids=[40, 41, 2]), row(t, 1, completion_ids=[40, 41, 2])],
        {},
        "2 of 2 rows .100.0%. looked at do not decode",
    ),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_what_training_cannot_work_with_is_an_error_and_stops_a_recipe(tokenizer, fault, capsys):
    rows, settings, message = ERRORS[fault](tokenizer)
    report = looked_at(tokenizer, *rows, model=build_model(), **settings)
    assert fault in names(report, "error")
    with pytest.raises(ValueError, match=message):
        check_before_training(
            pairs_from_rows(rows, where="test"), tokenizer, settings.get("max_length"), build_model(), 8
        )
    assert "error: " in capsys.readouterr().out


def test_over_max_length_says_what_is_lost(tokenizer):
    report = looked_at(tokenizer, row(tokenizer), row(tokenizer, 1, completion="the cat sat on the mat"), max_length=12)
    long = row(tokenizer, 1, completion="the cat sat on the mat")
    lost = len(long["prompt_ids"]) + len(long["completion_ids"]) - 12
    assert report.figures["over_max_length"] == {"rows": 1, "supervised_tokens_lost": lost}
    assert report.figures["eos"]["supervised"] == 1
    assert f"lose {lost} of" in report.warnings[0]


def test_a_row_with_several_turns_may_hold_control_tokens_where_a_mask_says_so(tokenizer):
    several = [*tokenizer("the cat sat")["input_ids"], 2, 1, 2]
    mask = [1] * (len(several) - 2) + [0, 1]
    report = looked_at(tokenizer, row(tokenizer, completion_ids=several, loss_mask=mask), row(tokenizer, 1))
    assert names(report) == []
    assert report.figures["loss_mask_rows"] == 1


def test_what_is_good_to_know_is_no_warning(tokenizer):
    rows = [row(tokenizer, 0, prompt="say <|im_end|> and", token_source="text"), row(tokenizer, 1)]
    rows += [row(tokenizer, 2, score=1.0), row(tokenizer, 3, prompt="what is a  MAT")]
    report = looked_at(tokenizer, *rows)
    assert names(report) == []
    assert set(names(report, "info")) == {
        "control tokens in the prompt", "generation markers", "tokens from text", "no score",
    }  # fmt: skip
    marked = build_tokenizer("{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}")
    assert "generation markers" not in names(looked_at(marked, row(marked)), "info")


def test_near_duplicates_among_prompts_are_counted(tokenizer):
    long = "what is a colour and why is it so and why does the cat sit on the mat while the dog ran"
    rows = [row(tokenizer, 1, prompt=long), row(tokenizer, 1, prompt=long + " on", id="b"), row(tokenizer, 2)]
    assert looked_at(tokenizer, *rows).figures["duplicates"]["near"] == {"prompts": 3, "found": 1}
    assert looked_at(tokenizer, *rows, near=False).figures["duplicates"]["near"] is None


def test_a_report_is_plain_values_and_the_end_tokens_of_the_model_count(tokenizer):
    model = build_model()
    model.generation_config.eos_token_id = [0, 2]
    ids = [*tokenizer("the cat sat")["input_ids"], 0]
    report = looked_at(tokenizer, row(tokenizer, completion_ids=ids), model=model)
    assert names(report) == []
    assert json.loads(json.dumps(report.as_dict()))["figures"]["eos"]["ids"] == [0, 2]


def test_bad_settings_are_told_in_one_sentence(tokenizer):
    for settings in ({"max_length": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="both must be at least 1"):
            looked_at(tokenizer, row(tokenizer), **settings)
    with pytest.raises(ValueError, match="There are no pairs to look at"):
        preflight(build_pairs(3).select([]), tokenizer)


@pytest.mark.parametrize("name", sorted(file.stem for file in CHATS.glob("*.jinja")))
def test_rows_of_every_template_are_found_good(name, tmp_path):
    """Pairs that the package itself makes of messages: the ids decode to the text, and a turn's channels are no second turn."""
    tokenizer = chat_tokenizer(name)
    talks = [[ASK, {"role": "assistant", "content": f"the dog {i} ran off"}] for i in range(3)]
    if name in ("gptoss", "qwen3"):
        talks += [[ASK, {**talk[1], "reasoning_content": "hm"}] for talk in talks]
    if name in ("gptoss", "qwen3", "llama3_1"):
        talks += [[*TALK, ASK, {"role": "assistant", "content": "so"}]]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"id": str(i), "messages": talk}) for i, talk in enumerate(talks)))
    pairs = load_pairs(path, tokenizer, turns="each")
    assert are_tokens_of(pairs, tokenizer)
    found = preflight(pairs, tokenizer, near=False).findings
    wrong = [f for f in found if f.level != "info" and f.name != "no EOS"]
    assert not wrong
    went_on = [row | {"completion_ids": row["completion_ids"] * 2} for row in pairs]
    assert "control tokens inside" in [f.name for f in preflight(pairs_from_rows(went_on, "x"), tokenizer).findings]
