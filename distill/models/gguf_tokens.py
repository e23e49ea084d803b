"""A tokenizer as a GGUF file has it: only those that readers of such files are known to follow token by token."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distill.models.gguf_architectures import WAY_OUT
from distill.text.encode import turn_end_id

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
# how a text is split before its bytes are merged, and the word llama.cpp has for it
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {_LETTERS + r"\p{N}{1,3}" + _REST: "llama-bpe", _LETTERS + r"\p{N}" + _REST: "qwen2"}
_BLANK = "▁"


@dataclass
class GgufTokens:
    """What goes into the file.

    Args:
        model: `"gpt2"` (merges of bytes) or `"llama"` (pieces with scores).
        pre: how a text is split first.
        tokens, types: by id, as many as the embedding matrix has rows.
        merges, scores: of the one or the other model.
        prefix: whether a blank is put before a text.
        begins, ends: whether BOS is put before a text, EOS behind one.
        special: ids by the names of `gguf.GGUFWriter`: bos, eos, unk, pad, eot.
        template: the chat template, if there is one.
        notes: what no reader will do as the tokenizer does, in sentences.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    prefix: bool = False
    begins: bool = False
    ends: bool = False
    special: dict[str, int] = field(default_factory=dict)
    template: str | None = None
    notes: list[str] = field(default_factory=list)

    def write(self, writer: Any) -> None:
        """Tell a `gguf.GGUFWriter`."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.model == "gpt2":
            writer.add_token_merges(self.merges)
        else:
            writer.add_token_scores(self.scores)
        writer.add_add_space_prefix(self.prefix)
        writer.add_add_bos_token(self.begins)
        writer.add_add_eos_token(self.ends)
        for name, id in self.special.items():
            getattr(writer, f"add_{name}_token_id")(id)
        if self.template:
            writer.add_chat_template(self.template)


def gguf_tokens(tokenizer: Any, rows: int) -> GgufTokens:
    """A tokenizer for a GGUF file.

    Args:
        tokenizer: of `transformers`, with a file of `tokenizers` below it.
        rows: of the embedding matrix; ids behind the tokenizer's own are marked as unused.

    Raises:
        ValueError: a tokenizer of another kind, or with a part that readers of GGUF would not follow; names it.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise _refused(tokenizer, "it has no tokenizer.json")
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = whole["model"]
    if parts.get("type") != "BPE":
        raise _refused(tokenizer, f"its model is {parts.get('type')}, and not BPE")
    vocabulary = {**parts["vocab"], **{one["content"]: one["id"] for one in whole["added_tokens"]}}
    if len(by_id := {id: text for text, id in vocabulary.items()}) and max(by_id) >= rows:
        raise _refused(tokenizer, f"it has the id {max(by_id)}, and the model {rows} embeddings")
    merges = [tuple(one if isinstance(one, list) else one.split(" ", 1)) for one in parts["merges"]]
    tokens = [by_id.get(id, f"[PAD{id}]") for id in range(rows)]
    types = [NORMAL if id in by_id else UNUSED for id in range(rows)]
    if parts.get("byte_fallback"):
        found = _pieces(tokenizer, whole, vocabulary, merges, tokens, types)
    else:
        found = GgufTokens("gpt2", _split(tokenizer, whole), tokens, types, merges=[_joined(one) for one in merges])
    _added(found, whole)
    _ends(found, tokenizer)
    return found


def _joined(merge: tuple[str, ...]) -> str:
    return " ".join(part.replace(" ", "\u0120") for part in merge)


def _split(tokenizer: Any, whole: Mapping[str, Any]) -> str:
    """llama.cpp's word for how a tokenizer of bytes splits a text."""
    normalizer = (whole["normalizer"] or {}).get("type")
    first = whole["pre_tokenizer"] or {}
    steps = first["pretokenizers"] if first.get("type") == "Sequence" else [first]
    *before, last = steps
    known = None
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space"):
        kinds = [one.get("type") for one in before]
        if last.get("use_regex") and not before:
            known = "gpt-2"
        elif last.get("use_regex") and kinds == ["Digits"] and before[0].get("individual_digits"):
            known = "smollm"
        elif not last.get("use_regex") and kinds == ["Split"] and before[0].get("behavior") == "Isolated":
            known = _SPLITS.get(before[0]["pattern"].get("Regex", ""))
    if known is None:
        raise _refused(
            tokenizer,
            f"readers have no word for how it splits a text first: {json.dumps(first, ensure_ascii=False)[:300]}",
        )
    if normalizer is not None and not (normalizer == "NFC" and known == "qwen2"):
        raise _refused(tokenizer, f"it changes a text first ({normalizer}), which a reader does not")
    if bool(whole["model"].get("ignore_merges")) is not (known == "llama-bpe"):
        known = {"llama-bpe": "smaug-bpe"}.get(known)  # splits alike, and merges always
        if known is None:
            raise _refused(tokenizer, "it takes whole words without merges (ignore_merges), which a reader does not")
    return known


