"""`distill inspect` and `distill clean`: what is shown is what the collator does, with and without colour."""

import json
import os
import re
import sys
from itertools import pairwise

import pytest
from conftest import build_model, build_tokenizer
from distill.recipes import clean, inspect_pairs
from rich.cells import cell_len
from rich.console import Console, Group
from test_contamination import QUESTION
from test_preflight import row
from tool_chats import TALK, WEATHER, chat_tokenizer

from distill import cli, load_pairs
from distill.curation import inspection
from distill.curation.inspection import example, findings_list, preflight_table, show
from distill.curation.preflight import preflight
from distill.pairs import save_pairs
from distill.pairs.collate import IGNORE, PairCollator
from distill.pairs.schema import pairs_from_rows
from distill.reports.provenance import drawn_as

MARK = "▔"


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def lines_of(renderable, width=100):
    console = Console(width=width, file=open(os.devnull, "w"), record=True, color_system=None)  # noqa: SIM115
    console.print(renderable)
    return console.export_text().splitlines()


def is_marks(line):
    return MARK in line and not line.replace(MARK, "").strip()


def tokens_and_marks(renderable, width=100):
    """`(token, underlined)` of an example, read off the plain text as a person does."""
    lines = [line.ljust(width) for line in lines_of(renderable, 200)[2:]]  # the first two are its head
    assert max(map(len, lines)) <= width
    found = []
    for shown, marks in zip(lines, [*lines[1:], ""], strict=True):
        if is_marks(shown):
            continue
        marks = marks if is_marks(marks) else " " * width
        start = 0
        for piece in shown.rstrip().removesuffix("│").split("│"):
            under = marks[start : start + len(piece)]
            assert under.strip(MARK) == "" or under.strip(" ") == "", (piece, under)  # a whole token or none of it
            found.append((piece, MARK in under))
            start += len(piece) + 1
    return found


@pytest.mark.parametrize("max_length", [None, 12])
@pytest.mark.parametrize("width", [100, 30])
def test_exactly_the_collators_labels_are_underlined(tokenizer, max_length, width):
    pair = row(tokenizer, completion="the cat sat on the mat and why is it so", loss_mask=None)
    pair["loss_mask"] = [int(i % 3 > 0) for i in range(len(pair["completion_ids"]))]
    batch = PairCollator(tokenizer, max_length=max_length)([pair])
    found = tokens_and_marks(example(pair, tokenizer, max_length, width=width), width)
    assert [under for _, under in found] == (batch["labels"][0] != IGNORE).tolist()
    assert [piece for piece, _ in found] == [
        "·" if (text := tokenizer.decode([i])) == " " else text for i in batch["input_ids"][0].tolist()
    ]


def test_every_token_is_visible(tokenizer):
    ids = [*tokenizer("the\n cat  \t€")["input_ids"], 2, 400]
    pair = row(tokenizer, prompt_ids=[1, 2], completion_ids=ids)
    pieces = [piece for piece, _ in tokens_and_marks(example(pair, tokenizer))]
    assert pieces[:2] == ["<|im_start|>", "<|im_end|>"]
    assert "the" in pieces
    assert any("⏎" in piece for piece in pieces)
    assert any("⇥" in piece for piece in pieces)
    assert any(set(piece) == {"·"} for piece in pieces)
    assert pieces[-2:] == ["<|im_end|>", "<no token 400>"]
    assert sum(piece.startswith("<") and len(piece) < 6 for piece in pieces) == 3  # the bytes of the euro sign


