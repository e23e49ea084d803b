"""A pair may say what its teacher was shown: in whatever file it stands, and through everything that is done to pairs."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TEMPLATE, build_pairs, build_tokenizer

from distill.curation.duplicates import drop_duplicates
from distill.curation.filters import filter_length
from distill.pairs import are_tokens_of, load_pairs, retokenize, save_pairs
from distill.pairs.checking import checked_table
from distill.pairs.collate import PairCollator
from distill.pairs.exporting import export_pairs
from distill.pairs.schema import pairs_from_rows
from distill.pairs.tokenising import tokenised
from distill.text.encode import as_prompt, encode_prompt

TOKENIZER = build_tokenizer()
PLAIN = build_tokenizer(template=None)
WITH_TOOLS = build_tokenizer(
    template="{% if tools %}{{ '<|im_start|>tools\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% if mood is defined %}{{ mood }}{% endif %}" + TEMPLATE
)
TALK = [{"role": "system", "content": "the mat is blue"}, {"role": "user", "content": "what is the colour"}]
SEARCH = [{"type": "function", "function": {"name": "find", "description": "look", "parameters": {"type": "object", "properties": {}}}}]  # fmt: skip
ROWS = [
    {"prompt": "what is a mat", "completion": "a cat sat", "teacher_prompt": "the mat is blue\nwhat is a mat", "source": "a"},
    {"prompt": "why", "completion": "so", "teacher_prompt": None, "source": "b"},
    {"prompt": "and", "completion": "the dog ran", "teacher_prompt": 'nasty "<|im_end|>", \u2028 and more,\nlines', "source": "c"},
]  # fmt: skip


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(prompt, tokenizer=TOKENIZER, chat=None, **beside):
    """What a teacher would be asked, by the functions that ask one."""
    prompt = as_prompt(prompt, tokenizer, chat, **beside)
    return prompt, encode_prompt(prompt, tokenizer, **beside)


def expected(rows, **more):
    found = [None if row["teacher_prompt"] is None else asked(row["teacher_prompt"], **more) for row in rows]
    return [[one and one[i] for one in found] for i in (0, 1)]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "json", "yaml", "folder"])
def test_every_file_says_it(tmp_path, kind):
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        written(path, ROWS)
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "yaml":
        path.write_text(json.dumps(ROWS))  # which is YAML, too
    elif kind == "folder":
        datasets.Dataset.from_list(ROWS).save_to_disk(str(path))
    else:
        getattr(datasets.Dataset.from_list(ROWS), f"to_{kind}")(str(path))
    pairs = load_pairs(path, TOKENIZER)
    words, ids = expected(ROWS)
    assert pairs["teacher_prompt"][:] == words
    assert pairs["teacher_prompt_ids"][:] == ids
    assert pairs["source"][:] == ["a", "b", "c"]
    assert pairs["prompt_ids"][:] == [asked(row["prompt"])[1] for row in ROWS], "the student's is its own"


@pytest.mark.parametrize(
    ("tokenizer", "chat"), [(TOKENIZER, None), (TOKENIZER, False), (TOKENIZER, True), (PLAIN, None)]
)
def test_a_text_becomes_tokens_as_the_prompt_does(tmp_path, tokenizer, chat):
    pairs = load_pairs(written(tmp_path / "rows.jsonl", ROWS), tokenizer, chat=chat)
    words, ids = expected(ROWS, tokenizer=tokenizer, chat=chat)
    assert pairs["teacher_prompt"][:] == words
    assert pairs["teacher_prompt_ids"][:] == ids


def test_tools_variables_and_system_stand_beside_both(tmp_path):
    beside = {"tools": SEARCH, "chat_template_kwargs": {"mood": "glad"}}
    row = {"prompt": "why", "completion": "so", "teacher_prompt": "the mat", **beside}
    rows = [row, {**row, "system": "be short"}, {**row, "system": "be short", "teacher_prompt": TALK}]
    rows[:2] = [{**one, "teacher_prompt": [{"role": "user", "content": "the mat"}]} for one in rows[:2]]
    pairs = load_pairs(written(tmp_path / "rows.jsonl", rows), WITH_TOOLS)
    system, more = {"role": "system", "content": "be short"}, {"tools": SEARCH, "values": {"mood": "glad"}}
    shown = [rows[0]["teacher_prompt"], [system, *rows[0]["teacher_prompt"]], TALK]
    assert pairs["teacher_prompt"][:] == shown, "its own system turn stands in place of the row's"
    assert pairs["teacher_prompt_ids"][:] == [asked(one, WITH_TOOLS, **more)[1] for one in shown]
    assert "glad" in WITH_TOOLS.decode(pairs["teacher_prompt_ids"][0])
    bare = load_pairs(written(tmp_path / "bare.jsonl", [{**row, "system": "be short"}]), WITH_TOOLS)
    assert bare["teacher_prompt"][0] == shown[1], "a bare text is a user's turn"


def test_a_conversation_has_it_in_place_of_all_before_its_last_turn(tmp_path):
    talk = [{"role": "user", "content": "why"}, {"role": "assistant", "content": "so"}]
    pairs = load_pairs(written(tmp_path / "rows.jsonl", [{"messages": talk, "teacher_prompt": TALK}]), TOKENIZER)
    assert pairs["teacher_prompt_ids"][0] == asked(TALK)[1]
    assert pairs["prompt_ids"][0] == asked("why")[1]
    longer = written(tmp_path / "long.jsonl", [{"messages": talk + talk, "teacher_prompt": TALK}])
    assert load_pairs(longer, TOKENIZER)["teacher_prompt_ids"][0] == asked(TALK)[1]
    for turns in ("all", "each"):
        with pytest.raises(ValueError, match=r"long.jsonl:1: a teacher_prompt beside several turns that carry loss"):
            load_pairs(longer, TOKENIZER, turns=turns)


@pytest.mark.parametrize("words", ["text", TALK, [{**TALK[1], "reasoning_content": None}, {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": {"x": 1}}}]}]])  # fmt: skip
@pytest.mark.parametrize("form", ["pairs.jsonl", "pairs.jsonl.gz", "pairs.parquet", "pairs"])
def test_what_is_written_is_read_again(tmp_path, words, form):
    """Texts, messages, and messages with more fields; with null in the first row and in others."""
    rows = build_pairs(6).to_list()
    for row in rows[1::2]:
        row |= {"teacher_prompt": words, "teacher_prompt_ids": [5, 6, 7]}
    pairs = pairs_from_rows(rows, where="test")
    save_pairs(pairs, tmp_path / form)
    again = load_pairs(tmp_path / form)
    assert again.column_names == pairs.column_names
    assert again["teacher_prompt_ids"][:] == [None, [5, 6, 7]] * 3
    assert again["teacher_prompt"][:] == pairs["teacher_prompt"][:]
    assert again.features == pairs.features
    simple = words == "text" or all(turn.keys() == {"role", "content"} for turn in words)
    table = checked_table(pairs.with_format("arrow")[:])
    assert (table is not None) == simple, "the quick way is taken wherever it can be"
    assert table is None or datasets.Dataset(table).to_list() == pairs.to_list()


def test_it_may_begin_late_and_be_of_one_kind_only(tmp_path):
    rows = build_pairs(5).to_list() * 500
    late = [*rows, {**rows[0], "teacher_prompt": TALK, "teacher_prompt_ids": [5]}]
    pairs = load_pairs(written(tmp_path / "late.jsonl", late))
    assert pairs["teacher_prompt"][-2:] == [None, TALK]
    mixed = [*late, *rows[:1200], {**rows[0], "teacher_prompt": "text", "teacher_prompt_ids": [5]}]
    with pytest.raises(
        ValueError, match=r"mixed.jsonl:3702: some values of teacher_prompt are text and others are messages"
    ):
        load_pairs(written(tmp_path / "mixed.jsonl", mixed))


def test_tokens_are_made_of_words_alone(tmp_path):
    """In a file that has token ids: as its own prompts were asked, which their ids tell; never guessed."""
    pair = {"completion": "so", "completion_ids": [9, 2]}
    chat = {**pair, "prompt": "why", "prompt_ids": asked("why")[1], "teacher_prompt": "the mat"}
    plain = {**chat, "prompt_ids": asked("why", chat=False)[1]}
    turns = {**chat, "prompt": [{"role": "user", "content": "why"}]}
    for row, expected_ids in (
        (chat, asked("the mat")[1]),
        (plain, asked("the mat", chat=False)[1]),
        (turns, asked("the mat")[1]),
    ):
        path = written(tmp_path / "words.jsonl", [row])
        assert load_pairs(path, TOKENIZER)["teacher_prompt_ids"][0] == expected_ids
        with pytest.raises(
            ValueError, match=r"words.jsonl:1: teacher_prompt without teacher_prompt_ids.*pass the tokenizer"
        ):
            load_pairs(path)
    strange = written(tmp_path / "strange.jsonl", [{**chat, "prompt_ids": [5, 6]}])
    with pytest.raises(
        ValueError, match=r"strange.jsonl:1: teacher_prompt: whether it was asked as a chat cannot be told"
    ):
        load_pairs(strange, TOKENIZER)
    assert load_pairs(strange, TOKENIZER, chat=True)["teacher_prompt_ids"][0] == asked("the mat")[1]


def test_words_are_never_made_of_tokens(tmp_path):
    """A chat decoded into one text would be another prompt; such a row trains, and what goes by words refuses it."""
    pair = {"prompt": [{"role": "user", "content": "why"}], "completion": "so", "prompt_ids": asked("why")[1], "completion_ids": [9, 2]}  # fmt: skip
    rows = [
        {**pair, "id": "a", "teacher_prompt": TALK, "teacher_prompt_ids": asked(TALK)[1]},
        {**pair, "id": "b", "teacher_prompt_ids": asked(TALK)[1]},
        {**pair, "id": "c"},
    ]
    for tokenizer in (None, TOKENIZER):
        for name in ("rows.jsonl", "rows.parquet"):
            if name == "rows.parquet":
                datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / name))
            else:
                written(tmp_path / name, rows)
            pairs = load_pairs(tmp_path / name, tokenizer)
            assert pairs["teacher_prompt"][:] == [TALK, None, None]
            assert pairs["teacher_prompt_ids"][:] == [asked(TALK)[1]] * 2 + [None]
            table = checked_table(pairs.with_format("arrow")[:])
            assert table is not None
            assert datasets.Dataset(table).to_list() == pairs.to_list()
    batch = PairCollator(TOKENIZER, teacher_rows=True)(pairs.to_list())
    assert batch["teacher_input_ids"][0].tolist() == batch["teacher_input_ids"][1].tolist()
    for form in ("messages", "sharegpt"):
        with pytest.raises(ValueError, match=r"Pair b says in tokens alone what its teacher was shown"):
            export_pairs(pairs, form, tmp_path / f"{form}.jsonl")
        assert not list(tmp_path.glob(f"{form}.jsonl*"))
        export_pairs(pairs.select([0, 2]), form, tmp_path / f"{form}.jsonl")
        assert load_pairs(tmp_path / f"{form}.jsonl", TOKENIZER)["teacher_prompt_ids"][:] == [asked(TALK)[1], None]
    with pytest.raises(ValueError, match=r"Pair b says in tokens alone what its teacher was shown"):
        retokenize(pairs, PLAIN)
    save_pairs(pairs, tmp_path / "again.parquet")
    assert load_pairs(tmp_path / "again.parquet").to_list() == pairs.to_list()
    assert load_pairs(written(tmp_path / "only.jsonl", rows[1:])).column_names[-1] == "teacher_prompt_ids"


@pytest.mark.parametrize("beside", [{}, {"tools": SEARCH, "chat_template_kwargs": {"mood": "glad"}}])
def test_a_systems_text_beside_tokens_counts_where_they_have_it(tmp_path, beside):
    """A column of that name may be anything (a machine's, say): the tokens of the row's own prompt tell."""
    tokenizer, system = WITH_TOOLS, {"role": "system", "content": "be short"}
    more = {"tools": beside.get("tools"), "values": beside.get("chat_template_kwargs")}
    why = {"role": "user", "content": "why"}
    pair = {"completion": "so", "completion_ids": [9, 2], "system": "be short", **beside}
    shown = [{"role": "user", "content": "the mat"}]
    for prompt, asked_as, wanted in (
        ("why", [why], shown),
        ("why", [system, why], [system, *shown]),
        ([why], [why], shown),
        ([why], [system, why], [system, *shown]),
        ([system, why], [system, why], [system, *shown]),
        ([{**system, "content": "another"}, why], [{**system, "content": "another"}, why], shown),
    ):
        row = {**pair, "prompt": prompt, "prompt_ids": asked(asked_as, tokenizer, **more)[1]}
        for words in ("the mat", shown):
            path = written(tmp_path / "rows.jsonl", [{**row, "teacher_prompt": words}])
            assert load_pairs(path, tokenizer)["teacher_prompt_ids"][0] == asked(wanted, tokenizer, **more)[1]
        path = written(tmp_path / "rows.jsonl", [{**row, "teacher_prompt": TALK}])
        assert load_pairs(path, tokenizer)["teacher_prompt_ids"][0] == asked(TALK, tokenizer, **more)[1]
    strange = {**pair, "prompt": [why], "prompt_ids": [5, 6]}
    path = written(tmp_path / "rows.jsonl", [{**strange, "teacher_prompt": shown}])
    with pytest.raises(
        ValueError, match=r"rows.jsonl:1: teacher_prompt: .* and behind its system text, cannot be told"
    ):
        load_pairs(path, tokenizer)
    path = written(tmp_path / "rows.jsonl", [{**strange, "teacher_prompt": TALK}])
    assert load_pairs(path, tokenizer)["teacher_prompt_ids"][0] == asked(TALK, tokenizer, **more)[1]


def call(**arguments):
    return [{"role": "user", "content": "why"}, {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": arguments}}]}, {"role": "tool", "content": "a"}]  # fmt: skip


CALLING = build_tokenizer(
    template="{% if tools %}{{ (tools | tojson) + '<|im_end|>\n' }}{% endif %}{% if mood is defined %}{{ mood }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}{{ c['function']['name'] + (c['function']['arguments'] | tojson) }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tool(**properties):
    return [{"type": "function", "function": {"name": "find", "description": "look", "parameters": {"type": "object", "properties": properties}}}]  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "arrow", "saved"])
@pytest.mark.parametrize("named", [False, True])
def test_keys_that_arrow_filled_in_are_no_words(tmp_path, kind, named):
    """Rows with token ids in tables: calls, tools and variables are those of the same rows as JSON Lines."""
    rows = []
    for key in ("x", "y"):
        beside = {"tools": tool(**{key: {"type": "string"}}), "chat_template_kwargs": {"mood": "glad", key: "1"}}
        more = {"tools": beside["tools"], "values": beside["chat_template_kwargs"]}
        rows.append({"prompt": call(**{key: "2"}), "completion": "so", "prompt_ids": asked(call(**{key: "2"}), CALLING, **more)[1],
                     "completion_ids": [9, 2], "teacher_prompt": call(**{key: "1"}), **beside})  # fmt: skip
    wanted = load_pairs(written(tmp_path / "rows.jsonl", rows), CALLING)
    columns = None
    if named:
        rows = [{("shown" if name == "teacher_prompt" else name): value for name, value in row.items()} for row in rows]
        columns = "teacher_prompt=shown"
    table = pa.Table.from_pylist(rows)
    assert table["tools"][0].as_py() != rows[0]["tools"], "Arrow has filled in keys"
    path = tmp_path / (f"table.{kind}" if kind != "saved" else "folder")
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "arrow":
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    else:
        datasets.Dataset(table).save_to_disk(str(path))
    found = load_pairs(path, CALLING, columns=columns)
    assert found.to_list() == wanted.to_list()
    again = retokenize(found, CALLING)
    for name in ("prompt_ids", "teacher_prompt_ids"):
        assert again[name][:] == wanted[name][:]


@pytest.mark.parametrize("lacking", ["teacher_prompt_ids", "prompt_ids"])
def test_a_saved_dataset_that_is_not_finished_is_finished(tmp_path, lacking):
    """All columns are there, and a row lacks the tokens: made, or refused by its place."""
    whole = load_pairs(written(tmp_path / "rows.jsonl", ROWS), TOKENIZER)
    rows = whole.to_list()
    rows[2][lacking] = None
    datasets.Dataset.from_list(rows, features=whole.features).save_to_disk(str(tmp_path / "saved"))
    if lacking == "prompt_ids":
        with pytest.raises(ValueError, match=r"saved, row 3: only one of prompt_ids and completion_ids"):
            load_pairs(tmp_path / "saved", TOKENIZER)
        return
    assert load_pairs(tmp_path / "saved", TOKENIZER).to_list() == whole.to_list()
    with pytest.raises(ValueError, match=r"saved, row 3: teacher_prompt without teacher_prompt_ids"):
        load_pairs(tmp_path / "saved")


def test_any_column_may_be_it(tmp_path):
    rows = [{"question": row["prompt"], "answer": row["completion"], "context": row["teacher_prompt"]} for row in ROWS]
    path = written(tmp_path / "rows.jsonl", rows)
    pairs = load_pairs(path, TOKENIZER, columns="prompt=question,completion=answer,teacher_prompt=context")
    assert pairs["teacher_prompt_ids"][:] == expected(ROWS)[1]
    assert "context" not in pairs.column_names


WHOLE = {"prompt": "a", "completion": "b", "prompt_ids": [5], "completion_ids": [6], "teacher_prompt": "c"}
BAD = {
    "no token": ({**WHOLE, "teacher_prompt_ids": []}, r"teacher_prompt_ids must be a list of one non-negative integer or more, not \[\]"),
    "words": ({**WHOLE, "teacher_prompt_ids": "seven"}, "teacher_prompt_ids must be a list"),
    "below zero": ({**WHOLE, "teacher_prompt_ids": [-1]}, "teacher_prompt_ids must be a list"),
    "a number": ({**WHOLE, "teacher_prompt": 7, "teacher_prompt_ids": [5]}, "teacher_prompt: A prompt is text or a non-empty list"),
    "no turns": ({**WHOLE, "teacher_prompt": [], "teacher_prompt_ids": [5]}, "teacher_prompt: A prompt is text or a non-empty list"),
    "text of no kind": ({"prompt": "a", "completion": "b", "teacher_prompt": {"a": 1}}, "teacher_prompt: A prompt is text or a non-empty"),
    "a field unshown": (
        {"prompt": "a", "completion": "b", "teacher_prompt": [{"role": "user", "content": "a", "mood": "glad"}]}, "teacher_prompt: .*mood",
    ),
    "no words": ({**WHOLE, "teacher_prompt": "", "teacher_prompt_ids": [5]}, "teacher_prompt: it is an empty text; give null"),
    "no words, no tokens": ({**WHOLE, "teacher_prompt": ""}, "teacher_prompt: it is an empty text; give null"),
    "text without words": ({"prompt": "a", "completion": "b", "teacher_prompt": ""}, "teacher_prompt: it is an empty text; give null"),
    "ids beside text": ({"prompt": "a", "completion": "b", "teacher_prompt_ids": [5]}, "teacher_prompt_ids beside text"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_ones_are_refused_where_they_stand(tmp_path, kind):
    row, message = BAD[kind]
    good = {name: value for name, value in row.items() if not name.startswith("teacher_")}
    path = written(tmp_path / "rows.jsonl", [good, row])
    with pytest.raises(ValueError, match=f"rows.jsonl:2: .*{message}"):
        load_pairs(path, TOKENIZER)
    assert len(load_pairs(path, TOKENIZER, skip_bad=tmp_path / "bad.jsonl")) == 1
    assert "teacher_prompt" in (tmp_path / "bad.jsonl").read_text()


def test_messages_need_a_template(tmp_path):
    path = written(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b", "teacher_prompt": TALK}])
    with pytest.raises(ValueError, match=r"rows.jsonl:1: teacher_prompt: .*no chat template"):
        load_pairs(path, PLAIN)


def test_pairs_without_an_id_are_told_apart_by_it(tmp_path):
    whole = {**WHOLE, "teacher_prompt_ids": [5]}
    bare = {name: value for name, value in whole.items() if not name.startswith("teacher_")}
    rows = [bare, whole, {**whole, "teacher_prompt_ids": [6]}]
    quick = load_pairs(written(tmp_path / "rows.jsonl", rows))["id"][:]
    assert len(set(quick)) == 3
    assert [load_pairs(written(tmp_path / "one.jsonl", [row, {**row, "tools": [1]}]))["id"][0] for row in rows] == quick
    assert quick[0] == load_pairs(written(tmp_path / "bare.jsonl", [bare]))["id"][0], "as before"


def test_other_tokens_and_other_forms_keep_it(tmp_path):
    pairs = load_pairs(written(tmp_path / "rows.jsonl", [{**row, "id": row["source"]} for row in ROWS]), TOKENIZER)
    other = build_tokenizer(template="{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|im_end|>' }}{% endfor %}"
                            "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")  # fmt: skip
    again = retokenize(pairs, other)
    assert are_tokens_of(again, other)
    assert again["teacher_prompt"][:] == pairs["teacher_prompt"][:]
    assert again["teacher_prompt_ids"][0] == asked(ROWS[0]["teacher_prompt"], other)[1]
    assert again["teacher_prompt_ids"][1] is None
    assert "goes along in 2 rows" in export_pairs(pairs, "parquet", tmp_path / "pairs.parquet")[-1]
    assert export_pairs(pairs.select([1]), "parquet", tmp_path / "bare.parquet") == []
    for form in ("messages", "sharegpt"):
        assert "goes along in 2 rows" in export_pairs(pairs, form, tmp_path / f"{form}.jsonl")[-1]
        back = load_pairs(tmp_path / f"{form}.jsonl", TOKENIZER)
        for name in ("teacher_prompt", "teacher_prompt_ids", "prompt_ids", "completion_ids"):
            assert back[name][:] == pairs[name][:], (form, name)


def test_curation_leaves_it_alone():
    """A draw is repeated only where the teacher was shown the same, too."""
    rows = build_pairs(8).to_list()
    for i, row in enumerate(rows):
        row |= {"teacher_prompt": f"word {i}", "teacher_prompt_ids": [5, i]}
    other = {**rows[0], "id": "another draw", "teacher_prompt_ids": [5, 99]}
    pairs = pairs_from_rows(
        [*rows, rows[0], other, {**other, "teacher_prompt": None, "teacher_prompt_ids": None}], where="test"
    )
    kept, _ = drop_duplicates(pairs)
    assert kept.to_list() == [row for i, row in enumerate(pairs.to_list()) if i != 8]
    assert len(drop_duplicates(pairs, by="prompt")[0]) == 8
    long, _ = filter_length(pairs, 8)
    assert long.to_list() == [row for row in pairs.to_list() if len(row["completion_ids"]) >= 8]


@pytest.mark.parametrize("stream", [False, True])
def test_text_rows_of_a_trainer_have_it(stream):
    rows = datasets.Dataset.from_list(ROWS)
    found = list(tokenised(rows.to_iterable_dataset() if stream else rows, TOKENIZER))
    assert [row["teacher_prompt_ids"] for row in found] == expected(ROWS)[1]
    assert [row["source"] for row in found] == ["a", "b", "c"]
    assert tokenised(ROWS, TOKENIZER)[0]["teacher_prompt_ids"] == expected(ROWS)[1][0]
    bare = tokenised(datasets.Dataset.from_list([{"prompt": "why", "completion": "so"}]), TOKENIZER)
    assert "teacher_prompt_ids" not in bare.column_names


@pytest.mark.parametrize("kind", ["dataset", "stream", "list", "some"])
def test_pairs_that_say_it_in_words_alone_are_completed_for_a_white_box(kind):
    """A black box does not read it, and lets the rows be."""
    row = {
        "id": "a",
        "prompt": "why",
        "completion": "so",
        "prompt_ids": asked("why")[1],
        "completion_ids": [9, 2],
        "teacher_prompt": "mat",
    }
    ids = asked("mat")[1]
    rows = [row, {**row, "teacher_prompt": None}] + ([{**row, "teacher_prompt_ids": ids}] if kind == "some" else [])
    given = rows if kind == "list" else datasets.Dataset.from_list(rows if kind != "some" else rows[::-1])
    given = given.to_iterable_dataset() if kind == "stream" else given
    assert tokenised(given, TOKENIZER) is given
    found = list(tokenised(given, TOKENIZER, teacher_rows=True))
    shown = [one.get("teacher_prompt_ids") for one in found]
    assert shown == ([ids, None, ids] if kind == "some" else [ids, None])
    assert [one["prompt_ids"] for one in found] == [row["prompt_ids"]] * len(rows)
    with pytest.raises(ValueError, match="Pair a has a teacher_prompt without teacher_prompt_ids"):
        PairCollator(TOKENIZER, teacher_rows=True)([row])


@pytest.mark.parametrize("turns", ["last", "each"])
def test_a_stream_that_has_forgotten_its_columns_has_them_all(turns):
    """Its first row need not say what the teacher was shown, nor have the columns of others."""
    rows = [{"prompt": "why", "completion": "so"}, *ROWS, {**ROWS[0], "late": 1}]

    def stream():
        yield from rows

    given = datasets.IterableDataset.from_generator(stream)
    assert given.column_names is None
    found = list(tokenised(given, TOKENIZER, turns=turns, teacher_rows=True))
    assert [row["teacher_prompt_ids"] for row in found] == expected([{"teacher_prompt": None}, *ROWS, ROWS[0]])[1]
    assert [row.get("source") for row in found] == [None, "a", "b", "c", "a"]
    assert found[-1]["late"] == 1
    assert not {"prompt", "completion", "teacher_prompt"} & {*found[0]}


IN_OTHER_NAMES = {
    "question/answer": {"question": "why", "answer": "so"},
    "Alpaca": {"instruction": "why", "input": "", "output": "so"},
    "ShareGPT": {"conversations": [{"from": "human", "value": "why"}, {"from": "gpt", "value": "so"}]},
    "query/response": {"query": "why", "response": "so"},
}


@pytest.mark.parametrize("kind", ["list", "dataset", "torch", "stream", "generator"])
@pytest.mark.parametrize("shape", IN_OTHER_NAMES)
def test_rows_in_other_names_have_it_in_a_white_box_too(capsys, shape, kind):
    """The words of the teacher's prompt were taken for the text of the row, and the row was refused for want of a prompt."""
    rows = [{**IN_OTHER_NAMES[shape], "teacher_prompt": words, "source": "web"} for words in ("the mat", "a cat")]
    given = rows if kind == "list" else datasets.Dataset.from_list(rows)
    given = (
        given.to_iterable_dataset() if kind == "stream" else given.with_format("torch") if kind == "torch" else given
    )
    given = datasets.IterableDataset.from_generator(lambda: iter(rows)) if kind == "generator" else given
    found, unasked = (tokenised(given, TOKENIZER, teacher_rows=white) for white in (True, False))
    assert f"The data set: {shape}" in capsys.readouterr().out.replace("conversations (ShareGPT)", "ShareGPT").replace(
        "instruction/input/output (Alpaca)", "Alpaca"
    )
    found, unasked = (list(one if kind == "list" else one.with_format(None)) for one in (found, unasked))
    assert [row["teacher_prompt_ids"] for row in found] == [asked("the mat")[1], asked("a cat")[1]]
    assert [row["prompt_ids"] for row in found] == [asked("why")[1]] * 2
    assert [row["completion_ids"] for row in found] == [row["completion_ids"] for row in unasked]
    assert {row["source"] for row in found} == {"web"}


def test_a_stream_of_pairs_says_it_from_a_later_row_on():
    row = {"id": "a", "prompt": "why", "completion": "so", "prompt_ids": asked("why")[1], "completion_ids": [9, 2]}
    given = datasets.IterableDataset.from_generator(lambda: iter([row, {**row, "teacher_prompt": "mat"}]))
    found = list(tokenised(given, TOKENIZER, teacher_rows=True))
    assert [one.get("teacher_prompt_ids") for one in found] == [None, asked("mat")[1]]


@pytest.mark.parametrize("format", ["torch", "numpy", None])
@pytest.mark.parametrize("made", [{}, {"loss_mask": [1, 0]}, {"teacher_prompt_ids": None}], ids=str)
def test_what_was_made_is_seen_where_a_format_chooses_columns(format, made):
    """The columns that were chosen hid it, and a collator showed the teacher the student's own prompt."""
    pair = {"id": "a", "prompt": "why", "completion": "so", "prompt_ids": asked("why")[1], "completion_ids": [9, 2]}
    rows = [{**pair, "teacher_prompt": "the mat", **made}, {**pair, "teacher_prompt": "a cat", **made}]
    if "teacher_prompt_ids" in made:  # some have it
        rows[1] |= {"teacher_prompt_ids": asked("a cat")[1]}
    given = datasets.Dataset.from_list(rows)
    chosen = tokenised(
        given.with_format(format, columns=["completion_ids", "prompt_ids"]), TOKENIZER, teacher_rows=True
    )
    assert list(chosen.format["columns"]) == ["completion_ids", "prompt_ids", "loss_mask", "teacher_prompt_ids"]
    assert list(chosen[0]["teacher_prompt_ids"]) == asked("the mat")[1]
    assert chosen[0]["loss_mask"] is None or list(chosen[0]["loss_mask"]) == made["loss_mask"]
    collator = PairCollator(TOKENIZER, teacher_rows=True)
    batch, wanted = (collator(list(one)) for one in (chosen, tokenised(given, TOKENIZER, teacher_rows=True)))
    assert batch["teacher_input_ids"].tolist() == wanted["teacher_input_ids"].tolist() != batch["input_ids"].tolist()
    assert batch["labels"].tolist() == wanted["labels"].tolist()


def test_a_format_that_chose_columns_of_text_sees_their_tokens():
    rows = datasets.Dataset.from_list(ROWS).with_format("numpy", columns=["prompt", "completion"])
    assert {*tokenised(rows, TOKENIZER)[0]} == {"prompt_ids", "completion_ids", "loss_mask", "teacher_prompt_ids"}
