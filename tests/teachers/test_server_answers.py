"""What a server answers: whose token ids count, where the reasoning goes, which ends are taken; and what is refused."""

import json
import sys

import distill.recipes.black_box as black_box_recipe
import distill.recipes.clean as clean_recipe
import distill.recipes.generate as generate_recipe
import pytest
from chat_templates import FAMILIES
from conftest import build_model, build_tokenizer, free_port
from fake_server import FakeServer, error, web_page, with_status

from distill import generate
from distill.pairs import load_pairs
from distill.teachers import Completion, LocalTeacher, Refusal, Sampling, ServerTeacher
from distill.teachers.answers import completion_of, read_answers
from distill.text.traces import split_trace

TOKENIZER = build_tokenizer()
EOS = TOKENIZER.eos_token_id
CHAT = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def shared():
    with FakeServer() as running:
        yield running


@pytest.fixture
def server(shared):
    """One server for all; every test finds it as new."""
    settings = {name: value for name, value in vars(FakeServer()).items() if name != "port"}
    vars(shared).update(settings)
    return shared


def teacher(server, **changes):
    return ServerTeacher(server.url, **{"tokenizer": TOKENIZER, "backoff": 0.01, "retries": 1, **changes})


def run(asked, prompts=("the cat",), **changes):
    return generate(asked, prompts, **{"max_new_tokens": 12, "progress": False, **changes})


