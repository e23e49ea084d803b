"""An Ollama `Modelfile` beside a GGUF file: the chat template in Ollama's language, its default system text, and what ends an answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.text.chat import chat_of
from distill.text.messages import Messages

MODELFILE = "Modelfile"
_WAY_OUT = (
    "Write the file alone (--to gguf): it carries the template as it is, which llama.cpp's server reads (--jinja); or write a Modelfile by hand "
    "with `FROM ./model.gguf` and your TEMPLATE."
)


@dataclass(frozen=True)
class _Family:
    """How a family of templates writes a turn.

    Args:
        opens: before the role; `closes`: behind it; `ends`: behind the words.
        assistant: the word for that role.
        joins: a system text has no turn of its own and stands before the first user's words.
    """

    name: str
    opens: str
    closes: str
    ends: str
    assistant: str = "assistant"
    joins: bool = False


_FAMILIES = (
    _Family("ChatML", "<|im_start|>", "\n", "<|im_end|>\n"),
    _Family("Llama 3", "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"),
    _Family("Gemma", "<start_of_turn>", "\n", "<end_of_turn>\n", assistant="model", joins=True),
)
_SAID: list[Messages] = [
    [{"role": "user", "content": "one"}],
    [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}],
]
_WITH_SYSTEM: list[Messages] = [[{"role": "system", "content": "rule"}, *said] for said in _SAID]


@dataclass(frozen=True)
class OllamaTemplate:
    """A template that writes what the tokenizer's own does.

    Args:
        family: its name.
        template: in the language of Go's text/template.
        system: what stands there as system text if none is given; None: nothing.
        notes: in sentences, what it has no place for.
    """

    family: str
    template: str
    system: str | None
    notes: tuple[str, ...]


def ollama_template(tokenizer: Any) -> OllamaTemplate:
    """The tokenizer's chat template in Ollama's language.

    It is known by what it writes: conversations with one and with several turns, with and without a system text, must come out the same to
    the last character. A BOS at their beginning is left to the GGUF's reader, where that puts one there by itself.

    Raises:
        ValueError: there is no chat template, or it is of no known family.
    """
    if tokenizer.chat_template is None:
        raise ValueError(f"The student has no chat template, so there is none to write for Ollama. {_WAY_OUT}")
    chat, begin = chat_of(tokenizer), str(tokenizer.bos_token or "")
    if any(family.opens.startswith(begin) for family in _FAMILIES):  # SmolLM2: BOS is what opens a turn
        begin = ""

    def own(messages: Messages) -> str | None:
        try:
            return chat.render(messages).removeprefix(begin)
        except ValueError:  # what it refuses
            return None

    lead = "" if tokenizer.bos_token_id in chat.before_text or own(_SAID[0]) == chat.render(_SAID[0]) else begin
    plain = [own(said) for said in _SAID]
    ruled = [own(said) for said in _WITH_SYSTEM]
    for family in _FAMILIES:
        for prefix, default in _ways(family, plain[0]):
            if plain != [_written(family, said, prefix, default) for said in _SAID]:
                continue
            if all(text is None for text in ruled):
                return _made(
                    family,
                    lead,
                    prefix,
                    default,
                    ("its template refuses a system text, and this one leaves it out",),
                    False,
                )
            if ruled == [_written(family, said, prefix, default) for said in _WITH_SYSTEM]:
                return _made(family, lead, prefix, default, (), True)
    names = ", ".join(family.name for family in _FAMILIES)
    raise ValueError(f"The student's chat template is none of those that are known for Ollama ({names}). {_WAY_OUT}")


def _ways(family: _Family, one: str | None) -> Iterator[tuple[str, str | None]]:
    """(what stands before every system text, the system text if none is given), as the template's own words allow."""
    yield "", None
    head = f"{family.opens}system{family.closes}"
    if one is not None and one.startswith(head) and not family.joins:
        text = one[len(head) :].partition(family.ends)[0]
        yield "", text
        yield text, ""


def _written(family: _Family, messages: Messages, prefix: str, default: str | None) -> str:
    """What the Go template writes, in Python."""
    system = next((one["content"] for one in messages if one["role"] == "system"), default)
    parts = []
    if system is not None and not family.joins:
        parts.append(f"{family.opens}system{family.closes}{prefix}{system}{family.ends}")
    before = f"{system}\n\n" if family.joins and system is not None else ""
    for one in messages:
        if one["role"] != "system":
            role = family.assistant if one["role"] == "assistant" else "user"
            said = before + one["content"] if role == "user" else one["content"]
            before = "" if role == "user" else before
            parts.append(f"{family.opens}{role}{family.closes}{said}{family.ends}")
    return "".join(parts) + f"{family.opens}{family.assistant}{family.closes}"


def _made(
    family: _Family, lead: str, prefix: str, default: str | None, notes: tuple[str, ...], shows_system: bool
) -> OllamaTemplate:
    role = f'{{{{ if eq .Role "assistant" }}}}{family.assistant}{{{{ else }}}}user{{{{ end }}}}'
    turn = f"{family.opens}{role}{family.closes}%s{{{{ .Content }}}}{family.ends}"
    own = '{{ $system }}{{ $system = "" }}' if family.joins and shows_system else ""
    said = turn.replace("%s", f'{{{{ if eq .Role "user" }}}}{own}{{{{ end }}}}' if own else "")
    begin = ""
    if shows_system:
        text = 'print .Content "\\n\\n"' if family.joins else ".Content"
        begin = (
            '{{- $system := "" }}{{- range .Messages }}{{ if eq .Role "system" }}{{ $system = '
            + text
            + " }}{{ end }}{{ end }}"
        )
        if not family.joins:
            head = f"{family.opens}system{family.closes}{prefix}{{{{ $system }}}}{family.ends}"
            begin += head if prefix else f"{{{{ if $system }}}}{head}{{{{ end }}}}"
    body = f'{{{{ range .Messages }}}}{{{{ if ne .Role "system" }}}}{said}{{{{ end }}}}{{{{ end }}}}'
    template = f"{lead}{begin}{body}{family.opens}{family.assistant}{family.closes}"
    notes = (*notes, "tools and thoughts have no place in the template of the Modelfile")
    if prefix:
        notes = (*notes, f"what stands before every system text is fixed in it, dates too: {prefix!r}")
    return OllamaTemplate(family.name, template, default or None, notes)


def write_modelfile(folder: Path, weights: str, found: OllamaTemplate, stops: list[str]) -> None:
    """Write the `Modelfile` beside the weights.

    Args:
        folder: of both.
        weights: the GGUF file's name.
        found: of `ollama_template`.
        stops: tokens as text, each of which ends an answer.

    Raises:
        ValueError: a text with three quotes in a row, with which a Modelfile ends one.
    """
    texts = [found.template, found.system or "", *stops]
    if any('"""' in text for text in texts):
        raise ValueError(
            f'The template or the system text has """ in it, with which a Modelfile ends a text. {_WAY_OUT}'
        )
    lines = [f"FROM ./{weights}", f'TEMPLATE """{found.template}"""']
    if found.system:
        lines.append(f'SYSTEM """{found.system}"""')
    lines += [f"PARAMETER stop {stop!r}".replace("'", '"') for stop in stops]
    (folder / MODELFILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