def _pieces(
    tokenizer: Any,
    whole: Mapping[str, Any],
    vocabulary: Mapping[str, int],
    merges: list[tuple[str, ...]],
    tokens: list[str],
    types: list[int],
) -> GgufTokens:
    """Pieces with scores: a reader joins the two neighbours whose piece has the highest score, so the rank of its first merge is a piece's score."""
    text = json.dumps(whole["normalizer"])
    replaces = f'"content": {json.dumps(_BLANK)}' in text and "Replace" in text
    prefix = "Prepend" in text
    if not replaces or re.search("NFKC|NFC|NFD|Lowercase|Strip|Precompiled", text):
        raise _refused(tokenizer, f"it changes a text first in a way that readers do not: {text[:300]}")
    first = whole["pre_tokenizer"]
    if first is not None and not (first["type"] == "Split" and first["pattern"] == {"String": " "}):
        raise _refused(
            tokenizer,
            f"readers have no word for how it splits a text first: {json.dumps(first, ensure_ascii=False)[:300]}",
        )
    if whole["model"].get("ignore_merges"):
        raise _refused(tokenizer, "it takes whole words without merges (ignore_merges), which a reader does not")
    ranks: dict[str, list[int]] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge), []).append(rank)
    added = {one["content"] for one in whole["added_tokens"]}
    for piece in vocabulary:
        if piece in added or len(piece) < 2 or re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
            continue
        ways = sum(piece[:i] in vocabulary and piece[i:] in vocabulary for i in range(1, len(piece)))
        own = ranks.get(piece, [])
        if ways != len(own) or (own and own[-1] - own[0] != len(own) - 1):
            raise _refused(
                tokenizer,
                f"its merges are not those of pieces with scores: {piece!r} has {len(own)} merges and {ways} ways to be made",
            )
    scores = [float(-ranks[piece][0]) if piece in ranks else float(-len(merges)) for piece in tokens]
    for id, piece in enumerate(tokens):
        if re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
            types[id] = BYTE
    return GgufTokens("llama", "default", tokens, types, scores=scores, prefix=prefix)


def _added(found: GgufTokens, whole: Mapping[str, Any]) -> None:
    strange = []
    for one in whole["added_tokens"]:
        id = one["id"]
        found.types[id] = CONTROL if one["special"] else USER
        if found.model == "llama" and not one["special"]:
            found.tokens[id] = one["content"].replace(_BLANK, " ")
        if one["lstrip"] or one["rstrip"] or one["single_word"]:
            strange.append(one["content"])
    unknown = whole["model"].get("unk_token")
    if found.model == "llama" and unknown in found.tokens:
        found.types[found.tokens.index(unknown)] = UNKNOWN
    if strange:
        found.notes.append(
            f"{len(strange)} tokens take the blanks beside them along or stand as whole words only ({', '.join(strange[:3])}), which readers of GGUF do not do"
        )


def _ends(found: GgufTokens, tokenizer: Any) -> None:
    """What is put around a text, and the tokens that end one."""
    around, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    before = around[: len(around) - len(bare)] if around[len(around) - len(bare) :] == bare else None
    behind: list[int] = []
    if before is None and around[-1:] == [tokenizer.eos_token_id]:
        behind, inner = around[-1:], around[:-1]
        before = inner[: len(inner) - len(bare)]
    if before not in ([], [tokenizer.bos_token_id]):
        raise _refused(
            tokenizer, f"it puts {around} around the ids {bare} of a text, and readers put at most BOS and EOS there"
        )
    found.begins, found.ends = bool(before), bool(behind)
    for name in ("bos", "eos", "unk", "pad"):
        id = getattr(tokenizer, f"{name}_token_id")
        if id is not None:
            found.special[name] = id
    if tokenizer.chat_template is not None:
        found.template = str(tokenizer.get_chat_template())
        end = turn_end_id(tokenizer)
        if end is not None and end != tokenizer.eos_token_id:
            found.special["eot"] = end
    if _normal(tokenizer):
        found.notes.append(
            "the tokenizer composes characters first (NFC), and readers of GGUF do not: text that is not composed has other tokens there"
        )


def _normal(tokenizer: Any) -> bool:
    return (json.loads(tokenizer.backend_tokenizer.to_str())["normalizer"] or {}).get("type") == "NFC"


def _refused(tokenizer: Any, why: str) -> ValueError:
    return ValueError(f"The tokenizer ({type(tokenizer).__name__}) cannot be carried in a GGUF file: {why}. {WAY_OUT}")
