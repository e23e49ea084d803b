"""Chat templates of a tokenizer: rendering, its control tokens, the end of a turn. The only module that renders templates."""

import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from distill.text.call_forms import as_template_wants
from distill.text.dates import dated, template_day
from distill.text.messages import Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The tags of a trace. Only in an assistant's own words are they tokens; anywhere else they are characters.
OPEN, CLOSE = "<think>", "</think>"
_MARKERS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")  # around what the assistant says, in templates that mark it
_BORDERS = ("\U000f0000", "\U000f0001")  # around control tokens in text from outside, by `mark_control_tokens`
_ROLES = ("system", "user", "assistant", "tool")  # without control tokens, whatever the tokenizer
# what an assistant says; arguments of a call may quote a tag, which is then no token
_WORDS = ("content", "reasoning_content")
WORD = "qzdistillqz"  # a word that no template has and none takes apart
_known: "weakref.WeakKeyDictionary[Any, tuple[Any, Chat]]" = weakref.WeakKeyDictionary()


def chat_of(tokenizer: "PreTrainedTokenizerBase") -> "Chat":
    """What is known of this tokenizer's template, made once as long as neither changes."""
    state = chat_state(tokenizer)
    found = _known.get(tokenizer)
    if found is None or found[0] != state:
        _known[tokenizer] = found = (state, Chat(tokenizer))
    return found[1]


