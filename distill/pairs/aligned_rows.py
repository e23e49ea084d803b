"""Aligned rows: a pair in the tokens of a teacher with another tokenizer, and which of its positions are the student's."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
from numpy.typing import NDArray

from distill.pairs.labels import EMPTY, IGNORE, ids_and_labels
from distill.pairs.row_limits import token_ids
from distill.pairs.signal_keys import signal_key
from distill.text.alignment import Ids, SharedTokens, one_to_one, shared_tokens
from distill.text.chat import chat_of
from distill.text.encode import encode_prompt
from distill.text.messages import read_tools, read_values
from distill.text.teacher_prompts import behind_system, how_it_was_asked, teachers_prompt
from distill.text.token_bytes import TokenBytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)
WORDS = (
    "prompt",
    "teacher_prompt",
    "system",
    "tools",
    "chat_template_kwargs",
)  # of a pair, what the teacher's row is made of
_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Coverage:
    """Supervised positions of the student, by what became of them.

    Args:
        positions: all of them.
        aligned: one token of each side covers the same bytes.
        several: the bytes are covered by other tokens, several of one side or of both.
        control: behind a control token, or behind bytes that are no text (UTF-8): the teacher cannot be shown them.
        changed: behind a place where the teacher's tokenizer changes the text.
        beyond: behind the last token that the teacher has positions for.
    """

    positions: int = 0
    aligned: int = 0
    several: int = 0
    control: int = 0
    changed: int = 0
    beyond: int = 0

    @property
    def share(self) -> float:
        """Of the positions, those that are compared."""
        return self.aligned / max(self.positions, 1)

    def __add__(self, other: "Coverage") -> "Coverage":
        return Coverage(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def __str__(self) -> str:
        lost = {
            "are covered by other tokens": self.several,
            "stand behind a control token or bytes that are no text": self.control,
            "stand where the teacher's tokenizer changes the text": self.changed,
            "stand beyond the teacher's positions": self.beyond,
        }
        more = "; ".join(f"{count / max(self.positions, 1):.1%} {what}" for what, count in lost.items() if count)
        return f"{self.share:.1%} of {self.positions} positions align one to one" + (f" ({more})" if more else "")


@dataclass(frozen=True)
class AlignedRow:
    """A pair as a teacher with another tokenizer is shown it.

    Args:
        ids, labels: its row, in its tokens, `[tokens]` each; all of the completion carries a label.
        ours, theirs: `[a]`: which supervised position of the student's row, and which of the teacher's, are compared.
        coverage: what became of the student's positions.
        key: of what a teacher says about the whole pair (`distill.pairs.signal_keys`).
    """

    ids: NDArray[Any]
    labels: NDArray[Any]
    ours: Ids = field(default_factory=lambda: _NONE)
    theirs: Ids = field(default_factory=lambda: _NONE)
    coverage: Coverage = field(default_factory=Coverage)
    key: bytes = b""


class AlignedRows:
    """Make a teacher's rows of pairs in the student's tokens, and say which positions are the same.

    The student's completion is what its ids say, byte for byte; the teacher's is that text as its tokenizer encodes it behind its prompt, and
    ends with the teacher's end where the student's ends with one. The prompt is asked as the teacher is asked: messages by its own chat
    template, a bare text as the student was.

    Args:
        student, teacher: their tokenizers.
        positions: tokens that the teacher takes at most; None: no limit.

    Raises:
        ValueError: a tokenizer whose tokens do not say their bytes; of a pair: a prompt that cannot be asked in the teacher's tokens.

    Example:
        >>> AlignedRows(student_tokenizer, teacher_tokenizer).coverage(pairs).share
        0.91
    """

    def __init__(
        self, student: "PreTrainedTokenizerBase", teacher: "PreTrainedTokenizerBase", positions: int | None = None
    ) -> None:
        self.student, self.teacher = TokenBytes(student), TokenBytes(teacher)
        self.shared: SharedTokens = shared_tokens(self.student, self.teacher)
        self.positions, self._warned = positions, False
        self._pairs = set(zip(self.shared.student.tolist(), self.shared.teacher.tolist(), strict=True))

    def pair(self, pair: Mapping[str, Any], place: str = "the row") -> dict[str, Any]:
        """The whole pair in the teacher's tokens: what a teacher is run on, or captured from. See `AlignedRows`."""
        where = f"Pair {pair.get('id', place)}"
        prompt, chat = self._prompt(pair, where)
        completion = token_ids(pair, "completion_ids", where)
        text, ended = self._text(completion)[:2]
        made = self._encoded(text, chat, ended)
        if not made:
            raise ValueError(
                f"{where} says nothing that its teacher could be shown: its completion begins with a control token or with bytes that are no text "
                "(UTF-8). Remove the pair."
            )
        return {"id": str(pair.get("id", place)), "prompt_ids": prompt, "completion_ids": made}

    def row(
        self, pair: Mapping[str, Any], ids: NDArray[Any], labels: NDArray[Any], place: str = "the row"
    ) -> AlignedRow:
        """The teacher's row of a pair, and what of it is compared.

        Args:
            pair: with its words, see `distill.pairs.columns`.
            ids, labels: the student's row, after `max_length` (`distill.pairs.labels.ids_and_labels`).
            place: what the pair is called in messages if it has no id.
        """
        if pair.get("id") == EMPTY["id"]:
            return AlignedRow(np.zeros(2, np.int64), np.full(2, IGNORE, np.int64))
        where = f"Pair {pair.get('id', place)}"
        prompt, chat = self._prompt(pair, where)
        own = len(pair["prompt_ids"])
        whole = token_ids(pair, "completion_ids", where)
        kept = len(ids) - own  # what max_length leaves
        text, ended, said = self._text(whole)
        made = np.asarray(self._encoded(text, chat, ended), np.int64)
        room = len(made) if self.positions is None else max(0, self.positions - len(prompt))
        if room < 1:
            raise ValueError(
                f"{where} has a prompt of {len(prompt)} tokens in the teacher's tokens, but the teacher has {self.positions} positions; shorten the "
                "prompt, or remove the pair."
            )
        key = signal_key(prompt, made)
        if len(made) > room and not self._warned:
            self._warned = True
            logger.warning(
                "%s has %d + %d tokens in the teacher's tokens, and the teacher has %d positions: the end of its completion is not compared, nor is "
                "that of other such pairs.", where, len(prompt), len(made), self.positions,
            )  # fmt: skip
        if kept < len(whole):  # the teacher is not asked for what the student does not learn
            most = int(self.student.sizes[whole[: min(said, kept)]].sum())
            made = made[: int(np.searchsorted(self.teacher.sizes[made].cumsum(), most, side="right"))]
        beyond, made = len(made) > room, made[:room]
        ours, theirs, same = self._places(whole[:kept], min(said, kept), made, text)
        supervised = labels != IGNORE
        number = supervised.cumsum() - 1
        learned = supervised[own + ours]
        ours, theirs = ours[learned], theirs[learned]
        coverage = self._coverage(supervised[own:], ours, min(said, kept), same, beyond)
        # a row has a token and its next one, also where nothing of the completion can be shown
        before = np.asarray(prompt if len(made) or len(prompt) > 1 else [*prompt, prompt[0]], np.int64)
        return AlignedRow(
            np.concatenate([before, made]),
            np.concatenate([np.full(len(before), IGNORE, np.int64), made]),
            number[own + ours].astype(np.int64),
            theirs,
            coverage,
            key,
        )

    def coverage(self, pairs: Any, max_length: int | None = None) -> Coverage:
        """What becomes of the supervised positions of pairs.

        Args:
            pairs: a dataset or a list.
            max_length: of the training.
        """
        total = Coverage()
        for number, pair in enumerate(pairs):
            place = f"row {number}"
            total += self.row(pair, *ids_and_labels(pair, max_length, place), place).coverage
        return total

    def _prompt(self, pair: Mapping[str, Any], where: str) -> tuple[list[int], bool]:
        """The teacher's prompt in its tokens, and whether it is a chat."""
        words = pair.get("teacher_prompt")
        if words is None and pair.get("teacher_prompt_ids") is not None:
            raise ValueError(
                f"{where} says in tokens alone what its teacher was shown (teacher_prompt_ids), and they are not known to be those of the teacher's own "
                "tokenizer; give its words, teacher_prompt."
            )
        words = pair.get("prompt") if words is None else words
        if words is None:
            raise ValueError(
                f"{where} has token ids and no words (prompt), which the teacher's tokenizer would need: its tokens are others. Give pairs with a "
                "prompt, as distill.generate and load_pairs make them."
            )
        tools, values = read_tools(pair.get("tools")), read_values(pair.get("chat_template_kwargs"))
        try:
            wrap: bool | None = None
            if isinstance(words, str):
                wrap, system = how_it_was_asked(
                    {**pair, "prompt": pair.get("prompt", words)}, self.student.tokenizer, tools, values
                )
                if wrap and system:
                    words = behind_system(words, system)
            known = chat_of(self.teacher.tokenizer)
            if (wrap or not isinstance(words, str)) and not known.has_template:
                raise ValueError(
                    f"it is a chat, and the teacher's tokenizer ({self.teacher.name}) has no chat template. Give the teacher's tokenizer one "
                    "(tokenizer.chat_template), a teacher that was taught to answer, or pairs whose prompts are plain text."
                )
            asked, _ = teachers_prompt(
                words, None, known, wrap, tools, None if isinstance(words, str) and not wrap else values
            )
            beside = () if isinstance(asked, str) else (tools, values)
            return encode_prompt(asked, self.teacher.tokenizer, *beside), not isinstance(asked, str)
        except ValueError as error:
            raise ValueError(f"{where}: its prompt cannot be asked in the teacher's tokens: {error}") from None

    def _text(self, completion: NDArray[Any]) -> tuple[str, bool, int]:
        """What a completion says up to where nothing more can be shown, whether it ends there by itself, and of how many tokens that is."""
        of, count = self.student.of, len(self.student.of)
        ids = completion.tolist()
        said = next((i for i, number in enumerate(ids) if number >= count or of[number] is None), len(ids))
        ended = said == len(ids) - 1 and ids[said] in self.student.ends
        data = self.student.joined(ids[:said])
        try:
            return data.decode(), ended, said
        except UnicodeDecodeError as error:
            good = int(np.searchsorted(self.student.sizes[completion[:said]].cumsum(), error.start, side="right"))
            return data[: error.start].decode(), False, good

    def _encoded(self, text: str, chat: bool, ended: bool) -> list[int]:
        known = chat_of(self.teacher.tokenizer)
        made = known.encode_after([known.marked(text, own=True)])[0] if text else []
        if ended and self.teacher.ends:
            end = self.teacher.tokenizer.eos_token_id
            turn = chat and known.end is not None
            made += known.encode([known.end or ""])[0] if turn else [] if end is None else [int(end)]
        return list(made)

    def _places(self, ours: NDArray[Any], said: int, theirs: Ids, text: str) -> tuple[Ids, Ids, int]:
        """Places in both completions of tokens of the same bytes, the ends among them; and how many of the student's tokens are the same text."""
        words = self._words(theirs)
        size, other = self.student.sizes[ours[:said]], self.teacher.sizes[theirs[:words]]
        ends, others = size.cumsum(), other.cumsum()
        same = said
        shown = self.teacher.joined(theirs[:words].tolist())
        if not text.encode().startswith(shown):  # the tokenizer changed something
            length = _common(text.encode(), shown)
            words = int(np.searchsorted(others, length, side="right"))
            same = int(np.searchsorted(ends, length, side="right"))
        left, right = one_to_one(size[:same], other[:words])
        whole = len(ours) == said + 1 and len(theirs) == words + 1 and same == said
        if whole and size.sum() == other[:words].sum() and (int(ours[said]), int(theirs[words])) in self._pairs:
            left, right = np.append(left, said), np.append(right, words)
        return left, right, same

    def _words(self, theirs: Ids) -> int:
        """How many of the teacher's tokens are text."""
        none = np.flatnonzero(self.teacher.sizes[theirs] == 0)
        return int(none[0]) if len(none) else len(theirs)

    def _coverage(self, supervised: NDArray[Any], ours: Ids, said: int, same: int, beyond: bool) -> Coverage:
        """What became of the student's supervised positions, `supervised` of each token of its completion."""
        total, aligned = int(supervised.sum()), len(ours)
        control = int(supervised[said + 1 :].sum()) + int(supervised[said : said + 1].sum() and said not in ours)
        changed = int(supervised[same:said].sum())
        rest = max(total - aligned - control - changed, 0)
        if not beyond:
            return Coverage(total, aligned, rest, control, changed)
        last = int(ours[-1]) if len(ours) else -1
        far = min(int(supervised[last + 1 : same].sum()), rest)
        return Coverage(total, aligned, rest - far, control, changed, far)


def in_teachers_tokens(
    pairs: datasets.Dataset, student: "PreTrainedTokenizerBase", teacher: "PreTrainedTokenizerBase"
) -> datasets.Dataset:
    """Pairs in the tokens of a teacher with another tokenizer, as `Logits(tokens="aligned")` shows them to it: for `distill.signals.capture`.

    Args:
        pairs: in the student's tokens, with their words.
        student, teacher: their tokenizers.

    Raises:
        ValueError: see `AlignedRows`.

    Example:
        >>> signals = capture(teacher, in_teachers_tokens(pairs, tokenizer, teacher.tokenizer), output="signals")
    """
    rows = AlignedRows(student, teacher)
    return datasets.Dataset.from_list([rows.pair(pair, f"row {number}") for number, pair in enumerate(pairs)])


def _common(one: bytes, other: bytes) -> int:
    """Bytes that two texts begin with alike."""
    shorter = min(len(one), len(other))
    a, b = (np.frombuffer(text[:shorter], np.uint8) for text in (one, other))
    differ = np.flatnonzero(a != b)
    return int(differ[0]) if len(differ) else shorter