def completion(message, finish_reason="stop", tokenizer=TOKENIZER, prompt=CHAT, **choice):
    payload = {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": finish_reason, **choice}]}
    return completion_of(read_answers(payload)[0], prompt, tokenizer)


def ids_of(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def test_a_servers_token_ids_are_kept_as_they_are():
    """Another cut of the same text than the tokenizer's own: that is what the teacher emitted."""
    other = ids_of("the ca") + ids_of("t")
    assert other != ids_of("the cat")
    found = completion({"content": "the cat"}, token_ids=[*other, EOS])
    assert (found.ids, found.token_source, found.text) == ([*other, EOS], "teacher", "the cat")
    assert completion({"content": "the cat"}, token_ids=other).ids == [*other, EOS], "the server cut the EOS off"
    cut = completion({"content": "the cat"}, "length", token_ids=other)
    assert (cut.ids, cut.finish_reason) == (other, "length")


@pytest.mark.parametrize("ids", [ids_of("a dog"), [10**6], [], ["5"], None, "12"])
def test_ids_of_another_tokenizer_are_not_believed(ids):
    found = completion({"content": "the cat"}, token_ids=ids)
    assert (found.ids, found.token_source) == ([*ids_of("the cat"), EOS], "text")


def test_ids_are_asked_for_only_of_servers_that_are_known_to_have_them(server, capsys):
    server.tokenizer = TOKENIZER
    (row,) = run(teacher(server))
    assert row["token_source"] == "text"
    assert "return_token_ids" not in server.asked[-1]
    server.owned_by = "vllm"
    (row,) = run(teacher(server))
    assert row["token_source"] == "teacher"
    assert server.asked[-1]["top_k"] == -1
    run(teacher(server), top_k=5)
    assert server.asked[-1]["top_k"] == 5
    server.change = lambda body, payload: payload["choices"][0].update(token_ids=[5, 6])
    (row,) = run(teacher(server), seed=1)
    assert row["token_source"] == "text"
    assert "not this tokenizer's" in capsys.readouterr().err


def test_llama_cpp_shows_its_tokens_beside_the_choices():
    payload = {
        "choices": [{"text": "the cat", "finish_reason": "stop"}],
        "__verbose": {"tokens": [*ids_of("the cat"), EOS]},
    }
    assert completion_of(read_answers(payload)[0], "so", TOKENIZER).token_source == "teacher"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_part_of_the_completion(server, name):
    server.reasoning = name
    (row,) = run(teacher(server))
    trace = split_trace(row["completion"])
    assert trace.closed
    assert trace.reasoning == f"I think of {trace.answer.split()[0]}."


def test_reasoning_that_was_cut_is_not_closed_and_one_that_the_prompt_opened_is_not_opened_again():
    cut = completion({"content": None, "reasoning_content": "I think"}, "length")
    assert cut.text == "<think>\nI think"
    assert EOS not in cut.ids
    opens = build_tokenizer(TOKENIZER.chat_template.replace("assistant\n' }}", "assistant\n<think>\n' }}"))
    assert opens.chat_template != TOKENIZER.chat_template
    whole = completion({"content": "4", "reasoning": "2 and 2"}, tokenizer=opens)
    assert whole.text == "2 and 2\n</think>\n\n4"
    given = ids_of("\n2 and 2\n</think>\n4")
    kept = completion({"content": "4", "reasoning": "2 and 2"}, tokenizer=opens, token_ids=[*given, EOS])
    assert (kept.ids, kept.token_source) == ([*given, EOS], "teacher")


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls", None, "abort"])
def test_other_ends_are_refused(reason):
    found = completion({"content": "the cat"}, reason)
    assert isinstance(found, Refusal)
    assert repr(reason) in found.reason


def test_a_trace_in_the_text_itself_is_fitted_to_the_students_prompt():
    opening = FAMILIES["deepseek-r1-distill"].tokenizer()
    found = completion({"content": "<think>\nit sat\n</think>\n\nyes"}, tokenizer=opening)
    assert found.text == "it sat\n</think>\n\nyes", "the prompt has the <think> already"
    plain = FAMILIES["qwen3"].tokenizer()
    found = completion({"content": "it sat\n</think>\n\nyes"}, tokenizer=plain)
    assert found.text == "<think>\nit sat\n</think>\n\nyes"
    found = completion({"content": "", "reasoning_content": "it sat"}, tokenizer=plain)
    assert found.text == "<think>\nit sat\n</think>\n\n", "it ended by itself, so its trace did too"


def test_an_empty_answer_is_one_token_and_an_empty_cut_is_none():
    assert completion({"content": ""}) == Completion([EOS], "", "stop", "text")
    assert isinstance(completion({"content": ""}, "length"), Refusal)
    refused = completion({"content": None, "refusal": "I will not."})
    assert isinstance(refused, Refusal)
    assert "I will not." in refused.reason


def test_the_identity_outlives_a_restart_and_tells_teachers_apart(server):
    server.owned_by, server.root = "vllm", "org/model"
    first = teacher(server).identity()
    assert first == teacher(server, concurrency=3, timeout=9, retries=5).identity()
    assert first["teacher_says"] == {"owned_by": "vllm", "root": "org/model"}
    assert json.loads(json.dumps(first)) == first
    others = [
        teacher(server, extra_body={"min_p": 0.1}),
        teacher(server, top_logprobs=1),
        teacher(server, chat=False),
        teacher(server, tokenizer=build_tokenizer(TOKENIZER.chat_template + " ")),
        teacher(server, tokenizer=build_tokenizer(special=["<|im_start|>", "<|endoftext|>", "<|im_end|>"])),
    ]
    server.root = "org/other"
    found = [json.dumps(t.identity()) for t in [*others, teacher(server)]]
    assert len({json.dumps(first), *found}) == 7


def test_a_server_without_a_list_of_models_is_asked_by_name(server):
    server.models_status = 500
    assert len(run(teacher(server, model="fake"))) == 1
    with pytest.raises(ValueError, match="does not list its models.*name one of its models"):
        teacher(server)


def test_a_server_of_several_models(server):
    server.models = ("one", "two")
    with pytest.raises(ValueError, match="lists one, two; name one"):
        teacher(server)
    run(teacher(server, model="two"))
    assert server.asked[-1]["model"] == "two"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000/v1", "must begin with http:// or https://; did you mean http://localhost:8000/v1"),
        ("ftp://x/v1", "did you mean http://x/v1"),
        ("http://me:hidden@x/v1", "address of x carries"),
        ("http://x/v1?api_key=hidden", "address of x carries"),
        ("me:hidden@x/v1", "no key in it"),
        ("http://x/sk-hidden-abcdefgh/v1", "The path in the address of x seems to hold a key"),
        ("http://127.0.0.1:FREE/v1", "Nobody answers at .*refused"),
    ],
)
def test_addresses_that_are_none(url, words):
    url = url.replace("FREE", str(free_port()))
    with pytest.raises(ValueError, match=words) as failure:
        ServerTeacher(url, tokenizer=TOKENIZER)
    assert "hidden" not in str(failure.value)
    with pytest.raises(ValueError, match="address"):
        LocalTeacher("http://x/v1")


def test_a_wrong_path_an_unknown_model_and_a_web_page(server):
    with pytest.raises(ValueError, match="does not list its models"):
        ServerTeacher(server.url.removesuffix("/v1"), tokenizer=TOKENIZER)
    with pytest.raises(ValueError, match="404"):
        run(ServerTeacher(server.url + "/v2", "fake", tokenizer=TOKENIZER))
    with pytest.raises(ValueError, match="The model `other` does not exist"):
        run(teacher(server, model="other"))
    server.fault = lambda number, body: web_page
    with pytest.raises(ValueError, match="usually ends in /v1"):
        run(teacher(server))


