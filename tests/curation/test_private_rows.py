"""Private data in rows of pairs: every text of them, the token ids that are made of these, and the command."""

import json
import re

import pytest
from tool_chats import chat_tokenizer

from distill import load_pairs
from distill.curation.private import clean_private
from distill.curation.private.step import told as in_words
from distill.reports.card import describe_steps
from distill.reports.provenance import drawn_as
from distill.text.encode import encode_prompt
from distill.text.splicing import Splicer

MAIL, OTHER, PHONE, SECRET = "jo.miller@firma.de", "ann@mail.co.uk", "+49 30 901820", "ghp_" + "a1B2" * 9
KEY = b"0123456789abcdef"
STAND_IN = re.compile(r"user-[a-z]{8}@example\.org")


@pytest.fixture
def written(tmp_path):
    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def talk(asked, said, **more):
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}], **more}


def texts(pairs):
    return json.dumps(
        [{n: v for n, v in row.items() if not n.endswith("_ids")} for row in pairs], ensure_ascii=False, default=str
    )


def of_ids(pairs, tokenizer):
    splicer = Splicer(tokenizer)
    return [splicer.text(row[n]) for row in pairs for n in row if n.endswith("_ids") and row[n] is not None]


def test_every_text_and_every_id_of_a_row_is_without_the_values(written, tokenizer):
    rows = [
        talk(
            f"write to {MAIL} now",
            f"I wrote to {MAIL}.",
            who=MAIL,
            tags=[MAIL, "x"],
            more={MAIL: {"phone": 4930901820, "list": [PHONE]}},
        ),
        talk("the cat sat", "on the mat"),
        {**talk("the cat", "sat"), "teacher_prompt": f"he is {OTHER}: the cat"},
        talk("call", f"the key is {SECRET} and {OTHER}"),
    ]
    pairs = load_pairs(written(rows), tokenizer)
    new, step = clean_private(pairs, "replace", key=KEY, tokenizer=tokenizer)
    for value in (MAIL, OTHER, PHONE, SECRET, "4930901820"):
        assert value in texts(pairs)
        assert value not in texts(new)
        assert not any(value in text for text in of_ids(new, tokenizer))
    assert new.column_names == pairs.column_names
    assert new[1] == pairs[1]
    assert (step.rows_in, step.rows_out, step.changed) == (4, 4, 3)
    assert (
        step.settings["found"]
        == "7 e-mail addresses (2 different), 2 phone numbers (1 different), 1 keys and tokens (1 different)"
    )
    row = new[0]
    stand_in = row["who"]
    assert STAND_IN.fullmatch(stand_in)
    assert row["tags"] == [stand_in, "x"]
    assert row["completion"] == f"I wrote to {stand_in}."
    # the ids are those that the new text would be encoded to: the words around have their own tokens
    assert row["prompt_ids"] == encode_prompt(row["prompt"], tokenizer)
    assert tokenizer.decode(row["completion_ids"]) == f"{row['completion']}<|im_end|>"
    assert row["id"] != pairs[0]["id"]


def test_a_second_pass_changes_nothing_and_other_files_get_the_same(written, tokenizer):
    pairs = load_pairs(written([talk(f"write to {MAIL}", f"or call {PHONE}"), talk("a", f"{OTHER}, b")]), tokenizer)
    new, _ = clean_private(pairs, "replace", key=KEY, tokenizer=tokenizer)
    again, step = clean_private(new, "replace", key=KEY, tokenizer=tokenizer)
    assert step.effect == "Nothing private was found."
    assert again[:] == new[:]
    other, _ = clean_private(
        load_pairs(written([talk("b", f"<{MAIL}>")], "b.jsonl"), tokenizer), "replace", key=KEY, tokenizer=tokenizer
    )
    assert STAND_IN.search(other[0]["completion"])[0] == STAND_IN.search(new[0]["prompt"][0]["content"])[0]
    unkept, step = clean_private(pairs, "replace", tokenizer=tokenizer)
    assert STAND_IN.search(unkept[0]["prompt"][0]["content"])[0] not in texts(new)
    assert step.settings["of_key"] == "a new one, not kept"


def test_ids_that_say_what_the_text_does_not_are_read(written, tokenizer):
    """Somebody blackened the text alone."""
    pairs = load_pairs(written([talk("who", f"it is {MAIL}")]), tokenizer)
    blackened = pairs.map(lambda row: {"completion": "it is [removed]"})
    assert clean_private(blackened, "report")[1].settings["found"] == "nothing"
    found = clean_private(blackened, "report", tokenizer=tokenizer)[1]
    assert found.settings["found"] == "1 e-mail addresses (1 different)"
    assert found.examples == ("row 0: email in token ids: aa.aaaaaa@aaaaa.aa",)
    assert clean_private(blackened, "drop", tokenizer=tokenizer)[1].removed == 1
    with pytest.raises(ValueError, match="do not decode to their text"):
        clean_private(blackened, "replace", tokenizer=tokenizer)


