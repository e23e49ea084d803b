"""Change a stretch of text within token ids, and leave all other tokens as they are.

Encoding the whole text anew would change tokens that nobody asked to be changed: a teacher's ids are not always those that its text
would be encoded to. So only the words around a change get new tokens.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BROKEN, _TOGETHER, _AROUND = "\ufffd", 8, 8


class Edit(NamedTuple):
    """Characters `start` to `end` of a text become `new`."""

    start: int
    end: int
    new: str


class Piece(NamedTuple):
    """Tokens `first` to `last` (not included) that together are whole characters."""

    first: int
    last: int
    text: str


class Splicer:
    """Reads ids as pieces of text, and puts other text into them.

    Args:
        tokenizer: of the ids.

    Example:
        >>> splicer = Splicer(tokenizer)
        >>> text = splicer.text(ids)
        >>> at = text.index("Jo")
        >>> new_ids, origin = splicer.spliced(ids, [Edit(at, at + 2, "Al")])
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
        # behind another token no decoder takes away a leading blank
        self._anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]
        self._anchored = self._decode(self._anchor)
        self._known: dict[tuple[int, ...], str] = {}

    def text(self, ids: Sequence[int]) -> str:
        """All that the ids say, control tokens written out."""
        return "".join(piece.text for piece in self.pieces(ids))

    def pieces(self, ids: Sequence[int]) -> list[Piece]:
        """The ids in their order, as few together as make whole characters."""
        found, i = [], 0
        while i < len(ids):
            last = next(
                (j for j in range(i + 1, min(i + _TOGETHER, len(ids)) + 1) if _BROKEN not in self._text(ids[i:j])),
                i + 1,
            )
            found.append(Piece(i, last, self._text(ids[i:last])))
            i = last
        return found

    def spliced(self, ids: Sequence[int], edits: Sequence[Edit]) -> tuple[list[int], list[int]]:
        """The ids with the edits made.

        Args:
            ids: `[T]` tokens.
            edits: in the order of the text that `text` gives, none of which overlap.

        Returns:
            `(new ids [T'], origin [T'])`: of each new token the place of the old one that it is, or in whose stretch it stands.

        Raises:
            ValueError: the tokenizer cannot write the new text, or an edit goes through a control token.
        """
        pieces = self.pieces(ids)
        starts = [0]
        for piece in pieces:
            starts.append(starts[-1] + len(piece.text))
        made: list[int] = []
        origin: list[int] = []
        done = place = 0  # pieces
        left = list(edits)
        while left:
            while starts[place + 1] <= left[0].start:
                place += 1
            first = self._begin(pieces, max(done, 0), place)
            last, these = place, list[Edit]()
            while left and (left[0].start < starts[last] or not these):
                these.append(left.pop(0))
                while starts[last] < these[-1].end:
                    last += 1
                last = self._end(pieces, last)
            if any(ids[t] in self._special for p in pieces[first:last] for t in range(p.first, p.last)):
                raise ValueError("a text that is to be changed goes through a control token.")
            old = "".join(p.text for p in pieces[first:last])
            new, at = "", starts[first]
            for edit in these:
                new += old[at - starts[first] : edit.start - starts[first]] + edit.new
                at = edit.end
            new += old[at - starts[first] :]
            kept = range(pieces[done].first if done < len(pieces) else len(ids), pieces[first].first)
            made += [ids[t] for t in kept]
            origin += kept
            tokens = self._encoded(new)
            made += tokens
            origin += [pieces[first].first] * len(tokens)
            done = place = last
        rest = range(pieces[done].first, len(ids)) if done < len(pieces) else range(0)
        return made + [ids[t] for t in rest], origin + list(rest)

    def _begin(self, pieces: list[Piece], least: int, place: int) -> int:
        """The piece with which the words around begin: a blank stands before it, or in it."""
        first = place
        while first > least and place - first < _AROUND and not pieces[first].text[:1].isspace():
            if self._is_special(pieces[first - 1]) or pieces[first - 1].text[-1:].isspace():
                break
            first -= 1
        return first

    def _end(self, pieces: list[Piece], last: int) -> int:
        start = last
        while last < len(pieces) and last - start < _AROUND:
            if self._is_special(pieces[last]) or pieces[last].text[:1].isspace():
                break
            last += 1
        return last

    def _is_special(self, piece: Piece) -> bool:
        return not piece.text or (piece.last == piece.first + 1 and self._special_at(piece))

    def _special_at(self, piece: Piece) -> bool:
        return piece.text in self._special_texts

    @property
    def _special_texts(self) -> set[str]:
        if not hasattr(self, "_written"):
            self._written = {self._text([i]) for i in self._special}
        return self._written

    def _encoded(self, text: str) -> list[int]:
        # those that put a blank before every text (SentencePiece) are given it without its own
        for given in (text, text[1:] if text[:1] == " " else text):
            tokens = list(self._tokenizer.encode(given, add_special_tokens=False))
            if self.text(tokens) == text and not self._special.intersection(tokens):
                return tokens
        raise ValueError("the tokenizer gives the new text back as another one.")

    def _text(self, ids: Sequence[int]) -> str:
        key = tuple(ids)
        if key not in self._known:
            if len(self._known) > 500_000:
                self._known.clear()
            self._known[key] = self._decode([*self._anchor, *ids])[len(self._anchored) :]
        return self._known[key]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