def test_a_server_that_refuses_every_request_is_left_alone(server):
    async def pinned(request):
        return error(400, "Server is pinned to 'a'; requested 'fake'.")

    server.fault = lambda number, body: pinned
    with pytest.raises(ValueError, match="does not know this address or this model"):
        run(teacher(server))
    server.fault = lambda number, body: with_status(422, "Unexpected fields in the request: seed")
    asked = len(server.asked)
    with pytest.raises(ValueError, match="refused all of the first 8 requests.*Unexpected fields"):
        run(teacher(server, concurrency=1), [f"prompt {i}" for i in range(40)])
    assert len(server.asked) == asked + 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"concurrency": 0}, "concurrency is 0"),
        ({"retries": -1}, "retries is -1"),
        ({"timeout": 0}, "timeout is 0"),
        ({"n_per_request": 0}, "n_per_request is 0"),
        ({"extra_body": {"messages": []}}, "extra_body has messages"),
    ],
)
def test_settings_out_of_their_range(server, changes, words):
    with pytest.raises(ValueError, match=words):
        teacher(server, **changes)


def test_a_missing_package_and_top_k_where_nobody_takes_it(server, monkeypatch):
    with pytest.raises(ValueError, match="top_k is 3.*extra_body"):
        teacher(server).complete_each([], Sampling(top_k=3))
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ValueError, match=r"pip install 'distill\[server\]'"):
        teacher(server)


def test_the_recipes_take_an_address(server, tmp_path, capsys):
    folder = str(tmp_path / "student")
    build_model().save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the cat sat on the mat\nwhy is the dog so\nwhat is a colour\n")
    asked = ["--teacher", server.url, "--prompts", str(prompts), "--max_new_tokens", "8"]
    pairs = str(tmp_path / "pairs.jsonl")
    generate_recipe.main(
        [*asked, "--tokenizer", folder, "--samples", "2", "--extra_body", '{"user": "me"}', "--output", pairs]
    )
    assert len(load_pairs(pairs)) == len(server.asked) == 6
    assert server.asked[0]["user"] == "me"
    trained = ["--held_out", "1", "--max_steps", "1", "--output_dir", str(tmp_path / "run"), "--save_strategy", "no"]
    black_box_recipe.main([*asked, "--student", folder, *trained])
    assert (tmp_path / "run" / "student" / "model.safetensors").is_file()
    assert "eval_loss" in capsys.readouterr().out


def test_what_a_server_gave_and_cleaning_left_out_stands_in_the_students_card(server, tmp_path):
    folder, pairs, cleaned = (str(tmp_path / name) for name in ("student", "pairs.jsonl", "clean.jsonl"))
    build_model().save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    asked = generate(
        teacher(server), [f"the cat {i}" for i in range(12)], output=pairs, temperature=0.5, progress=False
    )
    longest = sorted(map(len, asked["completion_ids"]))[8]
    clean_recipe.main([pairs, "--max_tokens", str(longest), "--output", cleaned])
    trained = ["--held_out", "1", "--max_steps", "1", "--output_dir", str(tmp_path / "run"), "--save_strategy", "no"]
    black_box_recipe.main(["--pairs", cleaned, "--student", folder, *trained])
    facts = json.loads((tmp_path / "run" / "student" / "provenance.json").read_text())
    kept = sum(len(ids) <= longest for ids in asked["completion_ids"])
    assert [(step["rows_in"], step["rows_out"]) for step in facts["steps"]] == [(12, 12), (12, 12), (12, kept)]
    assert kept < 12
    assert facts["sampling"]["temperature"] == 0.5
    (found,) = facts["teachers"]
    assert (found["name"], found["identity"]["teacher_url"]) == ("fake", ["http://private-host/v1"])


@pytest.mark.parametrize(
    ("recipe", "flags", "words"),
    [
        ("generate", [], "--tokenizer, and a file with --prompts"),
        ("generate", ["--tokenizer", "x", "--prompts", "y", "--extra_body", "{"], "is not JSON"),
        (
            "generate",
            ["--tokenizer", "x", "--prompts", "y", "--extra_body", '{"api_key": 1}'],
            "the journal, and its entry",
        ),
        ("generate", ["--tokenizer", "x", "--prompts", "y", "--extra_body", "[]"], "must be a JSON object"),
        ("black_box", [], "no student can be cut"),
        ("black_box", ["--student", "x"], "give a file with --prompts"),
    ],
)
def test_recipes_say_what_a_server_needs(recipe, flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        {"generate": generate_recipe, "black_box": black_box_recipe}[recipe].main(["--teacher", "http://x/v1", *flags])
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "a refused call leaves nothing behind"