def test_a_teachers_own_tokens_and_masks_stay_around_a_stand_in(written, tokenizer):
    turns = [("user", "who"), ("assistant", f"ask {MAIL} or so"), ("user", "and"), ("assistant", "the cat")]
    rows = [{"messages": [{"role": role, "content": said} for role, said in turns]}]
    pairs = load_pairs(written(rows), tokenizer, turns="all")
    spelled = [i for c in "the cat" for i in tokenizer.encode(c)]
    ids = pairs[0]["completion_ids"]
    whole = tokenizer.encode("the cat")
    at = max(i for i in range(len(ids)) if ids[i : i + len(whole)] == whole)
    ids, mask = ids[:at] + spelled + ids[at + len(whole) :], pairs[0]["loss_mask"]
    mask = mask[:at] + [1] * len(spelled) + mask[at + len(whole) :]
    own = pairs.map(lambda row: {"completion_ids": ids, "loss_mask": mask, "token_source": "teacher"})
    new, _ = clean_private(own, "replace", key=KEY, tokenizer=tokenizer)
    row = new[0]
    assert row["completion_ids"][-len(spelled) - 2 :] == ids[-len(spelled) - 2 :]
    assert row["token_source"] == "text"
    assert len(row["loss_mask"]) == len(row["completion_ids"])
    learned = tokenizer.decode([i for i, m in zip(row["completion_ids"], row["loss_mask"], strict=True) if m])
    before = tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert learned == before.replace(MAIL, STAND_IN.search(learned)[0])


def test_calls_of_tools_and_the_tools_themselves(written):
    tokenizer = chat_tokenizer("qwen2_5")
    tools = [
        {
            "type": "function",
            "function": {
                "name": "mail",
                "description": f"Mail as {OTHER}.",
                "parameters": {"type": "object", "properties": {}},
            },
        }
    ]
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "type": "function",
                "function": {"name": "mail", "arguments": {"to": MAIL, "phone": 4930901820, "password": "tiger791"}},
            }
        ],
    }
    rows = [{"messages": [{"role": "user", "content": f"mail {MAIL}"}, call], "tools": tools}]
    pairs = load_pairs(written(rows), tokenizer)
    assert MAIL in pairs[0]["message"]
    assert OTHER in pairs[0]["tools"]
    new, step = clean_private(pairs, "replace", key=KEY, tokenizer=tokenizer)
    for value in (MAIL, OTHER, "4930901820", "tiger791"):
        assert value in "".join(of_ids(pairs, tokenizer))
        assert value not in texts(new)
        assert value not in "".join(of_ids(new, tokenizer))
    arguments = json.loads(new[0]["message"])["tool_calls"][0]["function"]["arguments"]
    assert STAND_IN.fullmatch(arguments["to"])
    assert isinstance(arguments["phone"], int)
    assert "EXAMPLE" in arguments["password"]
    assert json.loads(new[0]["tools"])[0]["function"]["name"] == "mail"
    assert step.changed == 1


def test_a_value_in_two_turns_is_replaced_in_both(written, tokenizer):
    pairs = load_pairs(written([talk("the cat of jo.miller@", "firma.de, so it is")]), tokenizer)
    new, step = clean_private(pairs, "replace", key=KEY, tokenizer=tokenizer)
    assert step.examples == ("row 0: email in two turns: aa.aaaaaa@aaaaa.aa",)
    joined = new[0]["prompt"][0]["content"] + new[0]["completion"]
    assert re.fullmatch(r"the cat of user-[a-z]{8}@example\.org, so it is", joined)
    assert "miller" not in "".join(of_ids(new, tokenizer))
    assert "firma" not in "".join(of_ids(new, tokenizer))


def test_a_value_that_a_word_tells_is_replaced_where_none_does(written, tokenizer):
    pairs = load_pairs(
        written([talk("NHS number: 943 476 5870", "I noted 943 476 5870."), talk("a", "943 476 5870")]), tokenizer
    )
    new, _ = clean_private(pairs, "replace", kinds=["id"], key=KEY, tokenizer=tokenizer)
    assert "943 476 5870" not in str(new[0])
    assert new[1] == pairs[1]  # in another row, with no word near it, it is a number


