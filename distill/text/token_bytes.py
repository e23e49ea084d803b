"""Bytes of tokens: what each token of a vocabulary adds to a text, and which stand for no text; read from the vocabulary, not by decoding."""

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.text.chat import CLOSE, OPEN, chat_of
from distill.text.encode import turn_end_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WAYS = "ByteLevel (GPT-2, Llama 3, Qwen, SmolLM), or blanks written as a sign in the token (SentencePiece: Llama 2, Gemma, Mistral)"
# what tokenizers are known to change, each in words
_PROBES = {
    "a capital letter": "The Cat",
    "several blanks": "a  b",
    "a line's end": "a\nb",
    "an accent": "café",
    "letters with marks of their own (NFC)": "cafe\u0301",
    "a ligature or a wide letter (NFKC)": "\ufb01 \uff21",
    "a typographic quotation mark": "it\u2019s \u201cso\u201d",
    "an emoji": "a \U0001f642",
}


class TokenBytes:
    """The bytes of every token of a tokenizer. Control tokens have none, but for the tags of a trace, which an assistant writes as its own.

    A token's bytes are those that it adds inside a text: joined, those of emitted ids are the text that they say, also where the
    tokenizer would encode that text as other ids.

    Args:
        tokenizer: of the kind byte-level BPE, or with a sign for blanks and perhaps bytes as a fallback (SentencePiece).

    Attributes:
        of: for each id its bytes; None for a control token, an end, and a number that no token has.
        sizes: `[V]` int64, their number; 0 where there are none.
        fallback: ids that are a byte by name, `<0x0A>`.
        control: control tokens by what they are called.
        ends: ids that end a turn, and a text, in this order; without those it has not.

    Raises:
        ValueError: a tokenizer whose tokens do not say their bytes (WordPiece: blanks belong to no token).
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer, self.name = tokenizer, called(tokenizer)
        read = _reader(tokenizer, self.name)
        vocabulary, added = tokenizer.get_vocab(), tokenizer.added_tokens_decoder
        control = chat_of(tokenizer).control - {OPEN, CLOSE}
        special = {number for number, token in added.items() if token.content in control}
        self.of: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
        self.fallback: set[int] = set()
        for token, number in vocabulary.items():
            if number not in special:
                self.of[number], is_byte = read(token, number in added)
                self.fallback |= {number} if is_byte else set()
        ends = (turn_end_id(tokenizer), tokenizer.eos_token_id)
        self.ends: tuple[int, ...] = tuple(dict.fromkeys(int(one) for one in ends if one is not None))
        for number in self.ends:
            self.of[number] = None
        self.sizes = np.asarray([len(one or b"") for one in self.of], np.int64)
        self.control = {token: number for token, number in vocabulary.items() if number in special}

    def __len__(self) -> int:
        return len(self.of)

    def joined(self, ids: Any) -> bytes:
        """The text that ids say, as bytes; they must be ids of text."""
        of = self.of
        return b"".join([of[number] or b"" for number in ids])

    def changes(self) -> list[str]:
        """What of a text this tokenizer changes, in words, as far as a few probes show it; none: it says what it was given."""
        chat = chat_of(self.tokenizer)
        texts = list(_PROBES.values())
        made = chat.encode_after(texts)
        return [what for what, text, ids in zip(_PROBES, texts, made, strict=True) if self.joined(ids) != text.encode()]


def called(tokenizer: Any) -> str:
    """A tokenizer in a message."""
    name = str(getattr(tokenizer, "name_or_path", "") or "").rstrip("/").rpartition("/")[2]
    return f"{type(tokenizer).__name__} of {len(tokenizer)} tokens" + (f" ({name})" if name else "")


def _reader(tokenizer: Any, name: str) -> Any:
    """(token, was it added) -> its bytes and whether it is a byte by name."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"{name} shows no vocabulary of tokens (it has no `backend_tokenizer`), so the bytes of its tokens are not known and they cannot be aligned with "
            "another tokenizer's. Load it as a fast tokenizer (tokenizer.json), or train without the teacher's logits (black box)."
        )
    said = json.loads(backend.to_str())
    parts = [*_flat(said["decoder"], "decoders"), *_flat(said["pre_tokenizer"], "pretokenizers")]
    kinds = {part["type"] for part in parts}
    model = said["model"]
    if "ByteLevel" in kinds:
        letters = _letters()

        def byte_level(token: str, added: bool) -> tuple[bytes, bool]:
            if added or any(letter not in letters for letter in token):  # added tokens are written as they are
                return token.encode(), False
            return bytes(letters[letter] for letter in token), False

        return byte_level
    blanks = [part.get("replacement", "▁") for part in parts if part["type"] == "Metaspace"]
    blanks += [
        part["pattern"]["String"]
        for part in parts
        if part["type"] == "Replace" and part.get("content") == " " and "String" in part["pattern"]
    ]
    if not blanks or model.get("end_of_word_suffix") or model.get("continuing_subword_prefix"):
        kind = f"{model.get('type', 'its model')} with the decoder {', '.join(sorted(kinds)) or 'none'}"
        raise ValueError(
            f"{name} is {kind}: its tokens do not say which blanks stand between them, so their bytes are not known and they cannot be aligned with another "
            f"tokenizer's. Alignment reads {_WAYS}; with another one, train on the teacher's text (black box)."
        )
    has_bytes = "ByteFallback" in kinds or bool(model.get("byte_fallback"))

    def with_signs(token: str, added: bool) -> tuple[bytes, bool]:
        if has_bytes and (found := _BYTE.fullmatch(token)):
            return bytes([int(found[1], 16)]), True
        for sign in blanks:
            token = token.replace(sign, " ")
        return token.encode(), False

    return with_signs


def _flat(part: Any, several: str) -> list[dict[str, Any]]:
    """A decoder or pre-tokenizer as the list of its parts."""
    if part is None:
        return []
    return [one for inner in part[several] for one in _flat(inner, several)] if part["type"] == "Sequence" else [part]


@cache
def _letters() -> dict[str, int]:
    """The letter that stands for each byte in byte-level vocabularies: printable ones for themselves, the others from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}
