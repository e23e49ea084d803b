"""The token ids of a row whose texts were changed: only the words around a change get new tokens."""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distill.text.splicing import Edit, Splicer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IDS = ("prompt_ids", "completion_ids", "teacher_prompt_ids")


class Swaps:
    """Texts by those that take their place, wherever they stand: not within a longer word, the longest first."""

    def __init__(self, swaps: Mapping[str, str]) -> None:
        self._swaps = dict(swaps)
        for old, new in swaps.items():  # as a chat template may write it
            for ascii_only in (False, True):
                self._swaps.setdefault(
                    json.dumps(old, ensure_ascii=ascii_only)[1:-1], json.dumps(new, ensure_ascii=ascii_only)[1:-1]
                )
        self._any = re.compile("|".join(map(_bordered, sorted(self._swaps, key=len, reverse=True))))

    def edits(self, text: str) -> list[Edit]:
        """What is to be changed in a text."""
        return [Edit(m.start(), m.end(), self._swaps[m[0]]) for m in self._any.finditer(text)]

    def in_place(self, text: str, name: str = "") -> str:
        """The text, changed; what it stands under does not count."""
        return self._any.sub(lambda m: self._swaps[m[0]], text)


class Tokens:
    """The ids of pairs, read and changed by their tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._splicer = Splicer(tokenizer)
        self._decode = tokenizer.decode

    def beyond(self, row: Mapping[str, Any], texts: list[str]) -> list[str]:
        """What the ids say and none of the texts does: a template's words, and whatever was changed in the text alone."""
        found = []
        for name in IDS:
            if row.get(name):
                text = str(self._decode(row[name], skip_special_tokens=False, clean_up_tokenization_spaces=False))
                for one in texts:
                    text = text.replace(one, "\0") if one else text
                found.append(text)
        return found

    def changed(self, row: Mapping[str, Any], swaps: Swaps) -> dict[str, Any]:
        """The columns of a row that hold ids, or stand beside them, as far as they change.

        Raises:
            ValueError: the tokenizer cannot write a stand-in where it belongs.
        """
        found: dict[str, Any] = {}
        for name in IDS:
            if not row.get(name) or not (edits := swaps.edits(self._splicer.text(row[name]))):
                continue
            found[name], origin = self._splicer.spliced(row[name], edits)
            if name == "completion_ids":
                if row.get("loss_mask") is not None:
                    found["loss_mask"] = [row["loss_mask"][place] for place in origin]
                if row.get("token_source") is not None:
                    found["token_source"] = "text"
                if row.get("top_logprobs") is not None:
                    found["top_logprobs"] = None  # of the tokens that were there
        return found


def _bordered(text: str) -> str:
    begin = "(?<![A-Za-z0-9])" if text[0].isascii() and text[0].isalnum() else ""
    end = "(?![A-Za-z0-9])" if text[-1].isascii() and text[-1].isalnum() else ""
    return f"{begin}{re.escape(text)}{end}"