def test_without_a_tokenizer_what_stands_in_ids_is_refused_by_its_row(written, tokenizer):
    pairs = load_pairs(written([talk("a", "b"), talk("a", MAIL)]), tokenizer)
    with pytest.raises(ValueError, match=r"Row 1 has private data .* give --tokenizer, .* \(--private drop\)") as told:
        clean_private(pairs, "replace")
    assert MAIL not in str(told.value)
    assert clean_private(pairs, "drop")[0]["completion"][:] == ["b"]
    own, _ = clean_private(load_pairs(written([talk("a", "b", who=MAIL)], "own.jsonl"), tokenizer), "replace")
    assert STAND_IN.fullmatch(own[0]["who"])
    assert own[0]["completion_ids"] == pairs[0]["completion_ids"]


def test_what_is_there_in_tokens_alone_is_read_or_said(written, tokenizer):
    pairs = load_pairs(written([{**talk("the cat", "sat"), "teacher_prompt": f"ask {MAIL}"}]), tokenizer)
    alone = pairs.remove_columns(["teacher_prompt"])
    assert "1 teachers were shown" in clean_private(alone, "report")[1].settings["not_read"]
    new, step = clean_private(alone, "replace", key=KEY, tokenizer=tokenizer)
    assert "not_read" not in step.settings
    assert MAIL not in tokenizer.decode(new[0]["teacher_prompt_ids"])


def test_wrong_words_are_refused_and_what_is_right_is_told(written, tokenizer):
    pairs = load_pairs(written([talk("a", "b")]), tokenizer)
    for more, said in (
        ({"do": "remove"}, "private is 'remove'"), ({"kinds": ["telephone"]}, "Is phone meant"), ({"regions": ["XX"]}, "private_regions has 'XX'"),
        ({"key": b"short"}, "5 bytes"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            clean_private(pairs, **more)
    new, step = clean_private(pairs, "replace", key=KEY)
    assert (new[:], step.effect) == (pairs[:], "Nothing private was found.")
    assert in_words({}, []) == "nothing"


def test_the_command_tells_no_value_anywhere(written, tokenizer, told, tmp_path):
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [talk(f"the cat of {MAIL} {i}", f"my password is tiger791 and {PHONE}", who=OTHER) for i in range(3)] + [
        talk("a", f"{MAIL} \ufffd x")
    ]
    path, values = written(rows), (MAIL, OTHER, PHONE, "tiger791")
    flags = [path, "--tokenizer", tmp_path / "model", "--must_not", "cat of"]
    out = tmp_path / "out.jsonl"
    report = told("clean", *flags, "--must_not", "mat", "--private", "report", "--report_only")
    replaced = told(
        "clean", *flags, "--must_not", "mat", "--private", "replace", "--private_key", tmp_path / "key", "--output", out
    )
    beside = (tmp_path / "out.jsonl.steps.json").read_text()
    card = json.dumps(describe_steps(drawn_as(out).steps))
    for value in values:
        assert not any(value in said for said in (report, replaced, beside, card, out.read_text()))
    assert "4 e-mail addresses (2 different)" not in report
    assert "7 e-mail addresses (2 different), 3 phone numbers (1 different), 3 passwords (1 different)" in report
    assert "3 passwords (1 different)" in card
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    assert "private data" in told(
        "clean", out, "--tokenizer", tmp_path / "model", "--private", "report", "--report_only"
    )
    dropped = told("clean", *flags[:3], "--private", "drop", "--output", tmp_path / "drop.jsonl", status=1)
    assert "Nothing is left" in dropped


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--private_kinds", "email"], "--private_kinds: only private data have this"),
        (["--private", "report", "--private_key", "k"], "--private_key: only stand-ins have a key"),
        (["--private", "hide"], "private is 'hide'; it must be one of report, replace, drop"),
        (["--private", "report", "--private_kinds", "mails"], "Is email meant?"),
    ],
)
def test_flags_that_do_not_go_together(flags, said, told, tmp_path):
    assert said in told("clean", tmp_path / "none.jsonl", *flags, status=1)


def test_inspect_says_how_much_and_no_value(written, tokenizer, told, tmp_path):
    tokenizer.save_pretrained(tmp_path / "model")
    path = written([talk(f"the cat of {MAIL}", "it sat on the mat"), talk("a dog", "ran")])
    flags = ("--tokenizer", tmp_path / "model", "--json", tmp_path / "found.json", "--row", "1")
    said = " ".join(told("inspect_pairs", path, *flags).split())
    assert "Personal data or secrets in 1 of 2 rows: 1 e-mail addresses (1 different)." in said
    assert MAIL not in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["figures"]["private"] == {"looked_at": 2, "rows": 1, "found": "1 e-mail addresses (1 different)"}
    clean = " ".join(
        told("inspect_pairs", written([talk("the cat", "sat")], "b.jsonl"), "--tokenizer", tmp_path / "model").split()
    )
    assert "No personal data and no secrets were found in 1 rows" in clean