def test_marks_stand_under_their_tokens_in_the_cells_of_any_terminal(tokenizer, monkeypatch):
    """Wide characters take two cells, combining marks none, tabs one; a line never breaks by itself."""
    texts = [
        "天気",
        "は",
        "\u0e31\u0e19",
        "e\u0301t\u0301",
        "\t",
        "🙂",
        "\u200d",
        "\x1b[31m",
        "-" * 150,
        "語" * 70,
        "a",
        "\n",
        "x" * 39,
        "y" * 40,
    ]
    monkeypatch.setattr(inspection, "_visible", lambda token, _: written(texts[token - 50]))
    written = lambda text: real(FakeTokenizer(text))  # noqa: E731
    pair = row(tokenizer, prompt_ids=[50, 51], completion_ids=[50 + i for i in range(len(texts))])
    pair["loss_mask"] = [int(i % 3 > 0) for i in range(len(texts))]
    for width in (20, 39, 80, 100):
        lines = lines_of(Group(*example(pair, tokenizer).lines(width)), width)
        found = []
        for shown, marks in zip(lines, [*lines[1:], ""], strict=True):
            assert cell_len(shown) <= width, "the terminal would break this line by itself"
            if is_marks(shown):
                continue
            under, column = marks if is_marks(marks) else "", 0
            for piece in re.split("(│)", shown):
                cells = under[column : column + cell_len(piece)].ljust(cell_len(piece))
                assert len(set(cells)) <= 1, "a whole part of a token or none of it"
                column += cell_len(piece)
                if piece not in ("", "│"):
                    found.append((piece, MARK in cells))
        carries = [False, False, *map(bool, pair["loss_mask"])]
        expected = iter([(written(text), loss) for text, loss in zip([*texts[:2], *texts], carries, strict=True)])
        whole, loss = next(expected)
        for piece, under in found:  # a token may take several lines, and is marked in all of them
            assert whole.startswith(piece)
            assert under == loss
            whole = whole.removeprefix(piece)
            if not whole:
                whole, loss = next(expected, ("", False))
        assert whole == "", "every token is shown whole"


def real(tokenizer):
    return VISIBLE(0, tokenizer)


VISIBLE = inspection._visible


class FakeTokenizer:
    """Its only token is a text."""

    def __init__(self, text):
        self.text = text

    def __len__(self):
        return 1

    def decode(self, *ids, **settings):
        return self.text


def test_what_is_shown_of_a_name_repaints_no_terminal(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    rows = [{**dict(pair), "id": "a\x1b[2J[/red]\u202e"} for pair in load_pairs("pairs.jsonl")]
    (folder / "evil [").mkdir()
    save_pairs(pairs_from_rows(rows, where="test"), "evil [/red].jsonl")
    inspect_pairs.main(["evil [/red].jsonl"])
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "a\\x1b[2J[/red]" in said
    assert "evil [/red].jsonl" in said


def test_of_a_long_row_the_borders_of_the_loss_stay_visible(tokenizer):
    pair = row(tokenizer, prompt_ids=[5] * 500, completion_ids=[*range(10, 210), 2])
    text = "\n".join(lines_of(example(pair, tokenizer, most_tokens=40)))
    assert "… 480 more tokens without loss …" in text
    assert "… 181 more tokens with loss …" in text
    assert "701 tokens, 201 with loss" in text
    assert "<|im_end|>" in text


def test_colour_is_an_addition(tokenizer, monkeypatch, capsys, tmp_path):
    pairs = pairs_from_rows([row(tokenizer), row(tokenizer, 1, completion="the <|im_end|> sat")], where="test")
    report = preflight(pairs, tokenizer)
    parts = [preflight_table(report, "pairs"), findings_list(report), example(pairs[0], tokenizer)]
    monkeypatch.setenv("NO_COLOR", "1")
    show(parts, svg=tmp_path / "picture.svg")
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert MARK in printed
    assert "control token written out in the text of the completion" in " ".join(printed.split())
    drawn = (tmp_path / "picture.svg").read_text()
    assert drawn.count("<svg") == 1
    assert len(set(re.findall(r"fill: (#\w{6})", drawn))) > 4  # colours are there even so
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "").replace("https://www.textualize.io", "")


@pytest.fixture
def folder(tokenizer, tmp_path):
    """A model's folder and pairs: two draws of one prompt, one of them twice, an evaluation question, a blank."""
    build_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [
        row(tokenizer, 0, teacher=str(tmp_path / "model")),
        row(tokenizer, 0, id="again", teacher=str(tmp_path / "model")),
        row(tokenizer, 0, id="draw", sample=1, teacher=str(tmp_path / "model")),
        row(tokenizer, 1, prompt=QUESTION, teacher=str(tmp_path / "model")),
        row(tokenizer, 2, completion=" ", teacher=str(tmp_path / "model")),
    ]
    save_pairs(pairs_from_rows(rows, where="test"), tmp_path / "pairs.jsonl")
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    return tmp_path