def chat_state(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """All that can be changed in a tokenizer and decides the tokens of a conversation, but for the vocabulary; plain and quick."""
    return (
        repr(tokenizer.chat_template),
        repr(sorted(tokenizer.special_tokens_map.items(), key=str)),
        repr(tokenizer.chat_control_tokens),
        str(len(tokenizer)),
        repr(_around(tokenizer)),
    )


def _around(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """A letter as the tokenizer encodes a text by itself, with what it puts around one (`add_bos_token`, a post-processor)."""
    return list(tokenizer("a", return_attention_mask=False, return_token_type_ids=False)["input_ids"])


class Chat:
    """A tokenizer and its chat template, as they are now.

    Args:
        tokenizer: with or without a template.

    Attributes:
        shown: kinds of messages of which it is known that the template shows them (`distill.text.shown`).
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = weakref.ref(tokenizer)
        self.shown: set[Any] = set()
        self.has_template = tokenizer.chat_template is not None
        self.specials = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
        control = control_tokens(tokenizer)
        self.control = control
        self._everywhere, self._in_assistant = _pattern(control), _pattern(control - {OPEN, CLOSE})
        self._any_or_border, self._own_or_border = (
            _pattern(tokens | {*_BORDERS}) for tokens in (control, control - {OPEN, CLOSE})
        )
        self._sources: dict[tuple[bool, str | None], str] = {}

    @property
    def tokenizer(self) -> Any:
        """The tokenizer itself; whoever asks has it."""
        found = self._tokenizer()
        assert found is not None
        return found

    # ------------------------------------------------------------------------------------------------ rendering
    def marked(self, value: Any, own: bool = False) -> Any:
        """Text, messages' fields or tools with borders around every control token in them.

        Args:
            value: a text, or lists and dicts with texts in them.
            own: the assistant's own words, in which the tags of a trace are tokens.
        """
        from transformers.utils.chat_template_utils import mark_control_tokens

        pattern = self._in_assistant if own else self._everywhere
        if isinstance(value, str) and not (self._own_or_border if own else self._any_or_border).search(value):
            return value
        return mark_control_tokens(value, pattern)

    def marked_messages(self, messages: Messages) -> Messages:
        """The messages, each field with borders around the control tokens in it."""
        return [
            {
                name: value
                if value in _ROLES
                else self.marked(value, message["role"] == "assistant" and name in _WORDS)
                for name, value in message.items()
            }
            for message in messages
        ]

    def render(
        self,
        messages: Messages,
        tools: Sequence[Any] | None = None,
        *,
        ended: bool = False,
        values: Mapping[str, Any] | None = None,
    ) -> str:
        """The template's text of messages, with the generation prompt or, where the conversation has `ended`, without.

        Raises:
            ValueError: what the template refuses.
        """
        return self._rendered(messages, tools, ended, values, marks=False)[0]

    def render_ended(
        self, messages: Messages, tools: Sequence[Any] | None, values: Mapping[str, Any] | None
    ) -> tuple[str, list[tuple[int, int]] | None]:
        """As `render`, ended, and from where to where it marks the assistant's words; None without such marks."""
        marks = self.marks_words(tools)
        text, places = self._rendered(messages, tools, True, values, marks=marks)
        return text, places if marks else None

    def marks_words(self, tools: Sequence[Any] | None = None) -> bool:
        """Whether the template marks the assistant's words (`{% generation %}`)."""
        return bool(_MARKERS.search(self.template(tools)))

    def template(self, tools: Sequence[Any] | None = None) -> str:
        """The source of the template (some tokenizers have another one for tools), the day written into it."""
        key = bool(tools), template_day(self.tokenizer)
        if key not in self._sources:
            self._sources[key] = dated(str(self.tokenizer.get_chat_template(tools=tools)))
        return self._sources[key]

    def _rendered(
        self, messages: Messages, tools: Any, ended: bool, values: Mapping[str, Any] | None, marks: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        render: Any = render_jinja_template
        template = self.template(tools)
        try:
            texts, places = render(
                [as_template_wants(messages, template, self.specials)], tools=tools, chat_template=template, add_generation_prompt=not ended,
                return_assistant_tokens_mask=marks, **{**self.specials, **(values or {})},
            )  # fmt: skip
        except (
            TemplateError,
            TypeError,
            KeyError,
        ) as error:  # a template may refuse a role, e.g. Gemma's a system turn
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(f"The chat template refuses a prompt with the roles {roles}: {error}") from None
        return str(texts[0]), list(places[0]) if marks else []

    # ------------------------------------------------------------------------------------------------- encoding
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, nothing put around them; what stands between borders becomes characters."""
        from transformers.utils.chat_template_utils import encode_marked_chat

        plain = [not any(border in text for border in _BORDERS) for text in texts]
        usual = [text for text, is_plain in zip(texts, plain, strict=True) if is_plain]
        encoded: Iterable[Any] = self._call(usual)["input_ids"] if usual else ()
        ids = iter(encoded)
        return [
            next(ids) if is_plain else list(encode_marked_chat(self.tokenizer, text))
            for text, is_plain in zip(texts, plain, strict=True)
        ]

    def encode_after(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode`, for texts behind others: no blank is put before them, as SentencePiece does at a text's beginning."""
        if not self._puts_a_blank_before:
            return self.encode(texts)
        line = self.encode(["\n"])[0]
        found = self.encode(["\n" + text for text in texts])
        return [
            ids[len(line) :] if ids[: len(line)] == line else alone
            for ids, alone in zip(found, self.encode(texts), strict=True)
        ]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """From where to where in the text each of its tokens stands, as `encode_after` makes them.

        Blanks that the tokenizer counts to no token (`trim_offsets`) belong to the tokens that have no other place.
        """
        line = "\n" if self._puts_a_blank_before else ""
        made = self._call([line + text], return_offsets_mapping=True)
        found = list(made["offset_mapping"][0])
        if line:
            before = self.encode([line])[0]
            if made["input_ids"][0][: len(before)] == before:
                found = [(max(start - 1, 0), max(stop - 1, 0)) for start, stop in found[len(before) :]]
            else:
                found = list(self._call([text], return_offsets_mapping=True)["offset_mapping"][0])
        last = 0
        for i, (start, stop) in enumerate(found):
            if start == stop:
                found[i] = (last, next((begin for begin, end in found[i:] if begin < end), len(text)))
            else:
                last = stop
        return found

    def _call(self, texts: list[str], **more: Any) -> Any:
        return self.tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
            **more,
        )

    @cached_property
    def _puts_a_blank_before(self) -> bool:
        line, alone, behind = self.encode(["\n", "a", "\na"])
        return behind != [*line, *alone]

    @cached_property
    def before_text(self) -> list[int]:
        """Ids that the tokenizer puts before any text, such as a BOS token.

        What it puts *behind* one (`add_eos_token`) would stand between a prompt and its completion, and is left out.
        """
        usual = _around(self.tokenizer)
        bare = self.encode(["a"])[0]
        start = next((i for i in range(len(usual)) if usual[i : i + len(bare)] == bare), 0)
        return usual[:start]

    # ---------------------------------------------------------------------------------------------- end of a turn
    @cached_property
    def end(self) -> str | None:
        """What the template writes behind an assistant's words, up to and with the control token that ends the turn.

        None where no control token does.
        """
        if self.tokenizer.chat_template is None:
            return None
        talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": WORD}]
        try:
            _, found, after = self.render(talk, ended=True).rpartition(WORD)
        except ValueError:
            return None
        first = self._in_assistant.search(after) if found else None
        return after[: first.end()] if first else None

    def split_end(self, text: str) -> tuple[str, str] | None:
        """A turn's text as what was said and the token that ends it; what the template writes after that is left out.

        At the end of a turn stand control tokens and blanks. The end is the first of them that also ends a turn of mere words;
        else the last, because some templates end a call with another token (`<|eom_id|>`, `<|call|>`). None without an end.
        """
        if self.end is None:
            return None
        usual = next(token for token in self._longest_first if self.end.endswith(token))
        rest, ends = text.rstrip(), list[tuple[int, str]]()
        while rest.endswith(self._longest_first):  # at once for all: some tokenizers have hundreds
            token = next(t for t in self._longest_first if rest.endswith(t))
            ends.append((len(rest), token))
            rest = rest[: -len(token)].rstrip()
        if not ends:
            return None
        stop, token = next((found for found in reversed(ends) if found[1] == usual), ends[0])
        return text[: stop - len(token)], text[stop - len(token) : stop]

    @cached_property
    def special_or_bordered(self) -> re.Pattern[str]:
        """A token from outside between borders (group 1), a border alone, or a special token that is no tag of a trace."""
        # all that decoding leaves out, as in a teacher's completions; `all_special_tokens` are only those with a name
        added = self.tokenizer.added_tokens_decoder.values()
        special = _pattern(frozenset(token.content for token in added if token.special) - {OPEN, CLOSE}).pattern
        first, last = _BORDERS
        return re.compile(f"{first}({self._everywhere.pattern}){last}|[{first}{last}]|{special}")

    @cached_property
    def _longest_first(self) -> tuple[str, ...]:
        return tuple(sorted(self.control - {OPEN, CLOSE}, key=len, reverse=True))


def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> frozenset[str]:
    """The tokens that mean something to the template: text from outside must not become one of them.

    These are the special tokens, the tags of a trace, and other added tokens that the template writes. `special` alone
    is not enough: DeepSeek's `<｜User｜>` is an added token that is not special. Nor is the template's source, because
    some put a token together from pieces (Phi-4-mini); so a conversation is rendered and looked through as well.
    """
    special = tuple((name, token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str))
    template: Any = tokenizer.chat_template or ""
    several = template.values() if isinstance(template, dict) else [template]
    written = "\0".join(_written_by(one, special) for one in several)
    listed = {OPEN, CLOSE, *(tokenizer.chat_control_tokens or ())}
    return frozenset(
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.content.strip() and (token.special or token.content in listed or token.content in written)
    )


@lru_cache(maxsize=32)
def _written_by(template: str, special_tokens: tuple[tuple[str, str], ...]) -> str:
    """The template's source, and what it writes around a conversation."""
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    user, assistant = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    rendered: list[str] = []
    render: Any = render_jinja_template
    for conversation in ([{"role": "system", "content": "c"}, user, assistant], [user, assistant], [user]):
        try:
            rendered += render(
                [conversation], chat_template=template, add_generation_prompt=True, **dict(special_tokens)
            )[0]
        except TemplateError:  # a template may refuse a role or an order; the others show what it writes
            continue
    return "\0".join([template, *rendered])


@lru_cache(maxsize=64)
def _pattern(tokens: frozenset[str]) -> re.Pattern[str]:
    """Any of the tokens, a longer one before those it contains."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=lambda t: (-len(t), t)))) or "(?!)")
