"""Tokenizers in a GGUF file, read by a naive twin of llama.cpp's tokenisers, which knows nothing but what stands in the file; and refusals by name."""

import itertools
import random

import gguf_tokenizers
import pytest
import regex
from conftest import build_model, build_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from distill.models.gguf_file import write_gguf
from distill.models.gguf_tokens import BYTE, CONTROL, UNUSED, USER, gguf_tokens

gguf = pytest.importorskip("gguf", reason="the extra demo is not installed")
MADE = gguf_tokenizers.build()
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# the expressions by which llama.cpp splits, by its words for them
SPLITS = {
    "gpt-2": [_GPT2],
    "smollm": [r"\p{N}", _GPT2],
    "llama-bpe": [gguf_tokenizers.LETTERS + r"\p{N}{1,3}" + gguf_tokenizers.REST],
    "qwen2": [gguf_tokenizers.LETTERS + r"\p{N}" + gguf_tokenizers.REST],
}
SPLITS["smaug-bpe"] = SPLITS["llama-bpe"]


def texts():
    draw = random.Random(5)
    letters = "abcdefghiost   \n\t.,'’-(){}|#0123456789äöüßé日本한🙂привет"
    return [
        *gguf_tokenizers.TEXT[:3],
        "", " ", "  two", "a\n\n\nb", "don't DON'T I'll", "x" * 40, "<|turn|>user\nhi</s>", "\x00\x01",
        *("".join(draw.choice(letters) for _ in range(50)) for _ in range(40)),
    ]  # fmt: skip


def contents(file):
    return {name: one.contents() for name, one in gguf.GGUFReader(file).fields.items()}


def tokens_by_file(file, text):
    """As llama.cpp: special tokens first, then by the file's model."""
    told = contents(file)
    tokens, types = told["tokenizer.ggml.tokens"], told["tokenizer.ggml.token_type"]
    ids = {token: i for i, token in enumerate(tokens)}
    added = [token for token, kind in zip(tokens, types, strict=True) if kind in (CONTROL, USER)]
    parts = regex.split("(" + "|".join(map(regex.escape, sorted(added, key=len, reverse=True))) + ")", text)
    found = [told["tokenizer.ggml.bos_token_id"]] if told["tokenizer.ggml.add_bos_token"] else []
    is_behind_special = True  # there a blank is put, where one is
    for part in filter(None, parts):
        if part in added:
            found.append(ids[part])
        elif told["tokenizer.ggml.model"] == "gpt2":
            found += _bytes(part, told, ids)
        else:
            found += _pieces(
                (" " if is_behind_special and told["tokenizer.ggml.add_space_prefix"] else "") + part, told, ids
            )
        is_behind_special = part in added
    return found


def _bytes(text, told, ids):
    pre = told["tokenizer.ggml.pre"]
    words = [text]
    for expression in SPLITS[pre]:
        words = [piece for word in words for piece in _isolated(expression, word)]
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(told["tokenizer.ggml.merges"])}
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found = []
    for word in words:
        ((shown, _),) = alphabet.pre_tokenize_str(word)
        symbols = [shown] if pre == "llama-bpe" and shown in ids else list(shown)
        while len(symbols) > 1:
            pairs = [(ranks.get(pair, len(ranks)), i) for i, pair in enumerate(itertools.pairwise(symbols))]
            rank, place = min(pairs)
            if rank == len(ranks):
                break
            symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
        found += [ids[symbol] for symbol in symbols]
    return found


def _isolated(expression, word):
    place = 0
    for match in regex.finditer(expression, word):
        yield from filter(None, (word[place : match.start()], match[0]))
        place = match.end()
    if word[place:]:
        yield word[place:]


def _pieces(text, told, ids):
    scores = told["tokenizer.ggml.scores"]
    symbols = list(text.replace(" ", "▁"))
    while len(symbols) > 1:
        joined = [(a + b, i) for i, (a, b) in enumerate(itertools.pairwise(symbols)) if a + b in ids]
        if not joined:
            break
        piece, place = max(joined, key=lambda one: (scores[ids[one[0]]], -one[1]))
        symbols[place : place + 2] = [piece]
    return [
        i
        for symbol in symbols
        for i in ([ids[symbol]] if symbol in ids else [ids[f"<0x{b:02X}>"] for b in symbol.encode()])
    ]


