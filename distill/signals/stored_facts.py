"""Facts of a teacher whose signals were stored: what objectives ask when they are bound."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase

from distill.signals.facts import TeacherFacts
from distill.signals.head import LogitTransform
from distill.signals.signal_folder import CONFIG

if TYPE_CHECKING:
    from distill.signals.stored import StoredSignals


class StoredFacts(TeacherFacts):
    """Facts of a teacher whose signals were stored.

    Args:
        source: that holds them.
    """

    def __init__(self, source: "StoredSignals") -> None:
        self._source = source
        self.name = f"the {source.manifest['teacher']['class']} stored in {source.folder}"
        self.vocabulary: int = source.encoding.vocabulary
        self.next_token: str = source.encoding.next_token
        self.temperature: float | None = source.encoding.temperature

    @cached_property
    def config(self) -> PreTrainedConfig:  # type: ignore[override]
        """Of the teacher.

        Raises:
            ValueError: it cannot be read, or there is none, because the teacher was a server's.
        """
        if "weights" not in self._source.manifest["teacher"]:
            raise ValueError(self._source.refusal("hidden states or attention, for a server shows none"))
        path = self._source.folder / CONFIG
        try:
            return AutoConfig.from_pretrained(self._source.folder)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from None

    def transform(self) -> LogitTransform | None:
        """See `TeacherFacts`."""
        return None if self._source.head is None else self._source.head.transform

    def widths(self, layers: frozenset[int]) -> dict[int, int]:
        """See `TeacherFacts`."""
        raise ValueError(self._source.refusal("hidden states"))

    def attention(self, layers: frozenset[int]) -> Any:
        """See `TeacherFacts`."""
        raise ValueError(self._source.refusal("attention"))

    def attention_layers(self) -> list[int]:
        """See `TeacherFacts`."""
        raise ValueError(self._source.refusal("attention"))

    def find_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """See `TeacherFacts`."""
        return self._source.tokenizer
