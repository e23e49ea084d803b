"""A conversation with a model that runs here: what was said is kept, and an answer is told while it comes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers.generation.streamers import BaseStreamer

from distill.teachers.base import Sampling
from distill.teachers.local import LocalTeacher
from distill.text.encode import Prompt
from distill.text.ends import LENGTH, STOP

INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Answer:
    """What a model said, and why it ended: `"stop"`, `"length"`, or `"interrupted"` (Ctrl-C)."""

    text: str
    end: str


class Talk:
    """A model, and what was said so far.

    A model without a chat template has no turns: each text is continued by itself, and nothing is remembered.

    Args:
        speaker: loaded; see `distill.teachers.LocalTeacher`.
        sampling: how answers are drawn; its `seed` is that of the first answer, each further one has the next.
        system: a system message that stands before everything.

    Raises:
        ValueError: a system message for a model without a chat template, or whose template shows none.

    Example:
        >>> talk = Talk(LocalTeacher("smollm2-135m"), Sampling(temperature=0))
        >>> talk.answer("Name a colour.").text
    """

    def __init__(self, speaker: LocalTeacher, sampling: Sampling, system: str | None = None) -> None:
        self.speaker, self.sampling = speaker, sampling
        self.has_turns = speaker.tokenizer.chat_template is not None
        if system is not None and not self.has_turns:
            raise ValueError(
                "system is given, and this model has no chat template in which it could stand; leave it out."
            )
        self._begin = [] if system is None else [{"role": "system", "content": system}]
        if self._begin:  # what its template refuses is refused now, and not at the first words
            speaker.resolve_prompt([*self._begin, {"role": "user", "content": "x"}])
        self.reset()

    def reset(self) -> None:
        """Forget what was said; the same words are answered as at the beginning again."""
        self.history: list[dict[str, str]] = list(self._begin)
        self._asked = 0

    def answer(self, said: str, tell: Callable[[str], None] | None = None) -> Answer:
        """The model's answer to `said`, and both in the history.

        Of an answer that is interrupted, what had come stays in the history. After an error the history is as it was.

        Args:
            said: the user's words.
            tell: is given pieces of the answer as they come; together they are its text.

        Raises:
            ValueError: the conversation does not fit into the model's context any more, or its template refuses it.
        """
        turns = [*self.history, {"role": "user", "content": said}]
        prompt: Prompt = [*turns] if self.has_turns else said
        _, ids = self.speaker.resolve_prompt(prompt)
        pieces = _Pieces(self.speaker, tell or (lambda piece: None))
        seed, self._asked = self.sampling.seed + self._asked, self._asked + 1
        try:
            (completion,) = self.speaker.complete([ids], self.sampling, seed, streamer=pieces)
            answer = Answer(completion.text, STOP if completion.finish_reason == STOP else LENGTH)
        except KeyboardInterrupt:
            answer = Answer(pieces.text, INTERRUPTED)
        pieces.finish(answer.text)
        if self.has_turns and (answer.text or answer.end != INTERRUPTED):
            self.history = [*turns, {"role": "assistant", "content": answer.text}]
        return answer


class _Pieces(BaseStreamer):
    """Tells text as far as later tokens cannot change it. All is decoded each time: pieces by themselves would lose blanks of some tokenizers."""

    def __init__(self, speaker: LocalTeacher, tell: Callable[[str], None]) -> None:
        self._tokenizer, self._stops, self._tell = speaker.tokenizer, speaker.eos_ids(), tell
        self._ids: list[int] = []
        self._told, self._is_prompt = "", True

    @property
    def text(self) -> str:
        """What has come so far, whole characters only."""
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True)).rstrip("\ufffd")

    def put(self, value: Any) -> None:
        """Of `transformers`: the prompt first, then one token after the other."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self._ids += [token for token in value.reshape(-1).tolist() if token not in self._stops]
        self.finish(self.text.rstrip())  # blanks at the end may go when the next token is a full stop

    def end(self) -> None:
        """Of `transformers`; what is left is told by `finish`."""

    def finish(self, whole: str) -> None:
        """Tell what of `whole` is not told yet."""
        if whole.startswith(self._told):
            self._tell(whole[len(self._told) :])
            self._told = whole