@pytest.mark.parametrize("name", MADE)
def test_a_reader_of_the_file_makes_the_same_tokens(tmp_path, name):
    tokenizer = MADE[name]
    write_gguf(build_model(vocab_size=len(tokenizer) + 3), tokenizer, tmp_path / "m.gguf", "f16")
    for text in texts():
        assert tokens_by_file(tmp_path / "m.gguf", text) == tokenizer(text)["input_ids"], repr(text)


def test_a_wrong_word_for_the_split_would_be_found(tmp_path):
    """The control: what the test above looks at does differ between the kinds."""
    files = {}
    for name in ("gpt-2", "llama-bpe", "qwen2"):
        tokenizer = MADE[name]
        files[name] = tmp_path / f"{name}.gguf"
        write_gguf(build_model(vocab_size=len(tokenizer)), tokenizer, files[name], "f16")
    told = {name: contents(file) for name, file in files.items()}
    other = {"gpt-2": "qwen2", "llama-bpe": "gpt-2", "qwen2": "gpt-2"}
    for name in files:
        ids = {token: i for i, token in enumerate(told[name]["tokenizer.ggml.tokens"])}
        wrong = {**told[name], "tokenizer.ggml.pre": other[name]}
        assert any(_bytes(text, wrong, ids) != _bytes(text, told[name], ids) for text in gguf_tokenizers.TEXT[:3])


def test_what_stands_in_the_file(tmp_path):
    tokenizer = build_tokenizer()
    write_gguf(
        build_model(vocab_size=len(tokenizer) + 4), tokenizer, tmp_path / "m.gguf", "f16", name="mine", license="mit"
    )
    told = contents(tmp_path / "m.gguf")
    assert (told["general.name"], told["general.license"], told["general.architecture"]) == ("mine", "mit", "llama")
    assert told["tokenizer.chat_template"] == tokenizer.chat_template
    assert told["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    types = told["tokenizer.ggml.token_type"]
    assert types[-4:] == [UNUSED] * 4
    assert types[tokenizer.eos_token_id] == CONTROL
    again = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in texts()[:12]:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert gguf_tokens(MADE["gemma"], len(MADE["gemma"])).types.count(BYTE) == 256


def test_the_end_of_a_turn_is_told_where_it_is_not_eos():
    tokenizer = build_tokenizer()
    tokenizer.eos_token = "<|im_start|>"
    told = gguf_tokens(tokenizer, len(tokenizer)).special
    assert told["eot"] == tokenizer.convert_tokens_to_ids("<|im_end|>") != told["eos"]


def _changed(what):
    """A tokenizer of bytes with one part that no reader follows."""
    backend = Tokenizer.from_str(MADE["gpt-2"].backend_tokenizer.to_str())
    what(backend)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def _set(name, value):
    return lambda backend: setattr(backend, name, value)


def _words():
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordPiece({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    )


def _unclosed():
    """Merges as of a trainer, one way to make a piece: pieces with scores would find others."""
    vocabulary = {piece: i for i, piece in enumerate(["<unk>", "a", "b", "c", "ab", "bc", "abc", "▁"])}
    backend = Tokenizer(
        models.BPE(vocabulary, [("a", "b"), ("b", "c"), ("ab", "c")], unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer, backend.decoder = normalizers.Replace(" ", "▁"), decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (_words, "its model is WordPiece, and not BPE"),
        (lambda: _changed(_set("normalizer", normalizers.Lowercase())), r"it changes a text first \(Lowercase\)"),
        (lambda: _changed(_set("pre_tokenizer", pre_tokenizers.Whitespace())), "no word for how it splits a text first.*Whitespace"),
        (lambda: _changed(_set("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True))), "no word for how it splits"),
        (lambda: _changed(lambda backend: setattr(backend.model, "ignore_merges", True)), "takes whole words without merges"),
        (_unclosed, "'abc' has 1 merges and 2 ways to be made"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_cannot_be_carried_is_refused_by_name(made, said):
    with pytest.raises(ValueError, match=f"The tokenizer .*cannot be carried in a GGUF file: .*{said}"):
        gguf_tokens(made(), 500)


def test_more_tokens_than_embeddings_are_refused_and_strange_tokens_are_told():
    with pytest.raises(ValueError, match="and the model 20 embeddings"):
        gguf_tokens(MADE["gpt-2"], 20)
    tokenizer = _changed(lambda backend: backend.add_special_tokens([AddedToken("<mask>", lstrip=True)]))
    (note,) = gguf_tokens(tokenizer, len(tokenizer)).notes
    assert "1 tokens take the blanks beside them along" in note
    assert "<mask>" in note
    assert "composes characters first (NFC)" in gguf_tokens(MADE["qwen2"], 500).notes[0]
