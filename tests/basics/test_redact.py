"""What is published of a value: no secret, no absolute path, no private machine; and everything else as it was."""

import pytest

from distill.basics.redact import REMOVED, clean, public_name, secret_in


@pytest.mark.parametrize(
    ("value", "cleaned"),
    [
        ("Qwen/Qwen2.5-Math-7B", "Qwen/Qwen2.5-Math-7B"),
        ("smollm2-135m", "smollm2-135m"),
        ("/data/jo/models/qwen", "qwen"),
        ("../models/qwen/", "qwen"),
        ("~/qwen", "qwen"),
        ("C:\\Users\\jo\\qwen", "qwen"),
        ("/x/hub/models--org--name/snapshots/" + "0a" * 20, "org/name"),
        ("https://api.example.com/v1", "https://api.example.com/v1"),
        ("http://10.1.2.3:8000/v1", "http://private-host/v1"),
        ("http://localhost:8000/v1", "http://private-host/v1"),
    ],
)
def test_public_names(value, cleaned):
    assert public_name(value) == cleaned


def test_cleaning_leaves_alone_what_is_not_private():
    kept = {
        "regex": r"</think>\s*(\d+)/(\d+)", "eos_token": "<|im_end|>", "max_new_tokens": 64, "ratio": "a/b and/or c",
        "switch": "/no_think", "token_source": "text", "none": None, "list": [1.5, True], "math": "1/2/3",
    }  # fmt: skip
    assert clean(kept) == kept
    assert clean("key sk-abcdefghijklmnop") == f"key {REMOVED}"


@pytest.mark.parametrize("text", ["http://[^ ]+", "http://[::1]:8000/v1", "see http://[x"])
def test_text_that_only_looks_like_an_address_stops_nothing(text):
    assert "8000" not in str(clean({"pattern": text}))


@pytest.mark.parametrize("name", ["x-api-key", "api_token", "token", "key", "X-Api-Key"])
def test_more_names_of_secrets(name):
    assert clean({name: "abc", "max_new_tokens": 4, "key_length": 3}) == {"max_new_tokens": 4, "key_length": 3}


@pytest.mark.parametrize("secret", ["gsk_abcdefghijklmnop", "nvapi-abcdefghijklmnop", "xai-abcdefghijklmnop"])
def test_more_shapes_of_keys(secret):
    assert secret not in clean(f"it says {secret} there")


@pytest.mark.parametrize("host", ["10.0.0.5:8000", "192.168.1.7", "172.20.0.3:80", "gpu-17.corp:8000", "a.b.internal"])
def test_private_hosts_without_a_scheme(host):
    assert clean(f"asked {host} for it") == "asked private-host for it"


@pytest.mark.parametrize(
    "text", ["version 10.2.1", "lr 1e-4, 172.5 s", "chapter 192.168", "model.safetensors", "3.10.0.1"]
)
def test_numbers_and_names_that_are_no_hosts(text):
    assert clean(text) == text


def test_a_secret_is_found_wherever_it_is_and_not_shown():
    for value in ({"a": [{"x-api-key": "abc"}]}, ["sk-abcdefghijklmnop"], {"a": {"b": "Bearer abc"}}):
        assert "abc" not in (secret_in(value) or "abc")
    kept = {
        "top_k": 20,
        "max_tokens": None,
        "chat_template_kwargs": {"enable_thinking": False},
        "stop": ["</s>"],
        "key_length": 3,
    }
    assert secret_in(kept) is None


@pytest.mark.parametrize(
    "text",
    [r"\boxed\{", r"\boxed\{(.*?)\}", r"\\boxed\\{", r"\frac\{a\}\{b\}", r"^\d+\.\d+$", r"\s*\n\s*", "\\(x\\)"],
)
def test_regular_expressions_and_tex_are_no_paths(text):
    assert clean(text) == text
    assert clean({"pattern": f"at least {text} times"}) == {"pattern": f"at least {text} times"}


def test_shares_and_drives_still_are():
    assert clean("\\\\host\\share\\jo\\model") == "model"
    assert clean("it is in \\\\host\\share\\jo\\model, there") == "it is in model,"[:-1] + ", there"
    assert clean("C:\\data\\jo\\model") == "model"


def test_two_names_that_become_one_are_both_kept():
    """Evaluation sets of one name in two folders: neither takes the place of the other."""
    found = clean({"/a/test.jsonl": 1, "/b/test.jsonl": 2, "/c/test.jsonl": 3, "other": 4})
    assert found == {"test.jsonl": 1, "test.jsonl (2)": 2, "test.jsonl (3)": 3, "other": 4}
