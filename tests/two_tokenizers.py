"""Small tokenizers of several kinds, for tests of alignment."""

import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

WORDS = [
    "the cat sat on the mat and the dog ran after the colour of it all",
    "thecat satmat onthe café, 12 colours\n\nso it is",
]


def byte_level(text=WORDS, size=300, eos="<|end|>") -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[eos], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, pad_token=eos)


def sentence_piece(text=WORDS, size=90, normalizer=None, eos="</s>") -> PreTrainedTokenizerFast:
    """BPE with a sign for blanks and bytes as a fallback, as Gemma's; `normalizer` changes the text before."""
    steps = [*([normalizer] if normalizer else []), normalizers.Replace(" ", "▁")]
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # words, as byte-level ones have them
    backend.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=size, special_tokens=["<unk>", eos], show_progress=False)
    )
    said = json.loads(backend.to_str())
    vocabulary = said["model"]["vocab"]
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    backend = Tokenizer.from_str(json.dumps(said))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, pad_token=eos, unk_token="<unk>")


def word_piece() -> PreTrainedTokenizerFast:
    """WordPiece, whose blanks are of no token."""
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1, "cat": 2, "##s": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[UNK]", unk_token="[UNK]")


def permuted(tokenizer: PreTrainedTokenizerFast, order: list[int]) -> PreTrainedTokenizerFast:
    """The same tokens under other ids: token i of the old is order[i]."""
    said = json.loads(tokenizer.backend_tokenizer.to_str())
    said["model"]["vocab"] = {token: order[number] for token, number in said["model"]["vocab"].items()}
    for token in said["added_tokens"]:
        token["id"] = order[token["id"]]
    said["added_tokens"].sort(key=lambda token: token["id"])
    backend = Tokenizer.from_str(json.dumps(said))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=tokenizer.eos_token, pad_token=tokenizer.pad_token
    )


def pair(tokenizer, text, prompt="the cat", number=0, ended=True) -> dict:
    """A pair in plain text, in this tokenizer's tokens."""
    completion = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] * ended
    return {
        "id": f"p{number}", "prompt": prompt, "completion": text,
        "prompt_ids": tokenizer(prompt, add_special_tokens=False)["input_ids"], "completion_ids": completion,
        "finish_reason": "stop" if ended else "length", "sample": 0, "teacher": "t",
    }  # fmt: skip