def test_the_verb_inspect_shows_all_and_says_it_in_json_too(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    flags = "inspect pairs.jsonl --against gsm8k.jsonl --row draw --max_length 128 --json found.json --svg picture.svg"
    monkeypatch.setattr(sys, "argv", ["distill", *flags.split()])
    cli.main()
    said = " ".join(capsys.readouterr().out.split())
    assert "gsm8k.jsonl: 1 of 1 questions found, in 1 pairs (1 by the prompt, 0 by the completion)." in said
    assert "1 of 5 rows (20.0%) repeat the same draw" in said
    assert "Pair draw, " in said
    found = json.loads((folder / "found.json").read_text())
    assert (found["figures"]["rows"], found["overlap"][0]["rows"]) == (5, 1)
    assert (folder / "picture.svg").read_text().startswith("<svg")


def test_inspect_says_what_the_teacher_was_shown(folder, monkeypatch, capsys):
    """A long one by its ends; what it says repaints no terminal."""
    monkeypatch.chdir(folder)
    tokenizer = build_tokenizer()
    text = "\x1b[31mthe mat\n" + "is blue " * 200 + "and round"
    shown = {"teacher_prompt": text, "teacher_prompt_ids": tokenizer(text)["input_ids"]}
    rows = [row(tokenizer, 0, **shown), row(tokenizer, 1)]
    save_pairs(pairs_from_rows(rows, where="test"), folder / "shown.jsonl")
    said = []
    for number in "01":
        monkeypatch.setattr(
            sys, "argv", ["distill", "inspect", "shown.jsonl", "--tokenizer", str(folder / "model"), "--row", number]
        )
        cli.main()
        said.append(" ".join(capsys.readouterr().out.split()))
    assert (
        f"In place of the prompt, the teacher was shown {len(shown['teacher_prompt_ids']):,} tokens: \\x1b[31mthe mat⏎is blue"
        in said[0]
    )
    assert "more characters … " in said[0]
    assert "and round" in said[0]
    assert "In place of the prompt" not in said[1]
    assert all("teacher's prompts: rows, tokens" in one for one in said)


def test_clean_leaves_out_what_it_is_asked_to_and_says_so(folder, capsys):
    flags = [str(folder / "pairs.jsonl"), "--against", str(folder / "gsm8k.jsonl")]
    clean.main([*flags, "--report_only"])
    # in all pairs as they are, though the step before has taken the row
    assert (
        "gsm8k.jsonl: 1 of 1 questions found, in 1 pairs (1 by the prompt, 0 by the completion)."
        in capsys.readouterr().out
    )
    assert not (folder / "clean.jsonl").exists()
    clean.main([*flags, "--output", str(folder / "clean.jsonl")])
    printed = capsys.readouterr().out
    assert "| evaluation questions | 3 | 2 | 1 |" in printed
    assert load_pairs(folder / "clean.jsonl")["id"][:] == ["row0", "draw"]
    assert [step.rows_out for step in drawn_as(folder / "clean.jsonl").steps] == [4, 3, 2]


def bad(flags):
    return ["pairs.jsonl", *flags]


@pytest.mark.parametrize(
    ("main", "flags", "message"),
    [
        (inspect_pairs.main, ["none.jsonl"], "No file none.jsonl."),
        (inspect_pairs.main, ["texts.jsonl"], "texts.jsonl:1: no token ids; pass the student's tokenizer"),
        (
            inspect_pairs.main,
            ["unknown.jsonl"],
            "The pairs are by gpt, whose tokenizer is not known here; give --tokenizer",
        ),
        (inspect_pairs.main, bad(["--against", "empty.txt"]), "empty.txt has no texts"),
        (inspect_pairs.main, bad(["--row", "77"]), "There is no pair '77'; give an id, or a number from 0 to 4."),
        (inspect_pairs.main, bad(["--max_length", "0"]), "both must be at least 1"),
        (clean.main, bad(["--must", "(a"]), "The pattern '(a' is no regular expression"),
        (clean.main, bad(["--against", "none.txt"]), "No file none.txt."),
        (clean.main, bad(["--near", "prompt", "--near_threshold", "2"]), "threshold of near duplicates is 2.0"),
        (clean.main, bad(["--output", "pairs.jsonl"]), "pairs.jsonl exists already"),
        (clean.main, bad(["--min_tokens", "900"]), "Nothing is left of the pairs"),
    ],
)
def test_bad_input_is_told_in_one_sentence(folder, monkeypatch, capsys, main, flags, message):
    monkeypatch.chdir(folder)
    (folder / "empty.txt").write_text("")
    (folder / "texts.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (folder / "unknown.jsonl").write_text(
        '{"prompt": "a", "completion": "b", "prompt_ids": [4], "completion_ids": [5], "teacher": "gpt"}\n'
    )
    with pytest.raises(SystemExit) as stopped:
        main(flags)
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err


def test_another_models_tokenizer_is_told_and_ends_with_status_1(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    other = build_tokenizer()
    rows = [row(other, i, completion_ids=[100 + i, 110, 120, 2]) for i in range(4)]
    save_pairs(pairs_from_rows(rows, where="test"), "other.jsonl")
    with pytest.raises(SystemExit) as stopped:
        inspect_pairs.main(["other.jsonl", "--tokenizer", "model"])
    assert stopped.value.code == 1
    assert "they are another tokenizer's; give that model's tokenizer" in " ".join(capsys.readouterr().out.split())


def test_inspect_shows_which_turns_of_a_conversation_with_calls_carry_loss(tmp_path, capsys):
    """Calls and answers are underlined, nothing else; `--turns last` only the last."""
    chat_tokenizer("llama3_1").save_pretrained(tmp_path / "student")
    (tmp_path / "calls.jsonl").write_text(json.dumps({"messages": TALK, "tools": [WEATHER]}))
    flags = [str(tmp_path / "calls.jsonl"), "--tokenizer", str(tmp_path / "student"), "--tokens", "9999", "--turns"]
    for turns, said in (("all", ["get_weather", "It is three"]), ("last", ["It is three"])):
        inspect_pairs.main([*flags, turns])
        lines = capsys.readouterr().out.splitlines()
        marked = [(one, marks) for one, marks in pairwise(lines) if "▔" in marks and set(marks) <= {"▔", " "}]
        found = "".join(c for one, marks in marked for c, mark in zip(one, marks, strict=False) if mark == "▔")
        assert all(word in found.replace("·", " ") for word in said)
        assert "degrees" not in found
        assert found.count("<|eot_id|>") == len(said)


def test_columns_and_split_of_an_evaluation_set_are_named(folder, capsys):
    """Those of the pairs are another thing."""
    (folder / "odd").mkdir()
    (folder / "odd" / "dev.jsonl").write_text(json.dumps({"frage": QUESTION, "question": "what?"}))
    (folder / "odd" / "test.jsonl").write_text(json.dumps({"frage": "a b c d e f g h i", "question": "what?"}))
    flags = [str(folder / "pairs.jsonl"), "--against", str(folder / "odd"), "--report_only"]
    for more, found in (([], 0), (["--against_columns", "frage", "--against_split", "dev"], 1)):
        clean.main([*flags, *more])
        assert f"odd: {found} of 1 questions found" in capsys.readouterr().out
    inspect_pairs.main([str(folder / "pairs.jsonl"), "--against", str(folder / "odd"), "--against_columns", "frage"])
    assert "odd: 0 of 1 questions found" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("main", [clean.main, inspect_pairs.main])
@pytest.mark.parametrize("flag", ["--n", "--share", "--against_columns", "--against_split"])
def test_flags_of_evaluation_sets_without_one_are_refused(folder, capsys, main, flag):
    with pytest.raises(SystemExit):
        main([str(folder / "pairs.jsonl"), flag, "1"])
    assert f"Error: {flag}: only evaluation sets" in capsys.readouterr().err


def test_a_threshold_of_near_duplicates_that_nobody_looks_for_is_refused(folder, capsys):
    with pytest.raises(SystemExit):
        clean.main([str(folder / "pairs.jsonl"), "--near_threshold", "0.5"])
    assert (
        "Error: --near_threshold: only near duplicates have this; say of what, as --near prompt"
        in capsys.readouterr().err
    )
